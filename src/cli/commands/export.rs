//! `saver export`: from a directory, or from registries, to archives and image layouts.

use crate::cli::args::images::ListArgs;
use crate::cli::args::missing_option;
use crate::cli::args::output::{ProgressMode, ReportArgs};
use crate::cli::args::platforms::{IndexArg, IndexArgs, MissingPlatformArgs, PlatformArgs};
use crate::cli::args::referrers::ReferrerArgs;
use crate::cli::args::registry::RegistryArgs;
use crate::cli::args::transfer::{TransferArgs, retry_policy};
use crate::cli::args::tree::{DirArgs, NamesArgs, local_path};
use crate::cli::context::Context;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean};
use crate::cli::ui::output_files::OutputFiles;
use crate::cli::ui::run::RunDisplay;
use crate::cli::ui::tables;
use crate::cli::ui::wording::{ARCHIVING, EXPORTING, FETCHING, PASSING, STREAMING, Wording};
use crate::cli::{lists, registry_args, tree};
use crate::error::{Error, ErrorKind, Result};
use crate::export::{
    ExportFrom, ExportOptions, ExportTo, Exported, Format, RefNameStyle, export, is_written_in_place,
};
use crate::list::ListEntry;
use crate::transfer::{MediaTypes, Status};
use clap::ValueEnum;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The arguments of `export`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Images to export, by the names that they were saved under
    #[arg(value_name = "IMAGE", help_heading = "Images")]
    pub(crate) images: Vec<String>,
    /// Lists of images.
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    /// Download the images from their registries instead of reading a directory
    #[arg(long, help_heading = "Images")]
    pub(crate) from_registry: bool,
    /// Format to write
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub(crate) format: Option<ExportFormat>,
    /// Archive, or directory of the OCI image layout; - is stdout
    #[arg(short, long, value_name = "PATH", value_parser = local_path(), help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Where the images are.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// Which platforms.
    #[command(flatten)]
    pub(crate) platforms: PlatformArgs,
    /// Images that lack one.
    #[command(flatten)]
    pub(crate) missing: MissingPlatformArgs,
    /// Indexes.
    #[command(flatten)]
    pub(crate) index: IndexArgs,
    /// Names in index.json: the full name, or only the tag, which oras, regctl and skopeo look up
    #[arg(long, value_name = "STYLE", default_value = "full", help_heading = "Output")]
    pub(crate) ref_name: RefNameArg,
    /// Media types of manifests: keep them, or replace Docker's by OCI's, which changes digests
    #[arg(long, value_name = "TYPES", default_value = "keep", help_heading = "Output")]
    pub(crate) media_types: MediaTypesArg,
    /// Signatures.
    #[command(flatten)]
    pub(crate) referrers: ReferrerArgs,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// How much at once.
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
    /// What is written beside.
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// The format of docker save, for docker load, podman load and ctr; one platform of each image
    DockerArchive,
    /// An OCI image layout: a directory, to which images are added
    OciLayout,
    /// An OCI image layout in a tar file, for podman load, skopeo and ctr
    OciArchive,
}

impl From<ExportFormat> for Format {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::DockerArchive => Self::DockerArchive,
            ExportFormat::OciLayout => Self::OciLayout,
            ExportFormat::OciArchive => Self::OciArchive,
        }
    }
}

/// `--ref-name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RefNameArg {
    /// The full name, for podman and umoci, and for many repositories in one layout
    Full,
    /// Only the tag, which no two images may share, for oras, regctl and skopeo oci:DIR:TAG
    Tag,
}

/// `--media-types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MediaTypesArg {
    /// Keep those of the source
    Keep,
    /// Replace Docker's by OCI's, for umoci and other tools that read no other
    Oci,
}

/// Exports images.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; whatever keeps the run from continuing.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    lists::require_any(&args.lists, [&args.images], "export")?;
    let path = args.output.as_ref();
    let path =
        path.ok_or_else(|| missing_option("--output", "add --output PATH, or --output - for stdout"))?;
    let is_stdout = is_stdout(path);
    if is_stdout && std::io::stdout().is_terminal() {
        let hint = "pipe it to podman load, or redirect it to a file";
        return Err(wrong("--output -", "stdout is a terminal", hint));
    }
    if is_stdout && args.report.progress == ProgressMode::Json {
        return Err(wrong("--progress json", "stdout is the archive", "use --report FILE"));
    }
    lists::require_one_reader_of_stdin(&args.lists, args.registry.password_stdin)?;
    let entries = lists::read(&args.lists.list, &args.images, context)?;
    let staging = Staging::of(path, is_stdout);
    let options = options(args, &entries, &staging.dir, context)?;
    let files = OutputFiles::prepare(Some(("--output", path)), &args.report, None)?;
    let to =
        if is_stdout { ExportTo::Stream(Box::new(stdout_file()?)) } else { ExportTo::Path(path.clone()) };
    let wording = wording(args, staging.is_temporary);
    let display = RunDisplay::start(wording, args.report.progress, files, args.registry.timeout, context)?;
    let options = options.with_observer(display.observer()).with_cancel(display.cancel());
    let exported = export(entries, to, options).await?;
    let exit = display.finished_with(&exported.report, None, || print_result(&exported, path, is_stdout))?;
    if !exported.report.is_success() && !staging.is_temporary && staging.dir.is_dir() {
        context.note(&format!("downloaded content is kept in {} for the next run", staging.dir.display()));
    }
    Ok(exit)
}

