//! Image lists: parses the files in which people write down what to save. Pure: text in, entries and diagnostics out.
//!
//! The format is detected by content, or by a `.yaml`, `.yml` or `.json` file name:
//!
//! - plain: one reference a line with an optional `platform=...`, or a repository with a selection of its tags; `#` starts a
//!   comment, `##+name` a module; or a chart of a Helm repository, `URL version=...`;
//! - YAML or JSON: a sequence of names and of `{registry, username, password, images: [...]}`;
//! - lock files, which pin what a list named: saver's own, which are plain lists, Carvel's and Helm's;
//! - the files of docker compose, skopeo sync, regsync, dregsy, oc-mirror, hauler, image-syncer and `kubeadm config images list`.
//!
//! Parsing does not stop at the first invalid line: every one is reported with its location and the reason.

mod builder;
mod chart;
mod compose;
mod dregsy;
mod hauler;
mod image_syncer;
mod kubeadm;
mod lock;
mod oc_mirror;
mod plain;
mod regsync;
mod repositories;
mod sections;
mod selection;
mod skopeo;
mod tag_version;
mod version_range;
mod yaml;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{PlatformSet, Reference, Registry};
pub use chart::{ChartName, ListedChart};
pub use lock::{LockFile, LockFormat, LockOptions, LockedImage, LockedManifest, LockedReferrer};
pub use repositories::{RepositoryPattern, SelectedRepository};
pub use selection::{NotSelected, SelectedTags, TagSelection};
use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
pub use version_range::{VersionRange, chart_version};

/// Maximum size of a list in bytes.
pub const MAX_LIST_BYTES: usize = 16 << 20;
/// Maximum length of a line in bytes: several times the longest possible reference.
pub const MAX_LINE_BYTES: usize = 4096;
/// Maximum number of problems; a list with more is not read further.
pub const MAX_PROBLEMS: usize = 1000;

/// Where something was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file, as the caller named it.
    pub file: Arc<str>,
    /// The line, counted from 1; 0 if there is none.
    pub line: u64,
    /// The `##+name` heading above it.
    pub module: Option<Arc<str>>,
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// The user name and password that a list provides for one registry.
#[derive(Clone, PartialEq, Eq)]
pub struct ListCredential {
    /// The only registry that they may be sent to.
    pub registry: Registry,
    /// The user name.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for ListCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListCredential")
            .field("registry", &self.registry)
            .field("username", &self.username)
            .field("password", &"(redacted)")
            .finish()
    }
}

/// One image to save.
#[derive(Clone, Debug)]
pub struct ListEntry {
    /// The image, in normal form.
    pub reference: Reference,
    /// The platforms that this entry asks for; none means those of the whole run.
    pub platforms: Option<PlatformSet>,
    /// Where it is listed.
    pub origin: SourceLocation,
    /// The credentials of its section, if the section is for the registry of the image.
    pub credential: Option<Arc<ListCredential>>,
    /// The selection that selected its tag.
    pub rule: Option<Arc<str>>,
    /// What it is pinned to, if the list is a lock file.
    pub lock: Option<Arc<LockedImage>>,
    /// The chart of a Helm repository that it is, if it is one.
    pub chart: Option<Arc<ChartName>>,
}

impl ListEntry {
    /// An entry without platforms, credentials and pinned content.
    #[must_use]
    pub fn new(reference: Reference, origin: SourceLocation) -> Self {
        Self { reference, platforms: None, origin, credential: None, rule: None, lock: None, chart: None }
    }

    /// Entries with equal keys request the same content.
    fn key(&self) -> (Reference, Option<String>) {
        (self.reference.clone(), self.platforms.as_ref().map(ToString::to_string))
    }
}

/// A message about a location in a file.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// The location.
    pub origin: SourceLocation,
    /// The message.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// `{}` prints the location and the message; `{:#}` adds the hint in parentheses.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)?;
        match self.hint.as_ref().filter(|_| f.alternate()) {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// An entry that repeats an earlier one.
#[derive(Clone, Debug)]
pub struct DuplicateEntry {
    /// The image.
    pub reference: Reference,
    /// The location of the duplicate.
    pub origin: SourceLocation,
    /// The location of the first entry.
    pub first: SourceLocation,
}

impl fmt::Display for DuplicateEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} is already listed at {}", self.origin, self.reference, self.first)
    }
}

