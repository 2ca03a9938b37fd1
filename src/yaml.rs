//! The YAML front end: documents as trees in which every value knows its file and line. Pure.
//!
//! A thin tree over the events of serde-saphyr's parser. Aliases share their node, merge keys (`<<`) are resolved, and
//! what an alias expands to counts each time it is used, so that every walk over a tree is bounded. JSON is YAML too.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

/// Maximum number of nodes of one document, with aliases expanded.
pub const MAX_NODES: usize = 2_000_000;
/// Maximum number of bytes that the aliases of all documents may expand to.
pub const MAX_ALIASED: usize = 128 << 20;
/// Maximum nesting depth.
pub const MAX_DEPTH: usize = 200;

/// A value with its place in a file.
#[derive(Clone, Debug)]
pub struct YamlNode {
    /// The file, as the caller named it.
    pub file: Arc<str>,
    /// The line in the file, counted from 1.
    pub line: u64,
    /// The value.
    pub value: YamlValue,
    size: usize,
    bytes: usize,
    index: KeyIndex,
}

/// Mappings of up to this many pairs are searched linearly.
const LINEAR_SEARCH_MAX: usize = 32;

/// The sorted keys of a large mapping, built by the first lookup: a scan looks up every key of a mapping, which would
/// otherwise take quadratic time.
#[derive(Clone, Debug, Default)]
struct KeyIndex(OnceLock<Box<[u32]>>);

impl KeyIndex {
    /// The position of the first pair whose key is `wanted`.
    fn find(&self, pairs: &[(MappingKey, Arc<YamlNode>)], wanted: &str) -> Option<usize> {
        let Some(count) = u32::try_from(pairs.len()).ok().filter(|_| pairs.len() > LINEAR_SEARCH_MAX) else {
            return pairs.iter().position(|(key, _)| key.text == wanted);
        };
        let key_at = |position: &u32| pairs[*position as usize].0.text.as_str();
        let sorted = self.0.get_or_init(|| {
            let mut positions: Vec<u32> = (0..count).collect();
            positions.sort_by(|one, other| key_at(one).cmp(key_at(other)));
            positions.into()
        });
        let start = sorted.partition_point(|position| key_at(position) < wanted);
        sorted.get(start).filter(|position| key_at(position) == wanted).map(|position| *position as usize)
    }
}

/// The value of a node.
#[derive(Clone, Debug)]
pub enum YamlValue {
    /// Text. Numbers, booleans and null keep their spelling.
    Scalar(Scalar),
    /// A sequence.
    Sequence(Vec<Arc<YamlNode>>),
    /// A mapping, in the order written.
    Mapping(Vec<(MappingKey, Arc<YamlNode>)>),
}

/// A scalar's text.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// The text after escapes and folding.
    pub text: String,
    /// Whether the scalar is unquoted, so that `~` and `null` are null.
    pub plain: bool,
    /// The first line of a literal block's content, whose lines are lines of the file.
    pub content_line: Option<u64>,
}

/// A mapping's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MappingKey {
    /// The text. YAML reads an unquoted `{{ action }}` as a mapping with a mapping as its key, of which this is the action.
    pub text: String,
    /// Its line.
    pub line: u64,
    /// Whether the key is a collection.
    pub complex: bool,
}

impl YamlNode {
    /// The text of a scalar that is not null.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            YamlValue::Scalar(scalar) if scalar.is_null() => None,
            YamlValue::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The pairs of a mapping.
    #[must_use]
    pub fn pairs(&self) -> &[(MappingKey, Arc<YamlNode>)] {
        match &self.value {
            YamlValue::Mapping(pairs) => pairs,
            _ => &[],
        }
    }

    /// The items of a sequence.
    #[must_use]
    pub fn items(&self) -> &[Arc<YamlNode>] {
        match &self.value {
            YamlValue::Sequence(items) => items,
            _ => &[],
        }
    }

