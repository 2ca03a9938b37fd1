//! Helm charts in directories and archives. What `helm template` renders decides which images are sure. Without helm, or where
//! it fails, the templates are evaluated as far as their values determine whole names.

mod reading;
mod render;

pub use render::{ChartRenderer, RenderFailure, RenderInput};

use super::archive::{self, ChartFiles, MAX_CHART_BYTES, MAX_CHART_FILES};
use super::{Discovery, Doubt, DoubtReason, heuristics};
use crate::oci::Reference;
use crate::yaml::{self, YamlNode};
use reading::ChartReading;
use render::{render, scan_rendered};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walkdir::WalkDir;

/// Maximum nesting depth of subcharts.
const MAX_NESTING: usize = 6;

/// A chart with its subcharts, read into memory.
#[derive(Debug)]
pub(super) struct Chart {
    name: Arc<str>,
    files: ChartFiles,
    /// Values that the user or the directory adds to those of the chart.
    values: Vec<(Arc<str>, Arc<[u8]>)>,
}

impl Chart {
    /// Reads the directory of a chart. Symbolic links are skipped, except to subcharts below `root`.
    pub(super) fn from_dir(found: &mut Discovery, dir: &Path, root: &Path) -> Self {
        let mut chart =
            Self { name: dir.display().to_string().into(), files: ChartFiles::new(), values: Vec::new() };
        let links = chart.add_dir(found, dir, "");
        for below in links.iter().filter_map(|link| archive::relative_path(link.strip_prefix(dir).ok()?)) {
            if let Some(target) = below_root(&dir.join(&below), root) {
                chart.add_dir(found, &target, &format!("{below}/"));
            }
        }
        for (name, path) in chart.local_dependencies() {
            if let Some(target) = below_root(&dir.join(path), root) {
                // A link that was checked out as a file.
                chart.files.remove(&format!("charts/{name}"));
                chart.add_dir(found, &target, &format!("charts/{name}/"));
            }
        }
        chart.expand(found);
        if let Some(values) = beside(dir).filter(|path| path.is_file()) {
            let shown: Arc<str> = values.display().to_string().into();
            chart
                .values
                .extend(super::files::read(found, &shown, &values).map(|content| (shown, content.into())));
        }
        chart
    }

    /// Adds the files of a directory under `prefix`. Returns the links in its `charts/`.
    fn add_dir(&mut self, found: &mut Discovery, dir: &Path, prefix: &str) -> Vec<PathBuf> {
        let mut links = Vec::new();
        let mut bytes: usize = self.files.values().map(|content| content.len()).sum();
        let walk = WalkDir::new(dir).max_depth(20).sort_by_file_name().into_iter();
        for entry in
            walk.filter_entry(|entry| entry.depth() == 0 || !super::files::is_hidden(entry.file_name()))
        {
            let Ok(entry) = entry else {
                found.unread(&self.name, 0, "cannot read a part of the chart");
                continue;
            };
            if entry.path_is_symlink()
                && entry.path().parent().is_some_and(|parent| parent == dir.join("charts"))
            {
                links.push(entry.path().to_owned());
                continue;
            }
            let below = entry.path().strip_prefix(dir).ok().and_then(archive::relative_path);
            let Some(path) = below.filter(|_| entry.file_type().is_file()) else { continue };
            let shown: Arc<str> = entry.path().display().to_string().into();
            let Some(content) = super::files::read(found, &shown, entry.path()) else { continue };
            bytes += content.len();
            if bytes > MAX_CHART_BYTES || self.files.len() >= MAX_CHART_FILES {
                found.unread(&self.name, 0, "the chart is too large");
                break;
            }
            self.files.insert(format!("{prefix}{path}"), content.into());
        }
        links
    }

