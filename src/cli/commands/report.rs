//! `saver report`: the contents of a directory as a page for people.

use crate::cli::args::missing_option;
use crate::cli::args::tree::{DirectoryArgs, local_path};
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::cli::ui::output_files::OutputFile;
use crate::error::{Error, ErrorKind, Result};
use crate::page;
use crate::transfer::Report;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Maximum size of a report that is read, in bytes.
const MAX_REPORT_BYTES: u64 = 256 << 20;

/// The arguments of `report`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where the images are.
    #[command(flatten)]
    pub(crate) directory: DirectoryArgs,
    /// Write HTML, the only format and the default; takes no value
    #[arg(long, help_heading = "Output")]
    pub(crate) html: bool,
    /// Report of the last run (saver --report FILE), to show what it did
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) report: Option<PathBuf>,
    /// File to write; - is stdout
    #[arg(short, long, value_name = "PATH", value_parser = local_path(), help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
}

/// Writes the page.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Storage`.
pub(crate) fn run(args: &Args) -> Result<Exit> {
    let dir = args.directory.path()?;
    let store = tree::open(dir)?;
    let path = args.output.as_deref();
    let path =
        path.ok_or_else(|| missing_option("--output", "add --output FILE, or --output - for stdout"))?;
    let run = args.report.as_deref().map(read_report).transpose()?;
    let title = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let title =
        title.file_name().map_or_else(|| "images".to_owned(), |name| name.to_string_lossy().into_owned());
    if path.as_os_str() == "-" {
        return Ok(output::stdout(page::file(&store, &title, run.as_ref())?.as_bytes()));
    }
    let file = OutputFile::prepare("--output", path)?;
    file.finish(page::file(&store, &title, run.as_ref())?.as_bytes())?;
    Ok(Exit::Done)
}

fn read_report(path: &Path) -> Result<Report> {
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, path.display(), why);
    let mut text = Vec::new();
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.take(MAX_REPORT_BYTES + 1).read_to_end(&mut text));
    read.map_err(|cause| refuse(format!("cannot read the report: {cause}")))?;
    if text.len() as u64 > MAX_REPORT_BYTES {
        return Err(refuse(format!("the report is larger than {} MiB", MAX_REPORT_BYTES >> 20)));
    }
    serde_json::from_slice(&text)
        .map_err(|cause| refuse(format!("not a report: {cause}")).with_hint("saver --report FILE writes one"))
}