    /// The value of a mapping's key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&YamlNode> {
        let (found, node) = &self.pairs()[self.index.find(self.pairs(), key)?];
        (!found.complex).then_some(&**node)
    }

    /// The text of a mapping's key.
    #[must_use]
    pub fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Self::text)
    }

    /// The number of nodes with aliases expanded, including this one.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The first key that occurs twice in this mapping, if any.
    #[must_use]
    pub fn duplicate_key(&self) -> Option<&MappingKey> {
        let mut seen = HashSet::new();
        self.pairs().iter().map(|(key, _)| key).find(|key| !seen.insert(&key.text))
    }

    /// A mapping of `pairs` in the place of this node.
    #[must_use]
    pub fn with_pairs(&self, pairs: Vec<(MappingKey, Arc<YamlNode>)>) -> Self {
        let size = pairs.iter().fold(1, |sum: usize, (_, node)| sum.saturating_add(node.size));
        let bytes = pairs.iter().fold(0, |sum: usize, (_, node)| sum.saturating_add(node.bytes));
        let value = YamlValue::Mapping(pairs);
        Self { file: self.file.clone(), line: self.line, value, size, bytes, index: KeyIndex::default() }
    }

    /// Whether this is a mapping.
    #[must_use]
    pub fn is_mapping(&self) -> bool {
        matches!(self.value, YamlValue::Mapping(_))
    }

    /// Whether this is an empty or null scalar.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, YamlValue::Scalar(scalar) if scalar.is_null())
    }
}

impl Scalar {
    fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

/// The documents of a text.
#[derive(Debug, Default)]
pub struct ParsedYaml {
    /// The documents, in order.
    pub documents: Vec<Arc<YamlNode>>,
    /// The error that ended parsing early, if any.
    pub error: Option<SyntaxError>,
}

/// Why a text is not valid YAML.
#[derive(Debug)]
pub struct SyntaxError {
    /// The line where parsing ended.
    pub line: u64,
    /// The line where the invalid document starts: everything before it was parsed.
    pub start: u64,
    /// The reason. It never quotes the text, which may hold passwords.
    pub message: String,
}

/// How the lines of a text relate to the lines of its file.
#[derive(Clone, Copy, Debug)]
pub enum LineMap {
    /// The text starts this many lines after the start of the file.
    Offset(u64),
    /// The text is written on one line of the file.
    Fixed(u64),
}

impl LineMap {
    /// The line of the file for a line of the text.
    #[must_use]
    pub fn line(self, line: u64) -> u64 {
        match self {
            Self::Offset(offset) => line.saturating_add(offset),
            Self::Fixed(line) => line,
        }
    }
}

/// Parses all documents of a file, up to the first that is invalid.
#[must_use]
pub fn parse(file: &Arc<str>, text: &str) -> ParsedYaml {
    parse_at(file, text, LineMap::Offset(0))
}

/// As [`parse`], for a text that is a part of its file.
#[must_use]
pub fn parse_at(file: &Arc<str>, text: &str, lines: LineMap) -> ParsedYaml {
    let mut options = serde_saphyr::granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    options.set_emit_comments(false);
    let mut builder = TreeBuilder::new(file.clone(), lines);
    for event in Parser::new_from_str_with_options(text, options) {
        let added = match event {
            Ok((event, span)) => builder.add_event(event, &span).map_err(|why| (line(&span), why.to_owned())),
            Err(error) => Err((error.marker().line() as u64, error.info())),
        };
        if let Err((line, message)) = added {
            let start = builder.document_start.max(1);
            let error = SyntaxError { line: lines.line(line), start: lines.line(start), message };
            return ParsedYaml { documents: builder.documents, error: Some(error) };
        }
    }
    ParsedYaml { documents: builder.documents, error: None }
}

fn line(span: &Span) -> u64 {
    span.start.line() as u64
}

/// A collection whose end has not been seen yet.
struct OpenCollection {
    line: u64,
    anchor: usize,
    size: usize,
    bytes: usize,
    items: OpenItems,
}

enum OpenItems {
    Sequence(Vec<Arc<YamlNode>>),
    Mapping { pairs: Vec<(MappingKey, Arc<YamlNode>)>, key: Option<MappingKey> },
}

struct TreeBuilder {
    file: Arc<str>,
    lines: LineMap,
    documents: Vec<Arc<YamlNode>>,
    open: Vec<OpenCollection>,
    anchors: HashMap<usize, Arc<YamlNode>>,
    /// The line of the text where the current document starts.
    document_start: u64,
    aliased_bytes: usize,
}

impl TreeBuilder {
    fn new(file: Arc<str>, lines: LineMap) -> Self {
        Self {
            file,
            lines,
            documents: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            document_start: 0,
            aliased_bytes: 0,
        }
    }

