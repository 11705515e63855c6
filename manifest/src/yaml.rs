//! YAML text into a tree in which every node knows its line and column.
//!
//! Takes the text of one file; gives one [`Node`] per document. Blocks on nothing. On failure: the first syntax error
//! of the file with its position (a file that is not YAML has no second one worth reading).
//!
//! A tree of our own, and not serde, because serde stops at the first mistake and forgets where a field stood.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// How deep a document may nest. A manifest needs about ten levels; the bound keeps hostile input off the stack.
const DEPTH_MAX: usize = 64;

/// How many nodes aliases may add to one file: enough for shared `env` blocks, too few for a "billion laughs".
const ALIAS_NODES_MAX: usize = 10_000;

/// Where a node stands in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Characters to underline on that line; at least 1.
    pub width: usize,
}

/// One value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it stands.
    pub mark: Mark,
    /// What it is.
    pub value: Value,
}

/// What a node can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing after the colon.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Str(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<Entry>),
}

/// One pair of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key's text.
    pub key: String,
    /// Where the key stands.
    pub mark: Mark,
    /// The value.
    pub value: Node,
}

impl Node {
    /// What a person would call this kind of value.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Str(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The value under a key, when this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }

    /// The text, when this is text.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The same value without places, for parts that are passed on as they are.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Float(f) => (*f).into(),
            Value::Str(s) => s.as_str().into(),
            Value::List(nodes) => nodes.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                serde_json::Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect())
            }
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::List(nodes) => nodes.iter().map(Node::count).sum(),
            Value::Map(entries) => entries.iter().map(|e| e.value.count()).sum::<usize>(),
            _ => 0,
        }
    }
}

/// Why a file is not YAML.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{message}")]
pub struct SyntaxError {
    /// Where.
    pub mark: Mark,
    /// What is wrong there.
    pub message: String,
}

impl SyntaxError {
    fn new(span: Span, message: impl Into<String>) -> Self {
        Self { mark: mark(span), message: message.into() }
    }
}

impl From<ScanError> for SyntaxError {
    fn from(error: ScanError) -> Self {
        let at = *error.marker();
        Self::new(Span::empty(at), format!("not YAML: {}", error.info()))
    }
}

/// Reads every document of a file. Empty documents (a trailing `---`) are left out.
pub fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let mut builder = Builder { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), alias_nodes: 0 };
    let mut documents = Vec::new();
    while let Some(event) = builder.next()? {
        match event {
            (Event::DocumentStart(_), _) => {
                // Anchors end with their document.
                builder.anchors.clear();
                let (event, span) = builder.expect()?;
                let node = builder.node(event, span, 0)?;
                if node.value != Value::Null {
                    documents.push(node);
                }
            }
            (Event::StreamEnd, _) => break,
            _ => {}
        }
    }
    Ok(documents)
}

struct Builder<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    anchors: BTreeMap<usize, Node>,
    alias_nodes: usize,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, SyntaxError> {
        self.parser.next_event().transpose().map_err(SyntaxError::from)
    }

    fn expect(&mut self) -> Result<(Event<'t>, Span), SyntaxError> {
        self.next()?.ok_or_else(|| SyntaxError::new(Span::default(), "the file ends too early"))
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, SyntaxError> {
        if depth > DEPTH_MAX {
            return Err(SyntaxError::new(span, format!("nested more than {DEPTH_MAX} levels deep")));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => (anchor, scalar(text, style, tag.as_deref(), span)?),
            Event::SequenceStart(anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.map(depth)?),
            Event::Alias(anchor) => {
                let mut node = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or_else(|| SyntaxError::new(span, "this alias names an anchor that is not there (yet)"))?;
                self.alias_nodes += node.count();
                if self.alias_nodes > ALIAS_NODES_MAX {
                    return Err(SyntaxError::new(span, format!("aliases add more than {ALIAS_NODES_MAX} values")));
                }
                node.mark = mark(span);
                return Ok(node);
            }
            _ => return Err(SyntaxError::new(span, "a value is missing here")),
        };
        let node = Node { mark: mark(span), value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut nodes = Vec::new();
        loop {
            match self.expect()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(nodes)),
                (event, span) => nodes.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.expect()?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Map(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(SyntaxError::new(span, "a key must be plain text")),
            };
            if let Some(first) = entries.iter().find(|e| e.key == key) {
                let message = format!("\"{key}\" was already given on line {}", first.mark.line);
                return Err(SyntaxError::new(span, message));
            }
            let (event, value_span) = self.expect()?;
            let value = self.node(event, value_span, depth + 1)?;
            entries.push(Entry { key, mark: mark(span), value });
        }
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Value, SyntaxError> {
    if let Some(tag) = tag {
        if tag.is_yaml_core_schema() && tag.suffix == "str" {
            return Ok(Value::Str(text.into_owned()));
        }
        return Err(SyntaxError::new(span, format!("the tag {}{} has no meaning here", tag.handle, tag.suffix)));
    }
    if style != ScalarStyle::Plain {
        return Ok(Value::Str(text.into_owned()));
    }
    // The core schema of YAML 1.2, which is also what kubectl's parser does with these words.
    Ok(match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        plain => match plain.parse::<i64>() {
            Ok(number) => Value::Int(number),
            Err(_) if plain.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) => {
                plain.parse::<f64>().map_or_else(|_| Value::Str(plain.to_owned()), Value::Float)
            }
            Err(_) => Value::Str(plain.to_owned()),
        },
    })
}

