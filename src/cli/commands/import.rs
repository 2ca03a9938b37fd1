//! `saver import`: from archives and image layouts into a directory.

use crate::cli::args::{GlobalArgs, MissingPlatformArg, ProgressMode};
use crate::cli::commands::save::{ended, needed, screen};
use crate::cli::config::Environment;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output_files::Files;
use crate::cli::ui::run::Showing;
use crate::cli::ui::terminal::Screen;
use crate::cli::ui::wording::IMPORTING;
use crate::error::{Error, ErrorKind, Result};
use crate::import::{self, ImportFrom, ImportOptions};
use crate::oci::PlatformSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

/// The arguments of importing.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The archive, or the directory of the image layout; - is stdin
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// The directory to import into
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Import under this name, whatever the images are called; without a tag each keeps its own
    #[arg(long = "as", value_name = "NAME")]
    pub rename: Option<String>,
    /// Names in the directory, as for saver save
    #[arg(long, value_name = "NAMES", default_value = "strip")]
    pub names: String,
    /// Architectures to import: amd64, arm64, arm/v7, linux/arm64/v8, a comma list, or all that are there
    #[arg(long, visible_alias = "platform", value_name = "ARCH[,ARCH]", action = clap::ArgAction::Append, default_value = "all")]
    pub arch: Vec<String>,
    /// What to do with an image that lacks a platform asked for
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    pub missing_platform: MissingPlatformArg,
    /// Write what became of each image to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How progress is shown, as for saver save
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub progress: ProgressMode,
}

/// Imports, and says how that ended.
pub(crate) async fn run(args: &Args, global: &GlobalArgs, environment: &Environment) -> Exit {
    let screen = screen(global, environment);
    ended(imported(args, global, &screen).await)
}

async fn imported(args: &Args, global: &GlobalArgs, screen: &Arc<Screen>) -> Result<Exit> {
    let path =
        needed(args.path.as_ref(), "PATH", "(an archive or the directory of an image layout; - is stdin)")?;
    let mut options =
        ImportOptions::new(needed(args.dir.as_ref(), "--dir", "DIR, the directory to import into")?);
    options.transfer.platforms = PlatformSet::parse(&args.arch.join(","), "linux")?;
    options.transfer.missing_platform = args.missing_platform.into();
    options.names = args.names.parse()?;
    options.rename = args.rename.as_deref().map(str::parse).transpose()?;
    let files = Files::prepare(None, args.report.as_deref(), None)?;
    let from = match path.as_os_str() == "-" {
        true if std::io::stdin().is_terminal() => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "-",
                "stdin is a terminal, and an archive is read from it",
            ));
        }
        true => ImportFrom::Stream(Box::new(std::io::stdin())),
        false => ImportFrom::Path(path.clone()),
    };
    let showing = Showing::start(IMPORTING, args.progress, files, global, screen)?;
    options.observer = showing.observer();
    options.cancel = showing.cancel();
    let report = import::import(from, options).await?;
    showing.finished(&report, None)
}