    fn add_event(&mut self, event: Event<'_>, span: &Span) -> Result<(), &'static str> {
        let line = line(span);
        match event {
            Event::DocumentStart(..) => {
                self.document_start = line;
                self.anchors.clear();
            }
            Event::Scalar(text, style, anchor, _) => {
                // The span of a block starts at its first line with text, but the blank lines before that are content. A
                // block without any text may seem to start before the file does.
                let blank = text.bytes().take_while(|byte| *byte == b'\n').count() as u64;
                let content_line = (style == ScalarStyle::Literal)
                    .then(|| self.lines.line(line.saturating_sub(blank).max(1)));
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar { text: text.into_owned(), plain, content_line };
                let bytes = scalar.text.len();
                let node = self.node(line, YamlValue::Scalar(scalar), 1, bytes);
                return self.add_node(node, anchor);
            }
            Event::SequenceStart(_, anchor, _) => self.open(line, anchor, OpenItems::Sequence(Vec::new()))?,
            Event::MappingStart(_, anchor, _) => {
                self.open(line, anchor, OpenItems::Mapping { pairs: Vec::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => return self.close(),
            Event::Alias(id) => {
                let node =
                    self.anchors.get(&id).cloned().ok_or("an alias refers to the value that contains it")?;
                // Every walk reads the text once per alias.
                self.aliased_bytes = self.aliased_bytes.saturating_add(node.bytes);
                if self.aliased_bytes > MAX_ALIASED {
                    return Err("the aliases expand to too much text");
                }
                return self.attach(node);
            }
            _ => {}
        }
        Ok(())
    }

    fn node(&self, line: u64, value: YamlValue, size: usize, bytes: usize) -> YamlNode {
        let line = self.lines.line(line);
        YamlNode { file: self.file.clone(), line, value, size, bytes, index: KeyIndex::default() }
    }

    fn open(&mut self, line: u64, anchor: usize, items: OpenItems) -> Result<(), &'static str> {
        if self.open.len() >= MAX_DEPTH {
            return Err("the values are nested too deeply");
        }
        self.open.push(OpenCollection { line, anchor, size: 1, bytes: 0, items });
        Ok(())
    }

    fn close(&mut self) -> Result<(), &'static str> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.items {
            OpenItems::Sequence(items) => YamlValue::Sequence(items),
            OpenItems::Mapping { pairs, .. } => YamlValue::Mapping(resolve_merge_keys(pairs)),
        };
        let node = self.node(open.line, value, open.size, open.bytes);
        self.add_node(node, open.anchor)
    }

    fn add_node(&mut self, node: YamlNode, anchor: usize) -> Result<(), &'static str> {
        let node = Arc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.attach(node)
    }

