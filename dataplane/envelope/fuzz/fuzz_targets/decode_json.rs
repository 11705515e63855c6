//! Any bytes as a JSON body: the scan agrees with serde_json, what is accepted survives both encodings, what is refused
//! is whole in the message about it.
#![no_main]

use asya_envelope::{DecodeError, Encoding, check_document, decode, encode_json, failure_of_unparsable};
use asya_envelope_fuzz::{section_of, survives};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

fuzz_target!(|body: &[u8]| {
    let theirs = std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    match check_document(body) {
        Ok(()) => assert!(theirs),
        Err(DecodeError::TooDeep { .. }) => {}
        Err(_) => assert!(!theirs),
    }
    match decode(body, Encoding::Json) {
        Ok(decoded) => {
            assert!(theirs);
            let (section, payload) = section_of(body, &decoded);
            survives(&decoded.head, &section, payload);
        }
        Err(error) => {
            let (head, payload) = failure_of_unparsable(body, Encoding::Json, "echo", &error, "now");
            let value: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
            let kept = value["original_body"].as_str().expect("the body");
            if value["original_body_encoding"] == "base64" {
                assert_eq!(base64_simd::STANDARD.decode_to_vec(kept).expect("base64"), body);
            } else {
                assert_eq!(kept.as_bytes(), body);
            }
            let mut message = Vec::new();
            let mut suffix = Vec::new();
            encode_json(&head, &mut message, &mut suffix);
            message.extend_from_slice(&payload);
            message.extend_from_slice(&suffix);
            assert_eq!(decode(&message, Encoding::Json).expect("a message").head, head);
        }
    }
});
