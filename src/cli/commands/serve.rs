//! `saver serve`: a read-only registry over a directory.

use crate::cli::args::listen::socket_address;
use crate::cli::args::tree::DirectoryArgs;
use crate::cli::context::Context;
use crate::cli::interrupt::Interrupt;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::error::{Error, ErrorKind, Result};
use crate::serve::http::{AccessLog, AccessRecord, Htpasswd, RegistryServer, ServeOptions, TlsIdentity};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

const EXPOSED: &str =
    "everyone who can reach this address can read all images, unencrypted; consider --tls-cert and --tls-key";
/// The number of access log lines that may wait for a slow reader. Further lines are dropped.
const ACCESS_LOG_QUEUE: usize = 4096;

/// The arguments of `serve`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where the images are.
    #[command(flatten)]
    pub(crate) directory: DirectoryArgs,
    /// Address to listen on: ADDRESS:PORT, :PORT for every address, PORT for loopback; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5000", value_parser = socket_address, help_heading = "Server")]
    pub(crate) listen: SocketAddr,
    /// Serve HTTPS with this certificate chain (PEM, the server's own certificate first)
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Maximum number of open connections; further ones wait
    #[arg(long, value_name = "N", default_value_t = 4096, help_heading = "Server")]
    pub(crate) max_connections: usize,
    /// Require a user name and password from this file, which has bcrypt hashes (htpasswd -B)
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(crate) htpasswd: Option<PathBuf>,
    /// Write a line for each request to standard output
    #[arg(long, value_name = "FORMAT", help_heading = "Server")]
    pub(crate) access_log: Option<AccessLogFormat>,
    /// Serve Prometheus metrics at /metrics
    #[arg(long, help_heading = "Server")]
    pub(crate) metrics: bool,
}

/// The format of the access log.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(crate) enum AccessLogFormat {
    /// The Common Log Format
    Common,
    /// One JSON object a line
    Json,
}

/// Serves until a signal stops it.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Storage` for the directory.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let dir = args.directory.path()?;
    // Opened again by the server; this one explains what is wrong with the directory.
    tree::open(dir)?;
    let mut options = options(args)?;
    if options.tls.is_none() && !args.listen.ip().is_loopback() {
        context.warn(EXPOSED);
    }
    let interrupt = Interrupt::listen(|| tracing::info!("stopping: waiting for requests in progress"))?;
    let access_log = args.access_log.map(access_log).transpose()?;
    let writer = access_log.map(|(log, writer)| {
        options.access_log = Some(log);
        writer
    });
    let server = match RegistryServer::open(dir, args.listen, options).await {
        Ok(server) => server,
        // An address that is in use stops the command; nothing is wrong with the command line.
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            context.fail(&error);
            return Ok(Exit::Stopped);
        }
        Err(error) => return Err(error),
    };
    // A closed stdout is no reason not to serve.
    let _ = output::stdout(format!("listening on {}\n", server.url()).as_bytes());
    server.run(async move { interrupt.asked().await }).await?;
    if let Some(writer) = writer {
        // The server is gone, so the writer ends after the lines that wait.
        let _ = writer.join();
    }
    Ok(Exit::Done)
}

fn options(args: &Args) -> Result<ServeOptions> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(TlsIdentity::from_files(certificate, key)?),
        (None, None) => None,
        _ => {
            let why = "each needs the other";
            return Err(Error::new(ErrorKind::InvalidInput, "--tls-cert and --tls-key", why));
        }
    };
    let mut options = ServeOptions::new(tls);
    options.max_connections = args.max_connections;
    options.metrics = args.metrics;
    if let Some(path) = &args.htpasswd {
        if options.tls.is_none() && !args.listen.ip().is_loopback() {
            let why = "passwords would be sent in plain text";
            return Err(Error::new(ErrorKind::InvalidInput, "--htpasswd", why)
                .with_hint("add --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy with TLS"));
        }
        options.users = Some(Arc::new(Htpasswd::from_file(path)?));
    }
    Ok(options)
}

/// Writes records to standard output on a thread of its own, so that a slow reader does not delay responses.
fn access_log(format: AccessLogFormat) -> Result<(AccessLog, JoinHandle<()>)> {
    let (sender, receiver) = mpsc::sync_channel::<AccessRecord>(ACCESS_LOG_QUEUE);
    let write = move || {
        for record in receiver {
            let mut line = match format {
                AccessLogFormat::Common => record.to_common(),
                AccessLogFormat::Json => record.to_json(),
            };
            line.push('\n');
            if !matches!(output::stdout(line.as_bytes()), Exit::Done) {
                tracing::warn!("cannot write the access log: standard output is closed");
                return;
            }
        }
    };
    let writer = std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(write)
        .map_err(|error| Error::storage("access log", "start a thread", error))?;
    let log = move |record| {
        if let Err(mpsc::TrySendError::Full(_)) = sender.try_send(record) {
            tracing::warn!("the access log is not read fast enough: a line was dropped");
        }
    };
    Ok((Arc::new(log), writer))
}
