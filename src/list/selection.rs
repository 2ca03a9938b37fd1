//! Selection of tags: which tags of a repository a list entry asks for. Pure: the caller lists the tags.

use super::tag_version::{PRERELEASES, TagVersion};
use crate::oci::rfc3339::parse_rfc3339;
use crate::oci::{Tag, wildcard};
use regex_lite::Regex;
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

/// Endings of tags that hold signatures and other artifacts about images.
const ARTIFACT_ENDINGS: &[&str] = &[".sig", ".att", ".sbom"];
/// Maximum length of a pattern, in bytes.
const MAX_PATTERN: usize = 1024;

/// Which tags of a repository to save.
#[derive(Clone, Debug)]
pub struct TagSelection {
    /// All of them must match.
    patterns: Vec<TagPattern>,
    except: Vec<TagPattern>,
    newest: Option<Newest>,
    since: Option<Since>,
}

/// The date that an image must not be older than.
#[derive(Clone, Debug)]
struct Since {
    text: String,
    time: SystemTime,
}

/// How many of the newest versions to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Newest {
    count: usize,
    scope: NewestScope,
}

/// What the newest versions are counted for, in addition to the variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewestScope {
    Repository,
    Major,
    Minor,
}

#[derive(Clone, Debug)]
enum TagPattern {
    /// With wildcards: `*` and `?`.
    Glob(String),
    /// Anchored at both ends.
    Regex { text: String, regex: Regex },
    /// Ranges of which one has to match.
    Semver { text: String, ranges: Vec<VersionReq> },
}

/// Why a tag was not selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NotSelected {
    /// A signature, an attestation or an SBOM.
    Artifact,
    /// The selection compares versions, and the tag is none.
    NotAVersion,
    /// The tag does not match.
    NoMatch,
    /// A prerelease, which has to be asked for.
    Prerelease,
    /// An exception matches the tag.
    Excepted,
    /// Newer versions fill the number that is wanted.
    Older,
    /// The image was created before the date that is wanted.
    BeforeDate,
    /// The image does not say when it was created.
    WithoutDate,
}

impl fmt::Display for NotSelected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Artifact => "not an image",
            Self::NotAVersion => "not a version",
            Self::NoMatch => "does not match",
            Self::Prerelease => "a prerelease",
            Self::Excepted => "excepted",
            Self::Older => "older",
            Self::BeforeDate => "before the date",
            Self::WithoutDate => "without a date",
        })
    }
}

/// The outcome of a selection.
#[derive(Clone, Debug, Default)]
pub struct SelectedTags {
    /// The tags to save, oldest version first, then tags that are no versions by name.
    pub tags: Vec<Tag>,
    /// The other tags and why they were not selected.
    pub others: Vec<(Tag, NotSelected)>,
}

impl SelectedTags {
    /// How many tags were selected, and why the others were not.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut reasons: BTreeMap<NotSelected, usize> = BTreeMap::new();
        for (_, reason) in &self.others {
            *reasons.entry(*reason).or_default() += 1;
        }
        let all = self.tags.len() + self.others.len();
        let reasons: Vec<String> =
            reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let others = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
        format!("selected {} of {all} tags{others}", self.tags.len())
    }
}

impl TagSelection {
    /// The tags that match a glob pattern.
    #[must_use]
    pub fn glob(pattern: &str) -> Self {
        let patterns = vec![TagPattern::Glob(pattern.to_owned())];
        Self { patterns, except: Vec::new(), newest: None, since: None }
    }

    /// Adds `tags=`: `all`, a glob pattern, `re:REGEX` or `semver:RANGE`. Tags must match all of them.
    ///
    /// # Errors
    /// Why the pattern is invalid.
    pub fn add_pattern(&mut self, text: &str) -> Result<(), String> {
        let pattern = TagPattern::parse(text)?;
        self.patterns.retain(|pattern| !pattern.is_all());
        if self.patterns.is_empty() || !pattern.is_all() {
            self.patterns.push(pattern);
        }
        Ok(())
    }

