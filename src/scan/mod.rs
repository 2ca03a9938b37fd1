//! Discovery: finds the images that a directory names, in Kubernetes objects, Helm charts, kustomizations, image lists and
//! the files of other tools.
//!
//! A find is either *sure*, a whole name where only an image name can be, or *doubtful*, with a reason. Nothing is
//! guessed: doubtful finds are reported and never fetched. Every format has a thin reader that produces [`YamlNode`] trees
//! or lines of text; one set of rules decides what in them is an image. All input is untrusted: sizes, depths and numbers are
//! bounded, and symbolic links are followed only to subcharts within the scanned directory.
//!
//! [`YamlNode`]: crate::yaml::YamlNode

mod archive;
mod chart;
mod doubt;
mod files;
mod formats;
mod heuristics;
mod ignore;
mod kustomize;
mod report;
mod rules;
mod template;
mod text_rules;
mod walk;

#[cfg(feature = "cli")]
pub(crate) use archive::MAX_CHART_BYTES;
pub use chart::{ChartRenderer, RenderFailure, RenderInput};
pub use doubt::{Doubt, DoubtReason};
#[cfg(feature = "cli")]
pub(crate) use files::NOT_REGULAR;
pub use ignore::IgnoreList;
pub use report::{ReportedDoubt, ReportedImage, ScanReport};
pub use walk::{ScanOptions, build_context, packed_chart, path};

use crate::list::{self, Diagnostic, ListEntry, SourceLocation};
use crate::oci::Reference;
use crate::yaml;
use std::collections::HashMap;
use std::sync::Arc;

/// Maximum size of a file in bytes.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// Maximum number of finds.
const MAX_FINDS: usize = 100_000;

/// The result of a scan.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// The images that are sure, in the order found. An image may be found in several places.
    pub images: Vec<ListEntry>,
    /// What may be an image.
    pub doubts: Vec<Doubt>,
    /// Invalid entries of image lists.
    pub problems: Vec<Diagnostic>,
    /// What could not be read, so that the result is incomplete.
    pub unread: Vec<Diagnostic>,
    /// Remarks that do not affect the result.
    pub notes: Vec<Diagnostic>,
}

/// How the text of a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// YAML or JSON.
    Yaml,
    /// Text with template actions.
    Template,
    /// An image list.
    List,
    /// Text that may be an image list, a script or a table.
    Text,
    /// A file that the user named, or standard input: text as above, else YAML.
    Any,
    /// A Dockerfile or a file in its syntax.
    Dockerfile,
    /// A systemd unit of Podman.
    Quadlet,
    /// A bake file in HCL.
    Hcl,
}

impl TextFormat {
    /// The format of a file by its name; none if the file is of no interest.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        const BUILD_FILES: &[&str] = &["Dockerfile", "Containerfile", "Kubefile"];
        if matches!(name, "imageList" | "imageListWithAuth.yaml") {
            return Some(Self::List);
        }
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        if BUILD_FILES.iter().any(|file| *file == name || *file == stem || *file == extension) {
            return Some(Self::Dockerfile);
        }
        match extension.to_ascii_lowercase().as_str() {
            "yaml" | "yml" | "json" => Some(Self::Yaml),
            "tmpl" | "tpl" | "gotmpl" => Some(Self::Template),
            "txt" | "list" | "images" | "csv" | "sh" => Some(Self::Text),
            "container" | "image" => Some(Self::Quadlet),
            "hcl" => Some(Self::Hcl),
            _ => None,
        }
    }
}

impl Discovery {
    fn sure(&mut self, reference: Reference, origin: SourceLocation) {
        self.add(ListEntry::new(reference, origin));
    }

    fn add(&mut self, entry: ListEntry) {
        if self.images.len() < MAX_FINDS {
            self.images.push(entry);
        } else if self.images.len() == MAX_FINDS {
            self.unread(&entry.origin.file, 0, format!("more than {MAX_FINDS} images are named"));
            self.images.push(entry);
        }
    }

    fn doubt(&mut self, text: &str, origin: SourceLocation, reason: DoubtReason) {
        self.doubt_with(text, origin, reason, None);
    }

