//! Ranges of chart versions, as Helm reads them (github.com/Masterminds/semver).

use semver::{BuildMetadata, Prerelease, Version};

/// Maximum length of a range in bytes.
const MAX_BYTES: usize = 256;
/// The operators; one that is the start of another follows it.
const OPERATORS: &[(&str, Operator)] = &[
    ("!=", Operator::NotEqual),
    (">=", Operator::GreaterOrEqual),
    ("=>", Operator::GreaterOrEqual),
    ("<=", Operator::LessOrEqual),
    ("=<", Operator::LessOrEqual),
    ("~>", Operator::Tilde),
    ("=", Operator::Equal),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("~", Operator::Tilde),
    ("^", Operator::Caret),
];

/// A range of versions: `^1.2`, `1.2.x`, `>=1.2 <2 || 3.1.4`, `1.2 - 1.5`, `*`.
///
/// A version without an operator is that version, and one with fewer than three parts covers the rest: `1.2` is `1.2.x`.
/// Prereleases match only where the range names one, such as `>=1.2.0-0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRange(Vec<Vec<Comparator>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Tilde,
    Caret,
}

/// A comparison with a version of which parts may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Comparator {
    operator: Operator,
    /// Missing parts are 0.
    version: Version,
    /// How many parts are written, from none (`*`) to 3.
    parts: usize,
}

impl VersionRange {
    /// Parses a range; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        text.split("||").map(alternative).collect::<Option<_>>().map(Self)
    }

    /// Whether `version` is in the range.
    #[must_use]
    pub fn matches(&self, version: &Version) -> bool {
        self.0.iter().any(|all| all.iter().all(|comparator| comparator.matches(version)))
    }
}

/// Parses a version as charts have them: a leading `v` and missing parts are allowed.
#[must_use]
pub fn chart_version(text: &str) -> Option<Version> {
    partial_version(text).filter(|(_, parts)| *parts > 0).map(|(version, _)| version)
}

/// Comparators that must all match, separated by commas or blanks.
fn alternative(text: &str) -> Option<Vec<Comparator>> {
    let text = text.replace([',', '\t'], " ");
    if let Some((from, to)) = text.split_once(" - ") {
        let ends = [(Operator::GreaterOrEqual, from), (Operator::LessOrEqual, to)];
        return ends.into_iter().map(|(operator, version)| comparator(operator, version.trim())).collect();
    }
    let mut comparators = Vec::new();
    let mut pending = None;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let operator = OPERATORS.iter().find(|(sign, _)| word.starts_with(sign));
        let (operator, version) = match (pending.take(), operator) {
            (Some(_), Some(_)) => return None,
            (Some(pending), None) => (pending, word),
            (None, Some((sign, operator))) => (*operator, &word[sign.len()..]),
            (None, None) => (Operator::Equal, word),
        };
        if version.is_empty() {
            pending = Some(operator);
        } else {
            comparators.push(comparator(operator, version)?);
        }
    }
    (pending.is_none() && !comparators.is_empty()).then_some(comparators)
}

fn comparator(operator: Operator, version: &str) -> Option<Comparator> {
    let (version, parts) = partial_version(version)?;
    Some(Comparator { operator, version, parts })
}

/// A version of which parts may be missing or wildcards, and how many parts it has.
fn partial_version(text: &str) -> Option<(Version, usize)> {
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    if text.ends_with(['-', '+']) {
        return None;
    }
    let (text, build) = text.split_once('+').unwrap_or((text, ""));
    let (core, prerelease) = text.split_once('-').unwrap_or((text, ""));
    let mut numbers = [0; 3];
    let mut parts = 0;
    let mut is_wildcard = false;
    for (index, part) in core.split('.').enumerate() {
        let number = numbers.get_mut(index)?;
        is_wildcard |= matches!(part, "*" | "x" | "X");
        if !is_wildcard {
            *number = part.parse().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()))?;
            parts += 1;
        }
    }
    let [major, minor, patch] = numbers;
    let pre = Prerelease::new(prerelease).ok()?;
    let build = BuildMetadata::new(build).ok()?;
    Some((Version { major, minor, patch, pre, build }, parts))
}

