//! What was found, for a person to look over: a list that [`crate::list::parse`] reads.

use super::Found;
use crate::list::SourceLocation;
use crate::oci::Reference;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The places of one image take about so much of its line, in bytes; JSON has them all.
const ROOM: usize = 400;
/// A text from a file takes no more than this, in bytes: a line stays far below a list's longest.
const MAX_TEXT: usize = 1024;

/// What was found: each image once, sorted, with all places.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Review {
    /// The form of this document: 1.
    pub schema: u32,
    /// The images that are sure.
    pub images: Vec<Image>,
    /// What may be images.
    pub doubtful: Vec<Doubtful>,
}

/// An image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// The name, in normal form.
    pub reference: Reference,
    /// The platforms that a list asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Where it was found, as `file:line`.
    pub sources: Vec<String>,
}

/// What may be an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Doubtful {
    /// What is written there.
    pub text: String,
    /// Why it is doubtful.
    pub why: String,
    /// Where it was found, as `file:line`.
    pub sources: Vec<String>,
}

/// Places, sorted as a reader expects: by file, then by line.
type Places = BTreeSet<(String, u64)>;

impl Review {
    /// Sorts and joins what was found. A doubt about an image that is sure elsewhere is none.
    #[must_use]
    pub fn of(found: &Found) -> Self {
        let mut images: BTreeMap<(Reference, Option<String>), Places> = BTreeMap::new();
        for entry in &found.entries {
            let key = (entry.reference.clone(), entry.platforms.as_ref().map(ToString::to_string));
            images.entry(key).or_default().insert(place(&entry.origin));
        }
        let sure: BTreeSet<&Reference> = found.entries.iter().map(|entry| &entry.reference).collect();
        let mut doubtful: BTreeMap<(&str, &str), Places> = BTreeMap::new();
        for doubt in &found.doubts {
            if !doubt.reference.as_ref().is_some_and(|reference| sure.contains(reference)) {
                doubtful.entry((&doubt.text, &doubt.why)).or_default().insert(place(&doubt.origin));
            }
        }
        let images = images.into_iter().map(|((reference, platform), places)| Image {
            reference,
            platform,
            sources: shown(places),
        });
        let doubtful = doubtful.into_iter().map(|((text, why), places)| Doubtful {
            text: text.to_owned(),
            why: why.to_owned(),
            sources: shown(places),
        });
        Self { schema: 1, images: images.collect(), doubtful: doubtful.collect() }
    }

    /// The list: an image a line with its sources in a comment; what is doubtful is commented out.
    #[must_use]
    pub fn to_list(&self) -> String {
        let mut text = String::new();
        for image in &self.images {
            let platform = image.platform.as_ref().map(|set| format!(" platform={set}")).unwrap_or_default();
            text.push_str(&format!("{}{platform}  # {}\n", image.reference, sources(&image.sources)));
        }
        if !self.doubtful.is_empty() {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str("# Doubtful: look at these, and write down what is meant.\n");
        }
        for doubt in &self.doubtful {
            let name =
                if doubt.text.is_empty() { String::new() } else { format!("{}  # ", one_line(&doubt.text)) };
            text.push_str(&format!("# {name}{}: {}\n", sources(&doubt.sources), one_line(&doubt.why)));
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
        if number > 0 && text.len() + source.len() > ROOM {
            text.push_str(&format!(" and {} more", all.len() - number));
            break;
        }
        text.push_str(if number > 0 { ", " } else { "" });
        text.push_str(&source);
    }
    text
}

/// Text from a file, on one line and not too long.
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
    use crate::scan::{Kind, text};

    #[test]
    fn a_line_stays_short_however_many_places_there_are() {
        let mut found = Found::default();
        for number in 0..2000 {
            let name = format!("{}{number}.yaml", "directory/".repeat(number % 7));
            text(&mut found, &name, Kind::Template, b"{{ x }}\nimage: a.io/b:1\nimage: {{ y }}\n");
        }
        let review = Review::of(&found);
        assert_eq!((review.images[0].sources.len(), review.doubtful[0].sources.len()), (2000, 2000));
        let list = review.to_list();
        assert!(list.lines().all(|line| line.len() < 600), "{list}");
        assert!(list.lines().next().unwrap().ends_with(" more"), "{list}");
        assert_eq!(crate::list::parse("l", list.as_bytes()).entries.len(), 1);
    }
}
