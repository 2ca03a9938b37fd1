//! Ignore lists: names and patterns of images to leave out.

use super::Doubt;
use crate::list::{Diagnostic, SourceLocation};
use crate::oci::Reference;
use std::collections::HashSet;
use std::sync::Arc;

/// Maximum number of lines of an ignore list.
const MAX_LINES: u64 = 100_000;
/// What a pattern for the files of doubtful finds starts with.
const FILE_PREFIX: &str = "file:";

/// Names and patterns, one a line; `#` starts a comment, and `*` matches any text.
///
/// `nginx` and `quay.io/team/app` match every tag, `nginx:1.27` one, `quay.io/team/*` everything below. Names are matched in
/// their full form and in Docker's short form. A doubtful find is also matched by its text, and `file:PATTERN` matches the
/// doubtful finds of files.
#[derive(Clone, Debug, Default)]
pub struct IgnoreList {
    /// The names without a star, which are looked up for every image.
    names: HashSet<String>,
    patterns: Vec<String>,
    files: Vec<String>,
}

impl IgnoreList {
    /// Adds the patterns of a text and returns what is invalid in it.
    pub fn read(&mut self, name: &str, text: &[u8]) -> Vec<Diagnostic> {
        let file: Arc<str> = name.into();
        let mut problems = Vec::new();
        let mut problem = |line: u64, message: String| {
            let origin = SourceLocation { file: file.clone(), line, module: None };
            problems.push(Diagnostic { origin, message, hint: None });
        };
        let text = String::from_utf8_lossy(text);
        for (line, raw) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
            if line > MAX_LINES {
                problem(line, format!("an ignore list has at most {MAX_LINES} lines"));
                break;
            }
            let mut words = raw.split_whitespace().take_while(|word| !word.starts_with('#'));
            let Some(pattern) = words.next() else { continue };
            if words.next().is_some() || pattern.len() > 1024 {
                problem(line, "a line holds one name or pattern".to_owned());
            } else if let Some(pattern) = pattern.strip_prefix(FILE_PREFIX) {
                self.files.push(pattern.to_owned());
            } else if pattern.contains('*') {
                self.patterns.push(pattern.to_owned());
            } else {
                self.names.insert(pattern.to_owned());
            }
        }
        problems
    }

    /// Whether a doubtful find is to be ignored: by its name, its text or its file.
    #[must_use]
    pub fn matches_doubt(&self, doubt: &Doubt) -> bool {
        let by_name = doubt.reference.as_ref().is_some_and(|image| self.matches(image));
        let by_text = self.names.contains(&doubt.text)
            || !doubt.text.is_empty() && self.patterns.iter().any(|pattern| glob(pattern, &doubt.text));
        let file = &*doubt.origin.file;
        by_name
            || by_text
            || self.files.iter().any(|pattern| glob(pattern, file) || glob(&format!("*/{pattern}"), file))
    }

    /// Whether an image is to be ignored.
    #[must_use]
    pub fn matches(&self, image: &Reference) -> bool {
        if self.patterns.is_empty() && self.names.is_empty() {
            return false;
        }
        let name = format!("{}/{}", image.registry, image.repository);
        let mut names = vec![name.clone()];
        if image.registry.is_docker_hub() {
            names.push(image.repository.to_string());
            names.extend(image.repository.official_name().map(|name| name.to_string()));
        }
        let tag = image.tag.as_ref().map(|tag| format!(":{tag}"));
        let digest = image.digest.as_ref().map(|digest| format!("@{digest}"));
        let both = tag.as_ref().zip(digest.as_ref()).map(|(tag, digest)| format!("{tag}{digest}"));
        let ends: Vec<String> = [Some(String::new()), tag, digest, both].into_iter().flatten().collect();
        let forms: Vec<String> =
            names.iter().flat_map(|name| ends.iter().map(move |end| format!("{name}{end}"))).collect();
        forms.iter().any(|form| self.names.contains(form))
            || self.patterns.iter().any(|pattern| forms.iter().any(|form| glob(pattern, form)))
    }
}

/// Whether `text` matches `pattern`, in which `*` matches any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| text.strip_prefix(head)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_match() {
        for (pattern, image, expected) in [
            ("nginx", "nginx:1.27", true),
            ("nginx:1.27", "nginx:1.27", true),
            ("nginx:1.26", "nginx:1.27", false),
            ("library/nginx", "nginx:1.27", true),
            ("docker.io/library/nginx:*", "nginx:1.27", true),
            ("quay.io/*", "quay.io/a/b:1", true),
            ("quay.io/*", "example.com/quay.io/a:1", false),
            ("*/b:1", "quay.io/a/b:1", true),
            ("*a*b*", "quay.io/a/b:1", true),
            ("*b*a/b:1x", "quay.io/a/b:1", false),
            ("*", "quay.io/a/b:1", true),
            ("a/b", "quay.io/a/b:1", false),
            (
                "quay.io/a/b:1",
                "quay.io/a/b:1@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
                true,
            ),
        ] {
            let mut ignore = IgnoreList::default();
            assert!(ignore.read("i", format!("# c\n\n{pattern}  # why\n").as_bytes()).is_empty());
            assert_eq!(ignore.matches(&Reference::parse(image).unwrap()), expected, "{pattern} {image}");
        }
        assert_eq!(
            IgnoreList::default().read("i", b"a b\nc\n")[0].to_string(),
            "i:1: a line holds one name or pattern"
        );
        let long = "a\n".repeat(100_001);
        assert!(IgnoreList::default().read("i", &long.as_bytes()[2..]).is_empty());
        let problems = IgnoreList::default().read("i", long.as_bytes());
        assert_eq!(problems[0].to_string(), "i:100001: an ignore list has at most 100000 lines");
    }

    #[test]
    fn doubtful_finds_match_by_name_text_and_file() {
        let doubt = |text: &str| Doubt {
            text: text.to_owned(),
            reference: Reference::parse(text).ok(),
            origin: SourceLocation { file: "context/charts/a/x.yaml".into(), line: 1, module: None },
            reason: crate::scan::DoubtReason::NoTag,
            detail: None,
        };
        for (pattern, text, expected) in [
            ("nginx", "nginx", true),
            ("*shop.image*", "{{ include \"shop.image\" . }}", true),
            ("file:charts/a/*", "", true),
            ("file:context/charts/*", "", true),
            ("file:charts/b/*", "", false),
            ("*", "", false),
        ] {
            let mut ignore = IgnoreList::default();
            ignore.read("i", pattern.as_bytes());
            assert_eq!(ignore.matches_doubt(&doubt(text)), expected, "{pattern} {text}");
        }
    }
}
