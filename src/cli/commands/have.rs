//! `saver have`: lists what a directory has, for a bundle that is made elsewhere.

use crate::bundle::HaveList;
use crate::cli::args::tree::{DirectoryArgs, local_path};
use crate::cli::context::Context;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::cli::ui::output_files::OutputFile;
use crate::error::{Error, ErrorKind, Result};
use std::io::IsTerminal;
use std::path::PathBuf;

/// The arguments of `have`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where the images are.
    #[command(flatten)]
    pub(crate) directory: DirectoryArgs,
    /// File to write; - is stdout
    #[arg(short, long, value_name = "PATH", default_value = "-", value_parser = local_path(), help_heading = "Output")]
    pub(crate) output: PathBuf,
}

/// Writes the list.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Storage`.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let store = tree::open(args.directory.path()?)?;
    let is_stdout = args.output.as_os_str() == "-";
    if is_stdout && std::io::stdout().is_terminal() {
        let error = Error::new(ErrorKind::InvalidInput, "--output -", "stdout is a terminal");
        return Err(error.with_hint("name a file with -o FILE, or pipe it to saver bundle --since -"));
    }
    let list = HaveList::of(&store)?;
    let mut bytes = Vec::new();
    // Writing to memory does not fail.
    list.write(&mut bytes).map_err(|cause| Error::storage("the list", "write", cause))?;
    if is_stdout {
        return Ok(output::stdout(&bytes));
    }
    OutputFile::prepare("--output", &args.output)?.finish(&bytes)?;
    let size = output::size(bytes.len() as u64);
    let count = output::count(list.digests.len(), "digest");
    if !context.is_quiet() {
        return Ok(output::stdout(
            format!("wrote {count}, {size}, to {}\n", args.output.display()).as_bytes(),
        ));
    }
    Ok(Exit::Done)
}
