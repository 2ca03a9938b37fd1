//! The files of a directory, in a fixed order and within bounds. Symbolic links are not followed.

use super::chart::{self, Chart, ChartRenderer};
use super::files::{NOT_REGULAR, is_hidden, read};
use super::kustomize::{self, Kustomization};
use super::{Discovery, IgnoreList, TextFormat, Variables};
use crate::error::{Error, ErrorKind, Result};
use crate::yaml;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walkdir::WalkDir;

/// Maximum depth of directories.
const MAX_DEPTH: usize = 40;
/// Maximum number of files and directories.
const MAX_ENTRIES: usize = 500_000;
/// What makes a directory a build context.
const CONTEXT_PARTS: &[&str] = &["Kubefile", "manifests", "charts", "images"];
/// How to scan.
#[derive(Default)]
#[non_exhaustive]
pub struct ScanOptions<'a> {
    /// Images to leave out.
    pub ignore: IgnoreList,
    /// Directories to skip.
    pub skip: Vec<PathBuf>,
    /// Renders charts. Without it their templates are evaluated as far as possible.
    pub renderer: Option<&'a dyn ChartRenderer>,
    /// Values files for all charts, with their names.
    pub values: Vec<(Arc<str>, Arc<[u8]>)>,
}

/// Finds the images that a file or a directory names.
///
/// # Errors
/// `InvalidInput` if there is no such file or directory. What cannot be read below it is part of the result.
pub fn path(root: &Path, options: &ScanOptions<'_>) -> Result<Discovery> {
    let kind = std::fs::metadata(root).map_err(|cause| unreadable(root, &cause))?;
    let mut scan = Scan { found: Discovery::default(), options, root, kustomizations: Vec::new() };
    if kind.is_dir() {
        scan.directory();
    } else if kind.is_file() {
        scan.file(root, true);
        scan.note_chart(root);
    } else {
        return Err(Error::new(ErrorKind::InvalidInput, root.display(), "neither a file nor a directory"));
    }
    let mut found = scan.found;
    kustomize::apply(&mut found, root, &scan.kustomizations);
    found.remove_ignored(&options.ignore);
    Ok(found)
}

/// Finds the images of a packed chart, which locations call `name`.
#[must_use]
pub fn packed_chart(name: &str, packed: &[u8], options: &ScanOptions<'_>) -> Discovery {
    let found = Discovery::default();
    let mut scan = Scan { found, options, root: Path::new(name), kustomizations: Vec::new() };
    let place: Arc<str> = name.into();
    match Chart::from_archive(&mut scan.found, &place, packed) {
        Some(chart) => scan.chart(chart),
        None => scan.found.note(&place, 0, "the archive holds no chart"),
    }
    let mut found = scan.found;
    found.remove_ignored(&options.ignore);
    found
}

fn unreadable(root: &Path, cause: &std::io::Error) -> Error {
    Error::new(ErrorKind::InvalidInput, root.display(), format!("cannot be read: {cause}"))
}

/// Finds the images of a build context, a directory with a Kubefile, `manifests/`, `charts/` or `images/`.
///
/// # Errors
/// `InvalidInput` if it is no build context. What cannot be read below it is part of the result.
pub fn build_context(root: &Path, options: &ScanOptions<'_>) -> Result<Discovery> {
    std::fs::metadata(root).map_err(|cause| unreadable(root, &cause))?;
    if !CONTEXT_PARTS.iter().any(|part| root.join(part).exists()) {
        let why = "no build context: it has no Kubefile, manifests, charts or images";
        return Err(Error::new(ErrorKind::InvalidInput, root.display(), why)
            .with_hint("name the directory of the Kubefile; saver scan finds images in any directory"));
    }
    path(root, options)
}

fn shown(path: &Path) -> Arc<str> {
    path.display().to_string().into()
}

struct Scan<'a> {
    found: Discovery,
    options: &'a ScanOptions<'a>,
    root: &'a Path,
    kustomizations: Vec<Kustomization>,
}

