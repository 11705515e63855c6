//! What travels: every message has a payload of its own, and the collector checks every byte of it.
//!
//! Takes a kind and a number, gives a body; takes a body, gives its number or says what is wrong with it. Pure.

use asya_envelope::blob::{self, BlobInfo};
use asya_envelope::{Encoding, Head, Payload, PayloadIn, Route, decode, encode_json, encode_native};
use serde_json::Value;

use crate::Error;

/// The kinds of payload that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A JSON document of 1 KiB.
    #[value(name = "json-1k")]
    Json1K,
    /// A binary blob of 64 KiB beside a small document.
    #[value(name = "blob-64k")]
    Blob64K,
    /// A binary blob of 1 MiB beside a small document.
    #[value(name = "blob-1m")]
    Blob1M,
}

impl Kind {
    /// All of them, smallest first.
    pub const ALL: [Self; 3] = [Self::Json1K, Self::Blob64K, Self::Blob1M];

    /// `json` or `binary`, for the report.
    pub const fn payload_kind(self) -> &'static str {
        match self {
            Self::Json1K => "json",
            Self::Blob64K | Self::Blob1M => "binary",
        }
    }

    /// Bytes of the JSON document, or of the blob.
    pub const fn payload_bytes(self) -> usize {
        match self {
            Self::Json1K => 1024,
            Self::Blob64K => 64 * 1024,
            Self::Blob1M => 1024 * 1024,
        }
    }

    /// How many messages one run moves: a few seconds of work, and no more than some hundred megabytes.
    pub const fn messages(self) -> u64 {
        match self {
            Self::Json1K => 50_000,
            Self::Blob64K => 5_000,
            Self::Blob1M => 400,
        }
    }

    /// The encoding in which it travels.
    pub const fn encoding(self) -> Encoding {
        match self {
            Self::Json1K => Encoding::Json,
            Self::Blob64K | Self::Blob1M => Encoding::Native,
        }
    }

    /// The body of message `number`, on its way to `route`.
    pub fn body(self, number: u64, route: &Route) -> Vec<u8> {
        let head = Head::new(format!("m-{number}"), route.clone());
        let mut body = Vec::new();
        match self {
            Self::Json1K => {
                let document = document(number, self.payload_bytes());
                let mut suffix = Vec::new();
                encode_json(&head, &mut body, &mut suffix);
                body.extend_from_slice(document.as_bytes());
                body.extend_from_slice(&suffix);
            }
            Self::Blob64K | Self::Blob1M => {
                let payload = section(number, self.payload_bytes(), &mut body);
                encode_native(&head, payload, &mut body);
            }
        }
        body
    }

    /// Checks every byte of a body that has arrived; `added` is what the handler adds to `n`. Gives the number.
    pub fn check(self, body: &[u8], added: u64) -> Result<u64, Error> {
        let wrong = |id: &str, why: String| Error::Wrong { id: id.to_owned(), why };
        let decoded = decode(body, self.encoding()).map_err(|error| wrong("?", error.to_string()))?;
        let id = decoded.head.id;
        let number = id.strip_prefix("m-").and_then(|rest| rest.parse::<u64>().ok());
        let number = number.ok_or_else(|| wrong(&id, "its id is not one that was sent".to_owned()))?;
        let PayloadIn::InPlace(payload) = decoded.payload else {
            return Err(wrong(&id, "its blobs are inline".to_owned()));
        };
        let section = slice(body, payload.offset, payload.len);
        let mut found: Value = serde_json::from_slice(slice(section, 0, payload.document_len))
            .map_err(|error| wrong(&id, error.to_string()))?;
        let n = found.get("n").and_then(Value::as_u64).unwrap_or(u64::MAX);
        if n != number + added {
            return Err(wrong(&id, format!("n is {n} and not {}", number + added)));
        }
        let right = match self {
            Self::Json1K => {
                // With n as it was sent, the rest must be what was sent.
                if let Some(field) = found.get_mut("n") {
                    *field = number.into();
                }
                let sent: Value = serde_json::from_str(&document(number, self.payload_bytes())).unwrap_or_default();
                payload.blobs == 0 && found == sent
            }
            Self::Blob64K | Self::Blob1M => blob::read_table(section, payload)
                .is_ok_and(|table| matches!(table.as_slice(), [only] if blob_is(number, section, only, self))),
        };
        if right { Ok(number) } else { Err(wrong(&id, "its payload has changed".to_owned())) }
    }
}

