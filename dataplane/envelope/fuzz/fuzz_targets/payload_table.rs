//! Any bytes as a payload section (the first three say how long its document is and how many blobs it has): a table that is
//! accepted names nothing outside the section, in order, and survives base64.
#![no_main]

use asya_envelope::blob::{ALIGN, check_table, read_table, table_range};
use asya_envelope::{Head, Payload, Route};
use asya_envelope_fuzz::survives;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(([low, high, blobs], section)) = input.split_first_chunk::<3>() else { return };
    let document_len = u64::from(u16::from_le_bytes([*low, *high]));
    let payload = Payload { offset: 0, document_len, len: section.len() as u64, blobs: u32::from(*blobs) };
    let table = read_table(section, payload);
    assert_eq!(check_table(section, payload).err(), table.as_ref().err().cloned());
    let Ok(table) = table else { return };
    assert_eq!(table.len(), usize::from(*blobs));
    let mut end = table_range(document_len, payload.blobs).expect("small").end;
    for info in &table {
        assert!(info.offset >= end && info.offset % ALIGN == 0);
        assert!(section.get(info.range().expect("small")).is_some());
        end = info.offset + info.len;
    }
    if document_len > 0 {
        let head = Head::new("i", Route { curr: "a".to_owned(), ..Route::default() });
        survives(&head, section, payload);
    }
});
