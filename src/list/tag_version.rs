//! Tags as versions.
//!
//! Tags follow no standard, so versions are read leniently: a leading `v` is allowed, one or two parts are enough, and `_` or `+`
//! start a build number. A suffix is a prerelease only if it has the name of one (`-rc.1`, `b2`); any other suffix, such as
//! `-alpine`, is a variant, and variants are counted separately.

use std::cmp::Ordering;

/// What prereleases are called.
pub(super) const PRERELEASES: &[&str] =
    &["alpha", "beta", "rc", "pre", "preview", "dev", "snapshot", "nightly", "canary", "a", "b", "m"];

/// A tag as a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TagVersion {
    pub(super) core: [u64; 3],
    /// Names and numbers of a prerelease; empty for a release.
    pub(super) prerelease: Vec<Identifier>,
    build: Vec<Identifier>,
    /// The rest of the tag, such as `alpine`.
    pub(super) variant: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Identifier {
    Number(u64),
    Text(String),
}

impl TagVersion {
    pub(super) fn parse(tag: &str) -> Option<Self> {
        let text = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
        let mut core = [0; 3];
        let mut rest = text;
        for (index, part) in core.iter_mut().enumerate() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            // A date or a commit is not a version.
            *part = rest[..digits].parse().ok().filter(|_| digits < 8)?;
            rest = &rest[digits..];
            match rest.strip_prefix('.') {
                Some(after) if index < 2 && after.starts_with(|c: char| c.is_ascii_digit()) => rest = after,
                _ => break,
            }
        }
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && text.len() > 4
            || !rest.is_empty() && !rest.starts_with(['-', '_', '+', '.']) && !starts_prerelease(rest)
        {
            return None;
        }
        let mut version = Self { core, prerelease: Vec::new(), build: Vec::new(), variant: String::new() };
        let mut variant: Vec<&str> = Vec::new();
        let mut is_build = false;
        for (separator, word) in words(rest) {
            is_build = matches!(separator, Some('_' | '+')) || is_build && separator == Some('.');
            let continues = separator == Some('.') && variant.is_empty() && !version.prerelease.is_empty();
            if is_build {
                version.build.extend(identifiers(word));
            } else if variant.is_empty() && (starts_prerelease(word) || continues) {
                version.prerelease.extend(identifiers(word));
            } else {
                variant.push(word);
            }
        }
        version.variant = variant.join("-");
        Some(version)
    }

    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let release = |version: &Self| version.prerelease.is_empty();
        self.core
            .cmp(&other.core)
            .then_with(|| release(self).cmp(&release(other)))
            .then_with(|| self.prerelease.cmp(&other.prerelease))
            .then_with(|| self.build.cmp(&other.build))
    }
}

/// The words of a suffix with the separators before them.
fn words(suffix: &str) -> impl Iterator<Item = (Option<char>, &str)> {
    let is_separator = |c: char| matches!(c, '-' | '_' | '+' | '.');
    let starts = suffix.char_indices().filter(move |(_, c)| is_separator(*c)).map(|(at, _)| at);
    let starts: Vec<usize> = (!suffix.starts_with(is_separator))
        .then_some(0)
        .into_iter()
        .chain(starts)
        .chain([suffix.len()])
        .collect();
    (1..starts.len()).filter_map(move |index| {
        let word = &suffix[starts[index - 1]..starts[index]];
        let separator = word.chars().next().filter(|c| is_separator(*c));
        let word = word.strip_prefix(is_separator).unwrap_or(word);
        (!word.is_empty()).then_some((separator, word))
    })
}

/// Whether a word is the name of a prerelease, alone or with a number: `rc`, `rc1`.
fn starts_prerelease(word: &str) -> bool {
    let letters = word.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (name, rest) = word.split_at(letters);
    let lower = name.to_ascii_lowercase();
    let is_name = PRERELEASES.contains(&lower.as_str()) && (name.len() > 1 || !rest.is_empty());
    is_name
        && rest
            .bytes()
            .take_while(|byte| !matches!(byte, b'-' | b'_' | b'+' | b'.'))
            .all(|byte| byte.is_ascii_digit())
}

/// A word as names and numbers: `rc10` is `rc` and 10.
fn identifiers(word: &str) -> Vec<Identifier> {
    let digits = word.len() - word.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (name, number) = word.split_at(digits);
    let name = (!name.is_empty()).then(|| Identifier::Text(name.to_ascii_lowercase()));
    let number = number.parse().ok().map(Identifier::Number);
    name.into_iter().chain(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_leniently() {
        let ordered = [
            "0.9",
            "1.0.0-alpha1",
            "1.0.0-beta.2",
            "1.0.0-rc.2",
            "1.0.0rc10",
            "v1.0",
            "1.0.0_1",
            "1.0.0+2",
            "1.2",
            "1.10.0",
        ];
        for pair in ordered.windows(2) {
            let version = |tag: &str| TagVersion::parse(tag).unwrap();
            assert_eq!(version(pair[0]).compare(&version(pair[1])), Ordering::Less, "{pair:?}");
        }
        for (tag, variant) in [
            ("1.2.3-alpine3.20", Some("alpine3-20")),
            ("1.2.3-rc.1-alpine", Some("alpine")),
            ("1.2.3.4", Some("4")),
            ("17", Some("")),
            ("20240612", None),
            ("2c26b46b", None),
            ("latest", None),
            ("bookworm", None),
        ] {
            assert_eq!(TagVersion::parse(tag).map(|version| version.variant).as_deref(), variant, "{tag}");
        }
    }
}
