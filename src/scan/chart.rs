//! Helm charts: directories and archives. What `helm template` prints is read where somebody runs it for us; where not,
//! the values and the templates are.

use super::archive::{self, Files, MAX_CHART_BYTES, MAX_CHART_FILES};
use super::text_rules::{self, Mode};
use super::{Found, Kind, MAX_FILE_BYTES, rendered, subcharts};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use walkdir::WalkDir;

/// How deep charts may hold charts.
const MAX_NESTING: usize = 5;

/// A chart, read whole: what is in it came from regular files below it and from archives, within bounds.
#[derive(Debug)]
pub struct Chart {
    name: Arc<str>,
    files: Files,
}

/// Something that renders charts as `helm template` does.
pub trait Render {
    /// What the chart makes with its own values.
    ///
    /// # Errors
    /// Why it can't be rendered, in a few words; the values are read instead.
    fn render(&self, chart: &Chart) -> Result<String, String>;
}

impl Chart {
    /// Where it was found.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its files: relative paths of plain names with `/` between them, and what is in them.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, content)| (path.as_str(), content.as_slice()))
    }

    /// Reads a chart's directory. Links are left out, and so is what is too large.
    pub(super) fn from_dir(found: &mut Found, dir: &Path) -> Self {
        let mut chart = Self { name: dir.display().to_string().into(), files: Files::new() };
        let mut bytes = 0;
        let walk = WalkDir::new(dir).max_depth(20).sort_by_file_name().into_iter();
        for entry in walk.filter_entry(|entry| entry.depth() == 0 || !super::walk::is_hidden(entry)) {
            let Ok(entry) = entry else {
                found.unread(&chart.name, 0, "a part of the chart can't be read");
                continue;
            };
            let below = entry.path().strip_prefix(dir).ok().and_then(archive::relative);
            let Some(path) = below.filter(|_| entry.file_type().is_file()) else { continue };
            let shown: Arc<str> = entry.path().display().to_string().into();
            let Some(content) = super::walk::read(found, &shown, entry.path()) else { continue };
            bytes += content.len();
            if bytes > MAX_CHART_BYTES || chart.files.len() >= MAX_CHART_FILES {
                found.unread(&chart.name, 0, "the chart is larger than is read");
                break;
            }
            chart.files.insert(path, content);
        }
        chart.expand(found);
        chart
    }

    #[cfg(test)]
    pub(super) fn of(name: &str, files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
        Self { name: name.into(), files: files.collect() }
    }

    /// Reads a packed chart; none if the archive holds no chart.
    pub(super) fn from_archive(found: &mut Found, name: &Arc<str>, packed: &[u8]) -> Option<Self> {
        match archive::unpack(packed) {
            Ok(files) => {
                let mut chart = Self { name: name.clone(), files: below_top(files).1 };
                if !chart.files.contains_key("Chart.yaml") {
                    return None;
                }
                chart.expand(found);
                Some(chart)
            }
            Err(why) => {
                found.unread(name, 0, why);
                None
            }
        }
    }

    /// Unpacks the archives of subcharts in place.
    fn expand(&mut self, found: &mut Found) {
        let mut unpacked = BTreeSet::new();
        for _ in 0..MAX_NESTING {
            let packed = self.packed();
            if packed.is_empty() {
                return;
            }
            for path in packed {
                let Some(content) = self.files.remove(&path) else { continue };
                // An archive can bring another to where one was: which of them is meant nobody knows.
                if !unpacked.insert(path.clone()) {
                    let message = "the chart holds two archives in this place: one was not read";
                    found.unread(&self.place(&path), 0, message);
                    continue;
                }
                match archive::unpack(&content) {
                    Ok(files) => self.take(found, &path, files),
                    Err(why) => found.unread(&self.place(&path), 0, why),
                }
            }
        }
        for path in self.packed() {
            found.unread(&self.place(&path), 0, "subcharts are nested deeper than is read");
        }
    }

    /// The archives of subcharts.
    fn packed(&self) -> Vec<String> {
        let is_packed = |path: &&String| {
            let (dir, _) = path.rsplit_once('/').unwrap_or_default();
            (dir == "charts" || dir.ends_with("/charts")) && path.ends_with(".tgz")
        };
        self.files.keys().filter(is_packed).cloned().collect()
    }

    fn take(&mut self, found: &mut Found, path: &str, files: Files) {
        let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
        let (top, files) = below_top(files);
        let top = if top.is_empty() { file.trim_end_matches(".tgz").to_owned() } else { top };
        let held: usize = self.files.values().map(Vec::len).sum();
        let more: usize = files.values().map(Vec::len).sum();
        if held + more > MAX_CHART_BYTES || self.files.len() + files.len() > MAX_CHART_FILES {
            return found.unread(&self.name, 0, "the chart and its subcharts are larger than is read");
        }
        for (name, content) in files {
            self.files.entry(format!("{dir}/{top}/{name}")).or_insert(content);
        }
    }

    /// A file's text.
    pub(super) fn text(&self, path: &str) -> Option<std::borrow::Cow<'_, str>> {
        self.files.get(path).map(|content| String::from_utf8_lossy(content))
    }

    /// The directories of the charts that the one at `dir` (with a `/` at its end, or empty) holds, below its `charts/`.
    pub(super) fn subcharts(&self, dir: &str) -> BTreeSet<String> {
        let head = format!("{dir}charts/");
        let below = |path: &String| path.strip_prefix(&head)?.strip_suffix("/Chart.yaml").map(str::to_owned);
        self.files.keys().filter_map(below).filter(|name| !name.contains('/')).collect()
    }

    /// The place of one of its files, for people.
    pub(super) fn place(&self, path: &str) -> Arc<str> {
        format!("{}/{path}", self.name).into()
    }
}