    /// Sets `since=`: a date (`2026-06-01`) or a time (RFC 3339).
    ///
    /// # Errors
    /// What is expected instead.
    pub fn set_since(&mut self, text: &str) -> Result<(), String> {
        let is_date = text.len() == "2026-06-01".len();
        let time = if is_date { parse_rfc3339(&format!("{text}T00:00:00Z")) } else { parse_rfc3339(text) };
        let time = time.ok_or_else(|| "expected a date such as 2026-06-01".to_owned())?;
        self.since = Some(Since { text: text.to_owned(), time });
        Ok(())
    }

    /// Whether the selection needs to know when images were created.
    #[must_use]
    pub fn needs_dates(&self) -> bool {
        self.since.is_some()
    }

    /// Drops the tags whose images `created` says are older than `since=`, or have no date.
    pub fn drop_older(&self, selected: &mut SelectedTags, created: impl Fn(&Tag) -> Option<SystemTime>) {
        let Some(since) = &self.since else { return };
        let (kept, dropped): (Vec<_>, Vec<_>) = std::mem::take(&mut selected.tags)
            .into_iter()
            .map(|tag| match created(&tag) {
                Some(time) if time >= since.time => (tag, None),
                Some(_) => (tag, Some(NotSelected::BeforeDate)),
                None => (tag, Some(NotSelected::WithoutDate)),
            })
            .partition(|(_, why)| why.is_none());
        selected.tags = kept.into_iter().map(|(tag, _)| tag).collect();
        selected.others.extend(dropped.into_iter().filter_map(|(tag, why)| Some((tag, why?))));
    }

    /// Adds `except=`, which has the same forms as `tags=`.
    ///
    /// # Errors
    /// Why the pattern is invalid.
    pub fn add_exception(&mut self, text: &str) -> Result<(), String> {
        self.except.push(TagPattern::parse(text)?);
        Ok(())
    }

    /// Sets `newest=`: `N`, `N/minor` or `N/major`.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn set_newest(&mut self, text: &str) -> Result<(), String> {
        let (count, scope) = text.split_once('/').unwrap_or((text, ""));
        let scope = match scope {
            "" if !text.contains('/') => NewestScope::Repository,
            "major" => NewestScope::Major,
            "minor" => NewestScope::Minor,
            _ => return Err("expected N, N/minor or N/major".to_owned()),
        };
        let count = count.parse().ok().filter(|count| *count > 0);
        let count = count.ok_or_else(|| "expected N, N/minor or N/major".to_owned())?;
        self.newest = Some(Newest { count, scope });
        Ok(())
    }

    /// Selects among the tags of a repository.
    #[must_use]
    pub fn select(&self, tags: &[Tag]) -> SelectedTags {
        let mut selected = SelectedTags::default();
        let mut matching: Vec<(Option<TagVersion>, Tag)> = Vec::new();
        for tag in tags {
            let version = TagVersion::parse(tag.as_str());
            match self.refusal(tag, version.as_ref()) {
                Some(why) => selected.others.push((tag.clone(), why)),
                None => matching.push((version, tag.clone())),
            }
        }
        if let Some(newest) = self.newest {
            matching = newest.keep(matching, &mut selected.others);
        }
        matching.sort_by(|one, other| match (&one.0, &other.0) {
            (Some(a), Some(b)) => a.compare(b).then_with(|| one.1.cmp(&other.1)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => one.1.cmp(&other.1),
        });
        selected.tags = matching.into_iter().map(|(_, tag)| tag).collect();
        selected
    }

    fn refusal(&self, tag: &Tag, version: Option<&TagVersion>) -> Option<NotSelected> {
        if is_artifact(tag) {
            return Some(NotSelected::Artifact);
        }
        let is_range = |pattern: &TagPattern| matches!(pattern, TagPattern::Semver { .. });
        let compares = self.newest.is_some() || self.patterns.iter().any(is_range);
        if compares && version.is_none() {
            return Some(NotSelected::NotAVersion);
        }
        if !self.patterns.iter().all(|pattern| pattern.matches(tag.as_str(), version)) {
            return Some(NotSelected::NoMatch);
        }
        // A pattern that names prereleases asks for them.
        let wants_prereleases = self.patterns.iter().any(TagPattern::names_prereleases);
        if compares && !wants_prereleases && version.is_some_and(|version| !version.prerelease.is_empty()) {
            return Some(NotSelected::Prerelease);
        }
        let is_excepted = self.except.iter().any(|except| except.matches(tag.as_str(), version));
        is_excepted.then_some(NotSelected::Excepted)
    }
}