    #[cfg(test)]
    pub(super) fn of(name: &str, files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().into()));
        Self { name: name.into(), files: files.collect(), values: Vec::new() }
    }

    /// Reads a packed chart; none if the archive holds no chart.
    pub(super) fn from_archive(found: &mut Discovery, name: &Arc<str>, packed: &[u8]) -> Option<Self> {
        match archive::unpack(packed) {
            Ok(files) => {
                let mut chart =
                    Self { name: name.clone(), files: without_top_dir(files).1, values: Vec::new() };
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

    /// Adds values, which take precedence over those before them.
    pub(super) fn add_values(&mut self, values: &[(Arc<str>, Arc<[u8]>)]) {
        self.values.extend(values.iter().cloned());
    }

    /// Unpacks archived subcharts in place.
    fn expand(&mut self, found: &mut Discovery) {
        let mut unpacked = BTreeSet::new();
        for _ in 0..MAX_NESTING {
            let packed = self.packed_subcharts();
            if packed.is_empty() {
                return;
            }
            for path in packed {
                let Some(content) = self.files.remove(&path) else { continue };
                // An archive may hold another one with the path of an earlier one, and which of them counts is unknown.
                if !unpacked.insert(path.clone()) {
                    found.unread(
                        &self.place(&path),
                        0,
                        "the chart holds two archives with this path: one was not read",
                    );
                    continue;
                }
                match archive::unpack(&content) {
                    Ok(files) => self.add_subchart(found, &path, files),
                    Err(why) => found.unread(&self.place(&path), 0, why),
                }
            }
        }
        for path in self.packed_subcharts() {
            found.unread(&self.place(&path), 0, "subcharts are nested too deeply");
        }
    }

    fn packed_subcharts(&self) -> Vec<String> {
        let is_packed = |path: &&String| {
            let (dir, _) = path.rsplit_once('/').unwrap_or_default();
            (dir == "charts" || dir.ends_with("/charts")) && path.ends_with(".tgz")
        };
        self.files.keys().filter(is_packed).cloned().collect()
    }

    fn add_subchart(&mut self, found: &mut Discovery, path: &str, files: ChartFiles) {
        let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
        let (top, files) = without_top_dir(files);
        let top = if top.is_empty() { file.trim_end_matches(".tgz").to_owned() } else { top };
        let held: usize = self.files.values().map(|content| content.len()).sum();
        let more: usize = files.values().map(|content| content.len()).sum();
        if held + more > MAX_CHART_BYTES || self.files.len() + files.len() > MAX_CHART_FILES {
            return found.unread(&self.name, 0, "the chart and its subcharts are too large");
        }
        for (name, content) in files {
            self.files.entry(format!("{dir}/{top}/{name}")).or_insert(content);
        }
    }

    fn text(&self, path: &str) -> Option<Cow<'_, str>> {
        self.files.get(path).map(|content| String::from_utf8_lossy(content))
    }

    /// The first document of a YAML file.
    fn document(&self, path: &str) -> Option<Arc<YamlNode>> {
        let text = self.text(path)?;
        yaml::parse(&self.place(path), text.trim_start_matches('\u{feff}')).documents.into_iter().next()
    }

    /// The directories of the subcharts of the chart in `dir`, by the names of the charts.
    fn subcharts(&self, dir: &str) -> Vec<(String, String)> {
        let head = format!("{dir}charts/");
        let below = |path: &String| path.strip_prefix(&head)?.strip_suffix("/Chart.yaml").map(str::to_owned);
        let dirs = self.files.keys().filter_map(below).filter(|name| !name.contains('/'));
        let named = |below: String| {
            let dir = format!("{head}{below}/");
            let meta = self.document(&format!("{dir}Chart.yaml"));
            (meta.and_then(|meta| meta.text_of("name").map(str::to_owned)).unwrap_or(below), dir)
        };
        dirs.map(named).collect()
    }

    /// The dependencies that the chart in `dir` declares.
    fn dependencies(&self, dir: &str) -> Vec<Arc<YamlNode>> {
        let files = ["Chart.yaml", "requirements.yaml"].map(|file| self.document(&format!("{dir}{file}")));
        let lists = files.iter().flatten().filter_map(|meta| meta.get("dependencies"));
        lists.flat_map(|list| list.items().iter().cloned()).collect()
    }

    /// The dependencies that are elsewhere in the file system and not in `charts/`, with their paths.
    fn local_dependencies(&self) -> Vec<(String, String)> {
        let present: Vec<(String, String)> = self.subcharts("");
        let local = |node: &Arc<YamlNode>| {
            let name =
                node.text_of("name").filter(|name| !name.contains(['/', '\\']) && *name != "..")?.to_owned();
            let path = node.text_of("repository")?.strip_prefix("file://")?.to_owned();
            (!present.iter().any(|(present, _)| *present == name)).then_some((name, path))
        };
        self.dependencies("").iter().filter_map(local).collect()
    }

    /// A file of the chart, for messages.
    fn place(&self, path: &str) -> Arc<str> {
        format!("{}/{path}", self.name).into()
    }
}

/// The target of a directory, if it is below `root`.
fn below_root(dir: &Path, root: &Path) -> Option<PathBuf> {
    let target = dir.canonicalize().ok()?;
    (target.starts_with(root.canonicalize().ok()?) && target.join("Chart.yaml").is_file()).then_some(target)
}

/// The values that a sealos cluster image has beside a chart: `charts/NAME.values.yaml`.
fn beside(dir: &Path) -> Option<PathBuf> {
    Some(dir.with_file_name(format!("{}.values.yaml", dir.file_name()?.to_str()?)))
}

/// The files of an archive without the one directory that all are in, and the name of that directory.
fn without_top_dir(files: ChartFiles) -> (String, ChartFiles) {
    let chart = files.keys().find(|path| path.ends_with("/Chart.yaml") && path.matches('/').count() == 1);
    let Some(top) = chart.and_then(|path| path.split('/').next()).map(str::to_owned) else {
        return (String::new(), files);
    };
    let head = format!("{top}/");
    let below = |(path, content): (String, Arc<[u8]>)| Some((path.strip_prefix(&head)?.to_owned(), content));
    (top, files.into_iter().filter_map(below).collect())
}

/// Finds the images of a chart.
pub(super) fn scan(found: &mut Discovery, chart: &Chart, renderer: Option<&dyn ChartRenderer>) {
    // A library has no manifests of its own.
    if chart.document("Chart.yaml").is_some_and(|meta| meta.text_of("type") == Some("library")) {
        return;
    }
    let first_image = found.images.len();
    let first_doubt = found.doubts.len();
    let rendered = renderer.and_then(|renderer| render(found, chart, renderer));
    for text in rendered.iter().flat_map(|rendered| &rendered.texts) {
        scan_rendered(found, chart, text);
    }
    let mut reading = ChartReading::new(chart, rendered.map(|rendered| rendered.skipped));
    reading.read(found);
    let candidates = reading.values.doubts;
    found.unread.extend(reading.values.unread);
    // What is in an argument or a variable is an image if the values call it one.
    let named: BTreeSet<&Reference> =
        candidates.iter().filter_map(|doubt| doubt.reference.as_ref()).collect();
    let doubts = found.doubts.split_off(first_doubt);
    for doubt in doubts {
        match doubt
            .reference
            .clone()
            .filter(|image| heuristics::is_explicit(&doubt.text) && named.contains(image))
        {
            Some(image) if doubt.reason != DoubtReason::NotRendered => found.sure(image, doubt.origin),
            _ => found.doubts.push(doubt),
        }
    }
    let known = KnownNames::of(found.images[first_image..].iter().map(|entry| &entry.reference));
    found.doubts.extend(candidates.into_iter().filter(|doubt| !known.explain(doubt)));
}

/// The names that a chart is known to use.
struct KnownNames {
    names: BTreeSet<String>,
    /// The names without their registries, and without the first parts of their paths.
    suffixes: HashSet<String>,
}

impl KnownNames {
    fn of<'a>(images: impl Iterator<Item = &'a Reference>) -> Self {
        let names: BTreeSet<String> =
            images.map(|image| format!("{}/{}", image.registry, image.repository)).collect();
        let after_slash = |name: &String| -> Vec<String> {
            name.match_indices('/').map(|(slash, _)| name[slash + 1..].to_owned()).collect()
        };
        let suffixes = names.iter().flat_map(after_slash).collect();
        Self { names, suffixes }
    }

    /// Whether a value is a part of a name that is known: the values hold the repository, and the template adds a registry, a
    /// path or a suffix.
    fn explain(&self, doubt: &Doubt) -> bool {
        let Some(reference) = &doubt.reference else { return false };
        let full = format!("{}/{}", reference.registry, reference.repository);
        let written = doubt.text.split('@').next().unwrap_or_default();
        let written = match written.rsplit_once(':') {
            Some((name, _)) if Reference::has_written_tag(written) => name,
            _ => written,
        };
        let longer = self.names.range(full.clone()..).next().and_then(|name| name.strip_prefix(&full));
        longer.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.', '/']))
            || self.suffixes.contains(written)
    }
}

