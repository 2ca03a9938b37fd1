//! YAML with the line of every value, for readers that must tell where something stands. Pure.
//!
//! A thin tree over the events of serde-saphyr's parser: aliases share their node, merge keys (`<<`) are
//! followed, and what an alias unfolds to is counted as often as it is named, so that every walk over a tree
//! is bounded. JSON is YAML too.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// The most nodes that one document may unfold to.
pub const MAX_NODES: usize = 2_000_000;
/// The most bytes of text that the aliases of all documents may stand for.
pub const MAX_ALIASED: usize = 128 << 20;
/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 200;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// The line, counted from 1.
    pub line: u64,
    /// What stands there.
    pub value: Value,
    size: usize,
    bytes: usize,
    order: Order,
}

/// Mappings of up to so many pairs are searched one by one.
const FEW: usize = 32;

/// The order of a large mapping's keys, made when one is first asked for: whoever asks for each of them, as a scan does, would
/// otherwise be busy for the square of their number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order(OnceLock<Box<[u32]>>);

impl Order {
    /// The first place of `wanted` among so many keys, `key` of each place. They must always be the same.
    pub(crate) fn find<'a>(
        &self,
        count: usize,
        key: impl Fn(usize) -> &'a str,
        wanted: &str,
    ) -> Option<usize> {
        let Some(last) = u32::try_from(count).ok().filter(|_| count > FEW) else {
            return (0..count).find(|place| key(*place) == wanted);
        };
        let of = |place: &u32| key(*place as usize);
        let sorted = self.0.get_or_init(|| {
            let mut places: Vec<u32> = (0..last).collect();
            places.sort_by(|one, other| of(one).cmp(of(other)));
            places.into()
        });
        let at = sorted.partition_point(|place| of(place) < wanted);
        sorted.get(at).filter(|place| of(place) == wanted).map(|place| *place as usize)
    }
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// Text; numbers, booleans and null too, as they are written.
    Scalar(Scalar),
    /// A sequence.
    Sequence(Vec<Arc<Node>>),
    /// A mapping, in the order written.
    Mapping(Vec<(Key, Arc<Node>)>),
}

/// A scalar's text.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// The text after escapes and folding.
    pub text: String,
    /// Whether it is written plainly, so that `~` and `null` mean nothing.
    pub plain: bool,
    /// The first line of a literal block's content: its lines are lines of the file.
    pub content_line: Option<u64>,
}

/// A mapping's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The text; empty where the key is a collection, as an unquoted `{{ template }}` makes one.
    pub text: String,
    /// Its line.
    pub line: u64,
    /// Whether the key is a collection.
    pub complex: bool,
}

impl Node {
    /// The text of a scalar that says something.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_null() => None,
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The pairs of a mapping.
    #[must_use]
    pub fn pairs(&self) -> &[(Key, Arc<Node>)] {
        match &self.value {
            Value::Mapping(pairs) => pairs,
            _ => &[],
        }
    }

    /// The items of a sequence.
    #[must_use]
    pub fn items(&self) -> &[Arc<Node>] {
        match &self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }

    /// The value of a mapping's key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        let pairs = self.pairs();
        let place = self.order.find(pairs.len(), |place| &pairs[place].0.text, key)?;
        Some(&*pairs[place].1).filter(|_| !pairs[place].0.complex)
    }

    /// The text of a mapping's key.
    #[must_use]
    pub fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Self::text)
    }

    /// How many nodes it unfolds to, itself included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether it is a mapping.
    #[must_use]
    pub fn is_mapping(&self) -> bool {
        matches!(self.value, Value::Mapping(_))
    }

    /// Whether it holds nothing: an empty or null scalar.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }
}

impl Scalar {
    fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Documents {
    /// The documents, in order.
    pub documents: Vec<Arc<Node>>,
    /// Where and why reading ended early, if it did.
    pub broken: Option<Broken>,
}

/// Why a text is no YAML.
#[derive(Debug)]
pub struct Broken {
    /// The line where reading ended.
    pub line: u64,
    /// The line where the document that is broken starts: all before it was read.
    pub start: u64,
    /// Why; it quotes nothing of the text.
    pub message: String,
}

/// Reads all documents of a text, up to the first that is broken.
#[must_use]
pub fn read(text: &str) -> Documents {
    let mut options = serde_saphyr::granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    options.set_emit_comments(false);
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let taken = match event {
            Ok((event, span)) => builder.take(event, &span).map_err(|why| (line(&span), why.to_owned())),
            Err(error) => Err((error.marker().line() as u64, error.info())),
        };
        if let Err((line, message)) = taken {
            let broken = Broken { line, start: builder.start.max(1), message };
            return Documents { documents: builder.documents, broken: Some(broken) };
        }
    }
    Documents { documents: builder.documents, broken: None }
}

