//! The structural scan against serde_json: it accepts what serde_json accepts, and finds what serde_json finds.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod strategies;

use asya_envelope::{Encoding, MAX_DEPTH, PayloadIn, check_document, decode};
use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The grammar as serde_json has it: the whole of JSON, without asking what numbers and escapes stand for.
fn serde_accepts(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// A piece of text such as JSON is made of, right or wrong.
fn piece() -> impl Strategy<Value = &'static [u8]> {
    proptest::sample::select(vec![
        b"{".as_slice(),
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\\",
        b" ",
        b"\n",
        b"\t",
        b"\r",
        b"\x0b",
        b"\x00",
        b"\x1f",
        b"0",
        b"1",
        b"-",
        b"+",
        b".",
        b"e",
        b"E",
        b"00",
        b"-0",
        b"1.5e-3",
        b"true",
        b"false",
        b"null",
        b"nul",
        b"NaN",
        b"\"a\"",
        b"\"a\":",
        b"\\u",
        b"\\u00e9",
        b"\\ud83d",
        b"\\n",
        b"\\x",
        b"\xc3\xa9",
        b"\xff",
        b"\x7f",
        b"/",
        b"'",
        b"{}",
        b"[]",
    ])
}

#[derive(Clone, Debug)]
enum Edit {
    Insert(prop::sample::Index, &'static [u8]),
    Remove(prop::sample::Index),
    Replace(prop::sample::Index, u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<prop::sample::Index>(), piece()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        any::<prop::sample::Index>().prop_map(Edit::Remove),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
    ]
}

fn apply(mut bytes: Vec<u8>, edits: Vec<Edit>) -> Vec<u8> {
    for edit in edits {
        match edit {
            Edit::Insert(at, piece) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, piece.iter().copied());
            }
            Edit::Remove(at) if !bytes.is_empty() => {
                bytes.remove(at.index(bytes.len()));
            }
            Edit::Replace(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            _ => {}
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn accepts_what_serde_accepts(document in strategies::document(), edits in prop::collection::vec(edit(), 0..4)) {
        let bytes = apply(document.into_bytes(), edits);
        prop_assert_eq!(check_document(&bytes).is_ok(), serde_accepts(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn accepts_what_serde_accepts_of_pieces(pieces in prop::collection::vec(piece(), 0..9)) {
        let bytes = pieces.concat();
        prop_assert_eq!(check_document(&bytes).is_ok(), serde_accepts(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
    }

    /// What the decoder takes for a message is one to serde_json too, and says the same.
    #[test]
    fn finds_what_serde_finds(document in strategies::document(), edits in prop::collection::vec(edit(), 0..3)) {
        let body = format!(r#"{{"id":"order-1","route":{{"prev":["a"],"curr":"b","next":[]}},"headers":{{"k":{document}}},"payload":{document}}}"#);
        let body = apply(body.into_bytes(), edits);
        if let Ok(decoded) = decode(&body, Encoding::Json) {
            prop_assert!(serde_accepts(&body));
            // Numbers and escapes that serde_json refuses to build are no one's business here.
            if let Ok(value) = serde_json::from_slice::<Value>(&body) {
                prop_assert_eq!(value["id"].as_str(), Some(decoded.head.id.as_str()));
                if let PayloadIn::InPlace(payload) = decoded.payload {
                    let start = payload.offset as usize;
                    let found: Value = serde_json::from_slice(&body[start..start + payload.len as usize]).unwrap();
                    prop_assert_eq!(&found, &value["payload"]);
                }
                let headers: Value = serde_json::from_str(decoded.head.headers.as_json()).unwrap();
                prop_assert_eq!(Some(headers), value.get("headers").cloned().or(Some(serde_json::json!({}))));
            }
        } else if let Ok(Value::Object(fields)) = serde_json::from_slice(&body) {
            // Refused for what it says, so something that it must have is not as it must be.
            let known = ["id", "route", "payload"].iter().all(|field| fields.contains_key(*field));
            let text = String::from_utf8_lossy(&body);
            let whole = known && text.starts_with(r#"{"id":"order-1","route":{"prev":["a"],"curr":"b","next":[]},"headers":{"k":"#);
            let once = text.matches("\"payload\"").count() == 1 && fields.len() == 4;
            prop_assert!(!(whole && once && fields["headers"].is_object()), "{text}");
        }
    }
}

/// Every byte at every place of a small message: nothing is overlooked between two tokens.
#[test]
fn every_single_byte_change_is_judged_alike() {
    let body = br#"{"a":[1,-2.5e+3,"x\n\u00e9",true],"b":{"c":null}, "d":""}"#;
    for at in 0..body.len() {
        for byte in 0..=u8::MAX {
            let mut changed = body.to_vec();
            changed[at] = byte;
            assert_eq!(
                check_document(&changed).is_ok(),
                serde_accepts(&changed),
                "{:?}",
                String::from_utf8_lossy(&changed)
            );
        }
    }
    for at in 0..body.len() {
        assert!(check_document(&body[..at]).is_err(), "cut at {at}");
    }
}

/// Strings of every length, with each byte that ends a run at each place: the eight-byte steps miss none.
#[test]
fn every_place_in_a_string_is_looked_at() {
    for len in 0..40 {
        for at in 0..len {
            for byte in [b'"', b'\\', 0x1f, 0x00, 0x20, 0x7f, b'!', b'#', b'[', b']'] {
                let mut text = vec![b'"'; 1];
                text.extend(std::iter::repeat_n(b'x', len));
                text.push(b'"');
                text[at + 1] = byte;
                assert_eq!(check_document(&text).is_ok(), serde_accepts(&text), "{:?}", String::from_utf8_lossy(&text));
            }
        }
    }
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
        // The envelope is the first level.
        assert!(check_document(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
        assert_eq!(check_document(nested(MAX_DEPTH).as_bytes()).unwrap_err().name(), "too_deep");
        assert_eq!(check_document(open.repeat(1_000_000).as_bytes()).unwrap_err().name(), "too_deep");
    }
}
