//! One pass over JSON text that checks its grammar and finds where values lie, without building any.
//!
//! Takes bytes; gives ranges and raw strings; on the first byte that JSON does not allow, an error with its position.
//! Exactly the grammar of RFC 8259: numbers of any size, escapes of any code unit (whether an escape stands for a
//! character is asked only of strings that are decoded, [`Text::decode`]). Nesting is bounded by [`MAX_DEPTH`].

use std::borrow::Cow;
use std::ops::Range;

use crate::DecodeError;

/// Most levels of arrays and objects in an envelope, itself included. Far above what people write, and low enough for
/// every JSON library of Python (orjson stops at 1,024, the standard library where its stack ends).
pub const MAX_DEPTH: usize = 512;

/// A string as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    /// Between the quotes.
    pub(crate) raw: &'a str,
    /// Whether there is a backslash in it.
    pub(crate) escaped: bool,
}

impl<'a> Text<'a> {
    /// What it says; `None` when an escape stands for no character (half of a surrogate pair).
    pub(crate) fn decode(self) -> Option<Cow<'a, str>> {
        if self.escaped {
            serde_json::from_str(&format!("\"{}\"", self.raw)).ok().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(self.raw))
        }
    }
}

/// A position in JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the first byte that is not white space.
    pub(crate) fn new(body: &'a [u8]) -> Result<Self, DecodeError> {
        match std::str::from_utf8(body) {
            Ok(text) => Ok(Self::from_text(text)),
            Err(error) => Err(DecodeError::Utf8 { at: error.valid_up_to() }),
        }
    }

    /// The same, for bytes that are known to be text.
    pub(crate) fn from_text(text: &'a str) -> Self {
        let mut scanner = Self { text, bytes: text.as_bytes(), at: 0 };
        scanner.skip_space();
        scanner
    }

    /// The next byte, if there is one.
    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The text in `range`, which this scanner returned.
    pub(crate) fn text(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    fn unexpected<T>(&self, expected: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError::Syntax { at: self.at, expected })
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Nothing but white space may be left.
    pub(crate) fn finish(&mut self) -> Result<(), DecodeError> {
        self.skip_space();
        if self.at < self.bytes.len() { Err(DecodeError::TrailingBytes { at: self.at as u64 }) } else { Ok(()) }
    }

    /// Enters the array or object that starts here.
    #[inline]
    pub(crate) fn enter(&mut self) {
        self.at += 1;
        self.skip_space();
    }

    /// Inside an object: the next key, with the scanner left at its value; `None` once the object is over. `first`
    /// starts out true.
    #[inline]
    pub(crate) fn next_key(&mut self, first: &mut bool) -> Result<Option<Text<'a>>, DecodeError> {
        if !self.next_item(first, b'}')? {
            return Ok(None);
        }
        self.key().map(Some)
    }

    /// Inside an array (`close` is `]`) or an object (`}`): whether there is one more item, with the scanner left at
    /// it. `first` starts out true.
    #[inline]
    pub(crate) fn next_item(&mut self, first: &mut bool, close: u8) -> Result<bool, DecodeError> {
        if !*first {
            self.skip_space();
        }
        match self.peek() {
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !*first => {
                // After a comma an end is no item, which whoever reads the item finds.
                self.enter();
                Ok(true)
            }
            _ if *first => {
                *first = false;
                Ok(true)
            }
            _ => self.unexpected("a comma or the end"),
        }
    }

    /// A key and its colon.
    #[inline]
    fn key(&mut self) -> Result<Text<'a>, DecodeError> {
        let start = self.at + 1;
        let (end, escaped) = self.pass_key()?;
        Ok(Text { raw: self.text(start..end), escaped })
    }

    /// Passes over a key and its colon. Gives the key's end and whether there is a backslash in it.
    #[inline]
    fn pass_key(&mut self) -> Result<(usize, bool), DecodeError> {
        if self.peek() != Some(b'"') {
            return self.unexpected("a key");
        }
        let escaped = self.pass_string()?;
        let end = self.at - 1;
        self.skip_space();
        if self.peek() != Some(b':') {
            return self.unexpected("a colon");
        }
        self.enter();
        Ok((end, escaped))
    }

    /// The string that starts here (the scanner is at its opening quote).
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Text<'a>, DecodeError> {
        let start = self.at + 1;
        let escaped = self.pass_string()?;
        Ok(Text { raw: self.text(start..self.at - 1), escaped })
    }

    /// Passes over the string that starts here. Says whether there is a backslash in it.
    #[inline]
    fn pass_string(&mut self) -> Result<bool, DecodeError> {
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at = plain_end(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.unexpected("a character or the end of the string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), DecodeError> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                for _ in 0..4 {
                    self.at += 1;
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return self.unexpected("a hexadecimal digit");
                    }
                }
                self.at += 1;
            }
            _ => return self.unexpected("an escape"),
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), DecodeError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { self.unexpected("a digit") } else { Ok(()) }
    }

    #[inline]
    fn number(&mut self) -> Result<(), DecodeError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline]
    fn literal(&mut self, literal: &'static str) -> Result<(), DecodeError> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(literal.as_bytes())) {
            self.at += literal.len();
            Ok(())
        } else {
            self.unexpected("a value")
        }
    }

    /// Passes over the value that starts here and gives its range. `depth` is the number of arrays and objects that
    /// are open around it.
    pub(crate) fn value(&mut self, depth: usize) -> Result<Range<usize>, DecodeError> {
        let start = self.at;
        let mut nest = Nest::default();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.pass_string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(open @ (b'{' | b'[')) => {
                    if depth + nest.depth >= MAX_DEPTH {
                        return Err(DecodeError::TooDeep { at: self.at });
                    }
                    let object = open == b'{';
                    self.enter();
                    if self.peek() == Some(closer(object)) {
                        self.at += 1;
                    } else {
                        nest.push(object);
                        if object {
                            self.pass_key()?;
                        }
                        continue;
                    }
                }
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => return self.unexpected("a value"),
            }
            // A value has ended: close what ends with it, up to the next value or the end of the first.
            loop {
                if nest.depth == 0 {
                    return Ok(start..self.at);
                }
                let object = nest.top();
                self.skip_space();
                match self.peek() {
                    Some(b',') => {
                        self.enter();
                        if object {
                            self.pass_key()?;
                        }
                        break;
                    }
                    Some(byte) if byte == closer(object) => {
                        self.at += 1;
                        nest.pop();
                    }
                    _ => return self.unexpected("a comma or the end"),
                }
            }
        }
    }
}

