//! The headers of a message: a JSON object that stays text, because most hops only pass it on.
//!
//! Looking up or changing one header passes over the text once. Where a name occurs twice the last one counts, as in
//! every JSON library, and changing it removes the others.

use std::ops::Range;

use crate::scan::{self, Scanner, Text};
use crate::{DecodeError, escape_json};

/// Open levels around the values of headers: the envelope and the object itself.
const DEPTH: usize = 2;

/// A JSON object kept as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers(String);

impl Default for Headers {
    fn default() -> Self {
        Self("{}".to_owned())
    }
}

/// One header as it stands in the text.
struct Entry<'a> {
    key: Text<'a>,
    value: Range<usize>,
}

impl Headers {
    /// Takes the text of a JSON object.
    pub fn from_json(text: &str) -> Result<Self, DecodeError> {
        scan::check(text.as_bytes(), DEPTH - 1)?;
        Self::from_checked(scan::trim(text))
    }

    /// Takes one JSON value that has been checked already.
    pub(crate) fn from_checked(text: &str) -> Result<Self, DecodeError> {
        if text.starts_with('{') {
            Ok(Self(text.to_owned()))
        } else {
            Err(DecodeError::WrongType { field: "headers", expected: "an object" })
        }
    }

    /// The object, as text.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Whether there is no header at all.
    pub fn is_empty(&self) -> bool {
        self.entries().next().is_none()
    }

    /// The value of a header, as raw JSON.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries().filter(|entry| is(entry.key, key)).last().and_then(|entry| self.0.get(entry.value))
    }

    /// The value of a header that is a string.
    pub fn get_str(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?).ok()
    }

    /// Each header and its value as raw JSON, in order. Names that stand for no text are left out.
    pub fn iter(&self) -> impl Iterator<Item = (String, &str)> {
        self.entries().filter_map(|entry| Some((entry.key.decode()?.into_owned(), self.0.get(entry.value)?)))
    }

    /// Sets a header to a value given as raw JSON, at its old place if it had one. Changes nothing when that is not JSON.
    pub fn set(&mut self, key: &str, raw_json: &str) -> Result<(), DecodeError> {
        scan::check(raw_json.as_bytes(), DEPTH)?;
        self.rewrite(key, Some(scan::trim(raw_json)));
        Ok(())
    }

    /// Sets a header to a string.
    pub fn set_str(&mut self, key: &str, value: &str) {
        let mut raw = Vec::with_capacity(value.len() + 2);
        escape_json(value, &mut raw);
        self.rewrite(key, Some(&String::from_utf8_lossy(&raw)));
    }

    /// Removes a header. Says whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let there = self.get(key).is_some();
        if there {
            self.rewrite(key, None);
        }
        there
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut scanner = Scanner::from_text(&self.0);
        let mut first = true;
        scanner.enter();
        // The text was checked when it came in, so an error cannot come up; it would end the iteration.
        std::iter::from_fn(move || {
            let key = scanner.next_key(&mut first).ok().flatten()?;
            let value = scanner.value(DEPTH).ok()?;
            Some(Entry { key, value })
        })
    }

    /// Writes the object anew with `key` at the place where it first was, or at the end, or not at all.
    fn rewrite(&mut self, key: &str, mut value: Option<&str>) {
        let mut out = Vec::with_capacity(self.0.len() + key.len() + value.map_or(0, str::len) + 8);
        out.push(b'{');
        for entry in self.entries() {
            let kept = if is(entry.key, key) { value.take() } else { self.0.get(entry.value) };
            if let Some(raw) = kept {
                separate(&mut out);
                out.push(b'"');
                out.extend_from_slice(entry.key.raw.as_bytes());
                out.extend_from_slice(b"\":");
                out.extend_from_slice(raw.as_bytes());
            }
        }
        if let Some(raw) = value {
            separate(&mut out);
            escape_json(key, &mut out);
            out.push(b':');
            out.extend_from_slice(raw.as_bytes());
        }
        out.push(b'}');
        self.0 = String::from_utf8_lossy(&out).into_owned();
    }
}

fn is(text: Text<'_>, key: &str) -> bool {
    if text.escaped { text.decode().is_some_and(|name| name == key) } else { text.raw == key }
}

fn separate(out: &mut Vec<u8>) {
    if out.len() > 1 {
        out.push(b',');
    }
}
