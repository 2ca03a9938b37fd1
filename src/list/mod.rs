//! Image lists: what to save, as people write it down. Pure: text in, entries and remarks out.
//!
//! The grammars are told apart by content (or by a `.yaml`, `.yml` or `.json` name):
//!
//! - plain: one reference a line with an optional `platform=...`; `#` starts a comment, `##+name` a module;
//! - sections: YAML, a sequence of `{registry, username, password, images: [...]}`;
//! - the files of docker compose, skopeo sync, hauler, image-syncer and `kubeadm config images list`.
//!
//! Nothing stops at the first bad line: every one is reported with its place and the reason.

mod compose;
mod hauler;
mod image_syncer;
mod plain;
mod sections;
mod skopeo;
mod yaml;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{PlatformSet, Reference, Registry};
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fmt;
use std::sync::Arc;

/// The largest list that is read, in bytes.
pub const MAX_LIST_BYTES: usize = 16 << 20;
/// The longest line that is read, in bytes: several times the longest possible reference.
pub const MAX_LINE_BYTES: usize = 4096;
/// After this many problems a list is not read further.
pub const MAX_PROBLEMS: usize = 1000;

/// Where an entry was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The list's name, as the caller gave it.
    pub file: Arc<str>,
    /// The line, counted from 1; 0 where there is none.
    pub line: u64,
    /// The `##+name` heading it stands under.
    pub module: Option<Arc<str>>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// A user name and password that a list carries for one registry.
