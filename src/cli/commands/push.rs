//! `saver push`: the images of a directory, to a registry.

use crate::cli::args::images::ListArgs;
use crate::cli::args::missing_argument;
use crate::cli::args::output::FailedListArgs;
use crate::cli::args::send::SendArgs;
use crate::cli::args::tree::{DirArgs, NamesArgs};
use crate::cli::context::Context;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::failed_list::not_pushed;
use crate::cli::ui::failures::FailedImage;
use crate::cli::ui::output_files::OutputFiles;
use crate::cli::ui::run::RunDisplay;
use crate::cli::ui::wording::PUSHING;
use crate::cli::{lists, registry_args, tree};
use crate::error::{Error, ErrorKind, Result};
use crate::push::{Destination, ImagePusher, PushImage, PushOptions};
use crate::transfer::{Plan, Report};
use std::collections::BTreeSet;

/// The arguments of `push`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Images to push, by the names that they were saved under or have in the directory (default: all), then the registry and
    /// an optional prefix of their names there
    #[arg(value_name = "[IMAGE]... REGISTRY[/PREFIX]", help_heading = "Images")]
    pub(crate) targets: Vec<String>,
    /// Lists of images.
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    /// Where the images are.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// What is sent, and how.
    #[command(flatten)]
    pub(crate) sending: SendArgs,
    /// The images that failed.
    #[command(flatten)]
    pub(crate) failed: FailedListArgs,
}

/// The command line with the registry in its place, if that was written in front of the images.
fn reordered(targets: &[String]) -> Option<String> {
    let [first, images @ ..] = targets else { return None };
    let is_reversed = is_registry(first) && images.last().is_some_and(|last| !is_registry(last));
    is_reversed.then(|| format!("saver push --dir DIR {} {first}", images.join(" ")))
}

/// Whether `text` can be a registry with an optional prefix, and its host is unlike a part of a repository's name.
fn is_registry(text: &str) -> bool {
    let host = text.split('/').next().unwrap_or(text);
    (host == "localhost" || host.contains(['.', ':'])) && text.parse::<Destination>().is_ok()
}

/// Pushes images.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; whatever keeps the run from continuing.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let dir = args.dir.path()?;
    let Some((destination, images)) = args.targets.split_last() else {
        let hint = "saver push --dir DIR [IMAGE]... REGISTRY[/PREFIX]; without images, all of DIR is pushed";
        return Err(missing_argument("REGISTRY", hint));
    };
    if let Some(hint) = reordered(&args.targets) {
        let why = "this is no registry, and the registry comes last";
        return Err(Error::new(ErrorKind::InvalidInput, destination, why).with_hint(hint));
    }
    let destination: Destination = destination.parse()?;
    tree::open(dir)?;
    let sending = &args.sending;
    lists::require_one_reader_of_stdin(&args.lists, sending.registry.password_stdin)?;
    let entries = lists::read(&args.lists.list, images, context)?;
    let mut options = PushOptions::new(dir, destination);
    options.names = args.names.rule()?;
    sending.apply(&mut options.transfer)?;
    let registries = BTreeSet::from([options.destination.registry.clone()]);
    options.access = registry_args::resolve_for_upload(sending, context, &registries)?;
    let failed_list = args.failed.failed_list.as_deref();
    let files = OutputFiles::prepare(None, &sending.report, failed_list)?;
    let display =
        RunDisplay::start(PUSHING, sending.report.progress, files, sending.registry.timeout, context)?;
    options.observer = display.observer();
    options.cancel = display.cancel();
    let prefix = options.destination.prefix.as_ref().map(|prefix| format!("{prefix}/"));
    let pusher = ImagePusher::new(options)?;
    let is_dry_run = sending.dry_run.dry_run;
    if entries.is_empty() && !args.lists.list.is_empty() {
        // Without images everything is pushed, which an empty list does not mean.
        return nothing_to_push(is_dry_run, display);
    }
    let images: Vec<PushImage> = entries.iter().cloned().map(PushImage::from).collect();
    if is_dry_run {
        let plan = if images.is_empty() { pusher.plan_all().await? } else { pusher.plan(images).await? };
        let failed = not_pushed(&FailedImage::of_plan(&plan), &entries, prefix.as_deref());
        return display.planned(&plan, None, Some(failed));
    }
    let report = if images.is_empty() { pusher.push_all().await? } else { pusher.push(images).await? };
    let failed = not_pushed(&FailedImage::of_report(&report), &entries, prefix.as_deref());
    display.finished(&report, Some(failed))
}

/// The end of a run whose lists name no images.
fn nothing_to_push(is_dry_run: bool, display: RunDisplay) -> Result<Exit> {
    let failed = Some(not_pushed(&[], &[], None));
    let schema = Report::SCHEMA;
    let seconds = 0.0;
    if is_dry_run {
        let plan =
            Plan { schema, images: Vec::new(), fetch_bytes: 0, fetch_blobs: 0, reuse_bytes: 0, seconds };
        return display.planned(&plan, None, failed);
    }
    let report =
        Report { schema, images: Vec::new(), bytes_fetched: 0, bytes_reused: 0, seconds, aborted: None };
    display.finished(&report, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_in_front_of_images_is_noticed() {
        for (targets, is_registry_first) in [
            (&["r.io:5000/mirror", "demo/app:1.0"][..], true),
            (&["localhost", "demo/app", "demo/tool:2"], true),
            (&["demo/app:1.0", "r.io:5000"], false),
            (&["quay.io/demo/app:1.0", "r.io"], false),
            (&["quay.io/demo/app:1.0", "registry"], false),
            (&["r.io"], false),
            (&[], false),
        ] {
            let reordered = reordered(&targets.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(reordered.is_some(), is_registry_first, "{targets:?}");
        }
    }
}
