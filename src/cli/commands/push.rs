//! `saver push`: what is in a tree goes to a registry.

use crate::cli::args::{GlobalArgs, IndexArg, MissingPlatformArg, ProgressMode, RegistryArgs};
use crate::cli::commands::save::{ended, screen};
use crate::cli::config::Environment;
use crate::cli::lists;
use crate::cli::registry_args;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::failed_list::{Failed, not_pushed};
use crate::cli::ui::output_files::Files;
use crate::cli::ui::run::Showing;
use crate::cli::ui::terminal::Screen;
use crate::cli::ui::wording::PUSHING;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::PlatformSet;
use crate::push::{Destination, ImagePusher, PushImage, PushOptions};
use crate::transfer::{Plan, Report, TransferOptions};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// The arguments of pushing.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Images to push, names as they were saved or as they are in the directory, everything when none is named; then the
    /// registry, and what stands before their names there
    #[arg(value_name = "[IMAGE]... REGISTRY[/PREFIX]")]
    pub names: Vec<String>,
    /// The directory that images were saved to
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Push the images listed in FILE; - is stdin; may be repeated
    #[arg(long, value_name = "FILE", action = clap::ArgAction::Append)]
    pub list: Vec<PathBuf>,
    /// Names in the directory, as they were saved with
    #[arg(long = "names", value_name = "NAMES", default_value = "strip")]
    pub rule: String,
    /// Write the images that failed to FILE, which is a list for --list
    #[arg(long, value_name = "FILE")]
    pub failed_list: Option<PathBuf>,
    /// What is sent, and how.
    #[command(flatten)]
    pub sending: SendArgs,
}

/// What is sent to a registry, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct SendArgs {
    /// Architectures to send: amd64, arm64, arm/v7, linux/arm64/v8, or all that are there
    #[arg(long, visible_alias = "platform", value_name = "ARCH[,ARCH]", action = clap::ArgAction::Append, default_value = "all")]
    pub arch: Vec<String>,
    /// Operating system of architectures that are written without one
    #[arg(long, value_name = "OS", default_value = "linux")]
    pub os: String,
    /// What to do with an image that lacks a platform asked for
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    pub missing_platform: MissingPlatformArg,
    /// What becomes of an index of which only some platforms are sent
    ///
    /// Many registries take an index only whole: with keep such an image then fails. prune writes a new index of what is
    /// sent, flatten has the tag name the one platform's manifest; both have another digest.
    #[arg(long, value_name = "MODE", default_value = "keep")]
    pub index: IndexArg,
    /// How to reach the registries, and as whom.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The most blobs to send at once, 1 to 256; other requests beside them, up to three times as many
    #[arg(long, value_name = "N", default_value = "16", value_parser = crate::cli::args::jobs, help_heading = "The run")]
    pub jobs: u16,
    /// Stop at the first image that fails
    #[arg(long, help_heading = "The run")]
    pub fail_fast: bool,
    /// Say what would be sent; send nothing
    #[arg(long, help_heading = "The run")]
    pub dry_run: bool,
    /// Write what became of each image to FILE, as JSON
    #[arg(long, value_name = "FILE", help_heading = "What it tells")]
    pub report: Option<PathBuf>,
    /// How progress is shown: as when saving
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "What it tells")]
    pub progress: ProgressMode,
}

impl SendArgs {
    /// Applies them to `options`.
    ///
    /// # Errors
    /// `InvalidInput` for a platform that is none.
    pub(crate) fn apply(&self, options: &mut TransferOptions) -> Result<()> {
        options.platforms = match self.arch.join(",").trim() {
            "all" => PlatformSet::All,
            arch => PlatformSet::parse(arch, &self.os)?,
        };
        options.index = self.index.into();
        options.missing_platform = self.missing_platform.into();
        options.jobs = usize::from(self.jobs);
        options.fail_fast = self.fail_fast;
        options.retry.retries = self.registry.retries;
        Ok(())
    }
}

/// Pushes, and says how that ended.
pub(crate) async fn run(args: &Args, global: &GlobalArgs, environment: &Environment) -> Exit {
    let screen = screen(global, environment);
    ended(pushed(args, global, environment, &screen).await)
}

async fn pushed(
    args: &Args,
    global: &GlobalArgs,
    environment: &Environment,
    screen: &Arc<Screen>,
) -> Result<Exit> {
    let dir = tree::dir(args.dir.as_ref())?;
    tree::open(dir)?;
    let Some((destination, images)) = args.names.split_last() else {
        return Err(Error::new(ErrorKind::InvalidInput, "", "no registry is named").with_hint(
            "saver push --dir DIR [IMAGE]... REGISTRY[/PREFIX]; without images, everything in DIR is pushed",
        ));
    };
    let destination: Destination = destination.parse()?;
    let sending = &args.sending;
    if sending.registry.password_stdin && args.list.iter().any(|list| list.as_os_str() == "-") {
        let why = "both read stdin: put one of them in a file";
        return Err(Error::new(ErrorKind::InvalidInput, "--list - and --password-stdin", why));
    }
    let entries = lists::read(&args.list, images, screen, global.quiet)?;
    let mut options = PushOptions::new(dir, destination);
    options.names = args.rule.parse()?;
    sending.apply(&mut options.transfer)?;
    let registries = BTreeSet::from([options.destination.registry.clone()]);
    options.access =
        registry_args::resolve(&sending.registry, environment, &registries, screen, global.quiet)?;
    let files = Files::prepare(None, sending.report.as_deref(), args.failed_list.as_deref())?;
    let showing = Showing::start(PUSHING, sending.progress, files, global, screen)?;
    options.observer = showing.observer();
    options.cancel = showing.cancel();
    let prefix = options.destination.prefix.as_ref().map(|prefix| format!("{prefix}/"));
    let pusher = ImagePusher::new(options)?;
    if entries.is_empty() && !args.list.is_empty() {
        // No images would be everything: that is for who names no list.
        return nothing(sending.dry_run, showing);
    }
    let images: Vec<PushImage> = entries.iter().cloned().map(PushImage::from).collect();
    if sending.dry_run {
        let plan = if images.is_empty() { pusher.plan_all().await? } else { pusher.plan(images).await? };
        let failed = not_pushed(&Failed::of_plan(&plan), &entries, prefix.as_deref());
        return showing.planned(&plan, None, Some(failed));
    }
    let report = if images.is_empty() { pusher.push_all().await? } else { pusher.push(images).await? };
    let failed = not_pushed(&Failed::of_report(&report), &entries, prefix.as_deref());
    showing.finished(&report, Some(failed))
}

/// The end of a run whose lists name nothing.
fn nothing(dry_run: bool, showing: Showing<'_>) -> Result<Exit> {
    let failed = Some(not_pushed(&[], &[], None));
    let (schema, seconds) = (Report::SCHEMA, 0.0);
    if dry_run {
        let plan =
            Plan { schema, images: Vec::new(), fetch_bytes: 0, fetch_blobs: 0, reuse_bytes: 0, seconds };
        return showing.planned(&plan, None, failed);
    }
    let report =
        Report { schema, images: Vec::new(), bytes_fetched: 0, bytes_reused: 0, seconds, aborted: None };
    showing.finished(&report, failed)
}
