//! Readers of text that is not YAML: templates, image lists in their various forms, scripts, tables, Dockerfiles, Podman
//! units and bake files.

use super::heuristics::{self, whole_name};
use super::{Discovery, DoubtReason};
use crate::list::{self, SourceLocation};
use crate::oci::Reference;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Maximum length of a line that is read, in bytes.
const MAX_LINE_BYTES: usize = 4096;

fn at(file: &Arc<str>, line: u64) -> SourceLocation {
    SourceLocation { file: file.clone(), line, module: None }
}

/// Finds images in a template, whose first line is the line `first` of the file.
pub(super) fn scan_template(found: &mut Discovery, file: &Arc<str>, text: &str, first: u64) {
    let mut in_comment = false;
    for (number, line) in (first..).zip(text.lines()) {
        if is_comment(line, &mut in_comment) || line.len() > MAX_LINE_BYTES {
            continue;
        }
        match value_of_image_key(line) {
            Some(value) => template_value(found, value, at(file, number)),
            None => scan_words(found, line, &at(file, number)),
        }
    }
}

/// Whether a line is a comment of YAML, or of a Go template, which may span lines.
pub(super) fn is_comment(line: &str, in_comment: &mut bool) -> bool {
    let was_open = *in_comment;
    let opened = ["{{/*", "{{- /*"].iter().filter_map(|mark| line.rfind(mark)).max();
    let closed = line.rfind("*/");
    match (opened, closed) {
        (Some(start), Some(end)) => *in_comment = start > end,
        (Some(_), None) => *in_comment = true,
        (None, Some(_)) => *in_comment = false,
        (None, None) => {}
    }
    was_open || opened.is_some() || line.trim_start().starts_with('#')
}

/// The value of an image key in a line, as it is written.
pub(super) fn value_of_image_key(line: &str) -> Option<&str> {
    let mut from = 0;
    while let Some(position) = line[from..].find("mage").map(|position| position + from) {
        from = position + 4;
        let start = line[..position]
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

/// A value without its quotes, up to a comment or the end of a flow collection.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.find(quote).map_or(rest, |end| &rest[..end]);
        }
    }
    value.split([',', '}', ' ', '\t']).next().unwrap_or(value)
}

fn template_value(found: &mut Discovery, value: &str, origin: SourceLocation) {
    if heuristics::is_template(value) {
        return found.doubt(value.trim_matches(['"', '\'']), origin, DoubtReason::UnrenderedTemplate);
    }
    let text = unquoted(value).trim();
    // The mark of a block, an anchor, an alias or a tag: the value is elsewhere.
    if text.is_empty()
        || text.starts_with(['|', '>', '&', '*', '[', '{', '!', '\\'])
        || heuristics::is_no_name(text)
    {
        return;
    }
    match Reference::parse(text) {
        Ok(_) if heuristics::is_placeholder(text) => found.doubt(text, origin, DoubtReason::Placeholder),
        Ok(_) if !heuristics::is_explicit(text) => found.doubt(text, origin, DoubtReason::NoTag),
        Ok(reference) => found.sure(reference, origin),
        Err(error) if heuristics::is_explicit(text) => {
            found.doubt_with(text, origin, DoubtReason::InvalidName, Some(error.message().to_owned()));
        }
        Err(_) => {}
    }
}

/// Reports the words of a line that look like image names.
pub(super) fn scan_words(found: &mut Discovery, line: &str, origin: &SourceLocation) {
    if line.trim_start().starts_with("//") {
        return;
    }
    for word in line.split([' ', '\t', '"', '\'', ',', '`', '(', ')', '[', ']', ';', '=']) {
        if !heuristics::is_template(word)
            && let Some(image) = heuristics::image(word)
        {
            found.doubt(image, origin.clone(), DoubtReason::FreeText);
        }
    }
}

/// The lines of a text that have content, with their numbers and without comments.
fn content_lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && line.len() <= MAX_LINE_BYTES
    })
}

/// Reads a text as what its lines are: a table, a list, a script or rows of values. False if it is none of these.
pub(super) fn scan_plain(found: &mut Discovery, file: &Arc<str>, text: &str) -> bool {
    scan_table(found, file, text)
        || scan_list(found, file, text)
        || scan_script(found, file, text)
        || scan_csv(found, file, text)
}

/// The output of `docker images`, `crictl images`, `ctr images ls` and the like: a heading, then columns.
fn scan_table(found: &mut Discovery, file: &Arc<str>, text: &str) -> bool {
    let mut lines = content_lines(text);
    let Some((_, heading)) = lines.next() else { return false };
    let columns: Vec<&str> = heading.split_whitespace().collect();
    let name_only = match columns.as_slice() {
        ["REPOSITORY" | "IMAGE" | "NAME", "TAG", ..] => false,
        ["REF", "TYPE", ..] => true,
        _ => return false,
    };
    for (line, row) in lines {
        let mut words = row.split_whitespace();
        let (name, tag) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if name == "<none>" || tag == "<none>" {
            continue;
        }
        let image = if name_only { name.to_owned() } else { format!("{name}:{tag}") };
        match whole_name(&image) {
            Some(reference) => found.sure(reference, at(file, line)),
            None => found.doubt(&image, at(file, line), DoubtReason::InvalidName),
        }
    }
    true
}

