//! Reads typed values out of a tree and notes every mistake instead of stopping at the first.
//!
//! Takes nodes; gives values, with a default in place of what was wrong. Blocks on nothing. On failure: a [`Problem`]
//! more in the list, never an early end, so that one run shows all mistakes.

use crate::problem::{Problem, Source, nearest};
use crate::units::{ByteSize, GoDuration};
use crate::yaml::{Entry, Mark, Node, Value};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Collects the mistakes of one file.
#[derive(Debug)]
pub(crate) struct Reader {
    source: Arc<Source>,
    pub(crate) problems: Vec<Problem>,
}

impl Reader {
    pub(crate) fn new(source: Arc<Source>) -> Self {
        Self { source, problems: Vec::new() }
    }

    /// Notes a mistake, with how to mend it.
    pub(crate) fn wrong(&mut self, mark: Mark, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.note(mark, message.into(), None, help.into());
    }

    fn note(&mut self, mark: Mark, message: String, meant: Option<String>, help: Option<String>) {
        self.problems.push(Problem { source: Arc::clone(&self.source), mark: Some(mark), message, meant, help });
    }

    fn mismatch(&mut self, node: &Node, name: &str, wants: &str) {
        self.wrong(node.mark, format!("{name} must be {wants}, and this is {}", node.kind()), None);
    }

    /// Opens a mapping, whose fields are then asked for by name. `finish` reports those that nobody asked for.
    pub(crate) fn fields<'n>(&mut self, node: &'n Node, name: &str) -> Option<Fields<'n>> {
        match &node.value {
            Value::Map(entries) => Some(Fields { name: name.to_owned(), mark: node.mark, entries, known: Vec::new() }),
            _ => {
                self.mismatch(node, name, "a mapping");
                None
            }
        }
    }

    pub(crate) fn list<'n>(&mut self, node: &'n Node, name: &str) -> &'n [Node] {
        match &node.value {
            Value::List(nodes) => nodes,
            _ => {
                self.mismatch(node, name, "a list");
                &[]
            }
        }
    }

    pub(crate) fn text(&mut self, node: &Node, name: &str) -> Option<String> {
        match &node.value {
            Value::Str(text) => Some(text.clone()),
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                let written = node.to_json();
                let help = format!("quote it: \"{written}\"");
                self.wrong(node.mark, format!("{name} must be text, and this is {}", node.kind()), help);
                None
            }
            _ => {
                self.mismatch(node, name, "text");
                None
            }
        }
    }

    pub(crate) fn flag(&mut self, node: &Node, name: &str) -> Option<bool> {
        match node.value {
            Value::Bool(flag) => Some(flag),
            _ => {
                self.mismatch(node, name, "true or false");
                None
            }
        }
    }

    pub(crate) fn number(&mut self, node: &Node, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let number = match node.value {
            Value::Int(number) => u32::try_from(number).ok().filter(|n| range.contains(n)),
            _ => {
                self.mismatch(node, name, "a whole number");
                return None;
            }
        };
        if number.is_none() {
            let message = if *range.end() == u32::MAX {
                format!("{name} must be at least {}", range.start())
            } else {
                format!("{name} must be from {} to {}", range.start(), range.end())
            };
            self.wrong(node.mark, message, None);
        }
        number
    }

    pub(crate) fn duration(&mut self, node: &Node, name: &str) -> Option<GoDuration> {
        let text = match &node.value {
            Value::Str(text) => text.clone(),
            Value::Int(0) => "0s".to_owned(),
            Value::Int(number) => {
                let help = format!("for seconds write {number}s");
                self.wrong(node.mark, format!("{name} has no unit"), help);
                return None;
            }
            _ => {
                self.mismatch(node, name, "a duration such as 30s or 5m");
                return None;
            }
        };
        self.parsed(node, name, text.parse::<GoDuration>())
    }

    pub(crate) fn bytes(&mut self, node: &Node, name: &str) -> Option<ByteSize> {
        match &node.value {
            Value::Int(number) if *number >= 0 => u64::try_from(*number).ok().map(ByteSize),
            Value::Str(text) => self.parsed(node, name, text.parse::<ByteSize>()),
            _ => {
                self.mismatch(node, name, "a size such as 512KiB or 1MiB");
                None
            }
        }
    }

    fn parsed<T>(&mut self, node: &Node, name: &str, parsed: Result<T, crate::units::UnitError>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(node.mark, format!("{name}: {error}"), error.help().to_owned());
                None
            }
        }
    }

    pub(crate) fn one_of<T: Copy>(&mut self, node: &Node, name: &str, choices: &[(&str, T)]) -> Option<T> {
        let written = self.text(node, name)?;
        if let Some((_, value)) = choices.iter().find(|(choice, _)| *choice == written) {
            return Some(*value);
        }
        let meant = nearest(&written, choices.iter().map(|(choice, _)| *choice)).map(str::to_owned);
        let allowed = choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>().join(", ");
        self.note(node.mark, format!("{name} cannot be \"{written}\""), meant, Some(format!("allowed: {allowed}")));
        None
    }

    /// A mapping from names to text, such as labels.
    pub(crate) fn text_map(&mut self, node: &Node, name: &str) -> BTreeMap<String, String> {
        let Value::Map(entries) = &node.value else {
            self.mismatch(node, name, "a mapping");
            return BTreeMap::new();
        };
        entries
            .iter()
            .filter_map(|e| Some((e.key.clone(), self.text(&e.value, &format!("{name}.{}", e.key))?)))
            .collect()
    }

    /// A part that belongs to Kubernetes and is passed on as it is; only its outermost kind is checked.
    pub(crate) fn opaque_map(&mut self, node: &Node, name: &str) -> Option<serde_json::Value> {
        match node.value {
            Value::Map(_) => Some(node.to_json()),
            _ => {
                self.mismatch(node, name, "a mapping");
                None
            }
        }
    }

    /// A list of parts that belong to Kubernetes.
    pub(crate) fn opaque_list(&mut self, node: &Node, name: &str) -> Vec<serde_json::Value> {
        self.list(node, name).iter().map(Node::to_json).collect()
    }
}

