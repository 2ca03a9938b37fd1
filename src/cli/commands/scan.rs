//! `saver scan`: lists the images that files name.

use crate::cli::args::output::JsonArgs;
use crate::cli::args::registry::RegistryArgs;
use crate::cli::args::tree::refuse_url;
use crate::cli::charts;
use crate::cli::config::Environment;
use crate::cli::context::{Context, within};
use crate::cli::helm::Helm;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean, count, json};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{Diagnostic, SourceLocation};
use crate::scan::{
    self, ChartRenderer, Discovery, IgnoreList, MAX_FILE_BYTES, ScanOptions, ScanReport, TextFormat,
};
use clap::ArgAction;
use clap::builder::{PathBufValueParser, TypedValueParser};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The ignore list of a build context.
const CONTEXT_IGNORE: &str = "manifests/imageListIgnore";
/// Maximum size of an ignore list in bytes.
const MAX_IGNORE_BYTES: u64 = 16 << 20;
/// How many notes are printed; the others are counted.
const NOTES: usize = 10;

/// The arguments of `saver scan`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// File or directory to scan, or URL of a chart: https://REPOSITORY/CHART, oci://REGISTRY/CHART; - reads standard input
    #[arg(value_name = "PATH", value_parser = path_or_chart())]
    pub(crate) path: PathBuf,
    /// Version or range of versions of the chart [default: the newest release]
    #[arg(long = "version", value_name = "RANGE", help_heading = "Images")]
    pub(crate) chart_version: Option<String>,
    /// How to find images.
    #[command(flatten)]
    pub(crate) look: LookArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
    /// Exit with 1 if a find is doubtful and not ignored
    #[arg(long)]
    pub(crate) fail_on_doubtful: bool,
    /// How a chart elsewhere is reached.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// Accepts a path, or the URL of a chart.
fn path_or_chart() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.to_str() {
        Some(text) if charts::is_remote(text) => Ok(path),
        _ => refuse_url(&path).map(|()| path),
    })
}

/// How to find images.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct LookArgs {
    /// Leave out the images that FILE names, one a line; * matches any text; may be repeated
    ///
    /// nginx and quay.io/team/app leave out every tag, nginx:1.27 that one, quay.io/team/* everything below. A pattern also
    /// matches the text of a doubtful find, and file:PATTERN the doubtful finds of files. manifests/imageListIgnore in the
    /// scanned directory is read too.
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = "Images")]
    pub(crate) ignore: Vec<PathBuf>,
    /// Do not render charts with helm
    ///
    /// Templates are evaluated as far as the values determine whole names; everything else is doubtful.
    #[arg(long, help_heading = "Images")]
    pub(crate) no_helm: bool,
    /// Values file for all charts; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = "Images")]
    pub(crate) values: Vec<PathBuf>,
    /// Kubernetes version for which charts are rendered, such as 1.34
    #[arg(long, value_name = "VERSION", help_heading = "Images")]
    pub(crate) kube_version: Option<String>,
    /// API version that the cluster has, for charts, such as monitoring.coreos.com/v1; may be repeated
    #[arg(long, value_name = "GROUP/VERSION", action = ArgAction::Append, help_heading = "Images")]
    pub(crate) api_versions: Vec<String>,
}

/// Runs `saver scan`.
///
/// # Errors
/// `InvalidInput` if an ignore list or a values file is invalid, or there is nothing to scan.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let found = match args.path.to_str().filter(|text| charts::is_remote(text)) {
        Some(name) => within(args.registry.timeout, chart(name, args, context)).await?,
        None if args.chart_version.is_some() => {
            let why = "only a chart of a repository or registry has versions";
            return Err(Error::new(ErrorKind::InvalidInput, "--version", why));
        }
        None => found(args, context.environment)?,
    };
    Ok(print(&found, args, context))
}

/// Fetches a chart and scans it.
async fn chart(name: &str, args: &Args, context: &Context<'_>) -> Result<Discovery> {
    let (name, archive) = charts::fetch(name, args.chart_version.as_deref(), &args.registry, context).await?;
    look(Path::new(&name), &args.look, context.environment, &[], |_, options| {
        Ok(scan::packed_chart(&name, &archive, options))
    })
}

fn found(args: &Args, environment: &Environment) -> Result<Discovery> {
    if args.path.as_os_str() != "-" {
        return look(&args.path, &args.look, environment, &[], scan::path);
    }
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut text);
    read.map_err(|cause| Error::new(ErrorKind::InvalidInput, "stdin", format!("cannot be read: {cause}")))?;
    let mut found = Discovery::default();
    let ignore = ignored(None, &args.look.ignore)?;
    scan::text(&mut found, "stdin", TextFormat::Any, &text);
    found.remove_ignored(&ignore);
    Ok(found)
}

