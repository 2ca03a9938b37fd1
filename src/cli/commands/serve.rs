//! `saver serve`: a read-only registry over a tree.

use crate::cli::args::GlobalArgs;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::cli::ui::terminal::{self, Screen};
use crate::error::{Error, ErrorKind, Result};
use crate::serve::http::{ServeOptions, Server, TlsIdentity};
use std::net::SocketAddr;
use std::path::PathBuf;

const OPEN: &str =
    "everyone who reaches this address can read all images, in plain text: consider --tls-cert and --tls-key";

/// The arguments of serving.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The directory that images were saved to
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5000")]
    pub listen: SocketAddr,
    /// Speak HTTPS with this certificate (PEM, the server's own first)
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The most connections at a time; further ones wait
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_connections: usize,
}

/// Serves until a signal asks to stop.
pub(crate) async fn run(args: &Args, global: &GlobalArgs) -> Exit {
    terminal::start_log(&Screen::new(false), global.verbose, global.log_format);
    match serve(args).await {
        Ok(exit) => exit,
        Err(error) => {
            output::failure(&error);
            // An address that is taken stops the run, however well it was written.
            if error.kind() == ErrorKind::Unavailable { Exit::Stopped } else { Exit::of_error(&error) }
        }
    }
}

async fn serve(args: &Args) -> Result<Exit> {
    let store = crate::cli::tree::open(crate::cli::tree::dir(args.dir.as_ref())?)?;
    let options = options(args)?;
    if options.tls.is_none() && !args.listen.ip().is_loopback() {
        output::stderr(&format!("warning: {OPEN}"));
    }
    let mut stop = Stop::new().map_err(|error| Error::storage("signals", "wait for them", error))?;
    let server = Server::bind(store, args.listen, options).await?;
    // Nobody may be reading, which is no reason not to serve.
    let _ = output::stdout(format!("listening on {}\n", server.url()).as_bytes());
    server.run(stop.asked()).await?;
    Ok(Exit::Done)
}

fn options(args: &Args) -> Result<ServeOptions> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(TlsIdentity::from_files(certificate, key)?),
        (None, None) => None,
        _ => {
            let why = "a certificate and its key are needed together";
            return Err(Error::new(ErrorKind::InvalidInput, "--tls-cert and --tls-key", why));
        }
    };
    let mut options = ServeOptions::new(tls);
    options.max_connections = args.max_connections;
    Ok(options)
}

/// The signals that ask to stop.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