impl From<Diagnostic> for Error {
    fn from(remark: Diagnostic) -> Self {
        let error = Self::new(ErrorKind::InvalidInput, &remark.origin, remark.message);
        match remark.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// The content of one or more lists.
#[derive(Clone, Debug, Default)]
pub struct ImageList {
    /// The images, in order and without duplicates.
    pub entries: Vec<ListEntry>,
    /// How the images of a lock file were resolved, if it says so.
    pub lock_options: Option<LockOptions>,
    /// The repositories of which tags are selected. A caller that does not resolve them has to refuse them.
    pub selections: Vec<SelectedRepository>,
    /// The charts of Helm repositories. A caller that does not fetch them has to refuse them.
    pub charts: Vec<ListedChart>,
    /// Invalid entries. A list with problems must not be saved.
    pub problems: Vec<Diagnostic>,
    /// Remarks on valid entries.
    pub notes: Vec<Diagnostic>,
    /// Entries that repeat an earlier one.
    pub duplicates: Vec<DuplicateEntry>,
}

impl ImageList {
    fn problem(&mut self, origin: SourceLocation, message: impl Into<String>, hint: Option<&str>) {
        self.problems.push(Diagnostic { origin, message: message.into(), hint: hint.map(str::to_owned) });
    }

    fn note(&mut self, origin: SourceLocation, message: impl Into<String>) {
        self.notes.push(Diagnostic { origin, message: message.into(), hint: None });
    }

    /// Keeps the first of equal entries. It takes the credentials of a duplicate if it has none itself.
    fn without_duplicates(mut self) -> Self {
        let mut seen: HashMap<_, usize> = HashMap::with_capacity(self.entries.len());
        let mut kept: Vec<ListEntry> = Vec::with_capacity(self.entries.len());
        for entry in std::mem::take(&mut self.entries) {
            match seen.entry(entry.key()) {
                MapEntry::Vacant(slot) => {
                    slot.insert(kept.len());
                    kept.push(entry);
                }
                MapEntry::Occupied(slot) => {
                    let first = &mut kept[*slot.get()];
                    if first.credential.is_none() {
                        first.credential = entry.credential;
                    }
                    let (reference, first) = (entry.reference, first.origin.clone());
                    self.duplicates.push(DuplicateEntry { reference, origin: entry.origin, first });
                }
            }
        }
        self.entries = kept;
        let mut seen = HashSet::new();
        self.charts.retain(|one| seen.insert(one.chart.clone()));
        self
    }
}

/// Parses a list. `name` is the file name in diagnostics; its extension selects YAML where the content is ambiguous.
#[must_use]
pub fn parse(name: &str, text: &[u8]) -> ImageList {
    let file: Arc<str> = name.into();
    let whole = |message: &str, hint| {
        let mut parsed = ImageList::default();
        parsed.problem(SourceLocation { file: file.clone(), line: 0, module: None }, message, hint);
        parsed
    };
    if text.len() > MAX_LIST_BYTES {
        return whole("the list is larger than 16 MiB", Some("split it into several lists"));
    }
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        return whole("the list is encoded in UTF-16", Some("save it as UTF-8"));
    }
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let parsed = if is_yaml(name, text) {
        yaml::parse(&file, text)
    } else {
        lock::attach(&file, text, plain::parse(&file, text))
    };
    parsed.without_duplicates()
}

/// Parses images given one by one, such as command-line arguments. Each has the form of a line of a plain list.
#[must_use]
pub fn parse_images<S: AsRef<str>>(images: &[S]) -> ImageList {
    parse_each("image", images)
}

/// Parses rules that select tags, given one by one. Each has the form of a line of a plain list.
#[must_use]
pub fn parse_rules<S: AsRef<str>>(rules: &[S]) -> ImageList {
    parse_each("rule", rules)
}

fn parse_each<S: AsRef<str>>(what: &str, lines: &[S]) -> ImageList {
    let mut parsed = ImageList::default();
    for (index, line) in lines.iter().enumerate() {
        let origin = SourceLocation { file: format!("{what} {}", index + 1).into(), line: 0, module: None };
        plain::parse_line(&mut parsed, line.as_ref(), origin, None);
    }
    parsed.without_duplicates()
}

/// Concatenates lists and removes duplicates.
#[must_use]
pub fn merge(lists: impl IntoIterator<Item = ImageList>) -> ImageList {
    let mut all = ImageList::default();
    for list in lists {
        all.entries.extend(list.entries);
        all.lock_options = all.lock_options.or(list.lock_options);
        all.selections.extend(list.selections);
        all.charts.extend(list.charts);
        all.problems.extend(list.problems);
        all.notes.extend(list.notes);
        all.duplicates.extend(list.duplicates);
    }
    all.without_duplicates()
}

/// A line for a list of failed images: [`parse`] reads it back as the same image or chart, and the reason is a comment.
#[must_use]
pub fn failed_line(name: &impl fmt::Display, platforms: Option<&PlatformSet>, reason: &str) -> String {
    let mut line = name.to_string();
    if let Some(platforms) = platforms {
        line.push_str(&format!(" platform={platforms}"));
    }
    let room = MAX_LINE_BYTES.saturating_sub(line.len() + 8);
    let mut comment = String::new();
    for c in reason.chars().map(|c| if c.is_control() || c == '\u{2028}' { ' ' } else { c }) {
        if comment.len() + c.len_utf8() > room {
            break;
        }
        comment.push(c);
    }
    if !comment.trim().is_empty() {
        line.push_str("  # ");
        line.push_str(comment.trim());
    }
    line
}

/// Reads a document that is another tool's list, such as a compose file; none if it is not. `variables` are those of the
/// environment file beside a compose file.
#[cfg(feature = "scan")]
pub(crate) fn parse_document(
    document: &crate::yaml::YamlNode,
    variables: &HashMap<String, String>,
) -> Option<ImageList> {
    Some(yaml::parse_document(document, variables)?.without_duplicates())
}

/// Replaces `$NAME`, `${NAME}` and `${NAME:-default}` in a text. On failure returns the first variable without a value.
#[cfg(feature = "scan")]
pub(crate) fn interpolate(
    text: &str,
    variables: &HashMap<String, String>,
) -> std::result::Result<String, String> {
    compose::interpolate(text, variables, 0)
}

/// Whether the first part of a name is a registry: Docker's rule.
pub(crate) fn is_registry_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// Tells YAML from a plain list by the first line: a line of a plain list does not start with a dash, a quote or a brace, and
/// no name is followed by a colon and a blank.
fn is_yaml(name: &str, text: &[u8]) -> bool {
    let lower = name.to_ascii_lowercase();
    if [".yaml", ".yml", ".json"].iter().any(|ending| lower.ends_with(ending)) {
        return true;
    }
    let mut lines = significant(text);
    let Some(first) = lines.next() else { return false };
    let heads = [b"- ".as_slice(), b"---", b"%YAML", b"\""];
    let brace = first.starts_with(b"{") && !first.starts_with(b"{{");
    if first == b"-" || brace || heads.iter().any(|head| first.starts_with(head)) {
        return !is_bare_name(first);
    }
    let Some((key, value)) = first.iter().position(|byte| *byte == b' ').map_or_else(
        || first.strip_suffix(b":").map(|key| (key, b"".as_slice())),
        |blank| first[..blank].strip_suffix(b":").map(|key| (key, &first[blank..])),
    ) else {
        return false;
    };
    let known = [b"apiVersion".as_slice(), b"kind", b"services", b"version", b"name"].contains(&key);
    let opens_a_mapping = value.is_empty() && lines.next_indented();
    known || key.starts_with(b"x-") || key.contains(&b'/') && !value.is_empty() || opens_a_mapping
}

/// Whether a line that could be YAML is only a name after a dash or in quotes. In a file that is not called .yaml this is more
/// likely a mistake in a plain list, which has a better error message for it.
fn is_bare_name(line: &[u8]) -> bool {
    let item = line.strip_prefix(b"- ").unwrap_or(line).trim_ascii();
    let opens =
        item.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'"' | b'\'' | b'`'));
    let is_pair =
        item.ends_with(b":") || item.windows(2).any(|pair| pair[0] == b':' && pair[1].is_ascii_whitespace());
    opens && !is_pair
}