    fn doubt_with(
        &mut self,
        text: &str,
        origin: SourceLocation,
        reason: DoubtReason,
        detail: Option<String>,
    ) {
        if self.doubts.len() < MAX_FINDS {
            let text = text.trim();
            let reference = Reference::parse(heuristics::bare(text)).ok();
            let text = text.chars().take(512).collect();
            self.doubts.push(Doubt { text, reference, origin, reason, detail });
        } else if self.doubts.len() == MAX_FINDS {
            // The last one that is kept tells that there are more.
            self.unread(&origin.file, 0, format!("more than {MAX_FINDS} texts may be image names"));
            self.doubts.push(Doubt { text: String::new(), reference: None, origin, reason, detail });
        }
    }

    fn unread(&mut self, file: &Arc<str>, line: u64, message: impl Into<String>) {
        self.unread.push(diagnostic(file, line, message));
    }

    fn note(&mut self, file: &Arc<str>, line: u64, message: impl Into<String>) {
        self.notes.push(diagnostic(file, line, message));
    }

    /// Adds the content of saver's own list.
    fn add_list(&mut self, list: list::ImageList) {
        list.entries.into_iter().for_each(|entry| self.add(entry));
        self.add_selections(list.selections);
        self.add_charts(list.charts);
        self.problems.extend(list.problems);
        self.notes.extend(list.notes);
    }

    /// Adds the content of another tool's list. Its invalid entries are doubtful: the tool may well read them.
    fn add_foreign_list(&mut self, list: list::ImageList) {
        list.entries.into_iter().for_each(|entry| self.add(entry));
        self.add_selections(list.selections);
        self.add_charts(list.charts);
        for problem in list.problems {
            self.doubt_with("", problem.origin, DoubtReason::InvalidEntry, Some(problem.message));
        }
        self.notes.extend(list.notes);
    }

    /// The images of a chart are those that a scan of the chart finds.
    fn add_charts(&mut self, charts: Vec<list::ListedChart>) {
        for one in charts {
            let message = format!("the chart {} was not scanned: saver scan fetches and scans it", one.chart);
            self.notes.push(Diagnostic { origin: one.origin, message, hint: None });
        }
    }

    /// A scan does not ask registries, so which images a selection stands for is open.
    fn add_selections(&mut self, selections: Vec<list::SelectedRepository>) {
        for one in selections {
            let text = format!("{} {}", one.name(), one.selection);
            self.doubt(&text, one.origin, DoubtReason::TagPattern);
        }
    }

    /// Removes what an ignore list names.
    pub fn remove_ignored(&mut self, ignore: &IgnoreList) {
        self.images.retain(|entry| !ignore.matches(&entry.reference));
        self.doubts.retain(|doubt| !ignore.matches_doubt(doubt));
    }

    /// Whether everything could be read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.unread.is_empty() && self.problems.is_empty()
    }
}

fn diagnostic(file: &Arc<str>, line: u64, message: impl Into<String>) -> Diagnostic {
    let origin = SourceLocation { file: file.clone(), line, module: None };
    Diagnostic { origin, message: message.into(), hint: None }
}

/// Variables of an environment file, by name.
pub(crate) type Variables = HashMap<String, String>;

/// Finds the images in a text. `name` is the file name of every location.
pub fn text(found: &mut Discovery, name: &str, format: TextFormat, bytes: &[u8]) {
    text_with(found, name, format, bytes, &Variables::new());
}

/// As [`text`], with the variables of the environment file beside it.
fn text_with(found: &mut Discovery, name: &str, format: TextFormat, bytes: &[u8], variables: &Variables) {
    let file: Arc<str> = name.into();
    if bytes.len() > MAX_FILE_BYTES {
        return found.unread(&file, 0, format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20));
    }
    if format == TextFormat::List {
        return found.add_list(list::parse(name, bytes));
    }
    if bytes[..bytes.len().min(8192)].contains(&0) {
        return found.note(&file, 0, "skipped a binary file");
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    match format {
        TextFormat::Dockerfile => return text_rules::scan_dockerfile(found, &file, text),
        TextFormat::Quadlet => return text_rules::scan_quadlet(found, &file, text),
        TextFormat::Hcl => return text_rules::scan_hcl(found, &file, text),
        TextFormat::Template if text.contains("{{") => {
            return text_rules::scan_template(found, &file, text, 1);
        }
        TextFormat::Text | TextFormat::Template | TextFormat::Any => {
            if text_rules::scan_plain(found, &file, text) {
                return;
            }
        }
        TextFormat::Yaml | TextFormat::List => {}
    }
    if format == TextFormat::Text && !looks_like_yaml(text) {
        return;
    }
    let parsed = yaml::parse(&file, text);
    let mut rest = Vec::new();
    for document in &parsed.documents {
        if !formats::read(found, document, variables) {
            rest.push(document.clone());
        }
    }
    rules::scan(found, &rest);
    if let Some(error) = parsed.error {
        let kind = if text.contains("{{") { "a template" } else { "invalid YAML" };
        let message = format!("{kind} ({}): read line by line from line {}", error.message, error.start);
        found.note(&file, error.line, message);
        let skip = usize::try_from(error.start - 1).unwrap_or(usize::MAX);
        let rest = text.split_inclusive('\n').skip(skip).collect::<String>();
        text_rules::scan_template(found, &file, &rest, error.start);
    }
}