/// The files of an archive without the one directory that all are in, and its name.
fn below_top(files: Files) -> (String, Files) {
    let chart = files.keys().find(|path| path.ends_with("/Chart.yaml") && path.matches('/').count() == 1);
    let Some(top) = chart.and_then(|path| path.split('/').next()).map(str::to_owned) else {
        return (String::new(), files);
    };
    let head = format!("{top}/");
    let below = |(path, content): (String, Vec<u8>)| Some((path.strip_prefix(&head)?.to_owned(), content));
    (top, files.into_iter().filter_map(below).collect())
}

/// Finds a chart's images.
pub(super) fn scan(found: &mut Found, chart: &Chart, render: Option<&dyn Render>) {
    let rendered = match render.map(|render| render.render(chart)) {
        Some(Ok(text)) if text.len() <= MAX_CHART_BYTES => Some(rendered::scan(found, chart, &text)),
        Some(Ok(_)) => {
            found.note(
                &chart.name,
                0,
                "helm template prints more than is read: the values were read instead",
            );
            None
        }
        Some(Err(why)) => {
            let message = format!("helm template failed ({why}): the values and templates were read instead");
            found.note(&chart.name, 0, message);
            None
        }
        None => None,
    };
    if let Some(content) = chart.files.get("Chart.yaml") {
        super::text(found, &chart.place("Chart.yaml"), Kind::Yaml, content);
    }
    let known = subcharts::scan(found, chart, rendered.as_ref());
    if rendered.is_some() {
        return;
    }
    for (path, content) in &chart.files {
        let Some(kind) = Kind::of(path).filter(|_| content.len() <= MAX_FILE_BYTES) else { continue };
        let place = chart.place(path);
        if is_in(path, "crds") {
            super::text(found, &place, Kind::Yaml, content);
        } else if is_in(path, "templates") && kind != Kind::List {
            let text = String::from_utf8_lossy(content);
            text_rules::scan_but(found, &place, &text, 1, Mode::Template, &|value| known.covers(path, value));
        }
    }
}

/// Whether a file is in this directory of its chart.
fn is_in(path: &str, dir: &str) -> bool {
    let mut names = path.split('/');
    loop {
        match names.next() {
            Some("charts") => {
                names.next();
            }
            Some(name) => return name == dir && names.next().is_some(),
            None => return false,
        }
    }
}
