//! Any bytes as a body for SQS, and any text as a message from it: what is sent is text that SQS takes and comes back as it was,
//! or as equal JSON; what comes is never refused, and fills exactly the room that it asks for.
#![no_main]

use asya_transport::ContentType;
use asya_transport::sqs::body::{ATTRIBUTES_BYTES, Arrived, BASE64, EMPTY, MESSAGE_BYTES_MAX, encode, message_id};
use libfuzzer_sys::fuzz_target;

const ROOM: u64 = MESSAGE_BYTES_MAX - ATTRIBUTES_BYTES;

fn taken(text: &str) -> bool {
    let ok = |c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}');
    !text.is_empty() && text.chars().all(ok)
}

fn written(arrived: &Arrived) -> Vec<u8> {
    let mut slot = vec![0; arrived.len()];
    assert!(arrived.write(&mut slot));
    slot
}

fuzz_target!(|input: &[u8]| {
    // The first byte says what the others are.
    let Some((&what, bytes)) = input.split_first() else { return };
    let (native, encoding) = (what & 1 == 1, what >> 1);
    let content_type = if native { ContentType::Native } else { ContentType::Json };

    let encoded = encode(content_type, bytes.to_vec(), ROOM);
    assert!(taken(&encoded.text));
    let back = written(&Arrived::new(content_type, encoded.encoding, encoded.text));
    if back != bytes {
        // Only characters that SQS refuses may have become escapes, within strings.
        let unescaped = String::from_utf8(back).unwrap().replace("\\ufffe", "\u{FFFE}").replace("\\uffff", "\u{FFFF}");
        let original = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(!native && original.contains(['\u{FFFE}', '\u{FFFF}']));
        assert_eq!(unescaped, original.replace("\\ufffe", "\u{FFFE}").replace("\\uffff", "\u{FFFF}"));
    }

    let text = String::from_utf8_lossy(bytes).into_owned();
    assert!(message_id(&text).is_none_or(|id| taken(&id) && id.len() <= 255));
    let encoding = [None, Some(BASE64), Some(EMPTY), Some("other")][usize::from(encoding % 4)];
    written(&Arrived::new(content_type, encoding, text));
});
