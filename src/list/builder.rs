//! Builds an image list from a structured file.

use super::plain::{self, RegistryScope};
use super::{ChartName, ImageList, ListEntry, ListedChart, MAX_PROBLEMS, RepositoryPattern, SourceLocation};
use std::sync::Arc;

/// Collects the entries and diagnostics of one file.
pub(super) struct ListBuilder {
    pub(super) list: ImageList,
    file: Arc<str>,
}

impl ListBuilder {
    pub(super) fn new(file: Arc<str>) -> Self {
        Self { list: ImageList::default(), file }
    }

    fn at(&self, line: u64) -> SourceLocation {
        SourceLocation { file: self.file.clone(), line, module: None }
    }

    /// Whether so many entries are invalid that the rest is not read.
    pub(super) fn is_full(&self) -> bool {
        self.list.problems.len() > MAX_PROBLEMS
    }

    pub(super) fn problem(&mut self, line: u64, message: impl Into<String>, hint: Option<&str>) {
        let origin = self.at(line);
        if self.list.problems.len() < MAX_PROBLEMS {
            self.list.problem(origin, message, hint);
        } else if self.list.problems.len() == MAX_PROBLEMS {
            self.list.problem(origin, "too many invalid entries: the rest was not read", None);
        }
    }

    pub(super) fn note(&mut self, line: u64, message: impl Into<String>) {
        let origin = self.at(line);
        self.list.note(origin, message);
    }

    /// Adds a chart of a Helm repository.
    pub(super) fn chart(&mut self, line: u64, repository: &str, name: &str, version: &str) {
        match ChartName::new(repository, name, version) {
            Ok(chart) => self.list.charts.push(ListedChart { chart, origin: self.at(line) }),
            Err(error) => self.problem(line, error.to_string(), error.hint()),
        }
    }

    /// Adds an image that the list wants for `platform`.
    pub(super) fn image(
        &mut self,
        line: u64,
        name: &str,
        platform: Option<&str>,
        scope: Option<&RegistryScope>,
    ) {
        let name = name.trim();
        if name.is_empty() || name.starts_with('#') {
            return self.problem(line, "the image name is empty", None);
        }
        if self.is_full() {
            return;
        }
        let text = match platform {
            Some(platform) => format!("{name} platform={platform}"),
            None => name.to_owned(),
        };
        let origin = self.at(line);
        plain::parse_line(&mut self.list, &text, origin, scope);
    }

    /// Adds a repository, or a pattern of repositories, of which `options` select tags: words such as `tags=semver:^1`.
    pub(super) fn select(
        &mut self,
        line: u64,
        name: &str,
        options: &[String],
        platform: Option<&str>,
        scope: Option<&RegistryScope>,
    ) {
        if options.iter().any(|word| word.contains(char::is_whitespace) || word.ends_with([':', '='])) {
            return self.problem(line, format!("a pattern for {name:?} is empty or has blanks"), None);
        }
        let text = format!("{name}:* {}", options.join(" "));
        self.image(line, text.trim_end(), platform, scope);
    }

    /// Lets the selections that were added since there were `before` apply to the repositories that `pattern` matches.
    pub(super) fn match_repositories(&mut self, before: usize, pattern: Option<&RepositoryPattern>) {
        let Some(pattern) = pattern else { return };
        for selection in self.list.selections.iter_mut().skip(before) {
            selection.repositories = Some(pattern.clone());
        }
    }

    /// The entry that was added last, to change it.
    pub(super) fn last_mut(&mut self) -> Option<&mut ListEntry> {
        self.list.entries.last_mut()
    }

    /// The entry that was added last.
    pub(super) fn last(&self) -> Option<&ListEntry> {
        self.list.entries.last()
    }
}

/// A version range of another tool as an option: its parts are separated by commas instead of blanks.
pub(super) fn semver_option(range: &str) -> String {
    format!("tags=semver:{}", range.split_whitespace().collect::<Vec<_>>().join(","))
}
