//! `saver cri`: the Kubernetes image service over a tree.

use crate::cli::args::{GlobalArgs, RegistryArgs};
use crate::cli::config::Environment;
use crate::cli::interrupt::Interrupt;
use crate::cli::registry_args;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::cli::ui::terminal::{self, Screen};
use crate::cri::{CriOptions, Server};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::PlatformSet;
use crate::save::SaveOptions;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// The arguments of the image service.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The directory that images are kept in; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The socket to listen on; its directory must be there
    #[arg(long, value_name = "unix://PATH", default_value = "unix:///run/saver.sock", value_parser = socket)]
    pub listen: String,
    /// What is pulled of images of several platforms, and first the one that is answered for [default: this machine's]
    #[arg(long, visible_alias = "platform", value_name = "ARCH[,ARCH]", action = clap::ArgAction::Append)]
    pub arch: Vec<String>,
    /// How many blobs are fetched at once from one registry, for one image (1-256)
    #[arg(long, value_name = "N", default_value = "16", value_parser = crate::cli::args::jobs)]
    pub jobs: u16,
    /// The most connections at a time; further ones wait
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_connections: usize,
    /// How many seconds calls under way may still take when it is asked to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain_timeout: u32,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// The value of `--listen`: a socket's path, with `unix://` before it or not.
fn socket(text: &str) -> std::result::Result<String, String> {
    crate::cri::socket_path(text).map(|_| text.to_owned()).map_err(|error| {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{}{hint}", error.message())
    })
}

/// Serves until a signal asks to stop.
pub(crate) async fn run(args: &Args, global: &GlobalArgs, environment: &Environment) -> Exit {
    let screen = Screen::new(false);
    terminal::start_log(&screen, global.verbose, global.log_format);
    match serve(args, environment, &screen).await {
        Ok(exit) => exit,
        Err(error) => {
            output::failure(&error);
            // A socket that another server has stops the run, however well it was written.
            if error.kind() == ErrorKind::Unavailable { Exit::Stopped } else { Exit::of_error(&error) }
        }
    }
}

async fn serve(args: &Args, environment: &Environment, screen: &Screen) -> Result<Exit> {
    if args.registry.username.is_some() || args.registry.password_stdin {
        let why = "requests bring credentials of their own, each for its image's registry";
        return Err(Error::new(ErrorKind::InvalidInput, "--username and --password-stdin", why)
            .with_hint("for those that bring none, name a file with --authfile, or docker login"));
    }
    let mut save = SaveOptions::new(crate::cli::commands::save::needed(
        args.dir.as_ref(),
        "--dir",
        "DIR, the directory to keep images in",
    )?);
    // Which registries there will be is not known yet, so none is told to be missing.
    save.access = registry_args::resolve(&args.registry, environment, &BTreeSet::new(), screen, true)?;
    save.transfer.jobs = usize::from(args.jobs);
    save.transfer.retry.retries = args.registry.retries;
    let mut options = CriOptions::new(save);
    if let Some(arch) = crate::cli::args::arch(&args.arch) {
        options.platforms = PlatformSet::parse(&arch, "linux")?;
        if let PlatformSet::Only(platforms) = &options.platforms
            && let Some(first) = platforms.first()
        {
            options.platform = first.clone();
        }
    }
    options.max_connections = args.max_connections;
    options.drain_timeout = Duration::from_secs(args.drain_timeout.into());
    let patience = args.drain_timeout;
    let interrupt = Interrupt::listen(move || {
        tracing::info!(
            "stopping: calls under way have {patience} s to end; a second signal ends them at once"
        );
    })?;
    let server = Server::bind(&args.listen, options)?;
    // Nobody may be reading, which is no reason not to serve.
    let _ = output::stdout(format!("listening on unix://{}\n", server.path().display()).as_bytes());
    server.run(async move { interrupt.asked().await }).await;
    Ok(Exit::Done)
}