/// Scans `root` with the options of the command line. Must be called on a runtime.
///
/// # Errors
/// `InvalidInput` if an ignore list or a values file is invalid, or there is nothing to scan.
pub(crate) fn look(
    root: &Path,
    args: &LookArgs,
    environment: &Environment,
    skip: &[PathBuf],
    scan: impl FnOnce(&Path, &ScanOptions<'_>) -> Result<Discovery>,
) -> Result<Discovery> {
    let helm = if args.no_helm {
        None
    } else {
        Helm::find(environment, args.kube_version.clone(), &args.api_versions)
    };
    let _guard = helm.as_ref().map(Helm::guard).transpose()?;
    let read_values = |file: &PathBuf| {
        let text = read_file(file, MAX_FILE_BYTES as u64, "values file")?;
        Ok((file.display().to_string().into(), text.into()))
    };
    let options = ScanOptions {
        ignore: ignored(Some(root), &args.ignore)?,
        skip: skip.to_vec(),
        renderer: helm.as_ref().map(|helm| helm as &dyn ChartRenderer),
        values: args.values.iter().map(read_values).collect::<Result<_>>()?,
    };
    let mut found = scan(root, &options)?;
    let own = root.join(CONTEXT_IGNORE);
    if std::fs::symlink_metadata(&own).is_ok_and(|kind| !kind.is_file()) {
        let origin = SourceLocation { file: own.display().to_string().into(), line: 0, module: None };
        found.unread.push(Diagnostic { origin, message: crate::scan::NOT_REGULAR.into(), hint: None });
    }
    Ok(found)
}

/// The ignore lists of the command line, and the one in the scanned directory.
fn ignored(root: Option<&Path>, files: &[PathBuf]) -> Result<IgnoreList> {
    let own = root.map(|root| root.join(CONTEXT_IGNORE));
    let own = own.filter(|own| std::fs::symlink_metadata(own).is_ok_and(|kind| kind.is_file()));
    let mut ignore = IgnoreList::default();
    let mut problems: Vec<Diagnostic> = Vec::new();
    for file in files.iter().chain(&own) {
        let text = read_file(file, MAX_IGNORE_BYTES, "ignore list")?;
        problems.extend(ignore.read(&file.display().to_string(), &text));
    }
    // All problems are printed; the last one is the error of the command.
    let last = problems.pop();
    for problem in problems {
        output::stderr(&format!("error: {}", clean(&problem.to_string())));
    }
    last.map_or(Ok(ignore), |problem| Err(problem.into()))
}

/// The content of a file that an option names.
fn read_file(file: &Path, limit: u64, what: &str) -> Result<Vec<u8>> {
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, file.display(), why);
    let mut text = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(limit + 1).read_to_end(&mut text));
    read.map_err(|cause| refuse(format!("cannot read the {what}: {cause}")))?;
    if text.len() as u64 > limit {
        return Err(refuse(format!("the {what} is larger than {limit} bytes")));
    }
    Ok(text)
}

fn print(found: &Discovery, args: &Args, context: &Context<'_>) -> Exit {
    let report = ScanReport::of(found);
    let text = if args.json.json {
        json(&report)
    } else {
        // Control characters are escaped line by line, so that lines stay lines.
        let list = report.to_list();
        list.lines().map(|line| format!("{}\n", clean(line))).collect::<String>().into_bytes()
    };
    let exit = output::stdout(&text);
    print_diagnostics(found, context);
    if !context.is_quiet() {
        let doubtful = match report.doubtful.len() {
            0 => String::new(),
            number => format!(", {number} doubtful"),
        };
        output::stderr(&format!("{}{doubtful}", count(report.images.len(), "image")));
    }
    match exit {
        Exit::Done
            if !found.is_complete() || args.fail_on_doubtful && report.open_doubts().next().is_some() =>
        {
            Exit::SomeFailed
        }
        exit => exit,
    }
}

/// Prints what could not be read, even with `--quiet`, and the notes.
pub(crate) fn print_diagnostics(found: &Discovery, context: &Context<'_>) {
    let word = context.paint().yellow("warning:");
    for problem in found.problems.iter().chain(&found.unread) {
        context.terminal.line(&format!("{word} {}", clean(&problem.to_string())));
    }
    for note in found.notes.iter().take(NOTES) {
        context.note(&note.to_string());
    }
    if found.notes.len() > NOTES {
        context.note(&format!("and {} more like these", found.notes.len() - NOTES));
    }
}