/// Whether a text file is a manifest after all.
fn looks_like_yaml(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("apiVersion:") || line.starts_with("kind:"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Texts to damage, and pieces to damage them with.
    const SEEDS: &[&str] = &[
        include_str!("../../testdata/context/manifests/workloads.yaml"),
        include_str!("../../testdata/context/manifests/custom.yaml"),
        include_str!("../../testdata/context/manifests/addon.yaml.tmpl"),
        include_str!("../../testdata/lists/docker-compose.yml"),
        include_str!("../../testdata/lists/hauler.yaml"),
        include_str!("../../testdata/lists/skopeo-sync.yaml"),
        include_str!("../../testdata/lists/image-syncer.json"),
        include_str!("../../testdata/lists/imageListWithAuth.yaml"),
        "FROM a/b:1 AS x\nFROM x\nCOPY --from=c/d:2 / /\n",
        "REPOSITORY TAG\na.io/b 1\n",
        "docker pull a.io/b:1\n",
        "",
    ];
    #[rustfmt::skip]
    const PIECES: &[&str] = &[
        "{{", "}}", "{{/*", "*/", "image: ", "image", "Image: \"", ": ", "\n", "\r\n", "\r", "- ", "|", "|\n", ">-\n", "&a ", "*a ", "<<: *a",
        "\"", "'", "#", " #", "{", "}", "[", "]", ",", "\t", "  ", "é", "\0", "\u{2028}", "\u{85}", "---\n", "...\n", "a.io/b:1", "@sha256:", "$",
        "${A:-", "$$", "apiVersion: v1\n", "kind: Pod\n", "containers:\n", "services:\n", "!t ", "? ", "%YAML 1.2\n", "\u{feff}", "platform=all",
        "FROM ", "ARG A=", "\\\n", "docker pull ", "IMAGE TAG\n",
    ];
    const FORMATS: &[(&str, TextFormat)] = &[
        ("a.yaml", TextFormat::Yaml),
        ("a.tmpl", TextFormat::Template),
        ("imageList", TextFormat::List),
        ("a.txt", TextFormat::Text),
        ("Dockerfile", TextFormat::Dockerfile),
        ("a.container", TextFormat::Quadlet),
        ("a.hcl", TextFormat::Hcl),
        ("a", TextFormat::Any),
    ];

    /// What holds for any text: the printed report is a list of exactly the sure finds, and every line exists.
    fn assert_consistent(name: &str, format: TextFormat, content: &[u8]) {
        let mut found = Discovery::default();
        text(&mut found, name, format, content);
        let parsed = list::parse("printed", ScanReport::of(&found).to_list().as_bytes());
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let key =
            |entry: &ListEntry| (entry.reference.clone(), entry.platforms.as_ref().map(ToString::to_string));
        let printed: BTreeSet<_> = parsed.entries.iter().map(key).collect();
        assert_eq!(printed, found.images.iter().map(key).collect::<BTreeSet<_>>());
        let ends = |byte: &&u8| matches!(**byte, b'\n' | b'\r');
        let lines = content.iter().filter(ends).count() as u64 + 1;
        let places = found.images.iter().map(|entry| &entry.origin);
        for place in places.chain(found.doubts.iter().map(|doubt| &doubt.origin)) {
            assert!(place.line <= lines, "{place} of {lines}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_texts_give_consistent_reports(
            seed in prop::sample::select(SEEDS),
            damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, prop::sample::select(PIECES)), 0..12),
        ) {
            let mut content = seed.as_bytes().to_vec();
            for (place, length, piece) in damage {
                let start = place.index(content.len() + 1);
                let end = (start + length / 2).min(content.len());
                content.splice(start..end, piece.bytes());
            }
            for (name, format) in FORMATS {
                assert_consistent(name, *format, &content);
            }
        }
    }
}
