//! What the fuzz targets ask of every message that a decoder accepts.

use asya_envelope::{
    Decoded, Encoding, Head, Payload, PayloadIn, TRAILER_LEN, check_document, context_json, decode, encode_json,
    encode_json_with_blobs, encode_native,
};

/// Writes `head` and `section` in both encodings and reads them back.
pub fn survives(head: &Head, section: &[u8], payload: Payload) {
    head.check().expect("what a decoder accepts passes the check");

    let mut native = section.to_vec();
    encode_native(head, payload, &mut native);
    let again = decode(&native, Encoding::Native).expect("a native body is read back");
    assert_eq!(&again.head, head);
    assert_eq!(again.payload, PayloadIn::InPlace(Payload { offset: 0, ..payload }));

    let mut context = Vec::new();
    context_json(head, &mut context);
    check_document(&context).expect("the context is JSON");

    // The document of a native body is passed on unseen, so it need not be JSON.
    let document = &section[..payload.document_len as usize];
    if check_document(document).is_err() || has_status_fields_only(head) {
        return;
    }
    let mut json = Vec::new();
    if payload.blobs == 0 {
        let mut suffix = Vec::new();
        encode_json(head, &mut json, &mut suffix);
        json.extend_from_slice(section);
        json.extend_from_slice(&suffix);
    } else {
        encode_json_with_blobs(head, section, payload, &mut json).expect("a table that was accepted");
    }
    let again = decode(&json, Encoding::Json).expect("a JSON body is read back");
    let document_len = section_of(&json, &again).1.document_len;
    assert_eq!(document_len, document.trim_ascii().len() as u64);
    assert_eq!(sorted(&again.head), sorted(head));
}

/// Unknown fields of a status that is not there have no place in JSON.
fn has_status_fields_only(head: &Head) -> bool {
    head.status.is_none() && head.extensions.iter().any(|(name, _)| name.starts_with("status."))
}

/// JSON puts unknown fields where they belong, which may change their order, and drops white space around values.
fn sorted(head: &Head) -> Head {
    let mut head = head.clone();
    for (_, raw) in &mut head.extensions {
        *raw = raw.trim_ascii().to_owned();
    }
    head.extensions.sort();
    head
}

/// The section of a decoded body, rebuilt if it must be.
pub fn section_of(body: &[u8], decoded: &Decoded) -> (Vec<u8>, Payload) {
    match &decoded.payload {
        PayloadIn::InPlace(payload) => {
            let start = payload.offset as usize;
            (body[start..start + payload.len as usize].to_vec(), *payload)
        }
        PayloadIn::Inline(inline) => {
            let mut room = vec![0xaa; inline.section_len() as usize];
            let payload = inline.write_section(body, &mut room).expect("the room is right and the base64 was checked");
            (room, payload)
        }
    }
}

/// Makes the checksum, the version and the magic number of a native body right, so that what lies under them is reached.
pub fn reseal(body: &mut [u8]) {
    let Some(trailer) = body.len().checked_sub(TRAILER_LEN) else { return };
    let head_len = u32::from_le_bytes(body[trailer + 20..trailer + 24].try_into().expect("four bytes")) as usize;
    body[trailer + 24..trailer + 26].copy_from_slice(&asya_envelope::HEAD_MAJOR.to_le_bytes());
    let checksum = crc32fast::hash(&body[trailer.saturating_sub(head_len)..trailer + 28]);
    body[trailer + 28..trailer + 32].copy_from_slice(&checksum.to_le_bytes());
    body[trailer + 32..].copy_from_slice(&asya_envelope::MAGIC);
}
