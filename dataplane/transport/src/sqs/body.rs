//! A body as the text of an SQS message, and back.
//!
//! SQS takes text alone, and not every character of it: `#x9 | #xA | #xD | #x20–#xD7FF | #xE000–#xFFFD |
//! #x10000–#x10FFFF`, at least one. JSON goes as it is, so that other programs and people can read it; a character in
//! it that SQS refuses is written as JSON writes it, `\uXXXX`. A native body, and JSON of which neither is true, goes
//! as base64.
//!
//! Takes bytes and gives text, or the other way round. Never blocks. Text that is not what it says it is arrives as it
//! is: its receiver reports what it found.

use base64_simd::{AsOut as _, STANDARD};

use crate::ContentType;

/// Message attribute with the content type.
pub const CONTENT_TYPE: &str = "asya-content-type";
/// Message attribute that says how JSON was made text, where it is not text already.
pub const ENCODING: &str = "asya-encoding";
/// Message attribute with the message's id, for people.
pub const MESSAGE_ID: &str = "asya-message-id";

/// [`ENCODING`] of a body that is base64. A native body is, without saying so.
pub const BASE64: &str = "base64";
/// [`ENCODING`] of a body without a byte: SQS takes no empty one.
pub const EMPTY: &str = "empty";

/// The largest message that SQS takes, and the largest sum of a batch: bodies with their attributes, in bytes.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Set aside in each message for the attributes above: names, types and values are 358 bytes at most, of which 255 are
/// the message's id.
pub const ATTRIBUTES_BYTES: u64 = 512;

/// The largest body that always fits in a message of `message_bytes`: as base64, beside the attributes.
pub const fn body_limit(message_bytes: u64) -> u64 {
    message_bytes.saturating_sub(ATTRIBUTES_BYTES) / 4 * 3
}

/// A body as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The text of the message.
    pub text: String,
    /// The value of [`ENCODING`], where it is needed.
    pub encoding: Option<&'static str>,
}

/// Makes a body text, of at most `room` bytes where that is possible.
pub fn encode(content_type: ContentType, body: Vec<u8>, room: u64) -> Encoded {
    if body.is_empty() {
        return Encoded { text: " ".to_owned(), encoding: Some(EMPTY) };
    }
    if content_type == ContentType::Native {
        return Encoded { text: STANDARD.encode_to_string(body), encoding: None };
    }
    let body = match String::from_utf8(body) {
        Ok(text)
            if !text.bytes().zip(text.bytes().skip(1)).any(suspicious) && !text.bytes().any(is_refused_control) =>
        {
            return Encoded { text, encoding: None };
        }
        Ok(text) => match escape(&text) {
            Some(text) if text.len() as u64 <= room => return Encoded { text, encoding: None },
            _ => text.into_bytes(),
        },
        Err(error) => error.into_bytes(),
    };
    Encoded { text: STANDARD.encode_to_string(body), encoding: Some(BASE64) }
}

/// Whether two bytes begin a character of the last 64 of the basic plane, where U+FFFE and U+FFFF are.
fn suspicious(bytes: (u8, u8)) -> bool {
    bytes == (0xEF, 0xBF)
}

fn is_refused_control(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r')
}

/// The same JSON without a character that SQS refuses; `None` where it is not the same, or no JSON.
fn escape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut in_string, mut after_backslash) = (false, false);
    for character in text.chars() {
        match character {
            // Outside of a string, or behind a backslash, this is no JSON: it goes as it is.
            '\u{FFFE}' | '\u{FFFF}' if !in_string || after_backslash => return None,
            '\u{FFFE}' => out.push_str("\\ufffe"),
            '\u{FFFF}' => out.push_str("\\uffff"),
            // JSON has these in no place.
            c if c.is_ascii() && is_refused_control(c as u8) => return None,
            c => {
                in_string ^= c == '"' && !after_backslash;
                out.push(c);
            }
        }
        after_backslash = in_string && character == '\\' && !after_backslash;
    }
    Some(out)
}

/// A body that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived {
    /// The bytes of the text.
    Plain(String),
    /// Valid base64 of `len` bytes.
    Base64 {
        /// The base64.
        text: String,
        /// Bytes that it stands for.
        len: usize,
    },
    /// No byte.
    Empty,
}

impl Arrived {
    /// What the text of a message with these attributes is.
    pub fn new(content_type: ContentType, encoding: Option<&str>, text: String) -> Self {
        match encoding {
            Some(EMPTY) => Self::Empty,
            _ if content_type == ContentType::Native || encoding == Some(BASE64) => {
                match STANDARD.check(text.as_bytes()).and_then(|()| STANDARD.decoded_length(text.as_bytes())) {
                    Ok(len) => Self::Base64 { text, len },
                    Err(_) => Self::Plain(text),
                }
            }
            _ => Self::Plain(text),
        }
    }

    /// Bytes of the body.
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(text) => text.len(),
            Self::Base64 { len, .. } => *len,
            Self::Empty => 0,
        }
    }

    /// Whether the body has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the body into a slot of exactly its length. Whether it fitted.
    pub fn write(&self, slot: &mut [u8]) -> bool {
        if slot.len() != self.len() {
            return false;
        }
        match self {
            Self::Plain(text) => slot.copy_from_slice(text.as_bytes()),
            Self::Base64 { text, .. } => return STANDARD.decode(text.as_bytes(), slot.as_out()).is_ok(),
            Self::Empty => {}
        }
        true
    }
}

