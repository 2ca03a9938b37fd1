//! The report of a scan: a list for a person to review, which [`crate::list::parse`] reads, or JSON.

use super::{Discovery, DoubtReason};
use crate::list::SourceLocation;
use crate::oci::Reference;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// About how many bytes the places of one image take on its line. JSON has all places.
const MAX_PLACES_BYTES: usize = 400;
/// Maximum length of a text from a file, in bytes: far below the longest line of a list.
const MAX_TEXT: usize = 1024;

/// The result of a scan: every image once, sorted, with all its places.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ScanReport {
    /// The version of this schema: 2.
    pub schema: u32,
    /// The images that are sure.
    pub images: Vec<ReportedImage>,
    /// What may be images.
    pub doubtful: Vec<ReportedDoubt>,
}

/// An image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ReportedImage {
    /// The name in normal form.
    pub reference: Reference,
    /// The platforms that a list asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The places where it was found, as `file:line`.
    pub sources: Vec<String>,
}

/// What may be an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ReportedDoubt {
    /// The text.
    pub text: String,
    /// The reason why it is doubtful, a stable code.
    pub reason: DoubtReason,
    /// The reason in words.
    pub message: String,
    /// The places where it was found, as `file:line`.
    pub sources: Vec<String>,
}

/// Places, sorted by file, then by line.
type Places = BTreeSet<(String, u64)>;

impl ScanReport {
    /// Sorts and merges what was found. A doubt about an image that is sure elsewhere is dropped.
    #[must_use]
    pub fn of(found: &Discovery) -> Self {
        let mut images: BTreeMap<(Reference, Option<String>), Places> = BTreeMap::new();
        for entry in &found.images {
            let key = (entry.reference.clone(), entry.platforms.as_ref().map(ToString::to_string));
            images.entry(key).or_default().insert(place(&entry.origin));
        }
        let sure: BTreeSet<&Reference> = found.images.iter().map(|entry| &entry.reference).collect();
        let mut doubtful: BTreeMap<(&str, DoubtReason, Option<&str>), Places> = BTreeMap::new();
        for doubt in &found.doubts {
            if !doubt.reference.as_ref().is_some_and(|reference| sure.contains(reference)) {
                let key = (doubt.text.as_str(), doubt.reason, doubt.detail.as_deref());
                doubtful.entry(key).or_default().insert(place(&doubt.origin));
            }
        }
        let images = images.into_iter().map(|((reference, platform), places)| ReportedImage {
            reference,
            platform,
            sources: shown(places),
        });
        let doubtful = doubtful.into_iter().map(|((text, reason, detail), places)| ReportedDoubt {
            text: text.to_owned(),
            reason,
            message: detail.map_or_else(|| reason.to_string(), |detail| format!("{reason}: {detail}")),
            sources: shown(places),
        });
        Self { schema: 2, images: images.collect(), doubtful: doubtful.collect() }
    }

    /// The doubts that may be images which are needed.
    pub fn open_doubts(&self) -> impl Iterator<Item = &ReportedDoubt> {
        self.doubtful.iter().filter(|doubt| doubt.reason.is_open())
    }

    /// The list: an image a line with its places in a comment. Doubtful finds are commented out.
    #[must_use]
    pub fn to_list(&self) -> String {
        let mut text = String::new();
        for image in &self.images {
            let platform = image.platform.as_ref().map(|set| format!(" platform={set}")).unwrap_or_default();
            text.push_str(&format!("{}{platform}  # {}\n", image.reference, sources(&image.sources)));
        }
        if !self.doubtful.is_empty() {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str("# Doubtful: review these and list the images that are needed.\n");
        }
        for doubt in &self.doubtful {
            let name =
                if doubt.text.is_empty() { String::new() } else { format!("{}  # ", one_line(&doubt.text)) };
            text.push_str(&format!("# {name}{}: {}\n", sources(&doubt.sources), one_line(&doubt.message)));
        }
        text
    }
}

fn place(origin: &SourceLocation) -> (String, u64) {
    (origin.file.to_string(), origin.line)
}

fn shown(places: Places) -> Vec<String> {
    let shown = |(file, line): (String, u64)| if line == 0 { file } else { format!("{file}:{line}") };
    places.into_iter().map(shown).collect()
}

fn sources(all: &[String]) -> String {
    let mut text = String::new();
    for (number, source) in all.iter().enumerate() {
        let source = one_line(source);
        if number > 0 && text.len() + source.len() > MAX_PLACES_BYTES {
            text.push_str(&format!(" and {} more", all.len() - number));
            break;
        }
        text.push_str(if number > 0 { ", " } else { "" });
        text.push_str(&source);
    }
    text
}

/// Text from a file, shortened and on one line.
fn one_line(text: &str) -> String {
    let clean =
        text.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c });
    let mut line = String::new();
    for c in clean {
        if line.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        line.push(c);
    }
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{TextFormat, text};

    #[test]
    fn lines_stay_short_with_many_places() {
        let mut found = Discovery::default();
        for number in 0..2000 {
            let name = format!("{}{number}.yaml", "directory/".repeat(number % 7));
            text(&mut found, &name, TextFormat::Template, b"{{ x }}\nimage: a.io/b:1\nimage: {{ y }}\n");
        }
        let report = ScanReport::of(&found);
        assert_eq!((report.images[0].sources.len(), report.doubtful[0].sources.len()), (2000, 2000));
        let list = report.to_list();
        assert!(list.lines().all(|line| line.len() < 600), "{list}");
        assert!(list.lines().next().unwrap().ends_with(" more"), "{list}");
        assert_eq!(crate::list::parse("l", list.as_bytes()).entries.len(), 1);
    }

    #[test]
    fn reasons_are_stable_codes() {
        for (reason, code) in [
            (DoubtReason::UnrenderedTemplate, "unrendered-template"),
            (DoubtReason::NoTag, "no-tag"),
            (DoubtReason::EnvironmentVariable, "environment-variable"),
            (DoubtReason::NotRendered, "not-rendered"),
            (DoubtReason::MissingSubchart, "missing-subchart"),
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), code);
        }
    }
}
