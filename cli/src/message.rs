//! Inputs into bodies, and bodies into what people read.
//!
//! Takes payloads and heads, gives bodies to publish; takes deliveries, gives what they say. Blocks on nothing. On
//! failure: the decoder's error, whole.

use asya_envelope::{
    DecodeError, Encoding, Head, Payload, PayloadIn, blob, decode, encode_json, encode_json_with_blobs, encode_native,
};
use asya_transport::ContentType;

/// What a message carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A JSON document.
    Json(Vec<u8>),
    /// A file: becomes `{"name": …, "data": blob}`.
    Blob {
        /// Its name.
        name: String,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// A body, ready to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// How it is encoded.
    pub content_type: ContentType,
    /// All of it.
    pub body: Vec<u8>,
}

/// Makes the body of a message. Content with binary parts goes in the native encoding, any other as JSON.
pub fn encode(head: &Head, content: Content) -> Outgoing {
    match content {
        Content::Json(document) => {
            let (mut body, mut suffix) = (Vec::with_capacity(document.len() + 512), Vec::new());
            encode_json(head, &mut body, &mut suffix);
            body.extend_from_slice(&document);
            body.extend_from_slice(&suffix);
            Outgoing { content_type: ContentType::Json, body }
        }
        Content::Blob { name, bytes } => {
            let (mut body, payload) = section(&name, &bytes);
            encode_native(head, payload, &mut body);
            Outgoing { content_type: ContentType::Native, body }
        }
    }
}

/// The payload section of one file.
fn section(name: &str, bytes: &[u8]) -> (Vec<u8>, Payload) {
    let name = serde_json::Value::from(name);
    let mut section = format!("{{\"name\":{name},\"data\":{{\"{}\":0}}}}", blob::KEY).into_bytes();
    let document_len = section.len() as u64;
    let align = |at: usize| at.next_multiple_of(blob::ALIGN as usize);
    let table = align(section.len());
    let data = align(table + blob::ENTRY_LEN);
    section.resize(data, 0);
    let len = bytes.len() as u64;
    let info = blob::BlobInfo { dtype: blob::RAW.to_owned(), shape: vec![len], offset: data as u64, len };
    if let Some(entry) = section.get_mut(table..).and_then(|rest| rest.first_chunk_mut()) {
        blob::write_entry(entry, &info);
    }
    section.extend_from_slice(bytes);
    let payload = Payload { offset: 0, document_len, len: section.len() as u64, blobs: 1 };
    (section, payload)
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it says.
    pub head: Head,
    /// The payload's JSON document; a binary part stands in it as `{"$asya.blob": i}`.
    pub document: String,
    /// Bytes of each binary part.
    pub blobs: Vec<u64>,
    /// The whole as one JSON envelope, binary parts in base64.
    pub envelope: String,
}

/// The encoding that a content type names.
fn encoding_of(content_type: ContentType) -> Encoding {
    match content_type {
        ContentType::Json => Encoding::Json,
        ContentType::Native => Encoding::Native,
    }
}

/// Where a section lies in its body.
fn section_of(body: &[u8], payload: Payload) -> &[u8] {
    let start = usize::try_from(payload.offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(payload.len).unwrap_or(usize::MAX));
    body.get(start..end).unwrap_or_default()
}

/// Reads what a body says apart from its payload.
pub fn read_head(body: &[u8], content_type: ContentType) -> Result<Head, DecodeError> {
    decode(body, encoding_of(content_type)).map(|decoded| decoded.head)
}

/// The payload's JSON document.
pub fn payload_document(body: &[u8], content_type: ContentType) -> Result<Vec<u8>, DecodeError> {
    read(body, content_type).map(|received| received.document.into_bytes())
}

/// The same payload under another head, in the encoding that it has.
pub fn rewrite(body: &[u8], content_type: ContentType, change: impl FnOnce(&mut Head)) -> Result<Vec<u8>, DecodeError> {
    let mut decoded = decode(body, encoding_of(content_type))?;
    change(&mut decoded.head);
    let mut out = Vec::with_capacity(body.len() + 512);
    match decoded.payload {
        PayloadIn::InPlace(payload) if content_type == ContentType::Native => {
            out.extend_from_slice(section_of(body, payload));
            encode_native(&decoded.head, payload, &mut out);
        }
        PayloadIn::InPlace(payload) => {
            let mut suffix = Vec::new();
            encode_json(&decoded.head, &mut out, &mut suffix);
            out.extend_from_slice(section_of(body, payload));
            out.extend_from_slice(&suffix);
        }
        PayloadIn::Inline(inline) => {
            let mut section = vec![0; usize::try_from(inline.section_len()).unwrap_or_default()];
            let payload = inline.write_section(body, &mut section)?;
            encode_json_with_blobs(&decoded.head, &section, payload, &mut out)?;
        }
    }
    Ok(out)
}

/// Reads a body.
pub fn read(body: &[u8], content_type: ContentType) -> Result<Received, DecodeError> {
    let decoded = decode(body, encoding_of(content_type))?;
    let (section, payload) = match decoded.payload {
        PayloadIn::InPlace(payload) => (section_of(body, payload).to_vec(), payload),
        PayloadIn::Inline(inline) => {
            let mut section = vec![0; usize::try_from(inline.section_len()).unwrap_or_default()];
            let payload = inline.write_section(body, &mut section)?;
            (section, payload)
        }
    };
    let document_len = usize::try_from(payload.document_len).unwrap_or_default();
    let document = String::from_utf8_lossy(section.get(..document_len).unwrap_or_default()).into_owned();
    let mut envelope = Vec::new();
    encode_json_with_blobs(&decoded.head, &section, payload, &mut envelope)?;
    let blobs = blob::read_table(&section, payload)?.into_iter().map(|info| info.len).collect();
    let envelope = String::from_utf8_lossy(&envelope).into_owned();
    Ok(Received { head: decoded.head, document, blobs, envelope })
}

#[cfg(test)]
mod tests {
    use super::*;
    use asya_envelope::Route;
    use proptest::prelude::*;

    fn head() -> Head {
        Head::new("id-1", Route { prev: vec![], curr: "a".into(), next: vec!["b".into()] })
    }

    #[test]
    fn a_document_travels_as_it_is() {
        let out = encode(&head(), Content::Json(br#"{"x": 1}"#.to_vec()));
        let back = read(&out.body, out.content_type).unwrap();
        assert_eq!((back.head, back.document.as_str(), back.blobs.len()), (head(), r#"{"x": 1}"#, 0));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&back.envelope).unwrap()["payload"]["x"], 1);
    }

    proptest! {
        #[test]
        fn a_file_comes_back_whole(name in ".{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let out = encode(&head(), Content::Blob { name: name.clone(), bytes: bytes.clone() });
            prop_assert_eq!(out.content_type, ContentType::Native);
            let back = read(&out.body, out.content_type).unwrap();
            let document: serde_json::Value = serde_json::from_str(&back.document).unwrap();
            prop_assert_eq!(document["name"].as_str(), Some(name.as_str()));
            prop_assert_eq!(back.blobs, [bytes.len() as u64]);
            prop_assert!(out.body.windows(bytes.len().max(1)).any(|w| w == bytes || bytes.is_empty()));
        }
    }
}