/// A plain image list. A text of which most lines are names is one, and its other lines are reported as invalid.
fn scan_list(found: &mut Discovery, file: &Arc<str>, text: &str) -> bool {
    let words = |line: &'_ str| -> Vec<String> {
        line.split_whitespace().take_while(|word| !word.starts_with('#')).map(str::to_owned).collect()
    };
    let is_name = |word: &str| whole_name(word).is_some();
    let lines: Vec<(u64, Vec<String>)> =
        content_lines(text).map(|(number, line)| (number, words(line))).collect();
    let is_row = |row: &[String]| {
        row.iter().all(|word| is_name(word) || word.starts_with("platform="))
            && row.first().is_some_and(|word| is_name(word))
    };
    let names = lines.iter().filter(|(_, row)| is_row(row)).count();
    let has_path = lines.iter().any(|(_, row)| is_row(row) && row[0].contains('/'));
    let is_named_list = file.to_ascii_lowercase().contains("image");
    if names * 2 <= lines.len() || !has_path && !is_named_list {
        return false;
    }
    let several = |row: &[String]| {
        row.len() > 1 && is_row(row) && !row.iter().any(|word| word.starts_with("platform="))
    };
    let mut rest = String::new();
    let mut rows = lines.iter().filter(|(_, row)| several(row)).peekable();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some((_, row)) = rows.next_if(|(row, _)| *row == number) {
            // A source and its destination have the same name and tag; other names on a line are images of their own.
            let is_pair = row.len() == 2 && row[0].rsplit('/').next() == row[1].rsplit('/').next();
            let taken = if is_pair { &row[..1] } else { row };
            taken
                .iter()
                .filter_map(|word| whole_name(word))
                .for_each(|image| found.sure(image, at(file, number)));
        } else {
            rest.push_str(line);
        }
        rest.push('\n');
    }
    found.add_list(list::parse(&format!("{file}"), rest.as_bytes()));
    true
}

/// Commands that pull an image which is named after them.
const PULL_COMMANDS: &[(&str, &str)] = &[
    ("docker", "pull"),
    ("podman", "pull"),
    ("nerdctl", "pull"),
    ("crictl", "pull"),
    ("ctr", "pull"),
    ("skopeo", "copy"),
    ("crane", "pull"),
    ("crane", "copy"),
];

/// A script that pulls images.
fn scan_script(found: &mut Discovery, file: &Arc<str>, text: &str) -> bool {
    let mut is_script = text.starts_with("#!");
    let mut doubtful = Vec::new();
    for (number, line) in content_lines(text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_pull = |(tool, verb): &(&str, &str)| {
            let tool = words.iter().position(|word| word.rsplit('/').next() == Some(tool));
            tool.is_some_and(|tool| words[tool + 1..].contains(verb))
        };
        let image = words.iter().find(|word| heuristics::is_explicit(word) && whole_name(word).is_some());
        match image.filter(|_| PULL_COMMANDS.iter().any(is_pull)) {
            Some(image) => {
                is_script = true;
                whole_name(image).into_iter().for_each(|image| found.sure(image, at(file, number)));
            }
            None => doubtful.push((number, line)),
        }
    }
    if is_script {
        doubtful.iter().for_each(|(number, line)| scan_words(found, line, &at(file, *number)));
    }
    is_script
}

/// Rows of values with a whole name in most of them.
fn scan_csv(found: &mut Discovery, file: &Arc<str>, text: &str) -> bool {
    let rows: Vec<(u64, Vec<&str>)> = content_lines(text)
        .map(|(number, line)| (number, line.split([',', ';']).map(heuristics::bare).collect()))
        .collect();
    let heading: Vec<String> = rows
        .first()
        .map(|(_, row)| row.iter().map(|cell| cell.to_ascii_lowercase()).collect())
        .unwrap_or_default();
    let column = |names: &[&str]| heading.iter().position(|cell| names.contains(&cell.as_str()));
    let parts = column(&["image", "repository", "name"]).zip(column(&["tag", "version"]));
    let image = |row: &[&str]| {
        let split = || {
            let (name, tag) = parts?;
            whole_name(&format!("{}:{}", row.get(name)?, row.get(tag)?))
        };
        row.iter().find_map(|cell| heuristics::image(cell).and_then(whole_name)).or_else(split)
    };
    let is_heading = |row: &[&str]| row.iter().all(|cell| whole_name(cell).is_none());
    let skip = usize::from(rows.first().is_some_and(|(_, row)| is_heading(row)));
    let images: Vec<(u64, Option<Reference>)> =
        rows.iter().skip(skip).map(|(number, row)| (*number, image(row))).collect();
    let names = images.iter().filter(|(_, image)| image.is_some()).count();
    if rows.iter().any(|(_, row)| row.len() < 2) || names == 0 || names * 2 <= images.len() {
        return false;
    }
    for (number, image) in images {
        match image {
            Some(image) => found.sure(image, at(file, number)),
            None => found.unread(file, number, "the row names no image"),
        }
    }
    true
}

