//! What is written is read back, in both encodings and both route shapes; what was changed on the way is noticed.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod strategies;

use asya_envelope::{
    Decoded, Encoding, Head, Payload, PayloadIn, RouteShape, TRAILER_LEN, blob, context_json, decode, encode_json,
    encode_json_with_blobs, encode_native,
};
use proptest::prelude::*;
use serde_json::Value;

fn json(head: &Head, document: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let mut suffix = Vec::new();
    encode_json(head, &mut body, &mut suffix);
    body.extend_from_slice(document.as_bytes());
    body.extend_from_slice(&suffix);
    body
}

fn native(head: &Head, section: &[u8], payload: Payload) -> Vec<u8> {
    let mut body = section.to_vec();
    encode_native(head, payload, &mut body);
    body
}

fn resealed(mut body: Vec<u8>) -> Vec<u8> {
    let trailer = body.len() - TRAILER_LEN;
    let head_len = u32::from_le_bytes(body[trailer + 20..trailer + 24].try_into().unwrap()) as usize;
    let checksum = crc32fast::hash(&body[trailer.saturating_sub(head_len)..trailer + 28]);
    body[trailer + 28..trailer + 32].copy_from_slice(&checksum.to_le_bytes());
    body
}

/// The fields of the envelope that any JSON reader would see.
fn seen_by_others(head: &Head, body: &[u8], document: &str) {
    let value: Value = serde_json::from_slice(body).unwrap();
    let payload: Value = serde_json::from_str(document).unwrap();
    assert_eq!(value["id"], head.id.as_str());
    assert_eq!(value["parent_id"].as_str(), head.parent_id.as_deref());
    assert_eq!(value["payload"], payload);
    let route = &value["route"];
    match head.shape {
        RouteShape::Curr => {
            assert_eq!(route["prev"], Value::from(head.route.prev.clone()));
            assert_eq!(route["curr"], head.route.curr.as_str());
            assert_eq!(route["next"], Value::from(head.route.next.clone()));
        }
        RouteShape::Actors => {
            let mut actors = head.route.prev.clone();
            actors.extend(Some(head.route.curr.clone()).filter(|curr| !curr.is_empty()));
            actors.extend(head.route.next.clone());
            assert_eq!(route["actors"], Value::from(actors));
            assert_eq!(route["current"], head.route.prev.len());
        }
    }
    if let Some(status) = &head.status {
        assert_eq!(value["status"]["phase"], status.phase.as_str());
        assert_eq!(value["status"]["attempt"], status.attempt);
        assert_eq!(value["status"]["error"]["message"].as_str(), status.error.as_ref().map(|e| e.message.as_str()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn json_is_read_back(head in strategies::head(), document in strategies::document()) {
        let body = json(&head, &document);
        seen_by_others(&head, &body, &document);
        let Decoded { head: reread, payload } = decode(&body, Encoding::Json).unwrap();
        prop_assert_eq!(reread, head);
        let PayloadIn::InPlace(payload) = payload else { unreachable!("no blobs were written") };
        let start = payload.offset as usize;
        prop_assert_eq!(&body[start..start + payload.len as usize], document.as_bytes());
        prop_assert_eq!((payload.document_len, payload.blobs), (payload.len, 0));
    }

    #[test]
    fn native_is_read_back(head in strategies::head(), (section, payload) in strategies::section()) {
        let body = native(&head, &section, payload);
        let decoded = decode(&body, Encoding::Native).unwrap();
        prop_assert_eq!(&decoded.head, &head);
        prop_assert_eq!(decoded.payload, PayloadIn::InPlace(payload));
        // The head is written at the end of whatever is in the buffer, and is the same there.
        let mut suffix = vec![1, 2, 3];
        encode_native(&head, payload, &mut suffix);
        prop_assert_eq!(&suffix[3..], &body[section.len()..]);
    }

    #[test]
    fn blobs_survive_base64(head in strategies::head(), (section, payload) in strategies::section()) {
        let mut body = Vec::new();
        encode_json_with_blobs(&head, &section, payload, &mut body).unwrap();
        let decoded = decode(&body, Encoding::Json).unwrap();
        prop_assert_eq!(&decoded.head, &head);
        let (rebuilt, found) = match &decoded.payload {
            PayloadIn::InPlace(found) => {
                let start = found.offset as usize;
                (body[start..start + found.len as usize].to_vec(), Payload { offset: 0, ..*found })
            }
            PayloadIn::Inline(inline) => {
                let mut room = vec![0xaa; inline.section_len() as usize];
                let found = inline.write_section(&body, &mut room).unwrap();
                prop_assert!(inline.write_section(&body, &mut room[1..]).is_err());
                (room, found)
            }
        };
        prop_assert_eq!(found, payload);
        prop_assert_eq!(rebuilt, section);
    }

    /// Any one byte of head or trailer that changes is noticed, and any cut.
    #[test]
    fn damage_is_noticed(head in strategies::head(), (section, payload) in strategies::section(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let body = native(&head, &section, payload);
        let mut damaged = body.clone();
        let at = section.len() + at.index(body.len() - section.len());
        damaged[at] ^= 1_u8 << bit;
        prop_assert!(decode(&damaged, Encoding::Native).is_err());
        prop_assert!(decode(&body[..at], Encoding::Native).is_err());
    }

    /// A head that lies under a right checksum is refused or is a message like any other; it never panics.
    #[test]
    fn lies_are_harmless(head in strategies::head(), (section, payload) in strategies::section(), lies in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut body = native(&head, &section, payload);
        for (at, byte) in lies {
            // All but the checksum and the magic number.
            let at = at.index(body.len() - 12);
            body[at] = byte;
        }
        if let Ok(Decoded { head, payload: PayloadIn::InPlace(payload) }) = decode(&resealed(body.clone()), Encoding::Native) {
            let again = native(&head, &body[..payload.len as usize], payload);
            prop_assert_eq!(decode(&again, Encoding::Native).unwrap().head, head);
        }
    }

    /// No bytes whatever make a table that names what is outside its section.
    #[test]
    fn tables_stay_inside((mut section, payload) in strategies::section(), lies in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        for (at, byte) in lies {
            if !section.is_empty() {
                let at = at.index(section.len());
                section[at] = byte;
            }
        }
        if let Ok(table) = blob::read_table(&section, payload) {
            prop_assert_eq!(table.len(), payload.blobs as usize);
            for info in table {
                prop_assert!(section.get(info.range().unwrap()).is_some());
                prop_assert_eq!(info.offset % blob::ALIGN, 0);
            }
        }
    }

    #[test]
    fn context_is_json(head in strategies::head()) {
        let mut out = b"before".to_vec();
        context_json(&head, &mut out);
        let value: Value = serde_json::from_slice(&out[6..]).unwrap();
        prop_assert_eq!(value["id"].as_str(), Some(head.id.as_str()));
        prop_assert_eq!(&value["route"]["prev"], &Value::from(head.route.prev.clone()));
        prop_assert_eq!(value["route"]["curr"].as_str(), Some(head.route.curr.as_str()));
        prop_assert_eq!(&value["route"]["next"], &Value::from(head.route.next.clone()));
        let headers: Value = serde_json::from_str(head.headers.as_json()).unwrap();
        prop_assert_eq!(&value["headers"], &headers);
        prop_assert_eq!(value.get("status").is_some(), head.status.is_some());
    }

    #[test]
    fn random_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes, Encoding::Json);
        prop_assert!(decode(&bytes, Encoding::Native).is_err());
    }
}