/// The trimmed lines of a text that are neither empty nor a comment.
fn significant(text: &[u8]) -> Significant<'_> {
    Significant { rest: text }
}

struct Significant<'a> {
    rest: &'a [u8],
}

impl<'a> Significant<'a> {
    fn next_raw(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
            let line = &self.rest[..end];
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            let trimmed = line.trim_ascii();
            if !trimmed.is_empty() && !trimmed.starts_with(b"#") {
                return Some(line);
            }
        }
        None
    }

    /// Whether the next line belongs to a mapping that the previous line opened.
    fn next_indented(&mut self) -> bool {
        self.next_raw().is_some_and(|line| line.starts_with(b" ") && line.trim_ascii_end().ends_with(b":"))
    }
}

impl<'a> Iterator for Significant<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.next_raw().map(<[u8]>::trim_ascii)
    }
}

/// Parses the value of `platform=`. The operating system defaults to Linux.
fn platforms(text: &str) -> Result<PlatformSet> {
    PlatformSet::parse(text, "linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parsed: &ImageList) -> Vec<String> {
        parsed.entries.iter().map(|entry| entry.reference.to_string()).collect()
    }

    #[test]
    fn yaml_and_plain_lists_are_told_apart() {
        for (name, text, yaml) in [
            ("a.list", "nginx\n", false),
            ("a.list", "# - comment\n\n- registry: a.io\n", true),
            ("a.list", "---\n- registry: a.io\n", true),
            ("a.list", "-\n  registry: a.io\n", true),
            ("a.YAML", "nginx\n", true),
            ("a.yml", "", true),
            ("-", "-nginx\n", false),
            ("-", "- nginx:1\n- redis\n", false),
            ("-", "- \"nginx:1\"\n", false),
            ("-", "\"nginx:1\"\nredis\n", false),
            ("-", "\"quay.io/a/b:1\": c.io/d\n", true),
            ("-", "\"quay.io/a/b:1\":\n  - c.io/d\n", true),
            ("-", "- \"registry\": a.io\n", true),
            ("-", "- registry:\n    a.io\n", true),
            ("-", "- {registry: a.io}\n", true),
            ("-", "- &a\n  registry: a.io\n", true),
            ("-", "- # the first\n  registry: a.io\n", true),
            ("a.yaml", "- nginx:1\n", true),
            ("-", "nginx:\n", false),
            ("-", "nginx:\n  redis:1\n", false),
            ("-", "image: nginx\n", false),
            ("a.json", "[]", true),
            ("-", "# x\n{\n", true),
            ("-", "services:\n  a:\n", true),
            ("-", "quay.io:\n  images:\n", true),
            ("-", "quay.io/a/b:1: c.io/d\n", true),
            ("-", "quay.io/a/b:1 platform=all\n", false),
        ] {
            assert_eq!(is_yaml(name, text.as_bytes()), yaml, "{name} {text:?}");
        }
    }

    #[test]
    fn oversized_and_utf16_lists_are_refused() {
        let big = vec![b'a'; MAX_LIST_BYTES + 1];
        for (text, reason) in [
            (big.as_slice(), "16 MiB"),
            (b"\xff\xfen\0g\0".as_slice(), "UTF-16"),
            (b"\xfe\xff\0n\0g".as_slice(), "UTF-16"),
        ] {
            let parsed = parse("x", text);
            assert!(parsed.entries.is_empty());
            assert!(parsed.problems[0].to_string().contains(reason), "{:?}", parsed.problems);
        }
    }

    #[test]
    fn merge_removes_duplicates_and_keeps_credentials() {
        let plain = parse("a.list", b"localhost:5000/x:1\nnginx\n");
        let yaml = parse(
            "b.yaml",
            b"- registry: localhost:5000\n  username: u\n  password: p\n  images: [\"x:1\", \"y:1\"]\n",
        );
        assert!(yaml.problems.is_empty(), "{:?}", yaml.problems);
        let all = merge([plain, yaml]);
        assert_eq!(
            names(&all),
            ["localhost:5000/x:1", "docker.io/library/nginx:latest", "localhost:5000/y:1"]
        );
        assert_eq!(all.entries[0].credential.as_ref().map(|c| c.username.as_str()), Some("u"));
        assert!(all.entries[1].credential.is_none());
        assert_eq!(
            all.duplicates[0].to_string(),
            "b.yaml:4: localhost:5000/x:1 is already listed at a.list:1"
        );
    }

    #[test]
    fn failed_line_reads_back() {
        let long = "x".repeat(2 * MAX_LINE_BYTES);
        for (line, reason) in [
            ("nginx:1.27", "a.io: 404\nnot # found\u{2028}here"),
            ("localhost:5000/a/b:1 platform=arm64,windows/amd64", ""),
            ("quay.io/a/b:1 platform=all", long.as_str()),
        ] {
            let first = parse("x", line.as_bytes());
            let entry = &first.entries[0];
            let written = failed_line(&entry.reference, entry.platforms.as_ref(), reason);
            assert_eq!(written.lines().count(), 1);
            let again = parse("x", written.as_bytes());
            assert!(again.problems.is_empty(), "{:?}", again.problems);
            assert_eq!(again.entries[0].key(), entry.key());
        }
    }

    #[test]
    fn command_line_images_are_numbered() {
        let parsed = parse_images(&["nginx", "Bad", "docker.io/library/nginx:latest"]);
        assert_eq!(parsed.entries.len(), 1);
        assert!(parsed.problems[0].to_string().starts_with("image 2: "));
        assert!(parsed.duplicates[0].to_string().starts_with("image 3: "));
    }
}