/// As much of a message's id as an attribute takes: 255 bytes, none of them refused; `None` without any.
pub fn message_id(id: &str) -> Option<String> {
    let accepted = |c: &char| !is_refused_control(*c as u32 as u8) || !c.is_ascii();
    let cut = id.floor_char_boundary(255);
    let kept: String = id[..cut].chars().filter(accepted).filter(|c| !matches!(c, '\u{FFFE}' | '\u{FFFF}')).collect();
    (!kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: u64 = MESSAGE_BYTES_MAX - ATTRIBUTES_BYTES;

    /// Whether SQS takes it.
    fn taken(text: &str) -> bool {
        !text.is_empty()
            && text.chars().all(|c| {
                matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
            })
    }

    fn there_and_back(content_type: ContentType, body: &[u8]) -> Vec<u8> {
        let Encoded { text, encoding } = encode(content_type, body.to_vec(), ROOM);
        assert!(taken(&text), "{text:?}");
        let arrived = Arrived::new(content_type, encoding, text);
        let mut slot = vec![0; arrived.len()];
        assert!(arrived.write(&mut slot));
        slot
    }

    #[test]
    fn json_is_text_and_stays_what_it_is() {
        let body = "{\"a\": \"\u{1F980}\u{FFFD}\\u0001\"}\r\n\t";
        let encoded = encode(ContentType::Json, body.as_bytes().to_vec(), ROOM);
        assert_eq!(encoded, Encoded { text: body.to_owned(), encoding: None });
    }

    #[test]
    fn refused_characters_in_strings_are_escaped() {
        let body = "{\"a\\\"\u{FFFE}\": [\"\\\\\u{FFFF}\", \"\u{FFFD}\"]}";
        let encoded = encode(ContentType::Json, body.as_bytes().to_vec(), ROOM);
        assert_eq!(encoded.text, "{\"a\\\"\\ufffe\": [\"\\\\\\uffff\", \"\u{FFFD}\"]}");
        assert_eq!(encoded.encoding, None);
    }

    #[test]
    fn what_escaping_would_change_is_base64() {
        for body in ["\u{FFFE}", "{\"a\": \"\\\u{FFFE}\"}", "[1]\u{0}", "\"\u{1}\"", "{} \u{FFFF}"] {
            assert_eq!(encode(ContentType::Json, body.into(), ROOM).encoding, Some(BASE64), "{body:?}");
            assert_eq!(there_and_back(ContentType::Json, body.as_bytes()), body.as_bytes());
        }
    }

    #[test]
    fn what_escaping_would_make_too_long_is_base64() {
        let body = format!("\"{}\"", "\u{FFFE}".repeat(100));
        assert_eq!(encode(ContentType::Json, body.clone().into(), 600).encoding, Some(BASE64));
        assert_eq!(encode(ContentType::Json, body.into(), 602).encoding, None);
    }

    #[test]
    fn what_is_no_base64_arrives_as_it_is() {
        for text in ["{}", "AAA", "AA=A", ""] {
            let arrived = Arrived::new(ContentType::Native, None, text.to_owned());
            let mut slot = vec![0; arrived.len()];
            assert!(arrived.write(&mut slot));
            assert_eq!(slot, text.as_bytes());
        }
    }

    #[test]
    fn the_limit_is_what_fits() {
        let limit = body_limit(MESSAGE_BYTES_MAX);
        let fits = |len: u64| encode(ContentType::Native, vec![0xFF; len as usize], ROOM).text.len() as u64 <= ROOM;
        assert!(fits(limit) && !fits(limit + 1));
    }

    #[test]
    fn ids_are_cut_and_cleaned() {
        assert_eq!(message_id(""), None);
        assert_eq!(message_id("\u{1}\u{FFFF}"), None);
        assert_eq!(message_id("a\u{0}b\u{101}").as_deref(), Some("ab\u{101}"));
        assert_eq!(message_id(&"\u{20AC}".repeat(90)).map(|id| id.len()), Some(255));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(body in prop::collection::vec(any::<u8>(), 0..200), native in any::<bool>()) {
            let content_type = if native { ContentType::Native } else { ContentType::Json };
            prop_assert_eq!(there_and_back(content_type, &body), body);
        }

        #[test]
        fn any_strings_come_back_as_equal_json(strings in prop::collection::vec(".{0,9}|[\u{FFFD}-\u{FFFF}\"\\\\]{0,9}", 0..9)) {
            let quoted: Vec<String> = strings.iter().map(|s| {
                let escaped: String = s.chars().map(|c| match c {
                    '"' => "\\\"".to_owned(),
                    '\\' => "\\\\".to_owned(),
                    c if c < ' ' => format!("\\u{:04x}", u32::from(c)),
                    c => c.to_string(),
                }).collect();
                format!("\"{escaped}\"")
            }).collect();
            let body = format!("[{}]", quoted.join(","));
            let encoded = encode(ContentType::Json, body.clone().into_bytes(), ROOM);
            prop_assert_eq!(encoded.encoding, None);
            let back = encoded.text.replace("\\ufffe", "\u{FFFE}").replace("\\uffff", "\u{FFFF}");
            prop_assert_eq!(back, body);
        }

        #[test]
        fn any_text_arrives(text in ".{0,99}", native in any::<bool>(), encoding in prop::option::of("base64|empty|other")) {
            let content_type = if native { ContentType::Native } else { ContentType::Json };
            let arrived = Arrived::new(content_type, encoding.as_deref(), text);
            let mut slot = vec![0; arrived.len()];
            prop_assert!(arrived.write(&mut slot));
        }
    }
}
