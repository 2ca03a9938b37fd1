//! `saver export`: from a directory, or from registries, to archives and image layouts.

use crate::cli::args::{GlobalArgs, IndexArg, MissingPlatformArg, ProgressMode, RegistryArgs};
use crate::cli::commands::save::{ended, needed, screen};
use crate::cli::config::Environment;
use crate::cli::lists;
use crate::cli::registry_args;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::cli::ui::output_files::Files;
use crate::cli::ui::run::Showing;
use crate::cli::ui::tables;
use crate::cli::ui::terminal::Screen;
use crate::cli::ui::wording::{ARCHIVING, EXPORTING, FETCHING, PASSING, STREAMING, Words};
use crate::error::{Error, ErrorKind, Result};
use crate::export::{
    ExportFrom, ExportOptions, ExportTo, Exported, Format, RefNameStyle, export, is_written_in_place,
};
use crate::list::ListEntry;
use crate::oci::PlatformSet;
use crate::transfer::{MediaTypes, Status};
use clap::{ArgAction, ValueEnum};
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The arguments of exporting.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Images to export, by the names that they were saved by
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Export the images listed in FILE, a list as saver save takes it; - is stdin; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub list: Vec<PathBuf>,
    /// The directory that images were saved to
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Fetch the images from their registries; no directory is needed
    #[arg(long)]
    pub from_registry: bool,
    /// What to write
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<FormatArg>,
    /// The archive, or the directory of the image layout; - is stdout
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Architectures to export: amd64, arm64, arm/v7, linux/arm64/v8, a comma list, or all that are there
    #[arg(long, visible_alias = "platform", value_name = "ARCH[,ARCH]", action = ArgAction::Append, default_value = "all")]
    pub arch: Vec<String>,
    /// What to do with an image that lacks a platform asked for
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    pub missing_platform: MissingPlatformArg,
    /// Names in the directory, as they were saved with
    #[arg(long, value_name = "NAMES", default_value = "strip")]
    pub names: String,
    /// What becomes of an index of which only some platforms are exported; docker-archive has no indexes
    #[arg(long, value_name = "MODE", default_value = "keep")]
    pub index: IndexArg,
    /// Names in index.json: the full name, or only the tag, as oras, regctl and skopeo look it up
    #[arg(long, value_name = "STYLE", default_value = "full")]
    pub ref_name: RefNameArg,
    /// Media types of manifests: keep them, or replace Docker's by OCI's, which changes digests
    #[arg(long, value_name = "TYPES", default_value = "keep")]
    pub media_types: MediaTypesArg,
    /// The most blobs to fetch at once from each registry, 1 to 256; manifests beside them, up to three times as many
    #[arg(long, value_name = "N", default_value = "16", value_parser = crate::cli::args::jobs)]
    pub jobs: u16,
    /// Write what became of each image to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How progress is shown, as for saver save
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub progress: ProgressMode,
    /// How to reach the registries, and as whom.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// What docker save writes: for docker load, podman load, ctr; one platform of each image
    DockerArchive,
    /// An OCI image layout: a directory, which is added to
    OciLayout,
    /// An OCI image layout in a tar file: for podman load, skopeo, ctr
    OciArchive,
}

/// `--ref-name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RefNameArg {
    /// The full name: for podman and umoci, and for many repositories in one layout
    Full,
    /// Only the tag, which no two images may share: for oras, regctl and skopeo oci:DIR:TAG
    Tag,
}

/// `--media-types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MediaTypesArg {
    /// Those of the source
    Keep,
    /// OCI's in place of Docker's: for umoci and other tools that read no other
    Oci,
}

/// Exports, and says how that ended.
pub(crate) async fn run(args: &Args, global: &GlobalArgs, environment: &Environment) -> Exit {
    let screen = screen(global, environment);
    ended(exported(args, global, environment, &screen).await)
}

fn wrong(subject: &str, why: &str, hint: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, subject, why).with_hint(hint)
}

async fn exported(
    args: &Args,
    global: &GlobalArgs,
    environment: &Environment,
    screen: &Arc<Screen>,
) -> Result<Exit> {
    if args.images.is_empty() && args.list.is_empty() {
        let hint =
            "name images, or give a list with --list FILE; saver ls --dir DIR tells what a directory holds";
        return Err(wrong("", "nothing to export", hint));
    }
    let path = needed(args.output.as_ref(), "--output", "PATH, or - for stdout")?;
    let stdout = is_stdout(path);
    if stdout && std::io::stdout().is_terminal() {
        return Err(wrong("--output -", "stdout is a terminal", "pipe it to podman load, or into a file"));
    }
    if stdout && args.progress == ProgressMode::Json {
        return Err(wrong("--progress json", "stdout is the archive", "use --report FILE"));
    }
    let entries = lists::read(&args.list, &args.images, screen, global.quiet)?;
    let staging = Staging::of(path, stdout);
    let options = options(args, &entries, &staging.dir, (global, environment, screen))?;
    let files = Files::prepare(Some(path), args.report.as_deref(), None)?;
    let to = match stdout {
        true => ExportTo::Stream(Box::new(stdout_file()?)),
        false => ExportTo::Path(path.clone()),
    };
    let showing = Showing::start(words(args, staging.goes), args.progress, files, global, screen)?;
    let options = options.with_observer(showing.observer()).with_cancel(showing.cancel());
    let exported = export(entries, to, options).await?;
    let exit = showing.finished_with(&exported.report, None, || tell(&exported, path, stdout))?;
    if !exported.report.is_success() && !staging.goes && staging.dir.is_dir() {
        let dir = staging.dir.display().to_string();
        output::stderr(&format!("what was fetched is kept in {} for the next run", output::clean(&dir)));
    }
    Ok(exit)
}