/// The form in which a list has it.
impl fmt::Display for TagSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, pattern) in self.patterns.iter().enumerate() {
            write!(f, "{}tags={pattern}", if position == 0 { "" } else { " " })?;
        }
        for except in &self.except {
            write!(f, " except={except}")?;
        }
        match self.newest {
            Some(Newest { count, scope: NewestScope::Repository }) => write!(f, " newest={count}")?,
            Some(Newest { count, scope: NewestScope::Major }) => write!(f, " newest={count}/major")?,
            Some(Newest { count, scope: NewestScope::Minor }) => write!(f, " newest={count}/minor")?,
            None => {}
        }
        match &self.since {
            Some(since) => write!(f, " since={}", since.text),
            None => Ok(()),
        }
    }
}

impl Newest {
    /// Keeps the newest versions of each variant.
    fn keep(
        self,
        matching: Vec<(Option<TagVersion>, Tag)>,
        others: &mut Vec<(Tag, NotSelected)>,
    ) -> Vec<(Option<TagVersion>, Tag)> {
        let mut groups: BTreeMap<_, Vec<(TagVersion, Tag)>> = BTreeMap::new();
        for (version, tag) in matching {
            let Some(version) = version else { continue };
            let [major, minor, _] = version.core;
            let scope = match self.scope {
                NewestScope::Repository => [0, 0],
                NewestScope::Major => [major, 0],
                NewestScope::Minor => [major, minor],
            };
            groups.entry((version.variant.clone(), scope)).or_default().push((version, tag));
        }
        let mut kept = Vec::new();
        for mut group in groups.into_values() {
            group.sort_by(|one, other| other.0.compare(&one.0));
            let mut versions = 0;
            for index in 0..group.len() {
                // Tags of one version, such as v1.0 and 1.0, count once.
                let is_new = index == 0 || group[index - 1].0.compare(&group[index].0) != Ordering::Equal;
                versions += usize::from(is_new);
                let (version, tag) = group[index].clone();
                if versions <= self.count {
                    kept.push((Some(version), tag));
                } else {
                    others.push((tag, NotSelected::Older));
                }
            }
        }
        kept
    }
}

