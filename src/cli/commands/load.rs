//! `saver load`: images of a directory, into containerd.

use crate::cli::args::images::ListArgs;
use crate::cli::args::missing_option;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::platforms::PlatformArgs;
use crate::cli::args::tree::{DirArgs, NamesArgs};
use crate::cli::context::Context;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean, json};
use crate::cli::{lists, tree};
use crate::containerd::{LoadObserver, LoadOptions, LoadReport, LoadStatus, LoadedImage, load};
use crate::error::Result;
use crate::oci::{Platform, PlatformSet, Reference};
use crate::save::NameRule;
use std::path::PathBuf;
use std::sync::Arc;

/// The arguments of `load`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Images to load, by the names that they were saved under [default: all]
    #[arg(value_name = "IMAGE", help_heading = "Images")]
    pub(crate) images: Vec<String>,
    /// Lists of images.
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    /// Socket of containerd, such as /run/containerd/containerd.sock
    #[arg(long, value_name = "SOCKET", help_heading = "containerd")]
    pub(crate) containerd: Option<PathBuf>,
    /// Namespace in containerd
    #[arg(long, value_name = "NAME", default_value = "k8s.io", help_heading = "containerd")]
    pub(crate) namespace: String,
    /// Pin the images, so that the kubelet does not remove them
    #[arg(long, help_heading = "containerd")]
    pub(crate) pin: bool,
    /// Unpack the layers too, instead of when the first container starts
    #[arg(long, help_heading = "containerd")]
    pub(crate) unpack: bool,
    /// Snapshotter to unpack with
    #[arg(long, value_name = "NAME", default_value = "overlayfs", help_heading = "containerd")]
    pub(crate) snapshotter: String,
    /// Where the images are.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// Which platforms.
    #[command(flatten)]
    pub(crate) platforms: PlatformArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// Loads images. The exit code is 1 if one of them failed.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Storage` if the directory cannot be read, or containerd not reached.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let Some(socket) = &args.containerd else {
        let hint =
            "add --containerd /run/containerd/containerd.sock (k3s: /run/k3s/containerd/containerd.sock)";
        return Err(missing_option("--containerd", hint));
    };
    let store = tree::open(args.dir.path()?)?;
    let own = || PlatformSet::Only(vec![Platform::of_this_machine()]);
    let platforms = args.platforms.selected()?.unwrap_or_else(own);
    let names = NameRule::of(&store, args.names.rule()?.as_ref())?;
    let mut options = LoadOptions::new(socket, platforms)
        .with_namespace(&args.namespace)
        .with_names(names.clone())
        .with_pin(args.pin)
        .with_observer(Arc::new(Rows { are_printed: !args.json.json }));
    if args.unpack {
        options = options.with_unpack(&args.snapshotter);
    }
    let images: Vec<Reference> = if args.images.is_empty() && args.lists.list.is_empty() {
        tree::original_names(&store, &names)?
    } else {
        let entries = lists::read(&args.lists.list, &args.images, context)?;
        entries.into_iter().map(|entry| entry.reference).collect()
    };
    let report = load(&store, &images, &options).await?;
    let text = if args.json.json { json(&report) } else { summary(&report).into_bytes() };
    Ok(match output::stdout(&text) {
        Exit::Done if !report.is_success() => Exit::SomeFailed,
        exit => exit,
    })
}

/// Prints each image as it is finished.
struct Rows {
    are_printed: bool,
}

impl LoadObserver for Rows {
    fn image_finished(&self, image: &LoadedImage) {
        if self.are_printed {
            output::stdout(row(image).as_bytes());
        }
    }
}

fn summary(report: &LoadReport) -> String {
    let images = output::count(report.images.len(), "image");
    format!("{images}, {} sent\n", output::size(report.bytes_sent))
}

fn row(image: &LoadedImage) -> String {
    let reference = &image.reference;
    match (image.status, &image.error) {
        (LoadStatus::Unchanged, _) => format!("unchanged {reference}\n"),
        (LoadStatus::Loaded, _) => {
            let unpacked = match image.unpacked {
                0 => String::new(),
                layers => format!(", {} unpacked", output::count(layers, "layer")),
            };
            format!("loaded    {reference}  {}{unpacked}\n", output::size(image.bytes_sent))
        }
        (LoadStatus::Failed, error) => {
            let error = error.as_ref();
            let why = error.map_or("", |error| error.message.as_str());
            let hint = error.and_then(|error| error.hint.as_ref());
            let hint = hint.map_or_else(String::new, |hint| format!("  hint: {}\n", clean(hint)));
            format!("failed    {reference}: {}\n{hint}", clean(why))
        }
    }
}
