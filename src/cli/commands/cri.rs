//! `saver cri`: the Kubernetes image service over a directory.

use crate::cli::args::platforms::PlatformArgs;
use crate::cli::args::registry::RegistryArgs;
use crate::cli::args::transfer::{JobsArgs, retry_policy};
use crate::cli::args::tree::DirectoryArgs;
use crate::cli::context::Context;
use crate::cli::interrupt::Interrupt;
use crate::cli::registry_args;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::cri::{CriOptions, CriServer};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::PlatformSet;
use crate::save::SaveOptions;
use std::collections::BTreeSet;
use std::time::Duration;

/// The arguments of `cri`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where images are kept; created if it is missing.
    #[command(flatten)]
    pub(crate) directory: DirectoryArgs,
    /// Unix socket to listen on, in a directory that exists
    #[arg(long, value_name = "unix://PATH", default_value = "unix:///run/saver.sock", value_parser = socket, help_heading = "Server")]
    pub(crate) listen: String,
    /// Maximum number of open connections; further ones wait
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Server")]
    pub(crate) max_connections: usize,
    /// Seconds that calls in progress may take after a signal to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Server")]
    pub(crate) drain_timeout: u32,
    /// What is pulled of an image with several platforms; the first one is what the service reports.
    #[command(flatten)]
    pub(crate) platforms: PlatformArgs,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// How much at once.
    #[command(flatten)]
    pub(crate) jobs: JobsArgs,
}

/// The value of `--listen`: the path of a socket, with or without `unix://`.
fn socket(text: &str) -> std::result::Result<String, String> {
    crate::cri::socket_path(text).map(|_| text.to_owned()).map_err(|error| {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{}{hint}", error.message())
    })
}

/// Serves until a signal stops it.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Storage` for the directory.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    if args.registry.username.is_some() || args.registry.password_stdin {
        let why = "a pull brings its own credentials, for the registry of its image";
        return Err(Error::new(ErrorKind::InvalidInput, "--username and --password-stdin", why)
            .with_hint("for pulls without credentials use --authfile, or docker login"));
    }
    let options = options(args, context)?;
    let drain_timeout = args.drain_timeout;
    let interrupt = Interrupt::listen(move || {
        tracing::info!(
            "stopping: calls in progress have {drain_timeout} s; a second signal ends them at once"
        );
    })?;
    let server = match CriServer::bind(&args.listen, options) {
        Ok(server) => server,
        // A socket that is in use stops the command; nothing is wrong with the command line.
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            context.fail(&error);
            return Ok(Exit::Stopped);
        }
        Err(error) => return Err(error),
    };
    // A closed stdout is no reason not to serve.
    let _ = output::stdout(format!("listening on unix://{}\n", server.path().display()).as_bytes());
    let timeout = args.registry.timeout;
    let stop = async move {
        match timeout {
            // Either way, it is time to stop.
            Some(limit) => drop(tokio::time::timeout(limit, interrupt.asked()).await),
            None => interrupt.asked().await,
        }
    };
    server.run(stop).await;
    Ok(Exit::Done)
}

fn options(args: &Args, context: &Context<'_>) -> Result<CriOptions> {
    let mut save = SaveOptions::new(args.directory.path()?);
    // Which registries will be used is not known yet, so none of the options can be said to be superfluous.
    save.access = registry_args::resolve(&args.registry, &context.quietly(), &BTreeSet::new())?;
    save.transfer.jobs = usize::from(args.jobs.jobs);
    save.transfer.retry = retry_policy(&args.registry);
    let mut options = CriOptions::new(save);
    if let Some(platforms) = args.platforms.selected()? {
        if let PlatformSet::Only(some) = &platforms
            && let Some(first) = some.first()
        {
            options.platform = first.clone();
        }
        options.platforms = platforms;
    }
    options.max_connections = args.max_connections;
    options.drain_timeout = Duration::from_secs(args.drain_timeout.into());
    Ok(options)
}
