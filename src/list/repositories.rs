//! Repositories of which a list selects tags: one, or all of a registry that match a pattern.

use super::{ListCredential, ListEntry, SourceLocation, TagSelection};
use crate::oci::{PlatformSet, Reference, Repository, Tag};
use regex_lite::Regex;
use std::fmt;
use std::sync::Arc;

/// Maximum length of a pattern, in bytes.
const MAX_PATTERN: usize = 1024;

/// A repository of which a list selects tags.
#[derive(Clone, Debug)]
pub struct SelectedRepository {
    /// The repository; the tag of the reference has no meaning. With `repositories`, only its registry and credentials have one.
    pub reference: Reference,
    /// Which repositories of the registry, in place of that of the reference.
    pub repositories: Option<RepositoryPattern>,
    /// Which tags.
    pub selection: TagSelection,
    /// The platforms that this entry asks for; none means those of the whole run.
    pub platforms: Option<PlatformSet>,
    /// Where it is listed.
    pub origin: SourceLocation,
    /// The credentials of its section, if the section is for the registry of the repository.
    pub credential: Option<Arc<ListCredential>>,
}

impl SelectedRepository {
    /// The entry for one tag.
    #[must_use]
    pub fn entry(&self, tag: Tag) -> ListEntry {
        ListEntry {
            reference: Reference { tag: Some(tag), digest: None, ..self.reference.clone() },
            platforms: self.platforms.clone(),
            origin: self.origin.clone(),
            credential: self.credential.clone(),
            rule: Some(self.selection.to_string().into()),
            lock: None,
            chart: None,
        }
    }

    /// One of the repositories that its pattern matches.
    #[must_use]
    pub fn of(&self, repository: Repository) -> Self {
        let reference = Reference { repository, ..self.reference.clone() };
        Self { reference, repositories: None, ..self.clone() }
    }

    /// The repository, or the pattern of repositories, with its registry.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.repositories {
            Some(pattern) => format!("{}/{pattern}", self.reference.registry),
            None => format!("{}/{}", self.reference.registry, self.reference.repository),
        }
    }
}

/// A pattern of repositories.
#[derive(Clone, Debug)]
pub struct RepositoryPattern {
    text: String,
    /// One of them must match.
    allow: Vec<Regex>,
    /// None of them must match.
    deny: Vec<Regex>,
}

impl RepositoryPattern {
    /// A pattern in which `**` stands for any text, `*` and `?` for text and a character without a slash.
    ///
    /// # Errors
    /// Why the pattern is invalid.
    pub fn glob(text: &str) -> Result<Self, String> {
        let mut regex = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (taken, part) = match c {
                '*' if rest.starts_with("**") => (2, ".*".to_owned()),
                '*' => (1, "[^/]*".to_owned()),
                '?' => (1, "[^/]".to_owned()),
                c => (c.len_utf8(), regex_lite::escape(c.encode_utf8(&mut [0; 4]))),
            };
            regex.push_str(&part);
            rest = &rest[taken..];
        }
        Ok(Self { text: text.to_owned(), allow: vec![anchored(&regex)?], deny: Vec::new() })
    }

    /// The repositories that one of `allow` and none of `deny` match, which are anchored regular expressions. All are allowed if `allow` is
    /// empty.
    ///
    /// # Errors
    /// Why a pattern is invalid.
    pub fn regex(allow: &[&str], deny: &[&str]) -> Result<Self, String> {
        let compile = |patterns: &[&str]| patterns.iter().map(|one| anchored(one)).collect::<Result<_, _>>();
        let allowed = if allow.is_empty() { "**".to_owned() } else { format!("({})", allow.join("|")) };
        let allow: Vec<Regex> = compile(if allow.is_empty() { &[".*"] } else { allow })?;
        Ok(Self { text: allowed, allow, deny: compile(deny)? })
    }

    /// Whether a repository matches.
    #[must_use]
    pub fn matches(&self, repository: &Repository) -> bool {
        let any = |patterns: &[Regex]| patterns.iter().any(|one| one.is_match(repository.as_str()));
        any(&self.allow) && !any(&self.deny)
    }

    /// The path in front of the first wildcard, which selects credentials.
    pub(super) fn scope(text: &str) -> &str {
        let literal = text.split(['*', '?']).next().unwrap_or_default();
        literal.rsplit_once('/').map_or("library", |(path, _)| path)
    }
}

/// As it is written in a list.
impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn anchored(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > MAX_PATTERN {
        return Err(format!("the pattern is longer than {MAX_PATTERN} bytes"));
    }
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_repositories() {
        let names = ["charts/app", "charts/team/app", "charts", "chartsx/app", "other/charts/app"];
        let matching = |pattern: &RepositoryPattern| -> Vec<&str> {
            names.into_iter().filter(|name| pattern.matches(&name.parse().unwrap())).collect()
        };
        for (pattern, expected) in [
            ("charts/**", &["charts/app", "charts/team/app"][..]),
            ("charts/*", &["charts/app"]),
            ("**/app", &["charts/app", "charts/team/app", "chartsx/app", "other/charts/app"]),
            ("charts?/*", &["chartsx/app"]),
            ("c.arts/*", &[]),
            ("**", &names),
        ] {
            assert_eq!(matching(&RepositoryPattern::glob(pattern).unwrap()), expected, "{pattern}");
        }
        let regex = RepositoryPattern::regex(&["charts/.*", "other"], &[".*/team/.*"]).unwrap();
        assert_eq!(matching(&regex), ["charts/app"]);
        assert_eq!(matching(&RepositoryPattern::regex(&[], &["charts.*"]).unwrap()), ["other/charts/app"]);
        assert!(RepositoryPattern::regex(&["("], &[]).is_err());
        for (pattern, scope) in [("charts/a/**", "charts/a"), ("charts*", "library"), ("**", "library")] {
            assert_eq!(RepositoryPattern::scope(pattern), scope, "{pattern}");
        }
    }
}
