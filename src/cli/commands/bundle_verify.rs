//! `saver bundle-verify`: checks the files of a bundle.

use crate::bundle::{BundleCheck, BundleVerifier, check_bundle};
use crate::cli::args::missing_argument;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::signing::VerifyWithArgs;
use crate::cli::args::tree::local_path;
use crate::cli::context::Context;
use crate::cli::signing::CommandVerifier;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, json};
use crate::cli::ui::progress::HashingProgress;
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// The arguments of `bundle-verify`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Directory of the bundle
    #[arg(value_name = "NAME", value_parser = local_path())]
    pub(crate) bundle: Option<PathBuf>,
    /// Signatures.
    #[command(flatten)]
    pub(crate) signature: VerifyWithArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// The document of the bundle `name`.
pub(super) fn document_path(name: Option<&Path>) -> Result<PathBuf> {
    let path = name.ok_or_else(|| missing_argument("NAME", "name the directory of a bundle"))?;
    Ok(if path.is_dir() { path.join("bundle.json") } else { path.to_owned() })
}

/// Checks a bundle. The exit code is 1 if a part is damaged or missing.
///
/// # Errors
/// `InvalidInput` if it is not a bundle; `Storage` if it can't be read.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let document = document_path(args.bundle.as_deref())?;
    let dir = document.parent().unwrap_or(Path::new("."));
    let progress = HashingProgress::start(context);
    let verifier = args.signature.verify_with.clone().map(CommandVerifier);
    let verifier = verifier.as_ref().map(|verifier| verifier as &dyn BundleVerifier);
    let check = tokio::task::block_in_place(|| check_bundle(dir, verifier, &progress))?;
    drop(progress);
    let exit = if args.json.json {
        output::stdout(&json(&check))
    } else {
        failures(&check, context);
        if context.is_quiet() || !check.is_clean() {
            Exit::Done
        } else {
            let parts = output::count(check.parts.len(), "file");
            output::stdout(format!("no problems: {parts} of bundle {}\n", check.id.short()).as_bytes())
        }
    };
    Ok(if check.is_clean() { exit } else { Exit::SomeFailed })
}

fn failures(check: &BundleCheck, context: &Context<'_>) {
    for part in &check.parts {
        if let Some(error) = &part.error {
            let is_own = error.subject == part.file;
            let why = if is_own { error.reason() } else { &error.message };
            output::failure(&Error::new(error.kind, &part.file, why), context.paint());
        }
    }
    if !check.missing.is_empty() {
        let blobs = output::count(check.missing.len(), "blob");
        let error = Error::new(ErrorKind::Corrupt, check.id, format!("{blobs} missing or damaged"));
        output::failure(&error.with_hint("copy the damaged parts again"), context.paint());
    }
}