/// Checks that `text` is one JSON value that fits inside `depth` open levels, with nothing but white space around it.
pub(crate) fn check(body: &[u8], depth: usize) -> Result<(), DecodeError> {
    let mut scanner = Scanner::new(body)?;
    scanner.value(depth)?;
    scanner.finish()
}

/// A value without the white space around it.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

#[inline]
fn closer(object: bool) -> u8 {
    if object { b'}' } else { b']' }
}

/// What is open, one bit a level: set for an object.
#[derive(Default)]
struct Nest {
    bits: [u64; MAX_DEPTH / 64],
    depth: usize,
}

impl Nest {
    #[inline]
    fn push(&mut self, object: bool) {
        if let Some(word) = self.bits.get_mut(self.depth / 64) {
            let bit = 1 << (self.depth % 64);
            *word = if object { *word | bit } else { *word & !bit };
        }
        self.depth += 1;
    }

    #[inline]
    fn pop(&mut self) {
        self.depth -= 1;
    }

    #[inline]
    fn top(&self) -> bool {
        let level = self.depth - 1;
        self.bits.get(level / 64).is_some_and(|word| word >> (level % 64) & 1 == 1)
    }
}

/// The first position at or after `at` whose byte ends a run of plain characters: a quote, a backslash, a control
/// character or the end of the text. Eight bytes at a time.
#[inline]
pub(crate) fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let stops = stops(u64::from_le_bytes(*chunk));
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            break;
        }
        at += 1;
    }
    at
}

/// Sets the high bit of the first byte (the lowest) that is a quote, a backslash or below 0x20. Bits above the lowest
/// one set may be wrong, because borrows travel upwards; nobody looks at them.
#[inline]
fn stops(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let zeroes = (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
    (below | zeroes) & (ONES * 0x80)
}