fn wrong(subject: &str, why: &str, hint: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, subject, why).with_hint(hint)
}

/// The words for an export.
fn wording(args: &Args, is_temporary: bool) -> Wording {
    match (args.format, args.from_registry, is_temporary) {
        (Some(ExportFormat::OciLayout) | None, _, _) => EXPORTING,
        (_, false, false) => ARCHIVING,
        (_, true, false) => FETCHING,
        (_, false, true) => STREAMING,
        (_, true, true) => PASSING,
    }
}

/// Whether `path` is stdout.
pub(super) fn is_stdout(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path.as_os_str() == *name)
}

/// Stdout without the standard library's line buffer.
pub(super) fn stdout_file() -> Result<File> {
    let own = std::io::stdout().as_fd().try_clone_to_owned();
    own.map(File::from).map_err(|cause| Error::storage("stdout", "open", cause))
}

fn options(
    args: &Args,
    entries: &[ListEntry],
    staging: &Path,
    context: &Context<'_>,
) -> Result<ExportOptions> {
    let format = args.format.ok_or_else(|| {
        missing_option("--format", "add --format docker-archive, oci-archive or oci-layout")
    })?;
    let from = if args.from_registry {
        // The directory may come from a setting, which --from-registry overrides.
        let registries = entries.iter().map(|entry| entry.reference.registry.clone()).collect();
        let access = registry_args::resolve(&args.registry, context, &registries)?;
        ExportFrom::Registries { access: Box::new(access), staging: staging.to_owned() }
    } else {
        let hint = "add --dir DIR, the directory of the saved images, or --from-registry";
        let dir = args.dir.dir.as_ref().ok_or_else(|| missing_option("--dir", hint))?;
        tree::open(dir)?;
        ExportFrom::Tree(dir.clone(), args.names.rule()?)
    };
    let index = args.index.index;
    if index == IndexArg::Prune && format == ExportFormat::DockerArchive {
        let hint = "select one platform with --arch, or another --format";
        return Err(wrong("--index prune", "the docker-archive format has no indexes", hint));
    }
    let mut options = ExportOptions::new(format.into(), from);
    options.transfer.platforms = args.platforms.selected_or_all()?;
    options.transfer.missing_platform = args.missing.missing_platform.into();
    options.transfer.index = index.into();
    options.transfer.retry = retry_policy(&args.registry);
    options.transfer.media_types = match args.media_types {
        MediaTypesArg::Keep => MediaTypes::Keep,
        MediaTypesArg::Oci => MediaTypes::Oci,
    };
    options.ref_names = match args.ref_name {
        RefNameArg::Full => RefNameStyle::Full,
        RefNameArg::Tag => RefNameStyle::Tag,
    };
    args.referrers.apply(&mut options.transfer.referrers);
    args.transfer.apply(&mut options.transfer);
    Ok(options)
}

/// Where downloaded content is kept until the archive is written.
struct Staging {
    dir: PathBuf,
    /// Whether it is removed at the end of the run: beside a stream there is no place where the next run would look.
    is_temporary: bool,
}

impl Staging {
    fn of(path: &Path, is_stdout: bool) -> Self {
        let is_temporary = is_stdout || is_written_in_place(path);
        let dir = if is_temporary {
            let name = format!("saver-export-{}-{:08x}", std::process::id(), fastrand::u32(..));
            std::env::temp_dir().join(name)
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            path.with_file_name(format!(".{name}.saver-fetched"))
        };
        Self { dir, is_temporary }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.is_temporary {
            // It does not exist when nothing was downloaded.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Prints what was written: on stdout, unless that is the archive.
fn print_result(exported: &Exported, path: &Path, is_stdout: bool) {
    let report = &exported.report;
    let Some(bytes) = exported.archive_bytes else {
        if report.done() + report.count(Status::Unchanged) > 0 && !is_stdout {
            let _ = output::stdout(tables::of_report(report, EXPORTING).as_bytes());
        }
        return;
    };
    let images = output::count(report.done(), "image");
    let name = if is_stdout { "stdout".to_owned() } else { path.display().to_string() };
    let line = format!("wrote {images}, {}, to {}\n", output::size(bytes), clean(&name));
    if is_stdout {
        output::stderr_text(&line);
    } else {
        let _ = output::stdout(line.as_bytes());
    }
}