/// Whether a file is in this directory of its chart or subchart.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(files: &[(&str, &str)], renderer: Option<&dyn ChartRenderer>) -> (Vec<String>, Vec<String>) {
        let mut found = Discovery::default();
        scan(&mut found, &Chart::of("c", files), renderer);
        let sure = found.images.iter().map(|entry| format!("{} {}", entry.origin, entry.reference));
        let doubts =
            found.doubts.iter().map(|doubt| format!("{} {}: {:?}", doubt.origin, doubt.text, doubt.reason));
        (sure.collect(), doubts.collect())
    }

    #[test]
    fn subcharts_take_the_values_of_their_parent() {
        let files = [
            (
                "Chart.yaml",
                "name: c\ndependencies:\n- {name: db, alias: main, condition: main.enabled}\n- {name: db, alias: spare, condition: spare.enabled}\n- {name: gone, version: 1.0.0+b, repository: \"oci://a.io/charts\"}\n- {name: off, condition: off.enabled}\n",
            ),
            (
                "values.yaml",
                "global: {registry: m.io}\nmain: {image: {tag: 2}}\nspare: {enabled: false}\noff: {enabled: false}\n",
            ),
            ("charts/db/Chart.yaml", "name: db\n"),
            ("charts/db/values.yaml", "image:\n  repository: b\n  tag: 1\n"),
            (
                "charts/db/templates/x.yaml",
                "image: {{ .Values.global.registry }}/{{ .Values.image.repository }}:{{ .Values.image.tag }}\n",
            ),
            ("charts/db/crds/x.yaml", "kind: CustomResourceDefinition\nimage: a.io/crd:1\n"),
            ("templates/y.yaml", "image: {{ include \"x\" . }}\n"),
        ];
        let (sure, doubts) = scanned(&files, None);
        assert_eq!(sure, ["c/charts/db/templates/x.yaml:1 m.io/b:2"]);
        assert_eq!(
            doubts,
            [
                "c/templates/y.yaml:1 {{ include \"x\" . }}: UnrenderedTemplate",
                "c/charts/db/crds/x.yaml:2 a.io/crd:1: CustomResourceDefinition",
                "c/Chart.yaml:5 a.io/charts/gone:1.0.0_b: MissingSubchart",
            ]
        );
    }

    /// Renders the texts in turn; an error starts with `!`.
    struct Scripted(std::cell::RefCell<Vec<&'static str>>);

    impl ChartRenderer for Scripted {
        fn render(&self, _: &RenderInput<'_>) -> Result<String, RenderFailure> {
            let text = self.0.borrow_mut().remove(0);
            match text.strip_prefix('!') {
                Some(message) => Err(RenderFailure { message: message.to_owned(), is_limit: false }),
                None => Ok(text.to_owned()),
            }
        }
    }

    const USED: &str = "---\n# Source: c/templates/x.yaml\nspec: {containers: [{image: a.io/used:1}]}\n";

    #[test]
    fn rendered_images_are_sure_and_others_are_not_rendered() {
        let files = [
            ("Chart.yaml", "name: c\n"),
            ("values.yaml", "a: {image: a.io/used:1}\nb: {image: a.io/other:1}\n"),
            ("templates/x.yaml", "image: a.io/literal:1\n"),
        ];
        let (sure, doubts) = scanned(&files, Some(&Scripted(vec![USED].into())));
        assert_eq!(sure, ["c/templates/x.yaml a.io/used:1"]);
        assert_eq!(doubts, ["c/values.yaml:2 a.io/other:1: NotRendered"]);
    }

    #[test]
    fn failing_templates_are_skipped_and_evaluated() {
        let files = [
            ("Chart.yaml", "name: c\n"),
            ("templates/x.yaml", "image: a.io/used:1\n"),
            ("templates/bad.yaml", "image: a.io/bad:1\n"),
        ];
        let texts = vec!["!first", "!execution error at (c/templates/bad.yaml:1:2): no", USED];
        let (sure, doubts) = scanned(&files, Some(&Scripted(texts.into())));
        assert_eq!(sure, ["c/templates/x.yaml a.io/used:1", "c/templates/bad.yaml:1 a.io/bad:1"]);
        assert!(doubts.is_empty(), "{doubts:?}");
    }
}