/// A mapping that is being read. The names that were asked for are the names that are allowed.
#[derive(Debug)]
pub(crate) struct Fields<'n> {
    name: String,
    pub(crate) mark: Mark,
    entries: &'n [Entry],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The full name of a field, for messages.
    pub(crate) fn path(&self, field: &str) -> String {
        if self.name.is_empty() { field.to_owned() } else { format!("{}.{field}", self.name) }
    }

    /// The field's value; `None` when it is absent or null.
    pub(crate) fn get(&mut self, field: &'static str) -> Option<&'n Node> {
        self.known.push(field);
        self.peek(field)
    }

    /// The names that were asked for so far.
    pub(crate) fn known(&self) -> &[&'static str] {
        &self.known
    }

    /// Looks without making the name an allowed one.
    pub(crate) fn peek(&self, field: &str) -> Option<&'n Node> {
        self.entries.iter().find(|e| e.key == field).map(|e| &e.value).filter(|node| node.value != Value::Null)
    }

    /// Whether a field is there whose name was probably meant to be this one.
    pub(crate) fn has_nearly(&self, field: &str) -> bool {
        self.entries.iter().any(|e| nearest(&e.key, [field]).is_some())
    }

    /// Reads a field with one of the [`Reader`]'s methods.
    pub(crate) fn read<T>(
        &mut self,
        reader: &mut Reader,
        field: &'static str,
        read: impl FnOnce(&mut Reader, &'n Node, &str) -> T,
    ) -> Option<T> {
        let path = self.path(field);
        self.get(field).map(|node| read(reader, node, &path))
    }

    /// Reads a field whose value may be wrong.
    pub(crate) fn try_read<T>(
        &mut self,
        reader: &mut Reader,
        field: &'static str,
        read: impl FnOnce(&mut Reader, &'n Node, &str) -> Option<T>,
    ) -> Option<T> {
        self.read(reader, field, read).flatten()
    }

    /// Notes that a field is missing.
    pub(crate) fn missing(&self, reader: &mut Reader, field: &str, help: &str) {
        reader.wrong(self.mark, format!("{} is missing", self.path(field)), help.to_owned());
    }

    /// Notes every field that nobody asked for. `elsewhere` says where a field belongs that is known, but not here.
    pub(crate) fn finish(self, reader: &mut Reader, elsewhere: &[(&str, &str)]) {
        let mut allowed = self.known.clone();
        allowed.sort_unstable();
        for entry in self.entries.iter().filter(|e| !self.known.contains(&e.key.as_str())) {
            let place = if self.name.is_empty() { "here".to_owned() } else { format!("in {}", self.name) };
            let message = format!("unknown field \"{}\" {place}", entry.key);
            let meant = match elsewhere.iter().find(|(field, _)| *field == entry.key) {
                Some((_, there)) => Some((*there).to_owned()),
                None => nearest(&entry.key, allowed.iter().copied()).map(str::to_owned),
            };
            reader.note(entry.mark, message, meant, Some(format!("allowed: {}", allowed.join(", "))));
        }
    }
}
