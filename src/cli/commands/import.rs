//! `saver import`: from archives and image layouts into a directory.

use crate::cli::args::missing_argument;
use crate::cli::args::output::ReportArgs;
use crate::cli::args::platforms::{MissingPlatformArgs, PlatformArgs};
use crate::cli::args::referrers::ReferrerArgs;
use crate::cli::args::tree::{DirArgs, NamesArgs, ReplaceArgs, local_path};
use crate::cli::context::Context;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output_files::OutputFiles;
use crate::cli::ui::run::RunDisplay;
use crate::cli::ui::wording::IMPORTING;
use crate::error::{Error, ErrorKind, Result};
use crate::import::{self, ImportFrom, ImportOptions};
use std::io::IsTerminal;
use std::path::PathBuf;

/// The arguments of `import`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Archive, packed Helm chart, or directory of an OCI image layout; - is stdin
    #[arg(value_name = "PATH", value_parser = local_path(), help_heading = "Images")]
    pub(crate) path: Option<PathBuf>,
    /// Import under this name instead of the image's own; without a tag each image keeps its tag
    #[arg(long = "as", value_name = "NAME", help_heading = "Images")]
    pub(crate) rename: Option<String>,
    /// Where to import.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// Images from elsewhere.
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    /// Which platforms.
    #[command(flatten)]
    pub(crate) platforms: PlatformArgs,
    /// Images that lack one.
    #[command(flatten)]
    pub(crate) missing: MissingPlatformArgs,
    /// Signatures.
    #[command(flatten)]
    pub(crate) referrers: ReferrerArgs,
    /// What is written beside.
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Imports images.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; whatever keeps the run from continuing.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let hint = "name an archive or the directory of an image layout; - is stdin";
    let path = args.path.as_ref().ok_or_else(|| missing_argument("PATH", hint))?;
    let mut options = ImportOptions::new(args.dir.path()?);
    options.transfer.platforms = args.platforms.selected_or_all()?;
    options.transfer.missing_platform = args.missing.missing_platform.into();
    args.referrers.apply(&mut options.transfer.referrers);
    options.names = args.names.rule()?;
    options.replace = args.replace.replace;
    options.rename = args.rename.as_deref().map(str::parse).transpose()?;
    let files = OutputFiles::prepare(None, &args.report, None)?;
    let from = if path.as_os_str() != "-" {
        ImportFrom::Path(path.clone())
    } else if std::io::stdin().is_terminal() {
        let error = Error::new(ErrorKind::InvalidInput, "-", "stdin is a terminal, not an archive");
        return Err(error.with_hint("redirect an archive to stdin, or name its file"));
    } else {
        ImportFrom::Stream(Box::new(std::io::stdin()))
    };
    let display = RunDisplay::start(IMPORTING, args.report.progress, files, None, context)?;
    options.observer = display.observer();
    options.cancel = display.cancel();
    let report = import::import(from, options).await?;
    display.finished(&report, None)
}
