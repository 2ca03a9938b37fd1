//! Finding the images that a directory names: in Kubernetes objects, templates, Helm charts and lists.
//!
//! What is found is one of two: *sure*, a whole name where only an image's name can stand, or *doubtful*, with
//! the reason. Nothing is guessed: a doubtful find is shown to a person and never fetched. All input is hostile:
//! sizes, depths and numbers are bounded, and symbolic links are not followed.

mod archive;
mod chart;
mod heuristics;
mod ignore;
mod merged_values;
mod rendered;
mod report;
mod subcharts;
mod text_rules;
mod value_rules;
mod walk;
mod yaml_rules;

#[cfg(feature = "cli")]
pub(crate) use archive::MAX_CHART_BYTES;
pub use chart::{Chart, Render};
pub use ignore::Ignore;
pub use report::Review;
pub use walk::{IRREGULAR, ScanOptions, context, path};

use crate::list::{self, Diagnostic, ListEntry, SourceLocation};
use crate::oci::Reference;
use crate::yaml;
use std::sync::Arc;

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// The most finds that are kept.
const MAX_FINDS: usize = 100_000;

/// Something that may be an image.
#[derive(Clone, Debug)]
pub struct Doubt {
    /// What is written there, or what it would be; empty where there is no text to show.
    pub text: String,
    /// The image, where the text is a whole name.
    pub reference: Option<Reference>,
    /// Where.
    pub origin: SourceLocation,
    /// Why it is doubtful.
    pub why: String,
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The images that are sure, in the order found; one may be found in several places.
    pub entries: Vec<ListEntry>,
    /// What may be an image.
    pub doubts: Vec<Doubt>,
    /// Entries of image lists that are wrong.
    pub problems: Vec<Diagnostic>,
    /// What could not be read: the result lacks what is in it.
    pub unread: Vec<Diagnostic>,
    /// What is worth knowing.
    pub notes: Vec<Diagnostic>,
}

/// How a text is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// YAML or JSON.
    Yaml,
    /// Text with template parts in it.
    Template,
    /// An image list.
    List,
}

impl Kind {
    /// How the file of this name is to be read; none when it is of no interest.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        if matches!(name, "imageList" | "imageListWithAuth.yaml") {
            return Some(Self::List);
        }
        let (_, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "yaml" | "yml" | "json" => Some(Self::Yaml),
            "tmpl" | "tpl" | "gotmpl" => Some(Self::Template),
            _ => None,
        }
    }
}

impl Found {
    fn sure(&mut self, reference: Reference, origin: SourceLocation) {
        self.add(ListEntry { reference, platforms: None, origin, credential: None });
    }

    fn add(&mut self, entry: ListEntry) {
        if self.entries.len() < MAX_FINDS {
            self.entries.push(entry);
        } else if self.entries.len() == MAX_FINDS {
            self.unread(&entry.origin.file, 0, "more images are named than are read");
            self.entries.push(entry);
        }
    }

    fn doubt(&mut self, text: &str, origin: SourceLocation, why: impl Into<String>) {
        if self.doubts.len() < MAX_FINDS {
            let text = text.trim();
            let reference = Reference::parse(text).ok();
            let text = text.chars().take(512).collect();
            self.doubts.push(Doubt { text, reference, origin, why: why.into() });
        }
    }

    fn unread(&mut self, file: &Arc<str>, line: u64, message: impl Into<String>) {
        let origin = SourceLocation { file: file.clone(), line, module: None };
        self.unread.push(Diagnostic { origin, message: message.into(), hint: None });
    }

    fn note(&mut self, file: &Arc<str>, line: u64, message: impl Into<String>) {
        let origin = SourceLocation { file: file.clone(), line, module: None };
        self.notes.push(Diagnostic { origin, message: message.into(), hint: None });
    }

    /// Takes what a list says. What is wrong with a list that somebody else's tool reads is doubtful only.
    fn list(&mut self, parsed: list::ImageList, own: bool) {
        parsed.entries.into_iter().for_each(|entry| self.add(entry));
        if own {
            self.problems.extend(parsed.problems);
        } else {
            for problem in parsed.problems {
                self.doubt("", problem.origin, problem.message);
            }
        }
        self.notes.extend(parsed.notes);
    }

    /// Takes out what is to be ignored.
    pub fn leave_out(&mut self, ignore: &Ignore) {
        self.entries.retain(|entry| !ignore.matches(&entry.reference));
        self.doubts.retain(|doubt| !doubt.reference.as_ref().is_some_and(|image| ignore.matches(image)));
    }
}