fn line(span: &Span) -> u64 {
    span.start.line() as u64
}

/// A collection that is not closed yet.
struct Open {
    line: u64,
    anchor: usize,
    size: usize,
    bytes: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Arc<Node>>),
    Mapping { pairs: Vec<(Key, Arc<Node>)>, key: Option<Key> },
}

#[derive(Default)]
struct Builder {
    documents: Vec<Arc<Node>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Arc<Node>>,
    start: u64,
    aliased: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), &'static str> {
        let line = line(span);
        match event {
            Event::DocumentStart(..) => {
                self.start = line;
                self.anchors.clear();
            }
            Event::Scalar(text, style, anchor, _) => {
                // The span of a block starts at its first line with text; blank lines before it are content. One that has
                // no text at all may seem to start before the file does.
                let blank = text.bytes().take_while(|byte| *byte == b'\n').count() as u64;
                let content_line = (style == ScalarStyle::Literal).then(|| line.saturating_sub(blank).max(1));
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar { text: text.into_owned(), plain, content_line };
                let bytes = scalar.text.len();
                return self.add(
                    Node { line, value: Value::Scalar(scalar), size: 1, bytes, order: Order::default() },
                    anchor,
                );
            }
            Event::SequenceStart(_, anchor, _) => self.open(line, anchor, Content::Sequence(Vec::new()))?,
            Event::MappingStart(_, anchor, _) => {
                self.open(line, anchor, Content::Mapping { pairs: Vec::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => return self.close(),
            Event::Alias(id) => {
                let node = self.anchors.get(&id).cloned().ok_or("an alias stands within its own anchor")?;
                // Every walk reads the text as often as it is named.
                self.aliased = self.aliased.saturating_add(node.bytes);
                if self.aliased > MAX_ALIASED {
                    return Err("it is too large: its aliases unfold to more text than is read");
                }
                return self.place(node);
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, line: u64, anchor: usize, content: Content) -> Result<(), &'static str> {
        if self.open.len() >= MAX_DEPTH {
            return Err("it is nested deeper than is read");
        }
        self.open.push(Open { line, anchor, size: 1, bytes: 0, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), &'static str> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { pairs, .. } => Value::Mapping(merged(pairs)),
        };
        let Open { line, size, bytes, anchor, .. } = open;
        self.add(Node { line, value, size, bytes, order: Order::default() }, anchor)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), &'static str> {
        let node = Arc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node)
    }

    /// Puts a whole node into what is open around it.
    fn place(&mut self, node: Arc<Node>) -> Result<(), &'static str> {
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        open.size = open.size.saturating_add(node.size);
        open.bytes = open.bytes.saturating_add(node.bytes);
        if open.size > MAX_NODES {
            return Err("it holds, or its aliases unfold to, more values than are read");
        }
        match &mut open.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { pairs, key } => match key.take() {
                Some(key) => pairs.push((key, node)),
                None => *key = Some(as_key(&node)),
            },
        }
        Ok(())
    }
}

fn as_key(node: &Node) -> Key {
    match &node.value {
        Value::Scalar(scalar) => Key { text: scalar.text.clone(), line: node.line, complex: false },
        _ => Key { text: String::new(), line: node.line, complex: true },
    }
}

