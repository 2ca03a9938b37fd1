//! `saver serve`: a read-only registry over a directory.

use crate::cli::args::listen::socket_address;
use crate::cli::args::tree::DirectoryArgs;
use crate::cli::context::Context;
use crate::cli::interrupt::Interrupt;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::error::{Error, ErrorKind, Result};
use crate::serve::http::{ServeOptions, Server, TlsIdentity};
use std::net::SocketAddr;
use std::path::PathBuf;

const EXPOSED: &str =
    "everyone who can reach this address can read all images, unencrypted; consider --tls-cert and --tls-key";

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
}

/// Serves until a signal stops it.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Storage` for the directory.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let store = tree::open(args.directory.path()?)?;
    let options = options(args)?;
    if options.tls.is_none() && !args.listen.ip().is_loopback() {
        context.warn(EXPOSED);
    }
    let interrupt = Interrupt::listen(|| tracing::info!("stopping: waiting for requests in progress"))?;
    let server = match Server::bind(store, args.listen, options).await {
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
    Ok(options)
}