impl Comparator {
    fn matches(&self, found: &Version) -> bool {
        let own = &self.version;
        if !found.pre.is_empty() && own.pre.is_empty() {
            return false;
        }
        let order = found.cmp_precedence(own);
        let same_start = |parts: usize| {
            let pairs = [(found.major, own.major), (found.minor, own.minor), (found.patch, own.patch)];
            pairs[..parts].iter().all(|(found, own)| found == own)
        };
        match self.operator {
            Operator::Equal if self.parts == 3 => order.is_eq(),
            Operator::Equal => same_start(self.parts),
            Operator::NotEqual if self.parts == 3 => order.is_ne(),
            Operator::NotEqual => !same_start(self.parts),
            // Of a series with missing parts, all is covered: >1.2 starts at 1.3, and <=1.2 ends before it.
            Operator::Greater => order.is_gt() && (self.parts == 3 || !same_start(self.parts)),
            Operator::GreaterOrEqual => order.is_ge(),
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le() || (self.parts < 3 && same_start(self.parts)),
            Operator::Tilde => order.is_ge() && same_start(self.parts.min(2)),
            Operator::Caret => order.is_ge() && same_start(self.caret_parts()),
        }
    }

    /// How many parts a caret holds fixed: up to the first that is not zero.
    fn caret_parts(&self) -> usize {
        let Self { version, parts, .. } = self;
        let numbers = [version.major, version.minor, version.patch];
        let first = numbers.iter().position(|number| *number > 0).unwrap_or(2);
        (first + 1).min(*parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_match_as_in_helm() {
        for (range, inside, outside) in [
            ("1.2.3", &["1.2.3", "v1.2.3", "1.2.3+b1"][..], &["1.2.4", "1.2.3-rc.1"][..]),
            ("v1.2.3", &["1.2.3"], &["1.2.2"]),
            ("1.2", &["1.2.0", "1.2.9"], &["1.3.0", "1.1.9"]),
            ("1.2.x", &["1.2.0"], &["1.3.0", "1.2.1-rc.1"]),
            ("*", &["0.0.1", "9.0.0"], &["1.0.0-rc.1"]),
            ("^1.2", &["1.2.0", "1.9.0"], &["2.0.0", "1.1.0", "1.3.0-rc.1"]),
            ("^0.2.3", &["0.2.3", "0.2.9"], &["0.3.0", "0.2.2"]),
            ("^0.0.3", &["0.0.3"], &["0.0.4"]),
            ("^0", &["0.0.1", "0.9.0"], &["1.0.0"]),
            ("^0.0", &["0.0.9"], &["0.1.0"]),
            ("~1.2.3", &["1.2.9"], &["1.3.0", "1.2.2"]),
            ("~1", &["1.9.0"], &["2.0.0"]),
            (">1.2", &["1.3.0"], &["1.2.9", "1.2.0"]),
            ("<=1.2", &["1.2.9", "1.0.0"], &["1.3.0"]),
            ("< 1.2", &["1.1.9"], &["1.2.0"]),
            ("!=1.2", &["1.3.0"], &["1.2.3"]),
            (">=1.2, <2", &["1.9.0"], &["2.0.0", "1.1.0"]),
            (">=1.2 <2", &["1.2.0"], &["2.0.0"]),
            (">= 1.2 < 2", &["1.2.0"], &["2.0.0"]),
            ("1.2,-,1.4", &["1.2.0"], &["1.5.0"]),
            ("1.2 - 1.4", &["1.2.0", "1.4.7"], &["1.5.0", "1.1.0"]),
            ("1.0.0 || ^3", &["1.0.0", "3.1.0"], &["2.0.0", "1.0.1"]),
            (">=1.2.0-0", &["1.3.0-rc.1", "1.2.0"], &["1.1.0"]),
            (">0.0.0-0", &["1.0.0-alpha", "2.0.0"], &[]),
        ] {
            let parsed = VersionRange::parse(range).unwrap();
            for (versions, expected) in [(inside, true), (outside, false)] {
                for version in versions {
                    let found = chart_version(version).unwrap();
                    assert_eq!(parsed.matches(&found), expected, "{range} {version}");
                }
            }
        }
    }

    #[test]
    fn other_text_is_no_range() {
        for text in ["", "||", "latest", "1.2.3.4", "1..2", ">", "> >1", "^v", "1.2-", "1 ||", "+1.2"] {
            assert_eq!(VersionRange::parse(text), None, "{text}");
        }
        assert_eq!(VersionRange::parse(&"1 ".repeat(MAX_BYTES)), None);
        assert_eq!(chart_version("*"), None);
    }
}
