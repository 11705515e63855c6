//! Golden vectors (`tests/vectors/vectors.json`), shared with the Python tests. The file must be what this code makes, byte
//! for byte, and must read as it says. It is written anew only on request: `ASYA_WRITE_VECTORS=1`.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "golden/cases.rs"]
mod cases;
#[path = "golden/sections.rs"]
mod sections;

use std::path::PathBuf;

use asya_envelope::{
    DecodeError, Decoded, Encoding, Head, Payload, PayloadIn, RouteShape, blob, context_json, decode, encode_json,
    encode_native, ids, names,
};
use serde_json::{Value, json};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/vectors.json")
}

fn file() -> Value {
    serde_json::from_slice(&std::fs::read(path()).unwrap()).unwrap()
}

/// Bytes as the file holds them: text where they are text, else hexadecimal digits.
fn bytes_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => json!({ "text": text }),
        _ => json!({ "hex": hex(bytes) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(value: &Value) -> Vec<u8> {
    if let Some(text) = value["text"].as_str() {
        return text.as_bytes().to_vec();
    }
    let digits = value["hex"].as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn encoding_of(value: &Value) -> Encoding {
    match value.as_str().unwrap() {
        "json" => Encoding::Json,
        "native" => Encoding::Native,
        other => unreachable!("encoding {other}"),
    }
}

fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "json",
        Encoding::Native => "native",
    }
}

fn head_json(head: &Head) -> Value {
    json!({
        "id": head.id,
        "parent_id": head.parent_id,
        "namespace": head.namespace,
        "route": { "prev": head.route.prev, "curr": head.route.curr, "next": head.route.next },
        "shape": match head.shape { RouteShape::Curr => "curr", RouteShape::Actors => "actors" },
        "headers": head.headers.as_json(),
        "status": head.status.as_ref().map(|status| json!({
            "phase": status.phase.as_str(),
            "reason": status.reason,
            "actor": status.actor,
            "attempt": status.attempt,
            "max_attempts": status.max_attempts,
            "created_at": status.created_at,
            "updated_at": status.updated_at,
            "deadline_at": status.deadline_at,
            "error": status.error.as_ref().map(|error| json!({
                "message": error.message,
                "type": error.error_type,
                "mro": error.mro,
                "traceback": error.traceback,
            })),
        })),
        "extensions": head.extensions,
    })
}

/// The section of a decoded body: where it lies, or as it is rebuilt.
fn section_of(body: &[u8], decoded: &Decoded) -> (Vec<u8>, Payload) {
    match &decoded.payload {
        PayloadIn::InPlace(payload) => {
            let start = payload.offset as usize;
            (body[start..start + payload.len as usize].to_vec(), *payload)
        }
        PayloadIn::Inline(inline) => {
            // What was in the room before must not show through.
            let mut room = vec![0xaa; inline.section_len() as usize];
            let payload = inline.write_section(body, &mut room).unwrap();
            (room, payload)
        }
    }
}

fn envelope_json(name: &str, encoding: Encoding, body: &[u8]) -> Value {
    let decoded = decode(body, encoding).unwrap_or_else(|error| unreachable!("{name}: {error}"));
    let (section, payload) = section_of(body, &decoded);
    let mut context = Vec::new();
    context_json(&decoded.head, &mut context);
    json!({
        "name": name,
        "encoding": encoding_name(encoding),
        "body": bytes_json(body),
        "head": head_json(&decoded.head),
        "payload": {
            "in_place": matches!(decoded.payload, PayloadIn::InPlace(_)),
            "offset": payload.offset,
            "document_len": payload.document_len,
            "len": payload.len,
            "blobs": payload.blobs,
            "section": bytes_json(&section),
        },
        "context": String::from_utf8(context).unwrap(),
        "canonical": encode(&decoded.head, encoding, &section, payload) == body,
    })
}

fn encode(head: &Head, encoding: Encoding, section: &[u8], payload: Payload) -> Vec<u8> {
    let mut body = Vec::new();
    match encoding {
        Encoding::Json if payload.blobs > 0 => {
            asya_envelope::encode_json_with_blobs(head, section, payload, &mut body).unwrap();
        }
        Encoding::Json => {
            let mut suffix = Vec::new();
            encode_json(head, &mut body, &mut suffix);
            body.extend_from_slice(section);
            body.extend_from_slice(&suffix);
        }
        Encoding::Native => {
            body.extend_from_slice(section);
            encode_native(head, payload, &mut body);
        }
    }
    body
}

fn malformed_json(name: &str, encoding: Encoding, body: &[u8]) -> Value {
    let error = decode(body, encoding).err().unwrap_or_else(|| unreachable!("{name} is accepted"));
    json!({ "name": name, "encoding": encoding_name(encoding), "body": bytes_json(body), "error": error.name() })
}

fn section_json(name: &str, section: &[u8], payload: Payload) -> Value {
    let table = blob::read_table(section, payload).unwrap_or_else(|error| unreachable!("{name}: {error}"));
    let table: Vec<Value> = table
        .iter()
        .map(|info| {
            json!({
                "dtype": info.dtype,
                "shape": info.shape,
                "offset": info.offset,
                "len": info.len,
                "data_hex": hex(&section[info.range().unwrap()]),
            })
        })
        .collect();
    json!({
        "name": name,
        "section": { "hex": hex(section) },
        "document": std::str::from_utf8(&section[..payload.document_len as usize]).unwrap(),
        "document_len": payload.document_len,
        "len": payload.len,
        "blobs": payload.blobs,
        "table": table,
    })
}

fn malformed_section_json(name: &str, section: &[u8], payload: Payload) -> Value {
    let error = blob::check_table(section, payload).err().unwrap_or_else(|| unreachable!("{name} is accepted"));
    json!({
        "name": name,
        "section": { "hex": hex(section) },
        "document_len": payload.document_len,
        "len": payload.len,
        "blobs": payload.blobs,
        "error": error.name(),
    })
}

fn queue_name_json((namespace, actor): (&str, &str)) -> Value {
    match names::queue_name(namespace, actor) {
        Ok(queue) => {
            json!({ "namespace": namespace, "actor": actor, "queue": queue, "dead_letter": names::dead_letter(&queue) })
        }
        Err(error) => json!({ "namespace": namespace, "actor": actor, "error": error.to_string() }),
    }
}

fn everything() -> Value {
    let child = |(parent, hop, index): &(&str, u32, u32)| json!({ "parent": parent, "hop": hop, "index": index, "id": ids::child_id(parent, *hop, *index) });
    json!({
        "version": 1,
        "envelopes": cases::envelopes().iter().map(|(name, encoding, body)| envelope_json(name, *encoding, body)).collect::<Vec<_>>(),
        "malformed": cases::malformed().iter().map(|(name, encoding, body)| malformed_json(name, *encoding, body)).collect::<Vec<_>>(),
        "sections": sections::good().iter().map(|(name, section, payload)| section_json(name, section, *payload)).collect::<Vec<_>>(),
        "malformed_sections": sections::bad().iter().map(|(name, section, payload)| malformed_section_json(name, section, *payload)).collect::<Vec<_>>(),
        "child_ids": cases::CHILDREN.iter().map(child).collect::<Vec<_>>(),
        "queue_names": cases::queue_names().iter().map(|(namespace, actor)| queue_name_json((namespace, actor))).collect::<Vec<_>>(),
    })
}

#[test]
fn the_file_is_what_the_code_makes() {
    let made = format!("{}\n", serde_json::to_string_pretty(&everything()).unwrap());
    if std::env::var_os("ASYA_WRITE_VECTORS").is_some() {
        std::fs::write(path(), &made).unwrap();
    }
    let kept = std::fs::read_to_string(path()).unwrap();
    for (line, (made, kept)) in made.lines().zip(kept.lines()).enumerate() {
        assert_eq!(made, kept, "line {}", line + 1);
    }
    assert_eq!(made.len(), kept.len());
}

#[test]
fn every_envelope_reads_as_it_says() {
    let file = file();
    let envelopes = file["envelopes"].as_array().unwrap();
    for case in envelopes {
        let name = case["name"].as_str().unwrap();
        let encoding = encoding_of(&case["encoding"]);
        let body = bytes_of(&case["body"]);
        let decoded = decode(&body, encoding).unwrap();
        assert_eq!(head_json(&decoded.head), case["head"], "{name}");
        let (section, payload) = section_of(&body, &decoded);
        assert_eq!(section, bytes_of(&case["payload"]["section"]), "{name}");
        assert_eq!(payload.blobs, case["payload"]["blobs"], "{name}");
        // Whatever it was written in, it can be written in both and read back.
        for other in [Encoding::Json, Encoding::Native] {
            let again = encode(&decoded.head, other, &section, payload);
            let reread = decode(&again, other).unwrap_or_else(|error| unreachable!("{name}: {error}"));
            assert_eq!(reread.head, decoded.head, "{name}");
            assert_eq!(section_of(&again, &reread).0, section, "{name}");
            if other == encoding && case["canonical"] == true {
                assert_eq!(again, body, "{name}");
            }
        }
    }
    assert!(envelopes.len() >= 25, "{}", envelopes.len());
}

#[test]
fn every_malformed_envelope_has_its_error() {
    let file = file();
    let malformed = file["malformed"].as_array().unwrap();
    for case in malformed {
        let error = decode(&bytes_of(&case["body"]), encoding_of(&case["encoding"])).unwrap_err();
        assert_eq!(error.name(), case["error"], "{}: {error}", case["name"]);
    }
    assert!(malformed.len() >= 60, "{}", malformed.len());
}

/// Every error that a decoder can give is in the file at least once.
#[test]
fn every_error_occurs() {
    let file = file();
    let malformed = file["malformed"].as_array().unwrap().iter().chain(file["malformed_sections"].as_array().unwrap());
    let seen: Vec<&str> = malformed.map(|case| case["error"].as_str().unwrap()).collect();
    for name in cases::ERROR_NAMES {
        assert!(seen.contains(name), "{name}");
    }
    for name in seen {
        assert!(cases::ERROR_NAMES.contains(&name), "{name} is not listed");
    }
    // The one that needs a caller's mistake.
    assert_eq!(DecodeError::WrongRoom { needed: 1, given: 0 }.name(), "wrong_room");
}