/// The base images of a Dockerfile, and the images that its stages copy from.
pub(super) fn scan_dockerfile(found: &mut Discovery, file: &Arc<str>, text: &str) {
    let mut arguments: HashMap<String, String> = HashMap::new();
    let mut stages: HashSet<String> = HashSet::from(["scratch".to_owned()]);
    let mut joined = String::new();
    let mut first = 0;
    for (number, line) in (1..).zip(text.lines()) {
        if joined.is_empty() {
            first = number;
        }
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        if let Some(part) = line.strip_suffix('\\') {
            // A longer instruction is not FROM, ARG or COPY.
            if joined.len() <= MAX_LINE_BYTES {
                joined.push_str(part);
                joined.push(' ');
            }
            continue;
        }
        joined.push_str(line);
        instruction(found, &at(file, first), &joined, &mut arguments, &mut stages);
        joined.clear();
    }
}

fn instruction(
    found: &mut Discovery,
    origin: &SourceLocation,
    line: &str,
    arguments: &mut HashMap<String, String>,
    stages: &mut HashSet<String>,
) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((keyword, rest)) = words.split_first() else { return };
    let operands = || rest.iter().filter(|word| !word.starts_with("--"));
    let image =
        |found: &mut Discovery, text: &str, arguments: &HashMap<String, String>, stages: &HashSet<String>| {
            let Ok(text) = list::interpolate(text, arguments) else {
                return found.doubt(text, origin.clone(), DoubtReason::UnrenderedTemplate);
            };
            if stages.contains(&text.to_ascii_lowercase()) || text.bytes().all(|byte| byte.is_ascii_digit()) {
                return;
            }
            match Reference::parse(&text) {
                Ok(reference) => found.sure(reference, origin.clone()),
                Err(error) => {
                    let detail = Some(error.message().to_owned());
                    found.doubt_with(&text, origin.clone(), DoubtReason::InvalidName, detail);
                }
            }
        };
    match keyword.to_ascii_uppercase().as_str() {
        "ARG" => {
            for (name, value) in operands().filter_map(|word| word.split_once('=')) {
                if let Ok(value) = list::interpolate(value.trim_matches(['"', '\'']), arguments) {
                    arguments.insert(name.to_owned(), value);
                }
            }
        }
        "FROM" => {
            let mut operands = operands();
            if let Some(text) = operands.next() {
                image(found, text, arguments, stages);
            }
            if operands.next().is_some_and(|word| word.eq_ignore_ascii_case("as")) {
                stages.extend(operands.next().map(|stage| stage.to_ascii_lowercase()));
            }
        }
        "COPY" | "ADD" => {
            if let Some(text) = rest.iter().find_map(|word| word.strip_prefix("--from=")) {
                image(found, text, arguments, stages);
            }
        }
        // sealer: APP NAME IMAGE
        "APP" => {
            for reference in operands().filter_map(|word| heuristics::image(word).and_then(whole_name)) {
                found.sure(reference, origin.clone());
            }
        }
        _ => {}
    }
}

/// The images of a Podman unit (podman-systemd.unit(5)).
pub(super) fn scan_quadlet(found: &mut Discovery, file: &Arc<str>, text: &str) {
    for (number, line) in content_lines(text) {
        let Some(("Image", value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))
        else {
            continue;
        };
        // Names of other units.
        if value.ends_with(".image") || value.ends_with(".build") {
            continue;
        }
        match Reference::parse(value) {
            Ok(reference) => found.sure(reference, at(file, number)),
            Err(error) => {
                let detail = Some(error.message().to_owned());
                found.doubt_with(value, at(file, number), DoubtReason::InvalidName, detail);
            }
        }
    }
}