#[derive(Clone, PartialEq, Eq)]
pub struct ListCredential {
    /// The registry that they belong to, and the only one that may see them.
    pub registry: Registry,
    /// The user's name.
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
pub struct Entry {
    /// The image, in normal form.
    pub reference: Reference,
    /// The platforms this line asks for, where it says so; else those of the whole run.
    pub platforms: Option<PlatformSet>,
    /// Where it was written.
    pub origin: Origin,
    /// The credentials of its section, if that section is for the image's own registry.
    pub credential: Option<Arc<ListCredential>>,
}

impl Entry {
    /// Entries with the same key ask for the same thing.
    fn key(&self) -> (Reference, Option<String>) {
        (self.reference.clone(), self.platforms.as_ref().map(ToString::to_string))
    }
}

/// Something to say about a place in a list.
#[derive(Clone, Debug)]
pub struct Remark {
    /// The place.
    pub origin: Origin,
    /// What there is to say about it.
    pub message: String,
    /// What to try, where there is advice to give.
    pub hint: Option<String>,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl From<Remark> for Error {
    fn from(remark: Remark) -> Self {
        let error = Self::new(ErrorKind::InvalidInput, &remark.origin, remark.message);
        match remark.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// What a list says.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The images, in the order written, each once.
    pub entries: Vec<Entry>,
    /// The lines that are wrong. A list with problems must not be saved.
    pub problems: Vec<Remark>,
    /// What is worth knowing but not wrong, such as duplicates.
    pub notes: Vec<Remark>,
}

impl Parsed {
    fn problem(&mut self, origin: Origin, message: impl Into<String>, hint: Option<&str>) {
        self.problems.push(Remark { origin, message: message.into(), hint: hint.map(str::to_owned) });
    }

    fn note(&mut self, origin: Origin, message: impl Into<String>) {
        self.notes.push(Remark { origin, message: message.into(), hint: None });
    }

    /// Keeps one of each entry and notes the others. Credentials of a dropped entry pass to the kept
    /// one if that has none.
    fn without_duplicates(mut self) -> Self {
        let mut seen: HashMap<_, usize> = HashMap::with_capacity(self.entries.len());
        let mut kept: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for entry in std::mem::take(&mut self.entries) {
            match seen.entry(entry.key()) {
                Slot::Vacant(slot) => {
                    slot.insert(kept.len());
                    kept.push(entry);
                }
                Slot::Occupied(slot) => {
                    let first = &mut kept[*slot.get()];
                    let said = format!("{} is already listed at {}", entry.reference, first.origin);
                    if first.credential.is_none() {
                        first.credential = entry.credential;
                    }
                    self.note(entry.origin, said);
                }
            }
        }
        self.entries = kept;
        self
    }
}

/// Reads a list. `name` stands in every remark; its ending tells YAML where the content does not.
#[must_use]
pub fn parse(name: &str, text: &[u8]) -> Parsed {
    let file: Arc<str> = name.into();
    let whole = |message: &str, hint| {
        let mut parsed = Parsed::default();
        parsed.problem(Origin { file: file.clone(), line: 0, module: None }, message, hint);
        parsed
    };
    if text.len() > MAX_LIST_BYTES {
        return whole("the list is larger than 16 MiB", Some("split it into several lists"));
    }
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        return whole("the list is written in UTF-16", Some("save it as UTF-8"));
    }
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let parsed = if is_yaml(name, text) { yaml::parse(&file, text) } else { plain::parse(&file, text) };
    parsed.without_duplicates()
}

/// Reads images given one by one, such as the arguments of a command, with the grammar of a plain list's line.
#[must_use]
pub fn parse_images<S: AsRef<str>>(images: &[S]) -> Parsed {
    let mut parsed = Parsed::default();
    for (index, image) in images.iter().enumerate() {
        let origin = Origin { file: format!("image {}", index + 1).into(), line: 0, module: None };
        plain::line(&mut parsed, image.as_ref(), origin, None);
    }
    parsed.without_duplicates()
}

/// Joins lists into one, in order, each image once.
#[must_use]
pub fn merge(lists: impl IntoIterator<Item = Parsed>) -> Parsed {
    let mut all = Parsed::default();
    for list in lists {
        all.entries.extend(list.entries);
        all.problems.extend(list.problems);
        all.notes.extend(list.notes);
    }
    all.without_duplicates()
}

/// A line that [`parse`] reads back as the same image, with the reason it failed as a comment.
#[must_use]
pub fn failed_line(reference: &Reference, platforms: Option<&PlatformSet>, reason: &str) -> String {
    let mut line = reference.to_string();
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

/// Reads a text if it is a list of another tool and nothing else; none if it is anything else.
#[must_use]
pub fn parse_foreign(name: &str, text: &str) -> Option<Parsed> {
    let parsed = yaml::parse_foreign(&name.into(), text)?;
    Some(parsed.without_duplicates())
}

/// A plain list's line can't start with a dash, a quote or a brace, and no name in it is followed by a colon
/// and a blank; in YAML of the forms that are read, one of these is the first line.
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

/// Whether a line that could be YAML is but a name after a dash or in quotes. No form of list has such a line, and what
/// is wrong with it is told best as of a plain list's.
fn is_bare_name(line: &[u8]) -> bool {
    let item = line.strip_prefix(b"- ").unwrap_or(line).trim_ascii();
    let opens =
        item.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'"' | b'\'' | b'`'));
    let is_pair =
        item.ends_with(b":") || item.windows(2).any(|pair| pair[0] == b':' && pair[1].is_ascii_whitespace());
    opens && !is_pair
}

/// The lines of a text that are no comment and not empty, trimmed.
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

    /// Whether the next line belongs to a mapping that was opened on the line before.
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

/// `platform=` of a line: the list names systems other than Linux in full.
fn platforms(text: &str) -> Result<PlatformSet> {
    PlatformSet::parse(text, "linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parsed: &Parsed) -> Vec<String> {
        parsed.entries.iter().map(|entry| entry.reference.to_string()).collect()
    }

    #[test]
    fn tells_the_grammars_apart() {
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
    fn refuses_what_no_editor_meant() {
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
    fn merges_across_files_and_keeps_credentials() {
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
        assert_eq!(all.notes[0].to_string(), "b.yaml:4: localhost:5000/x:1 is already listed at a.list:1");
    }

    #[test]
    fn a_failed_line_reads_back() {
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
    fn images_of_a_command_line_say_which() {
        let parsed = parse_images(&["nginx", "Bad", "docker.io/library/nginx:latest"]);
        assert_eq!(parsed.entries.len(), 1);
        assert!(parsed.problems[0].to_string().starts_with("image 2: "));
        assert!(parsed.notes[0].to_string().starts_with("image 3: "));
    }
}
