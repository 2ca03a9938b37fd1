//! `saver copy`: from one registry into another.

use crate::cli::args::missing_argument;
use crate::cli::args::policy::PolicyArgs;
use crate::cli::args::send::SendArgs;
use crate::cli::context::Context;
use crate::cli::registry_args;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output_files::OutputFiles;
use crate::cli::ui::run::RunDisplay;
use crate::cli::ui::wording::COPYING;
use crate::copy::{self, CopyOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Reference;
use std::collections::BTreeSet;

/// The arguments of `copy`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Image to copy, and its new name; without a tag or digest it keeps its tag
    #[arg(value_name = "SOURCE DESTINATION", num_args = 0.., help_heading = "Images")]
    pub(crate) names: Vec<String>,
    /// What is sent, and how.
    #[command(flatten)]
    pub(crate) sending: SendArgs,
    /// Accepted images.
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
}

/// Copies an image.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; whatever keeps the run from continuing.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let [source, target] = args.names.as_slice() else {
        let hint = "for example: saver copy nginx:1.27 registry.example:5000/mirror/nginx";
        return Err(match args.names.get(2) {
            Some(extra) => {
                let why = "copy takes one source and one destination";
                Error::new(ErrorKind::InvalidInput, extra, why).with_hint(hint)
            }
            None if args.names.is_empty() => missing_argument("SOURCE", hint),
            None => missing_argument("DESTINATION", hint),
        });
    };
    let source = Reference::parse(source)?;
    let target = destination(target, &source)?;
    let sending = &args.sending;
    let mut options = CopyOptions::default();
    sending.apply(&mut options.transfer)?;
    options.transfer.policy = args.policy.read()?;
    let registries = BTreeSet::from([source.registry.clone(), target.registry.clone()]);
    options.access = registry_args::resolve_for_upload(sending, context, &registries)?;
    let files = OutputFiles::prepare(None, &sending.report, None)?;
    let display =
        RunDisplay::start(COPYING, sending.report.progress, files, sending.registry.timeout, context)?
            .to(target.registry.clone());
    options.observer = display.observer();
    options.cancel = display.cancel();
    if sending.dry_run.dry_run {
        let plan = copy::plan(source, target, options).await?;
        return display.planned(&plan, None, None);
    }
    let report = copy::copy(source, target, options).await?;
    display.finished(&report, None)
}

/// The destination that `text` names, with the source's tag where it names none.
fn destination(text: &str, from: &Reference) -> Result<Reference> {
    let mut to = Reference::parse(text)?;
    if to.digest.is_some() {
        let why = "the destination must not have a digest: it follows from the content";
        return Err(
            Error::new(ErrorKind::InvalidInput, text, why).with_hint("leave the digest out, or name a tag")
        );
    }
    let host = text.split(':').next().unwrap_or(text);
    if !text.contains('/') && (host.contains('.') || host == "localhost" || text.contains("]:")) {
        let why = "this names a registry, and the repository in it is missing";
        let hint = format!("write {text}/{}", from.repository);
        return Err(Error::new(ErrorKind::InvalidInput, text, why).with_hint(hint));
    }
    if !Reference::has_written_tag(text) {
        to.tag = from.tag.clone();
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destination_without_tag_keeps_the_source_tag() {
        let digest = crate::oci::Digest::of(b"x");
        for (from, to, expect) in [
            ("nginx:1", "r.io:5000/a", Some("r.io:5000/a:1")),
            ("nginx:1", "r.io:5000/a:2", Some("r.io:5000/a:2")),
            ("nginx", "r.io/a", Some("r.io/a:latest")),
            (&format!("nginx@{digest}"), "r.io/a", Some("r.io/a")),
            (&format!("nginx@{digest}"), "r.io/a:2", Some("r.io/a:2")),
            ("nginx", &format!("r.io/a@{digest}"), None),
            ("nginx", "127.0.0.1:5000", None),
            ("nginx", "r.io", None),
            ("nginx", "localhost:5000", None),
            ("nginx", "mine:5", Some("docker.io/library/mine:5")),
        ] {
            let to = destination(to, &Reference::parse(from).unwrap()).ok();
            assert_eq!(to.map(|to| to.to_string()).as_deref(), expect, "{from}");
        }
    }
}