/// Finds the images in a text. `name` stands in every origin.
pub fn text(found: &mut Found, name: &str, kind: Kind, bytes: &[u8]) {
    let file: Arc<str> = name.into();
    if bytes.len() > MAX_FILE_BYTES {
        return found.unread(&file, 0, format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20));
    }
    if kind == Kind::List {
        return found.list(list::parse(name, bytes), true);
    }
    if bytes[..bytes.len().min(8192)].contains(&0) {
        return found.note(&file, 0, "this is no text: it was left out");
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if kind == Kind::Template && text.contains("{{") {
        return text_rules::scan(found, &file, text, 1, text_rules::Mode::Template);
    }
    let foreign = yaml::parse(&file, text);
    if foreign.error.is_none() && !foreign.documents.is_empty() {
        let none = std::collections::HashMap::new();
        let lists: Option<Vec<_>> =
            foreign.documents.iter().map(|document| list::parse_document(document, &none)).collect();
        if let Some(lists) = lists {
            return found.list(list::merge(lists), false);
        }
    }
    if kind == Kind::Template {
        // A file of another name than manifests have may be a plain list of images, if every line of it is one.
        let parsed = list::parse(name, bytes);
        if parsed.problems.is_empty() && !parsed.entries.is_empty() {
            return found.list(parsed, true);
        }
    }
    let read = yaml::parse(&"".into(), text);
    yaml_rules::scan(found, &file, text, &read.documents);
    if let Some(error) = read.error {
        let told = if text.contains("{{") { "a template" } else { "not valid YAML" };
        let message =
            format!("{told} ({}): it was read line by line from line {} on", error.message, error.start);
        found.note(&file, error.line, message);
        let skip = usize::try_from(error.start - 1).unwrap_or(usize::MAX);
        let rest = text.split_inclusive('\n').skip(skip).collect::<String>();
        text_rules::scan(found, &file, &rest, error.start, text_rules::Mode::Template);
    }
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
        "",
    ];
    #[rustfmt::skip]
    const PIECES: &[&str] = &[
        "{{", "}}", "{{/*", "*/", "image: ", "image", "Image: \"", ": ", "\n", "\r\n", "\r", "- ", "|", "|\n", ">-\n", "&a ", "*a ", "<<: *a",
        "\"", "'", "#", " #", "{", "}", "[", "]", ",", "\t", "  ", "é", "\0", "\u{2028}", "\u{85}", "---\n", "...\n", "a.io/b:1", "@sha256:", "$",
        "${A:-", "$$", "apiVersion: v1\n", "kind: Pod\n", "containers:\n", "services:\n", "!t ", "? ", "%YAML 1.2\n", "\u{feff}", "platform=all",
    ];

    #[test]
    fn a_plain_list_that_is_named_is_read_as_one() {
        let mut found = Found::default();
        text(
            &mut found,
            "images.txt",
            Kind::Template,
            b"# ours\nnginx:1.27\nquay.io/a/b:2  platform=arm64\n",
        );
        assert_eq!((found.entries.len(), found.doubts.len()), (2, 0));
        let mut found = Found::default();
        text(&mut found, "notes.txt", Kind::Template, b"image: nginx:1.27\n");
        assert!(found.problems.is_empty(), "{:?}", found.problems);
    }

    /// What holds for any text: what is printed is a list, of what is sure and of nothing else.
    fn holds(name: &str, kind: Kind, content: &[u8]) {
        let mut found = Found::default();
        text(&mut found, name, kind, content);
        let parsed = list::parse("printed", Review::of(&found).to_list().as_bytes());
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let key =
            |entry: &ListEntry| (entry.reference.clone(), entry.platforms.as_ref().map(ToString::to_string));
        let printed: BTreeSet<_> = parsed.entries.iter().map(key).collect();
        assert_eq!(printed, found.entries.iter().map(key).collect::<BTreeSet<_>>());
        let ends = |byte: &&u8| matches!(**byte, b'\n' | b'\r');
        let lines = content.iter().filter(ends).count() as u64 + 1;
        let places = found.entries.iter().map(|entry| &entry.origin);
        for place in places.chain(found.doubts.iter().map(|doubt| &doubt.origin)) {
            assert!(place.line <= lines, "{place} of {lines}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_texts_do_no_harm(
            seed in prop::sample::select(SEEDS),
            damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, prop::sample::select(PIECES)), 0..12),
        ) {
            let mut content = seed.as_bytes().to_vec();
            for (place, length, piece) in damage {
                let start = place.index(content.len() + 1);
                let end = (start + length / 2).min(content.len());
                content.splice(start..end, piece.bytes());
            }
            holds("a.yaml", Kind::Yaml, &content);
            holds("a.tmpl", Kind::Template, &content);
            holds("imageList", Kind::List, &content);
        }
    }
}