/// A JSON document of exactly `len` bytes, unlike that of any other number: what a small request looks like, with nested
/// objects, numbers, a list and a text.
fn document(number: u64, len: usize) -> String {
    let mut words = Words::new(number);
    let scores: Vec<String> = (0..12).map(|_| format!("{}", (words.next() % 1_000_000) as f64 / 1e4)).collect();
    let tags: Vec<String> = (0..6).map(|_| format!(r#""tag-{:04x}""#, words.next() as u16)).collect();
    let mut text = format!(
        r#"{{"n":{number},"user":{{"id":{},"name":"user {:x}","active":{},"manager":null}},"tags":[{}],"scores":[{}],"size":{{"width":{},"height":{}}},"text":""#,
        words.next() as u32,
        words.next() as u32,
        words.next().is_multiple_of(2),
        tags.join(","),
        scores.join(","),
        words.next() % 4096,
        words.next() % 4096,
    );
    while text.len() < len - 2 {
        let word = format!("{:016x} ", words.next());
        text.push_str(word.get(..word.len().min(len - 2 - text.len())).unwrap_or(&word));
    }
    text.push_str(r#""}"#);
    text
}

/// Appends a payload section with one array of `len` bytes.
fn section(number: u64, len: usize, body: &mut Vec<u8>) -> Payload {
    let document = format!(r#"{{"n":{number},"data":{{"{}":0}}}}"#, blob::KEY);
    let document_len = document.len() as u64;
    let (offsets, section_len) = blob::place(document_len, [len as u64].into_iter()).unwrap_or_default();
    let offset = offsets.first().copied().unwrap_or_default();
    let mut entry = [0; blob::ENTRY_LEN];
    let info = BlobInfo { dtype: "|u1".to_owned(), shape: vec![len as u64], offset, len: len as u64 };
    blob::write_entry(&mut entry, &info);
    body.extend_from_slice(document.as_bytes());
    body.resize(blob::align(document_len).unwrap_or_default() as usize, 0);
    body.extend_from_slice(&entry);
    body.resize(offset as usize, 0);
    let mut words = Words::new(number);
    while body.len() < section_len as usize {
        body.extend_from_slice(&words.next().to_le_bytes());
    }
    Payload { offset: 0, document_len, len: section_len, blobs: 1 }
}

fn blob_is(number: u64, section: &[u8], info: &BlobInfo, kind: Kind) -> bool {
    let bytes = slice(section, info.offset, info.len);
    let mut words = Words::new(number);
    bytes.len() == kind.payload_bytes() && bytes.chunks(8).all(|chunk| chunk == words.next().to_le_bytes())
}

fn slice(bytes: &[u8], offset: u64, len: u64) -> &[u8] {
    bytes.get(offset as usize..offset.saturating_add(len) as usize).unwrap_or_default()
}

/// A stream of words that is a function of a number (SplitMix64).
struct Words(u64);

impl Words {
    fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Route { prev: Vec::new(), curr: "hop".to_owned(), next: vec!["out".to_owned()] }
    }

    #[test]
    fn what_was_made_passes_the_check_and_nothing_else_does() {
        for kind in Kind::ALL {
            let body = kind.body(7, &route());
            assert_eq!(kind.check(&body, 0).unwrap(), 7);
            assert!(kind.check(&body, 1).is_err(), "{kind:?}: a handler that added nothing");
            let mut changed = body.clone();
            let middle = changed.len() / 2;
            changed[middle] ^= 1;
            assert!(kind.check(&changed, 0).is_err(), "{kind:?}: a changed byte");
            assert_ne!(kind.body(8, &route()), body);
        }
    }

    #[test]
    fn a_json_payload_has_the_size_that_is_reported() {
        for number in [0, 9, 12_345] {
            assert_eq!(document(number, 1024).len(), 1024);
        }
    }
}
