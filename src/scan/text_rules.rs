//! Images in text that is no YAML (yet): templates, and what is broken. Read line by line.

use super::{Found, heuristics};
use crate::list::SourceLocation;
use crate::oci::Reference;
use std::sync::Arc;

/// Longer lines are not read.
const MAX_LINE_BYTES: usize = 4096;

/// What text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// A template: a whole name under an image's key is sure.
    Template,
    /// A text within a document, whose lines are lines of the file: all is doubtful.
    Within,
    /// The same, all of it on one line of the file.
    WithinLine,
}

/// Finds images in `text`, whose first line is the file's `first`.
pub(super) fn scan(found: &mut Found, file: &Arc<str>, text: &str, first: u64, mode: Mode) {
    scan_but(found, file, text, first, mode, &|_| false);
}

/// As [`scan`], without the template parts that `known` says were found elsewhere.
pub(super) fn scan_but(
    found: &mut Found,
    file: &Arc<str>,
    text: &str,
    first: u64,
    mode: Mode,
    known: &dyn Fn(&str) -> bool,
) {
    let mut comment = false;
    for (number, line) in (first..).zip(text.lines()) {
        let line_is_comment = in_comment(line, &mut comment);
        if line_is_comment || line.len() > MAX_LINE_BYTES {
            continue;
        }
        let number = if mode == Mode::WithinLine { first } else { number };
        let origin = SourceLocation { file: file.clone(), line: number, module: None };
        match keyed(line) {
            Some(value) => one(found, value, origin, mode, known),
            None => loose(found, line, &origin),
        }
    }
}

/// Whether a line is a comment: of YAML, or of a Go template that may span lines.
fn in_comment(line: &str, open: &mut bool) -> bool {
    let was_open = *open;
    let opened = ["{{/*", "{{- /*"].iter().filter_map(|mark| line.rfind(mark)).max();
    let closed = line.rfind("*/");
    match (opened, closed) {
        (Some(start), Some(end)) => *open = start > end,
        (Some(_), None) => *open = true,
        (None, Some(_)) => *open = false,
        (None, None) => {}
    }
    was_open || opened.is_some() || line.trim_start().starts_with('#')
}

/// The value of an image's key in a line, as it is written.
fn keyed(line: &str) -> Option<&str> {
    let mut from = 0;
    while let Some(at) = line[from..].find("mage").map(|at| at + from) {
        from = at + 4;
        let start = line[..at]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
            .map_or(0, |before| before + line[before..].chars().next().map_or(1, char::len_utf8));
        let key = line[start..from].trim_start_matches('-');
        let after = line[from..].trim_start_matches(['"', '\'']);
        let Some(value) = after.trim_start().strip_prefix(':') else { continue };
        if heuristics::is_image_key(key) && (value.is_empty() || value.starts_with([' ', '\t', '"', '\''])) {
            return Some(value.trim()).filter(|value| !value.is_empty() && !value.starts_with('#'));
        }
    }
    None
}

/// A value without its quotes, or up to where a comment or a flow collection ends it.
fn bare(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.find(quote).map_or(rest, |end| &rest[..end]);
        }
    }
    value.split([',', '}', ' ', '\t']).next().unwrap_or(value)
}

fn one(found: &mut Found, value: &str, origin: SourceLocation, mode: Mode, known: &dyn Fn(&str) -> bool) {
    if heuristics::is_template(value) {
        if !known(value) {
            found.doubt(value.trim_matches(['"', '\'']), origin, "a template that was not filled in");
        }
        return;
    }
    let text = bare(value).trim();
    // A block's mark, an anchor or an alias: the value stands elsewhere.
    if text.is_empty() || text.starts_with(['|', '>', '&', '*', '[', '{', '!', '\\']) {
        return;
    }
    match Reference::parse(text) {
        Ok(_) if !heuristics::is_explicit(text) => {
            found.doubt(text, origin, "neither a tag nor a digest is written")
        }
        Ok(_) if mode != Mode::Template => {
            found.doubt(text, origin, "it stands in a text within the document")
        }
        Ok(reference) => found.sure(reference, origin),
        Err(error) if heuristics::is_explicit(text) => found.doubt(text, origin, error.message()),
        Err(_) => {}
    }
}

/// Words of a line that look like images.
fn loose(found: &mut Found, line: &str, origin: &SourceLocation) {
    if line.trim_start().starts_with("//") {
        return;
    }
    for word in line.split([' ', '\t', '"', '\'', ',', '`', '(', ')', '[', ']', ';']) {
        if !heuristics::is_template(word)
            && let Some(image) = heuristics::image(word)
        {
            found.doubt(image, origin.clone(), "a word that looks like an image");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_an_image_s_key() {
        for (line, expected) in [
            ("        image: nginx:1.27", Some("nginx:1.27")),
            ("  - image: \"nginx:1.27\"  # why", Some("nginx:1.27")),
            ("  - {name: a, image: nginx:1.27, x: y}", Some("nginx:1.27")),
            ("\"image\": \"nginx:1.27\",", Some("nginx:1.27")),
            ("sidecarImage: 'a.io/b:1'", Some("a.io/b:1")),
            ("- image: nginx", Some("nginx")),
            ("imagePullPolicy: Always", None),
            ("imageTag: v1", None),
            ("image:", None),
            ("images:", None),
            ("ümage: x", None),
            ("# image: nginx:1", Some("nginx:1")),
        ] {
            assert_eq!(keyed(line).map(bare), expected, "{line}");
        }
    }

    #[test]
    fn literals_are_sure_and_templates_are_not() {
        let text = "{{- /* a comment\nimage: not/this:1 */}}\n{{ if .Values.on }}\n  image: a.io/b:1\n\
                    # image: nor/this:1\n  image: \"{{ .Values.image }}:2\"\n  image: a.io/c\n  args: [\"--x=a.io/d:1\"]\n\
                    {{/* one line */}}\n  image: A.io/UPPER:1\n{{ end }}\n";
        let mut found = Found::default();
        scan(&mut found, &"t".into(), text, 1, Mode::Template);
        let sure: Vec<String> =
            found.entries.iter().map(|e| format!("{} {}", e.origin, e.reference)).collect();
        assert_eq!(sure, ["t:4 a.io/b:1"]);
        let doubts: Vec<String> = found.doubts.iter().map(|d| format!("{} {}", d.origin, d.text)).collect();
        assert_eq!(doubts, ["t:6 {{ .Values.image }}:2", "t:7 a.io/c", "t:8 a.io/d:1", "t:10 A.io/UPPER:1"]);
    }
}
