//! Replaces image names in manifests.

use super::RewriteOptions;
use crate::error::Result;
use crate::list::SourceLocation;
use crate::oci::Reference;
use crate::scan::{self, Discovery, TextFormat};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// A text with new names in it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RewrittenText {
    /// The text. Everything but the names is as it was, byte for byte.
    pub bytes: Vec<u8>,
    /// How many names were replaced.
    pub replaced: usize,
    /// The names that were not.
    pub kept: Vec<KeptImage>,
}

/// A name that was not replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptImage {
    /// The line.
    pub origin: SourceLocation,
    /// The name.
    pub name: String,
    /// Why.
    pub reason: KeptReason,
}

/// Why a name was not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeptReason {
    /// The tree does not have the image.
    NotInDirectory,
    /// The name is not written as one word, or the word stands for something else on the line too.
    NotOneWord,
    /// It may be an image or something else.
    Doubtful,
}

impl KeptReason {
    /// The reason as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotInDirectory => "not in the directory",
            Self::NotOneWord => "the name is composed, or ambiguous on its line",
            Self::Doubtful => "doubtful",
        }
    }
}

/// The finds of one image on one line.
type Finds = BTreeMap<(u64, Reference), usize>;

/// Replaces the names of images in a YAML text. Only sure finds of [`scan`] are replaced, where the line has exactly as many words
/// that are the name as it has finds. `name` is the file of the locations.
///
/// # Errors
/// `InvalidInput` if a new name is too long; `Storage` if the tree cannot be read.
pub fn rewrite_text(name: &str, bytes: &[u8], options: &RewriteOptions) -> Result<RewrittenText> {
    let mut found = Discovery::default();
    scan::text(&mut found, name, TextFormat::Yaml, bytes);
    let mut result = RewrittenText::default();
    let origin = |line| SourceLocation { file: name.into(), line, module: None };
    for doubt in found.doubts {
        let doubtful = KeptImage { origin: doubt.origin, name: doubt.text, reason: KeptReason::Doubtful };
        result.kept.push(doubtful);
    }
    let mut finds = Finds::new();
    for entry in found.images {
        *finds.entry((entry.origin.line, entry.reference)).or_default() += 1;
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let mut finds = finds.into_iter().peekable();
    while let Some(number) = finds.peek().map(|((number, _), _)| *number) {
        let index = usize::try_from(number).unwrap_or(0).wrapping_sub(1);
        let mut line = lines.get(index).map(|line| Line::read(line));
        while let Some(((_, reference), count)) = finds.next_if(|((line, _), _)| *line == number) {
            if reference.registry == options.destination.registry {
                continue;
            }
            let kept = |reason| KeptImage { origin: origin(number), name: reference.to_string(), reason };
            let Some(new_name) = options.rename(&reference)? else {
                result.kept.push(kept(KeptReason::NotInDirectory));
                continue;
            };
            if line.as_mut().is_some_and(|line| line.replace(&reference, count, &new_name.to_string())) {
                result.replaced += count;
            } else {
                result.kept.push(kept(KeptReason::NotOneWord));
            }
        }
        if let Some(new_line) = line.map(Line::finish) {
            lines[index] = new_line;
        }
    }
    // A text that is not UTF-8 could not be put together again from its lines.
    result.bytes = if result.replaced == 0 { bytes.to_vec() } else { lines.concat().into_bytes() };
    Ok(result)
}

/// A line, with the names in it and what replaces them.
struct Line<'t> {
    text: &'t str,
    names: HashMap<Reference, Vec<Range<usize>>>,
    /// New names by the start of what they replace.
    new_names: BTreeMap<usize, (Range<usize>, String)>,
}

impl<'t> Line<'t> {
    fn read(text: &'t str) -> Self {
        let mut names: HashMap<Reference, Vec<Range<usize>>> = HashMap::new();
        for word in words(text) {
            if let Ok(name) = Reference::parse(word) {
                let start = word.as_ptr() as usize - text.as_ptr() as usize;
                names.entry(name).or_default().push(start..start + word.len());
            }
        }
        Self { text, names, new_names: BTreeMap::new() }
    }

    /// Replaces each word that is the name `reference`; false if there are more or fewer than `count` of them.
    fn replace(&mut self, reference: &Reference, count: usize, new_name: &str) -> bool {
        let Some(words) = self.names.get(reference).filter(|words| words.len() == count) else {
            return false;
        };
        self.new_names.extend(words.iter().map(|word| (word.start, (word.clone(), new_name.to_owned()))));
        true
    }

    fn finish(self) -> String {
        let mut text = String::with_capacity(self.text.len());
        let mut end = 0;
        for (word, new_name) in self.new_names.into_values() {
            text.push_str(&self.text[end..word.start]);
            text.push_str(&new_name);
            end = word.end;
        }
        text.push_str(&self.text[end..]);
        text
    }
}

/// The words of a line of YAML, without its comment: what is between blanks, quotes and the signs of flow collections.
fn words(line: &str) -> Vec<&str> {
    let end = line.find(" #").filter(|end| !line[..*end].contains(['"', '\'']));
    let line = &line[..end.unwrap_or(line.len())];
    let separator =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '[' | ']' | '{' | '}' | '\\');
    line.split(separator).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_counted_words_of_a_line_are_replaced() {
        for (line, count, expected) in [
            ("  image: nginx:1\n", 1, Some("  image: NEW\n")),
            ("- image: \"nginx:1\" \n", 1, Some("- image: \"NEW\" \n")),
            ("image: docker.io/library/nginx:1\r\n", 1, Some("image: NEW\r\n")),
            ("image: nginx:1 # was nginx:1", 1, Some("image: NEW # was nginx:1")),
            ("{name: nginx, image: nginx:1}", 1, Some("{name: nginx, image: NEW}")),
            ("[nginx:1, nginx:1]", 2, Some("[NEW, NEW]")),
            ("{\\\"image\\\":\\\"nginx:1\\\"}", 1, Some("{\\\"image\\\":\\\"NEW\\\"}")),
            ("{name: nginx:1, image: nginx:1}", 1, None),
            ("repository: nginx", 1, None),
            ("- --image=nginx:1", 1, None),
            ("", 1, None),
        ] {
            let reference = Reference::parse("nginx:1").unwrap();
            let mut line = Line::read(line);
            let text = line.text;
            let is_replaced = line.replace(&reference, count, "NEW");
            assert_eq!(is_replaced.then(|| line.finish()).as_deref(), expected, "{text}");
        }
    }
}
