//! The index of a Helm repository: `index.yaml`.

use crate::error::{Error, ErrorKind, Result, Side};
use crate::list::{ChartName, VersionRange, chart_version};
use crate::oci::Digest;
use semver::Version;
use serde::Deserialize;
use serde_saphyr::options::DuplicateKeyPolicy;
use std::collections::HashMap;

/// Maximum size of an index in bytes. Real ones have up to 40 MB.
pub(super) const MAX_INDEX_BYTES: usize = 64 << 20;
/// Maximum number of nodes of an index.
const MAX_NODES: usize = 4_000_000;
/// Maximum nesting depth.
const MAX_DEPTH: usize = 64;

/// What the index says of charts and their versions.
#[derive(Debug, Deserialize)]
pub(super) struct ChartIndex {
    /// Required, as Helm requires it: other YAML is no index.
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(default)]
    entries: HashMap<String, Option<Vec<IndexEntry>>>,
}

/// A version of a chart.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct IndexEntry {
    pub(super) version: Option<String>,
    pub(super) urls: Option<Vec<String>>,
    digest: Option<String>,
}

impl IndexEntry {
    /// The digest of the archive; none if the index has none.
    pub(super) fn digest(&self) -> Result<Option<Digest>, ()> {
        match self.digest.as_deref().unwrap_or_default() {
            "" => Ok(None),
            hex if hex.starts_with("sha256:") => hex.parse().map(Some).map_err(|_| ()),
            hex => format!("sha256:{hex}").parse().map(Some).map_err(|_| ()),
        }
    }
}

impl ChartIndex {
    /// Parses an index, YAML or JSON, which messages call `subject`.
    ///
    /// # Errors
    /// `Corrupt` if it is invalid or exceeds the bounds.
    pub(super) fn parse(subject: &str, text: &[u8]) -> Result<Self> {
        Self::parse_within(subject, text, MAX_NODES)
    }

    fn parse_within(subject: &str, text: &[u8], max_nodes: usize) -> Result<Self> {
        let options = serde_saphyr::options! {
            duplicate_keys: DuplicateKeyPolicy::LastWins,
            with_snippet: false,
            budget: serde_saphyr::budget! {
                max_events: 2 * max_nodes,
                max_nodes: max_nodes,
                max_total_scalar_bytes: MAX_INDEX_BYTES,
                max_depth: MAX_DEPTH,
                max_documents: 1,
            },
        };
        serde_saphyr::from_slice_with_options(text, options).map_err(|error| {
            Error::new(ErrorKind::Corrupt, subject, format!("invalid index: {error}")).on(Side::Source)
        })
    }

    /// The entry that Helm selects for `chart`: the version as written if there is one, else the newest in the range.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub(super) fn select(&self, chart: &ChartName) -> Result<&IndexEntry> {
        let not_found = |why: String| Error::new(ErrorKind::NotFound, chart, why).on(Side::Source);
        let entries = self.entries.get(&chart.name).and_then(Option::as_deref).unwrap_or_default();
        if entries.is_empty() {
            return Err(not_found(format!("the repository has no chart {}", chart.name)));
        }
        if let Some(entry) = entries.iter().find(|entry| entry.version.as_ref() == Some(&chart.version)) {
            return Ok(entry);
        }
        let range = VersionRange::parse(&chart.version);
        let versions = || {
            let parsed = |entry: &'_ IndexEntry| entry.version.as_deref().and_then(chart_version);
            entries.iter().filter_map(move |entry| Some((parsed(entry)?, entry)))
        };
        let matching =
            versions().filter(|(version, _)| range.as_ref().is_some_and(|range| range.matches(version)));
        let newest = matching.max_by(|(one, _), (other, _)| one.cmp(other));
        newest.map(|(_, entry)| entry).ok_or_else(|| {
            let newest: Option<Version> = versions().map(|(version, _)| version).max();
            let newest = newest.map(|newest| format!("; the newest is {newest}")).unwrap_or_default();
            let count = entries.len();
            not_found(format!("none of its {count} versions matches {}{newest}", chart.version))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "apiVersion: v1\ngenerated: 2026-01-01T00:00:00Z\nentries:\n  empty: null\n  app:\n\
        \x20 - {version: 2.0.0-rc.1, urls: [a-2.tgz]}\n\
        \x20 - {version: 1.2.0, urls: [https://cdn.example.com/a.tgz], digest: ''}\n\
        \x20 - {version: v1.10.0, urls: [a-1.10.tgz], annotations: {x: y}, created: 2026-01-01}\n\
        \x20 - {version: 1.1, description: \"version: 9.9.9\"}\n\
        \x20 - {version: nonsense}\n  - {}\n";

    fn chart(version: &str) -> ChartName {
        ChartName::new("https://charts.example.com", "app", version).unwrap()
    }

    #[test]
    fn newest_version_of_range_is_selected() {
        let index = ChartIndex::parse("index", INDEX.as_bytes()).unwrap();
        for (range, expected) in [
            ("*", "v1.10.0"),
            ("^1.2", "v1.10.0"),
            ("1.2.0", "1.2.0"),
            ("1.10.0", "v1.10.0"),
            ("~1.2", "1.2.0"),
            ("1.1", "1.1"),
            (">1-0", "2.0.0-rc.1"),
        ] {
            let entry = index.select(&chart(range)).unwrap();
            assert_eq!(entry.version.as_deref(), Some(expected), "{range}");
        }
        let error = index.select(&chart("^3")).unwrap_err();
        assert!(
            error.to_string().contains("none of its 6 versions matches ^3; the newest is 2.0.0-rc.1"),
            "{error}"
        );
        for name in ["empty", "absent"] {
            let error = index.select(&ChartName { name: name.into(), ..chart("1") }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }

    #[test]
    fn json_index_is_read() {
        let text = br#"{"apiVersion":"v1","entries":{"app":[{"version":"1.0.0","urls":["a.tgz"]}]}}"#;
        assert!(ChartIndex::parse("index", text).unwrap().select(&chart("1")).is_ok());
    }

    #[test]
    fn hostile_index_is_refused() {
        let deep = format!("entries: {}", "[".repeat(100_000));
        let aliases = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                       d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e]\n\
                       g: [*f,*f,*f,*f,*f,*f,*f]\nentries: {app: *g}\n";
        let nodes = format!("entries: {{app: [{}]}}", "{},".repeat(1000));
        for (name, text) in [
            ("deep", deep.as_str()),
            ("aliases", aliases),
            ("nodes", &nodes),
            ("list", "- a\n"),
            ("entries", "entries: [a]\n"),
        ] {
            let text = format!("apiVersion: v1\n{text}");
            let parsed = ChartIndex::parse_within("index", text.as_bytes(), 1000);
            let error = parsed.err().unwrap_or_else(|| panic!("{name}"));
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        }
        let page = b"<html><body>: x</body></html>";
        assert_eq!(ChartIndex::parse("index", page).err().unwrap().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn invalid_digest_is_an_error() {
        for (digest, expected) in [
            ("", Ok(false)),
            ("e3b0", Err(())),
            (&"a".repeat(64), Ok(true)),
            (&format!("sha256:{}", "a".repeat(64)), Ok(true)),
        ] {
            let entry = IndexEntry { digest: Some(digest.to_owned()), ..IndexEntry::default() };
            assert_eq!(entry.digest().map(|digest| digest.is_some()), expected, "{digest}");
        }
    }
}