impl Scan<'_> {
    fn directory(&mut self) {
        let mut walk = WalkDir::new(self.root).max_depth(MAX_DEPTH).sort_by_file_name().into_iter();
        let mut number = 0;
        while let Some(entry) = walk.next() {
            number += 1;
            if number > MAX_ENTRIES {
                return self.found.unread(&shown(self.root), 0, format!("more than {MAX_ENTRIES} files"));
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let place = error.path().map_or_else(|| shown(self.root), shown);
                    let why = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                    self.found.unread(&place, 0, format!("cannot be read: {why}"));
                    continue;
                }
            };
            let path = entry.path();
            if entry.file_type().is_dir() {
                let is_registry = path.join("docker/registry/v2").is_dir();
                let is_hidden = entry.depth() > 0 && is_hidden(entry.file_name());
                if is_hidden || is_registry || self.options.skip.iter().any(|skip| skip == path) {
                    walk.skip_current_dir();
                } else if is_file(&path.join("Chart.yaml")) {
                    let chart = Chart::from_dir(&mut self.found, path, self.root);
                    self.chart(chart);
                    walk.skip_current_dir();
                } else if entry.depth() == MAX_DEPTH {
                    self.found.unread(&shown(path), 0, "the directory is nested too deeply");
                }
            } else if is_hidden(entry.file_name()) {
                continue;
            } else if entry.file_type().is_file() {
                self.file(path, false);
            } else if !is_packed(path) && format_of(path).is_none() {
                continue;
            } else if !entry.path_is_symlink() || format_of(path) == Some(TextFormat::List) {
                self.found.unread(&shown(path), 0, NOT_REGULAR);
            } else {
                self.found.note(&shown(path), 0, "skipped a symbolic link");
            }
        }
    }

    fn chart(&mut self, mut chart: Chart) {
        chart.add_values(&self.options.values);
        chart::scan(&mut self.found, &chart, self.options.renderer);
    }

    /// One file. A file that was named is read whatever it is called.
    fn file(&mut self, path: &Path, is_named: bool) {
        let place = shown(path);
        let name = name_of(path);
        let format = format_of(path);
        if is_packed(path) {
            let Some(packed) = read(&mut self.found, &place, path) else { return };
            match Chart::from_archive(&mut self.found, &place, &packed) {
                Some(chart) => self.chart(chart),
                None if is_named => self.found.note(&place, 0, "the archive holds no chart"),
                None => {}
            }
            return;
        }
        let Some(format) = format.or(is_named.then_some(TextFormat::Any)) else { return };
        let Some(content) = read(&mut self.found, &place, path) else { return };
        let before = (self.found.images.len(), self.found.doubts.len(), self.found.problems.len());
        let variables =
            if name.contains("compose") { environment_file(&mut self.found, path) } else { Variables::new() };
        super::text_with(&mut self.found, &place, format, &content, &variables);
        if kustomize::is_kustomization(name)
            && let Some(dir) = path.parent()
        {
            let parsed = yaml::parse(&place, &String::from_utf8_lossy(&content));
            self.kustomizations.extend(parsed.documents.first().map(|node| Kustomization::read(dir, node)));
        }
        let after = (self.found.images.len(), self.found.doubts.len(), self.found.problems.len());
        if is_named && format == TextFormat::Text && before == after && !content.trim_ascii().is_empty() {
            self.found.unread(
                &place,
                0,
                "the text is neither a list, a table nor a script that names images",
            );
        }
    }

    /// A part of a chart is read better with the chart around it.
    fn note_chart(&mut self, file: &Path) {
        let charts = file.ancestors().skip(1).take(MAX_DEPTH).filter(|dir| !dir.as_os_str().is_empty());
        if let Some(chart) = charts.into_iter().find(|dir| is_file(&dir.join("Chart.yaml"))) {
            let message =
                format!("part of the chart in {}: scan the chart to see what it renders", chart.display());
            self.found.note(&shown(file), 0, message);
        }
    }
}

/// The variables of the `.env` file beside a compose file.
fn environment_file(found: &mut Discovery, path: &Path) -> Variables {
    let file = path.with_file_name(".env");
    if !is_file(&file) {
        return Variables::new();
    }
    let content = read(found, &shown(&file), &file).unwrap_or_default();
    let text = String::from_utf8_lossy(&content).into_owned();
    let pair = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        (!name.starts_with('#'))
            .then(|| (name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|kind| kind.is_file())
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_packed(path: &Path) -> bool {
    [".tgz", ".tar.gz"].iter().any(|ending| name_of(path).ends_with(ending))
}

/// The format of a file by its name. In `images/shim`, every file is a list (sealos cluster images).
fn format_of(path: &Path) -> Option<TextFormat> {
    let is_shim = path.parent().is_some_and(|dir| dir.ends_with("images/shim"));
    if is_shim { Some(TextFormat::List) } else { TextFormat::of_file(name_of(path)) }
}