    /// Adds a complete node to the innermost open collection.
    fn attach(&mut self, node: Arc<YamlNode>) -> Result<(), &'static str> {
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        open.size = open.size.saturating_add(node.size);
        open.bytes = open.bytes.saturating_add(node.bytes);
        if open.size > MAX_NODES {
            return Err("the document holds too many values, or its aliases expand to too many");
        }
        match &mut open.items {
            OpenItems::Sequence(items) => items.push(node),
            OpenItems::Mapping { pairs, key } => match key.take() {
                Some(key) => pairs.push((key, node)),
                None => *key = Some(as_key(&node)),
            },
        }
        Ok(())
    }
}

fn as_key(node: &YamlNode) -> MappingKey {
    match &node.value {
        YamlValue::Scalar(scalar) => {
            MappingKey { text: scalar.text.clone(), line: node.line, complex: false }
        }
        YamlValue::Mapping(pairs) => {
            let text = pairs.first().map(|(key, _)| format!("{{{{ {} }}}}", key.text)).unwrap_or_default();
            MappingKey { text, line: node.line, complex: true }
        }
        YamlValue::Sequence(_) => MappingKey { text: String::new(), line: node.line, complex: true },
    }
}

/// Replaces merge keys by the pairs that they bring in; the keys of the mapping itself take precedence.
fn resolve_merge_keys(pairs: Vec<(MappingKey, Arc<YamlNode>)>) -> Vec<(MappingKey, Arc<YamlNode>)> {
    if !pairs.iter().any(|(key, _)| key.text == "<<") {
        return pairs;
    }
    let (merges, mut own): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| key.text == "<<");
    let mut named: HashSet<String> = own.iter().map(|(key, _)| key.text.clone()).collect();
    for (_, merge) in merges {
        let sources = if merge.is_mapping() { vec![merge.clone()] } else { merge.items().to_vec() };
        for (key, node) in sources.iter().flat_map(|source| source.pairs()) {
            if named.insert(key.text.clone()) {
                own.push((key.clone(), node.clone()));
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ParsedYaml {
        parse(&"f".into(), text)
    }

    #[test]
    fn values_have_their_lines() {
        let text = "a: 1\nb:\n  - x\n  - |\n    one\n    two\n  - >-\n    folded\n    text\nc: {d: ~, e: \"\"}\n---\n- {{ .x }}\n";
        let read = read(text);
        assert!(read.error.is_none(), "{:?}", read.error);
        let first = &read.documents[0];
        assert_eq!(first.text_of("a"), Some("1"));
        let b = first.get("b").unwrap();
        assert_eq!(b.items().iter().map(|item| item.line).collect::<Vec<_>>()[0], 3);
        let YamlValue::Scalar(block) = &b.items()[1].value else { panic!() };
        assert_eq!((block.text.as_str(), block.content_line), ("one\ntwo\n", Some(5)));
        assert_eq!(b.items()[2].text(), Some("folded text"));
        let c = first.get("c").unwrap();
        assert_eq!(c.line, 10);
        assert!(c.get("d").unwrap().is_null() && c.text_of("e") == Some(""));
        assert!(read.documents[1].items()[0].pairs()[0].0.complex);
    }

    #[test]
    fn blank_block_starts_inside_the_file() {
        for text in ["d: |+\n\n\n\n\n", "- |+\n\n\n", "|+\n\n", "a: 1\nd: |+\n\n\n\n\n\n\n"] {
            let read = read(text);
            let mut open = vec![read.documents[0].clone()];
            let mut blocks = 0;
            while let Some(node) = open.pop() {
                open.extend(
                    node.pairs().iter().map(|(_, node)| node.clone()).chain(node.items().iter().cloned()),
                );
                if let YamlValue::Scalar(Scalar { content_line: Some(line), .. }) = node.value {
                    assert!((1..=text.lines().count() as u64).contains(&line), "{text:?}: {line}");
                    blocks += 1;
                }
            }
            assert_eq!(blocks, 1, "{text:?}");
        }
    }

    #[test]
    fn first_of_equal_keys_is_found_in_mappings_of_any_size() {
        for count in [3, LINEAR_SEARCH_MAX, LINEAR_SEARCH_MAX + 1, 5000] {
            let keys: Vec<String> =
                (0..count).map(|number| format!("k{}", number % (count / 2 + 1))).collect();
            let text: String = keys
                .iter()
                .enumerate()
                .map(|(line, key)| {
                    format!(
                        "{key}: {line}
"
                    )
                })
                .collect();
            let read = read(&text);
            let mapping = &read.documents[0];
            for wanted in keys.iter().map(String::as_str).chain(["", "k", "zz"]) {
                let expected = keys.iter().position(|key| key == wanted).map(|position| position.to_string());
                assert_eq!(mapping.text_of(wanted), expected.as_deref(), "{wanted} among {count}");
            }
        }
    }

    #[test]
    fn block_content_line_is_its_first_line() {
        for (text, expected) in [
            ("a: |\n  one\nb: 1\n", 2),
            ("a: |\n\n  one\n  two\n\n\nb: 1\n", 2),
            ("a: |-\n  one\n  two", 2),
            ("x: 1\na: |+\n  one\n\n\nb: 2\n", 3),
            ("a:\n  |\n  one\n", 3),
        ] {
            let read = read(text);
            let a = read.documents[0].get("a").unwrap();
            let YamlValue::Scalar(block) = &a.value else { panic!() };
            let skipped = block.text.chars().take_while(|c| *c == '\n').count() as u64;
            let at = text.lines().position(|line| line.trim() == "one").unwrap() as u64 + 1;
            assert_eq!(block.content_line, Some(expected), "{text:?}");
            assert_eq!(block.content_line.unwrap() + skipped, at, "{text:?}");
        }
    }

    #[test]
    fn aliases_and_merge_keys_are_resolved() {
        let text = "x: &x\n  image: a\n  tag: 1\ny:\n  <<: *x\n  tag: 2\nz: *x\n";
        let read = read(text);
        let y = read.documents[0].get("y").unwrap();
        assert_eq!((y.text_of("image"), y.text_of("tag")), (Some("a"), Some("2")));
        assert_eq!(y.get("image").unwrap().line, 2);
        assert_eq!(read.documents[0].get("z").unwrap().text_of("tag"), Some("1"));
    }

    #[test]
    fn invalid_or_exploding_documents_end_parsing() {
        let mut bomb = String::from("- &a0 [x, x]\n");
        for level in 1..40 {
            bomb.push_str(&format!("- &a{level} [*a{0}, *a{0}, *a{0}, *a{0}]\n", level - 1));
        }
        // Little by number, and much to read; in one document or in many.
        let large = format!("- &a {}\n{}", "x".repeat(1 << 20), "- *a\n".repeat(200));
        let many = format!("- &a {}\n{}---\n", "x".repeat(1 << 20), "- *a\n".repeat(50)).repeat(4);
        assert_eq!(read(&many).documents.len(), 2);
        let nested =
            format!("- &a {}\n- &b [{}]\n{}", "x".repeat(1 << 16), "*a,".repeat(30), "- *b\n".repeat(100));
        let deep = format!("{}x{}", "[".repeat(5000), "]".repeat(5000));
        let mut block = String::new();
        for level in 0..5000 {
            block.push_str(&format!("{}a:\n", " ".repeat(level)));
        }
        for (text, documents) in [
            (bomb.as_str(), 0),
            (deep.as_str(), 0),
            (large.as_str(), 0),
            (nested.as_str(), 0),
            (block.as_str(), 0),
            ("a: 1\n---\nb: [\n", 1),
            ("a: &a [*a]\n", 0),
            ("a: *b\n", 0),
            ("a: 'x\n", 0),
        ] {
            let read = read(text);
            assert_eq!(read.documents.len(), documents);
            let error = read.error.unwrap();
            assert!(
                !error.message.is_empty()
                    && error.start as usize == 2 * documents + usize::from(documents == 0)
            );
        }
    }
}