impl TagPattern {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the pattern is empty".to_owned());
        }
        if text.len() > MAX_PATTERN {
            return Err(format!("the pattern is longer than {MAX_PATTERN} bytes"));
        }
        if let Some(pattern) = text.strip_prefix("re:") {
            let regex = Regex::new(&format!("^(?:{pattern})$")).map_err(|error| error.to_string())?;
            return Ok(Self::Regex { text: pattern.to_owned(), regex });
        }
        if let Some(range) = text.strip_prefix("semver:") {
            let ranges: Result<Vec<VersionReq>, String> = range.split("||").map(parse_range).collect();
            return Ok(Self::Semver { text: range.to_owned(), ranges: ranges? });
        }
        Ok(Self::Glob(if text == "all" { "*".to_owned() } else { text.to_owned() }))
    }

    /// Whether it is `all`.
    fn is_all(&self) -> bool {
        matches!(self, Self::Glob(text) if text == "*")
    }

    fn matches(&self, tag: &str, version: Option<&TagVersion>) -> bool {
        match self {
            Self::Glob(pattern) => wildcard::matches(pattern, tag),
            Self::Regex { regex, .. } => regex.is_match(tag),
            Self::Semver { ranges, .. } => {
                let Some(version) = version else { return false };
                let [major, minor, patch] = version.core;
                let plain = Version::new(major, minor, patch);
                // The range decides by numbers; whether prereleases are wanted is decided elsewhere.
                ranges.iter().any(|range| range.matches(&plain))
            }
        }
    }

    /// Whether the pattern mentions a prerelease.
    fn names_prereleases(&self) -> bool {
        let text = match self {
            Self::Glob(text) | Self::Regex { text, .. } | Self::Semver { text, .. } => {
                text.to_ascii_lowercase()
            }
        };
        let words = text.split(|c: char| !c.is_ascii_alphabetic());
        words.filter(|word| word.len() > 1).any(|word| PRERELEASES.contains(&word))
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Glob(text) if text == "*" => f.write_str("all"),
            Self::Glob(text) => f.write_str(text),
            Self::Regex { text, .. } => write!(f, "re:{text}"),
            Self::Semver { text, .. } => write!(f, "semver:{text}"),
        }
    }
}

/// A range whose comparators are separated by commas or blanks. The prerelease of a bound is dropped, and `names_prereleases` sees
/// it.
fn parse_range(text: &str) -> Result<VersionReq, String> {
    let spaced = text.replace(',', " ");
    let mut comparators: Vec<String> = Vec::new();
    for word in spaced.split_whitespace() {
        match comparators.last_mut() {
            // ">= 1.2"
            Some(last) if last.ends_with(['<', '>', '=', '^', '~']) => last.push_str(word),
            _ => comparators.push(word.to_owned()),
        }
    }
    let plain = comparators.iter().map(|comparator| {
        let comparator = comparator.split('-').next().unwrap_or(comparator);
        let digits =
            comparator.find(|c: char| c.is_ascii_alphanumeric() || c == '*').unwrap_or(comparator.len());
        let (operator, version) = comparator.split_at(digits);
        format!("{operator}{}", version.strip_prefix('v').unwrap_or(version))
    });
    VersionReq::parse(&plain.collect::<Vec<_>>().join(", ")).map_err(|error| error.to_string())
}