/// The pairs with those of merge keys put in, where the mapping has none of its own.
fn merged(pairs: Vec<(Key, Arc<Node>)>) -> Vec<(Key, Arc<Node>)> {
    if !pairs.iter().any(|(key, _)| key.text == "<<") {
        return pairs;
    }
    let (merges, mut own): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| key.text == "<<");
    let mut named: std::collections::HashSet<String> = own.iter().map(|(key, _)| key.text.clone()).collect();
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

    #[test]
    fn every_value_knows_its_line() {
        let text = "a: 1\nb:\n  - x\n  - |\n    one\n    two\n  - >-\n    folded\n    text\nc: {d: ~, e: \"\"}\n---\n- {{ .x }}\n";
        let read = read(text);
        assert!(read.broken.is_none(), "{:?}", read.broken);
        let first = &read.documents[0];
        assert_eq!(first.text_of("a"), Some("1"));
        let b = first.get("b").unwrap();
        assert_eq!(b.items().iter().map(|item| item.line).collect::<Vec<_>>()[0], 3);
        let Value::Scalar(block) = &b.items()[1].value else { panic!() };
        assert_eq!((block.text.as_str(), block.content_line), ("one\ntwo\n", Some(5)));
        assert_eq!(b.items()[2].text(), Some("folded text"));
        let c = first.get("c").unwrap();
        assert_eq!(c.line, 10);
        assert!(c.get("d").unwrap().is_null() && c.text_of("e") == Some(""));
        assert!(read.documents[1].items()[0].pairs()[0].0.complex);
    }

    #[test]
    fn a_block_of_blank_lines_starts_in_the_file() {
        for text in ["d: |+\n\n\n\n\n", "- |+\n\n\n", "|+\n\n", "a: 1\nd: |+\n\n\n\n\n\n\n"] {
            let read = read(text);
            let mut open = vec![read.documents[0].clone()];
            let mut blocks = 0;
            while let Some(node) = open.pop() {
                open.extend(
                    node.pairs().iter().map(|(_, node)| node.clone()).chain(node.items().iter().cloned()),
                );
                if let Value::Scalar(Scalar { content_line: Some(line), .. }) = node.value {
                    assert!((1..=text.lines().count() as u64).contains(&line), "{text:?}: {line}");
                    blocks += 1;
                }
            }
            assert_eq!(blocks, 1, "{text:?}");
        }
    }

    #[test]
    fn the_first_of_equal_keys_is_found_among_few_and_many() {
        for count in [3, FEW, FEW + 1, 5000] {
            let keys: Vec<String> =
                (0..count).map(|number| format!("k{}", number % (count / 2 + 1))).collect();
            let order = Order::default();
            for wanted in keys.iter().map(String::as_str).chain(["", "k", "zz"]) {
                let found = order.find(count, |place| &keys[place], wanted);
                assert_eq!(found, keys.iter().position(|key| key == wanted), "{wanted} among {count}");
            }
        }
    }

    #[test]
    fn blocks_start_where_their_text_does() {
        for (text, expected) in [
            ("a: |\n  one\nb: 1\n", 2),
            ("a: |\n\n  one\n  two\n\n\nb: 1\n", 2),
            ("a: |-\n  one\n  two", 2),
            ("x: 1\na: |+\n  one\n\n\nb: 2\n", 3),
            ("a:\n  |\n  one\n", 3),
        ] {
            let read = read(text);
            let a = read.documents[0].get("a").unwrap();
            let Value::Scalar(block) = &a.value else { panic!() };
            let skipped = block.text.chars().take_while(|c| *c == '\n').count() as u64;
            let at = text.lines().position(|line| line.trim() == "one").unwrap() as u64 + 1;
            assert_eq!(block.content_line, Some(expected), "{text:?}");
            assert_eq!(block.content_line.unwrap() + skipped, at, "{text:?}");
        }
    }

    #[test]
    fn aliases_and_merge_keys_are_followed() {
        let text = "x: &x\n  image: a\n  tag: 1\ny:\n  <<: *x\n  tag: 2\nz: *x\n";
        let read = read(text);
        let y = read.documents[0].get("y").unwrap();
        assert_eq!((y.text_of("image"), y.text_of("tag")), (Some("a"), Some("2")));
        assert_eq!(y.get("image").unwrap().line, 2);
        assert_eq!(read.documents[0].get("z").unwrap().text_of("tag"), Some("1"));
    }

    #[test]
    fn what_is_broken_or_a_bomb_ends_reading() {
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
            let broken = read.broken.unwrap();
            assert!(
                !broken.message.is_empty()
                    && broken.start as usize == 2 * documents + usize::from(documents == 0)
            );
        }
    }
}
