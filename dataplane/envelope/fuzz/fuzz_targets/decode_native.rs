//! Any bytes as a native body, as they are and under a right checksum: refused, or a message that survives.
#![no_main]

use asya_envelope::{Encoding, decode};
use asya_envelope_fuzz::{reseal, section_of, survives};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let mut body = body.to_vec();
    let _ = decode(&body, Encoding::Native);
    reseal(&mut body);
    if let Ok(decoded) = decode(&body, Encoding::Native) {
        let (section, payload) = section_of(&body, &decoded);
        survives(&decoded.head, &section, payload);
    }
});
