//! The payload sections of the golden vectors, good and bad.

use asya_envelope::Payload;
use asya_envelope::blob::{self, BlobInfo, ENTRY_LEN};

type Case = (&'static str, Vec<u8>, Payload);

/// A section with these blobs (dtype, shape, bytes).
fn section(document: &str, blobs: &[(&str, &[u64], Vec<u8>)]) -> (Vec<u8>, Payload) {
    let document_len = document.len() as u64;
    let (offsets, len) = blob::place(document_len, blobs.iter().map(|(_, _, bytes)| bytes.len() as u64)).unwrap();
    let table = blob::table_range(document_len, blobs.len() as u32).unwrap();
    let mut section = vec![0; len as usize];
    section[..document.len()].copy_from_slice(document.as_bytes());
    for (index, ((dtype, shape, bytes), offset)) in blobs.iter().zip(offsets).enumerate() {
        let info = BlobInfo { dtype: (*dtype).to_owned(), shape: shape.to_vec(), offset, len: bytes.len() as u64 };
        let at = table.start as usize + index * ENTRY_LEN;
        blob::write_entry((&mut section[at..at + ENTRY_LEN]).try_into().unwrap(), &info);
        section[info.range().unwrap()].copy_from_slice(bytes);
    }
    (section, Payload { offset: 0, document_len, len, blobs: blobs.len() as u32 })
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Sections that are right.
pub fn good() -> Vec<Case> {
    let case = |name, document: &str, blobs: &[(&str, &[u64], Vec<u8>)]| {
        let (section, payload) = section(document, blobs);
        (name, section, payload)
    };
    let long = format!(r#"{{"pad":"{}","x":{{"$asya.blob":0}}}}"#, "p".repeat(64 - 29));
    vec![
        case("section_no_blobs", r#"{"n":1}"#, &[]),
        case("section_raw", r#"{"name":"a.png","data":{"$asya.blob":0}}"#, &[("raw", &[5], b"hello".to_vec())]),
        case(
            "section_floats",
            r#"{"x":{"$asya.blob":0}}"#,
            &[("<f4", &[2, 3], floats(&[0.0, 1.0, 2.0, 3.0, 4.0, -5.5]))],
        ),
        case("section_whole_payload", r#"{"$asya.blob":0}"#, &[("|u1", &[4], vec![1, 2, 3, 4])]),
        case("section_document_of_64", &long, &[("|u1", &[1], vec![7])]),
        case(
            "section_several",
            r#"{"a":{"$asya.blob":0},"b":[{"$asya.blob":1},{"$asya.blob":2}],"again":{"$asya.blob":0},"c":{"$asya.blob":3},"d":{"$asya.blob":4}}"#,
            &[
                (">i2", &[2], vec![0, 1, 0xff, 0xfe]),
                ("|b1", &[64], (0..64).map(|n| n % 2).collect()),
                ("<f8", &[], 2.5_f64.to_le_bytes().to_vec()),
                ("<U3", &[1], "añ".chars().chain(['\0']).flat_map(|c| (c as u32).to_le_bytes()).collect()),
                ("<M8[ns]", &[1], 1_000_000_000_i64.to_le_bytes().to_vec()),
            ],
        ),
        case(
            "section_empty_blobs",
            r#"[{"$asya.blob":0},{"$asya.blob":1},{"$asya.blob":2}]"#,
            &[("raw", &[0], Vec::new()), ("<f4", &[0, 28, 28], Vec::new()), ("|u1", &[1], vec![9])],
        ),
        case(
            "section_literal",
            r#"{"mine":{"$asya.blob":{"$asya.literal":5}},"nested":{"$asya.blob":{"$asya.literal":{"$asya.blob":{"$asya.literal":"x"}}}},"two":{"$asya.blob":1,"k":2},"blob":{"$asya.blob":0}}"#,
            &[("raw", &[1], vec![0])],
        ),
        case("section_eight_dims", r#"{"x":{"$asya.blob":0}}"#, &[("|i1", &[1, 2, 1, 2, 1, 2, 1, 1], vec![0xff; 8])]),
    ]
}

/// Sections that are wrong, each in one way.
pub fn bad() -> Vec<Case> {
    let base = || {
        section(
            r#"{"x":{"$asya.blob":0},"y":{"$asya.blob":1}}"#,
            &[("<f4", &[2], vec![0; 8]), ("raw", &[3], vec![0; 3])],
        )
    };
    let table = 64;
    let with = |name, at: usize, bytes: &[u8]| {
        let (mut section, payload) = base();
        section[table + at..table + at + bytes.len()].copy_from_slice(bytes);
        (name, section, payload)
    };
    let lying = |name, change: fn(&mut Payload)| {
        let (section, mut payload) = base();
        change(&mut payload);
        (name, section, payload)
    };
    let cut = {
        let (mut section, mut payload) = base();
        section.pop();
        payload.len -= 1;
        ("section_cut", section, payload)
    };
    vec![
        cut,
        lying("section_table_past_end", |payload| payload.blobs = 4),
        lying("section_too_many_blobs", |payload| payload.blobs = u32::MAX),
        lying("section_blobs_uncounted", |payload| payload.blobs = 0),
        with("section_dtype_unknown", 0, b"<x4\0"),
        with("section_dtype_object", 0, b"|O8\0"),
        with("section_dtype_not_text", 0, &[0xff]),
        with("section_dtype_empty", 0, &[0; 16]),
        with("section_dtype_no_size", 0, b"<f\0\0"),
        with("section_dtype_full", 0, b"<f40000000000000"),
        with("section_dtype_padding", 15, b"x"),
        with("section_nine_dims", 16, &9_u32.to_le_bytes()),
        with("section_raw_no_dims", 128 + 16, &0_u32.to_le_bytes()),
        with("section_flags", 20, &1_u32.to_le_bytes()),
        with("section_unused_dim", 32, &1_u64.to_le_bytes()),
        with("section_shape_too_large", 24, &3_u64.to_le_bytes()),
        with("section_shape_overflow", 24, &(1_u64 << 62).to_le_bytes()),
        with("section_offset_misaligned", 88, &321_u64.to_le_bytes()),
        with("section_offset_in_table", 88, &64_u64.to_le_bytes()),
        with("section_offset_past_end", 88, &(1_u64 << 40).to_le_bytes()),
        with("section_offset_overflow", 88, &(u64::MAX - 63).to_le_bytes()),
        with("section_offset_on_other", 128 + 88, &320_u64.to_le_bytes()),
        with("section_reserved", 104, &[1]),
        with("section_reserved_end", 127, &[1]),
    ]
}