/// What is said of an export.
fn words(args: &Args, staging_goes: bool) -> Words {
    match (args.format, args.from_registry, staging_goes) {
        (Some(FormatArg::OciLayout) | None, _, _) => EXPORTING,
        (_, false, false) => ARCHIVING,
        (_, true, false) => FETCHING,
        (_, false, true) => STREAMING,
        (_, true, true) => PASSING,
    }
}

fn is_stdout(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path.as_os_str() == *name)
}

/// Stdout as it is, without a buffer that waits for lines.
fn stdout_file() -> Result<File> {
    let own = std::io::stdout().as_fd().try_clone_to_owned();
    own.map(File::from).map_err(|cause| Error::storage("stdout", "open", cause))
}

fn options(
    args: &Args,
    entries: &[ListEntry],
    staging: &Path,
    (global, environment, screen): (&GlobalArgs, &Environment, &Screen),
) -> Result<ExportOptions> {
    let format = match args.format {
        Some(FormatArg::DockerArchive) => Format::DockerArchive,
        Some(FormatArg::OciLayout) => Format::OciLayout,
        Some(FormatArg::OciArchive) => Format::OciArchive,
        None => {
            let hint = "add --format docker-archive, oci-archive or oci-layout";
            return Err(wrong("--format", "is missing", hint));
        }
    };
    let from = match (&args.dir, args.from_registry) {
        (Some(dir), false) => {
            tree::open(dir)?;
            ExportFrom::Tree(dir.clone(), args.names.parse()?)
        }
        // The directory may be a setting, that this command is to do without.
        (_, true) => {
            let registries = entries.iter().map(|entry| entry.reference.registry.clone()).collect();
            let access =
                registry_args::resolve(&args.registry, environment, &registries, screen, global.quiet)?;
            ExportFrom::Registries { access: Box::new(access), staging: staging.to_owned() }
        }
        (None, false) => {
            let hint = "add --dir DIR, which images were saved to, or --from-registry";
            return Err(wrong("--dir", "is missing", hint));
        }
    };
    let mut options = ExportOptions::new(format, from);
    options.transfer.platforms = PlatformSet::parse(&args.arch.join(","), "linux")?;
    options.transfer.missing_platform = args.missing_platform.into();
    options.transfer.jobs = usize::from(args.jobs);
    options.transfer.media_types = match args.media_types {
        MediaTypesArg::Keep => MediaTypes::Keep,
        MediaTypesArg::Oci => MediaTypes::Oci,
    };
    options.ref_names = match args.ref_name {
        RefNameArg::Full => RefNameStyle::Full,
        RefNameArg::Tag => RefNameStyle::Tag,
    };
    options.transfer.retry.retries = args.registry.retries;
    options.transfer.index = match (args.index, format) {
        (IndexArg::Prune, Format::DockerArchive) => {
            let why = "docker-archive has no indexes";
            return Err(wrong("--index prune", why, "choose one platform with --arch, or another format"));
        }
        (index, _) => index.into(),
    };
    Ok(options)
}

/// Where what is fetched stands until the archive is written.
struct Staging {
    dir: PathBuf,
    /// Whether it goes with the run: a stream has no place beside it, where the next run would look.
    goes: bool,
}

impl Staging {
    fn of(path: &Path, stdout: bool) -> Self {
        let goes = stdout || is_written_in_place(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = match goes {
            true => {
                let own = format!("saver-export-{}-{:08x}", std::process::id(), fastrand::u32(..));
                std::env::temp_dir().join(own)
            }
            false => path.with_file_name(format!(".{name}.saver-fetched")),
        };
        Self { dir, goes }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.goes {
            // It is not there where nothing was fetched.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Says what was written: on stdout, unless that is the archive.
fn tell(exported: &Exported, path: &Path, stdout: bool) {
    let report = &exported.report;
    let Some(bytes) = exported.archive_bytes else {
        if report.done() + report.count(Status::Unchanged) > 0 && !stdout {
            let _ = output::stdout(tables::of_report(report, EXPORTING).as_bytes());
        }
        return;
    };
    let images = output::count(report.done(), "image");
    let name = if stdout { "stdout".to_owned() } else { path.display().to_string() };
    let line = format!("wrote {images}, {}, to {}\n", output::size(bytes), output::clean(&name));
    match stdout {
        true => output::stderr_text(&line),
        false => drop(output::stdout(line.as_bytes())),
    }
}