fn mark(span: Span) -> Mark {
    let same_line = span.start.line() == span.end.line();
    let width = if same_line { span.end.col().saturating_sub(span.start.col()) } else { 1 };
    Mark { line: span.start.line().max(1), column: span.start.col() + 1, width: width.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        parse(text).unwrap().remove(0)
    }

    #[test]
    fn every_node_knows_its_place() {
        let node = one("a: 1\nspec:\n  handler: m.f\n");
        let handler = node.get("spec").unwrap().get("handler").unwrap();
        assert_eq!(handler.mark, Mark { line: 3, column: 12, width: 3 });
        let Value::Map(entries) = &node.get("spec").unwrap().value else { panic!("a mapping") };
        assert_eq!(entries[0].mark, Mark { line: 3, column: 3, width: 7 });
    }

    #[test]
    fn plain_words_follow_the_core_schema() {
        let node = one("[yes, true, 1, 1.5, '1', ~, null, 5m, 0x1f, -3, 1e3, '']");
        let Value::List(items) = node.value else { panic!("a list") };
        let values: Vec<Value> = items.into_iter().map(|n| n.value).collect();
        let text = |s: &str| Value::Str(s.into());
        assert_eq!(
            values,
            [
                text("yes"),
                Value::Bool(true),
                Value::Int(1),
                Value::Float(1.5),
                text("1"),
                Value::Null,
                Value::Null,
                text("5m"),
                text("0x1f"),
                Value::Int(-3),
                Value::Float(1000.0),
                text(""),
            ]
        );
    }

    #[test]
    fn documents_are_separate_and_empty_ones_are_left_out() {
        assert_eq!(parse("a: 1\n---\nb: 2\n---\n").unwrap().len(), 2);
        assert_eq!(parse("").unwrap().len(), 0);
        assert_eq!(parse("# only a comment\n").unwrap().len(), 0);
    }

    #[test]
    fn an_alias_repeats_its_anchor_at_its_own_place() {
        let node = one("a: &x [1, 2]\nb: *x\n");
        assert_eq!(node.get("b").unwrap().to_json(), serde_json::json!([1, 2]));
        assert_eq!(node.get("b").unwrap().mark.line, 2);
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let one = format!("*a{}, ", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}x]\n", one.repeat(10)));
        }
        assert!(parse(&text).unwrap_err().message.contains("aliases add more than"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = "[".repeat(200) + &"]".repeat(200);
        assert!(parse(&text).unwrap_err().message.contains("levels deep"));
    }

    #[test]
    fn a_key_given_twice_names_the_first_line() {
        let error = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((error.mark.line, error.mark.column), (3, 1));
        assert_eq!(error.message, "\"a\" was already given on line 1");
    }

    #[test]
    fn what_is_not_yaml_says_where() {
        let error = parse("spec:\n  a: 'never closed\n").unwrap_err();
        assert!(error.message.starts_with("not YAML:"), "{error:?}");
        assert!(error.mark.line >= 2, "{error:?}");
    }
}
