//! `saver trust`: what signatures are verified with, for the far side of a gap.

use crate::cli::args::missing_option;
use crate::cli::args::policy::PolicyArgs;
use crate::cli::args::tree::local_path;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output_files::OutputFile;
use crate::error::{Error, ErrorKind, Result};
use crate::trust::{TrustRoot, embed_files};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

const POLICY_FILE: &str = "policy.json";
const TRUSTED_ROOT_FILE: &str = "trusted_root.json";

/// The arguments of `trust`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// What to do
    #[arg(value_name = "ACTION")]
    pub(crate) action: TrustAction,
    /// The policy.
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    /// Directory to write policy.json and trusted_root.json into; it is created if it does not exist
    #[arg(short, long, value_name = "DIR", value_parser = local_path(), help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
}

/// What `trust` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrustAction {
    /// Write the policy with all keys and certificates in it, and the trusted root
    Export,
}

/// Writes the policy and the trusted root.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line or in a file; `Storage`.
pub(crate) fn run(args: &Args) -> Result<Exit> {
    let TrustAction::Export = args.action;
    let source = args.policy.policy.as_deref();
    let source = source.ok_or_else(|| missing_option("--policy", "add --policy FILE"))?;
    let dir = args.output.as_deref();
    let dir = dir.ok_or_else(|| missing_option("--output", "add --output DIR"))?;
    let root_file = args.policy.trusted_root.as_deref();
    let root = root_file.map(TrustRoot::read).transpose()?;
    for (option, input, name) in
        [("--policy", Some(source), POLICY_FILE), ("--trusted-root", root_file, TRUSTED_ROOT_FILE)]
    {
        if let Some(input) = input.filter(|input| is_same_file(input, &dir.join(name))) {
            let subject = format!("{option} {}", input.display());
            return Err(Error::new(ErrorKind::InvalidInput, subject, "the output would replace this file")
                .with_hint("name another directory with --output"));
        }
    }
    let policy = embed_files(source, root.as_ref())?;
    std::fs::create_dir_all(dir)
        .map_err(|cause| Error::storage(dir.display(), "create the directory", cause))?;
    if let Some(file) = root_file {
        let content = std::fs::read(file).map_err(|cause| Error::storage(file.display(), "read", cause))?;
        OutputFile::prepare("--output", &dir.join(TRUSTED_ROOT_FILE))?.finish(&content)?;
    }
    OutputFile::prepare("--output", &dir.join(POLICY_FILE))?.finish(policy.as_bytes())?;
    Ok(Exit::Done)
}

/// Whether two paths name the same existing file.
fn is_same_file(a: &Path, b: &Path) -> bool {
    let (a, b) = (a.canonicalize(), b.canonicalize());
    a.is_ok_and(|a| b.is_ok_and(|b| a == b))
}