/// Whether a tag holds something about an image and not an image.
fn is_artifact(tag: &Tag) -> bool {
    tag.referrers_subject().is_some() || ARTIFACT_ENDINGS.iter().any(|ending| tag.as_str().ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(words: &str) -> Result<TagSelection, String> {
        let mut selection = TagSelection::glob("*");
        for word in words.split_whitespace() {
            match word.split_once('=') {
                Some(("tags", value)) => selection.add_pattern(value)?,
                Some(("since", value)) => selection.set_since(value)?,
                Some(("except", value)) => selection.add_exception(value)?,
                Some((_, value)) => selection.set_newest(value)?,
                None => {}
            }
        }
        Ok(selection)
    }

    #[test]
    fn tags_are_selected_by_pattern_version_and_age() {
        let all = "latest v3.0.1 v3.1.0 v3.1.1 v3.2.0-rc.1 v3.2.0 3.2 2.9.9 v3.2.0-alpine v3.1.1-alpine v4.0.0 main \
                   sha256-2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae.sig v3.2.0.sbom";
        let tags: Vec<Tag> = all.split_whitespace().map(|tag| tag.parse().unwrap()).collect();
        for (words, expected) in [
            ("tags=all newest=1", "v3.2.0-alpine v4.0.0"),
            ("tags=semver:^3.1", "v3.1.0 v3.1.1 v3.1.1-alpine 3.2 v3.2.0 v3.2.0-alpine"),
            ("tags=semver:^3.1 newest=1", "3.2 v3.2.0 v3.2.0-alpine"),
            ("tags=semver:^3.1 newest=1/minor", "v3.1.1 v3.1.1-alpine 3.2 v3.2.0 v3.2.0-alpine"),
            ("tags=semver:>=3.0,<3.1", "v3.0.1"),
            ("tags=semver:~3.1||^4", "v3.1.0 v3.1.1 v3.1.1-alpine v4.0.0"),
            ("tags=semver:>=3.2.0-rc.1,<4", "v3.2.0-rc.1 3.2 v3.2.0 v3.2.0-alpine"),
            ("tags=re:v3\\.\\d+\\.\\d+-alpine newest=1", "v3.2.0-alpine"),
            ("tags=re:.*-rc.*", "v3.2.0-rc.1"),
            ("tags=v3.1.*", "v3.1.0 v3.1.1 v3.1.1-alpine"),
            ("tags=v?.0.0", "v4.0.0"),
            ("tags=v3* except=*-alpine except=re:.*rc.*", "v3.0.1 v3.1.0 v3.1.1 v3.2.0"),
            ("tags=main", "main"),
            ("newest=1/major", "2.9.9 3.2 v3.2.0 v3.2.0-alpine v4.0.0"),
            ("tags=semver:^3 tags=re:v.* tags=*-alpine", "v3.1.1-alpine v3.2.0-alpine"),
            ("tags=all tags=main since=2026-06-01", "main"),
        ] {
            let selection = selection(words).unwrap();
            let selected = selection.select(&tags);
            let names: Vec<&str> = selected.tags.iter().map(Tag::as_str).collect();
            assert_eq!(names.join(" "), expected, "{words}");
            assert_eq!(selected.tags.len() + selected.others.len(), tags.len(), "{words}");
            // What a selection prints selects the same.
            let again = self::selection(&selection.to_string()).unwrap();
            assert_eq!(again.select(&tags).tags, selected.tags, "{selection}");
        }
    }

    #[test]
    fn others_have_their_reasons() {
        let tags: Vec<Tag> = ["main", "1.0-rc1", "1.0", "0.9", "2.0", "1.0.sig", "1.0-x"]
            .map(|tag| tag.parse().unwrap())
            .into();
        let selected = selection("tags=semver:<2 newest=1 except=*-x").unwrap().select(&tags);
        let reason =
            |tag: &str| selected.others.iter().find(|(other, _)| other.as_str() == tag).map(|(_, why)| *why);
        for (tag, why) in [
            ("main", Some(NotSelected::NotAVersion)),
            ("1.0-rc1", Some(NotSelected::Prerelease)),
            ("1.0", None),
            ("0.9", Some(NotSelected::Older)),
            ("2.0", Some(NotSelected::NoMatch)),
            ("1.0.sig", Some(NotSelected::Artifact)),
            ("1.0-x", Some(NotSelected::Excepted)),
        ] {
            assert_eq!(reason(tag), why, "{tag}");
        }
    }

    #[test]
    fn images_from_before_a_date_are_dropped() {
        let selection = selection("tags=all since=2026-06-01").unwrap();
        let tags: Vec<Tag> = ["old", "new", "undated"].map(|tag| tag.parse().unwrap()).into();
        let mut selected = selection.select(&tags);
        selection.drop_older(&mut selected, |tag| match tag.as_str() {
            "old" => parse_rfc3339("2026-05-31T23:59:59Z"),
            "new" => parse_rfc3339("2026-06-01T02:00:00+02:00"),
            _ => None,
        });
        assert_eq!(selected.tags, [tags[1].clone()]);
        assert_eq!(selected.summary(), "selected 1 of 3 tags (1 before the date, 1 without a date)");
    }

    #[test]
    fn invalid_selections_are_refused() {
        for words in [
            "since=yesterday",
            "since=2026-13-01",
            "tags=",
            "tags=re:(",
            "tags=semver:hello",
            "newest=0",
            "newest=2/patch",
            "newest=2/",
            "newest=x",
        ] {
            assert!(selection(words).is_err(), "{words}");
        }
        assert!(selection(&format!("tags={}", "x".repeat(MAX_PATTERN + 1))).is_err());
    }
}