/// The images that a bake file builds from.
pub(super) fn scan_hcl(found: &mut Discovery, file: &Arc<str>, text: &str) {
    for (number, line) in content_lines(text) {
        for part in line.split('"').filter_map(|part| part.strip_prefix("docker-image://")) {
            match whole_name(part) {
                Some(reference) => found.sure(reference, at(file, number)),
                None => found.doubt(part, at(file, number), DoubtReason::UnrenderedTemplate),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TextFormat, text};
    use super::*;

    fn scanned(name: &str, content: &str) -> (Vec<String>, Vec<String>) {
        let mut found = Discovery::default();
        let format = TextFormat::of_file(name).unwrap_or(TextFormat::Text);
        text(&mut found, name, format, content.as_bytes());
        let sure = found.images.iter().map(|entry| format!("{} {}", entry.origin.line, entry.reference));
        let doubts = found.doubts.iter().map(|doubt| format!("{} {}", doubt.origin.line, doubt.text));
        let problems = found.problems.iter().map(|problem| format!("{} invalid", problem.origin.line));
        (sure.collect(), doubts.chain(problems).collect())
    }

    #[test]
    fn texts_are_read_as_what_their_lines_are() {
        for (name, content, sure, others) in [
            ("a.txt", "a.io/b:1\na.io/c:2 # why\n", &["1 a.io/b:1", "2 a.io/c:2"][..], &[][..]),
            ("a.txt", "a.io/b:1\na.io/c:2\na.io/Bad:3\n", &["1 a.io/b:1", "2 a.io/c:2"], &["3 invalid"]),
            ("a.txt", "a.io/b:1 a.io/c:2\n", &["1 a.io/b:1", "1 a.io/c:2"], &[]),
            ("a.txt", "a.io/t/b:1 m.io/t/b:1\n", &["1 a.io/t/b:1"], &[]),
            ("a.txt", "localhost:80\nhost:90\n", &[], &[]),
            ("images.txt", "nginx:1\n", &["1 docker.io/library/nginx:1"], &[]),
            ("a.txt", "Some words about a.io/b:1 here.\nAnd more.\n", &[], &[]),
            (
                "p.sh",
                "docker pull a.io/b:1\nsudo ctr -n k8s.io images pull a.io/c:2\n",
                &["1 a.io/b:1", "2 a.io/c:2"],
                &[],
            ),
            ("p.sh", "#!/bin/sh\ndocker run a.io/b:1\ndocker pull $X\n", &[], &["2 a.io/b:1"]),
            ("p.sh", "skopeo copy docker://a.io/b:1 docker://m.io/b:1\n", &["1 a.io/b:1"], &[]),
            ("a.txt", "REPOSITORY  TAG  IMAGE ID\na.io/b  1  abc\nc <none> d\n", &["2 a.io/b:1"], &[]),
            ("a.txt", "REF TYPE DIGEST\na.io/b:1 x y\n", &["2 a.io/b:1"], &[]),
            ("a.csv", "name,image\nx,a.io/b:1\ny,a.io/c:2\n", &["2 a.io/b:1", "3 a.io/c:2"], &[]),
            ("a.csv", "image,tag\na.io/b,1\n", &["2 a.io/b:1"], &[]),
            ("a.csv", "a,b\n1,2\n", &[], &[]),
            ("x.container", "[Container]\nImage=a.io/b:1\n", &["2 a.io/b:1"], &[]),
            ("x.container", "[Container]\nImage=other.image\n", &[], &[]),
            ("docker-bake.hcl", "contexts = { a = \"docker-image://a.io/b:1\" }\n", &["1 a.io/b:1"], &[]),
            (
                "Dockerfile",
                "ARG V=1\nFROM --platform=$BUILDPLATFORM a.io/b:${V} AS build\nFROM scratch\nCOPY --from=build / /\nCOPY --from=a.io/c:2 / /\nFROM build\n",
                &["2 a.io/b:1", "5 a.io/c:2"],
                &[],
            ),
            ("Kubefile", "FROM \\\n  a.io/k:1\nAPP x local://y\nCOPY . .\n", &["1 a.io/k:1"], &[]),
            ("Dockerfile", "ARG B\nFROM ${B}\n", &[], &["2 ${B}"]),
        ] {
            assert_eq!(scanned(name, content), (own(sure), own(others)), "{name} {content}");
        }
    }

    fn own(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn image_keys_are_found_in_lines() {
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
            assert_eq!(value_of_image_key(line).map(unquoted), expected, "{line}");
        }
    }

    #[test]
    fn template_literals_are_sure_and_actions_are_doubtful() {
        let text = "{{- /* a comment\nimage: not/this:1 */}}\n{{ if .Values.on }}\n  image: a.io/b:1\n\
                    # image: nor/this:1\n  image: \"{{ .Values.image }}:2\"\n  image: a.io/c\n  args: [\"--x=a.io/d:1\"]\n\
                    {{/* one line */}}\n  image: A.io/UPPER:1\n{{ end }}\n";
        let (sure, doubts) = scanned("t.tpl", text);
        assert_eq!(sure, ["4 a.io/b:1"]);
        assert_eq!(doubts, ["6 {{ .Values.image }}:2", "7 a.io/c", "8 a.io/d:1", "10 A.io/UPPER:1"]);
    }
}
