//! Blobs in the JSON encoding: a sibling of the payload, `blobs: [{"dtype","shape","data"}]`, with base64 data.
//!
//! Reading checks everything (the base64 too) before any memory is asked for; writing the section then cannot fail but
//! for a room of the wrong size. The other direction is for tools and for peers that only speak JSON.

use std::borrow::Cow;
use std::ops::Range;

use base64_simd::{Out, STANDARD};

use super::encode::{push_head, push_number, push_text};
use crate::blob::{self, BlobError, BlobInfo};
use crate::scan::Scanner;
use crate::{DecodeError, Head, Payload};

/// One blob of a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inline {
    dtype: String,
    shape: Vec<u64>,
    /// Decoded length.
    len: u64,
    data: Data,
}

/// Where the base64 text is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Data {
    /// In the body.
    Body(Range<usize>),
    /// Here, because it had escapes (some writers escape `/`).
    Own(String),
}

/// A JSON body with blobs, from which a section can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineBlobs {
    document: Range<usize>,
    blobs: Vec<Inline>,
    offsets: Vec<u64>,
    len: u64,
}

impl InlineBlobs {
    pub(crate) fn new(document: Range<usize>, blobs: Vec<Inline>) -> Result<Self, DecodeError> {
        let placed = blob::place(document.len() as u64, blobs.iter().map(|blob| blob.len));
        let count = u32::try_from(blobs.len()).unwrap_or(u32::MAX);
        let (offsets, len) = placed.ok_or(BlobError::TableOutOfRange { blobs: count, len: u64::MAX })?;
        Ok(Self { document, blobs, offsets, len })
    }

    /// Where the document lies in the body.
    pub fn document(&self) -> Range<usize> {
        self.document.clone()
    }

    /// How many blobs there are.
    pub fn blobs(&self) -> u32 {
        u32::try_from(self.blobs.len()).unwrap_or(u32::MAX)
    }

    /// Bytes of the section that [`Self::write_section`] writes.
    pub fn section_len(&self) -> u64 {
        self.len
    }

    /// Writes the section into `out`, which is exactly as long as it. `body` is the body that was decoded.
    pub fn write_section(&self, body: &[u8], out: &mut [u8]) -> Result<Payload, DecodeError> {
        let wrong_room = DecodeError::WrongRoom { needed: self.len, given: out.len() as u64 };
        if out.len() as u64 != self.len {
            return Err(wrong_room);
        }
        let document = body.get(self.document.clone()).ok_or(wrong_room.clone())?;
        let payload = Payload { offset: 0, document_len: document.len() as u64, len: self.len, blobs: self.blobs() };
        let table = blob::table_range(payload.document_len, payload.blobs).ok_or(wrong_room.clone())?;
        // All of these are at most the section's length, which is the length of a slice.
        let (before, data) = out.split_at_mut_checked(table.end as usize).ok_or(wrong_room.clone())?;
        let (text, entries) = before.split_at_mut_checked(table.start as usize).ok_or(wrong_room.clone())?;
        let (text, padding) = text.split_at_mut_checked(document.len()).ok_or(wrong_room.clone())?;
        text.copy_from_slice(document);
        padding.fill(0);
        let entries = entries.as_chunks_mut::<{ blob::ENTRY_LEN }>().0;
        let mut rest = data;
        let mut at = table.end;
        for (index, ((inline, &offset), entry)) in (0_u32..).zip(self.blobs.iter().zip(&self.offsets).zip(entries)) {
            let info = BlobInfo { dtype: inline.dtype.clone(), shape: inline.shape.clone(), offset, len: inline.len };
            blob::write_entry(entry, &info);
            let (padding, after) = rest.split_at_mut_checked((offset - at) as usize).ok_or(wrong_room.clone())?;
            let (bytes, after) = after.split_at_mut_checked(inline.len as usize).ok_or(wrong_room.clone())?;
            padding.fill(0);
            let text = match &inline.data {
                Data::Body(range) => body.get(range.clone()).ok_or(wrong_room.clone())?,
                Data::Own(text) => text.as_bytes(),
            };
            STANDARD.decode(text, Out::from_slice(bytes)).map_err(|_| DecodeError::Base64 { blob: index })?;
            rest = after;
            at = offset + inline.len;
        }
        Ok(payload)
    }
}

/// Reads the `blobs` field. The scanner is at its value.
pub(crate) fn read(scanner: &mut Scanner<'_>) -> Result<Vec<Inline>, DecodeError> {
    let wrong = DecodeError::WrongType { field: "blobs", expected: "an array of objects" };
    let mut blobs = Vec::new();
    let mut first = true;
    if scanner.peek() != Some(b'[') {
        scanner.value(1)?;
        return Err(wrong);
    }
    scanner.enter();
    while scanner.next_item(&mut first, b']')? {
        if scanner.peek() != Some(b'{') {
            scanner.value(2)?;
            return Err(wrong);
        }
        let index = u32::try_from(blobs.len()).unwrap_or(u32::MAX);
        blobs.push(read_one(scanner, index)?);
    }
    Ok(blobs)
}

fn read_one(scanner: &mut Scanner<'_>, index: u32) -> Result<Inline, DecodeError> {
    let mut dtype = None;
    let mut shape = None;
    let mut data = None;
    let mut first = true;
    scanner.enter();
    while let Some(key) = scanner.next_key(&mut first)? {
        let twice = match key.raw {
            "dtype" => dtype.replace(read_string(scanner, "blobs.dtype")?.0.into_owned()).is_some(),
            "shape" => shape.replace(read_shape(scanner)?).is_some(),
            "data" => data.replace(read_string(scanner, "blobs.data")?).is_some(),
            _ => {
                scanner.value(3)?;
                return Err(DecodeError::WrongType { field: "blobs", expected: "made of dtype, shape and data" });
            }
        };
        if twice {
            return Err(DecodeError::DuplicateField { field: format!("blobs.{}", key.raw) });
        }
    }
    let dtype = dtype.ok_or(DecodeError::MissingField { field: "blobs.dtype" })?;
    let shape = shape.ok_or(DecodeError::MissingField { field: "blobs.shape" })?;
    let (text, range) = data.ok_or(DecodeError::MissingField { field: "blobs.data" })?;
    STANDARD.check(text.as_bytes()).map_err(|_| DecodeError::Base64 { blob: index })?;
    let padding = text.bytes().rev().take(2).filter(|&byte| byte == b'=').count();
    let len = (text.len() / 4 * 3 - padding) as u64;
    blob::check_kind(index, &dtype, &shape, len)?;
    let data = match text {
        Cow::Borrowed(_) => Data::Body(range),
        Cow::Owned(text) => Data::Own(text),
    };
    Ok(Inline { dtype, shape, len, data })
}

/// A string and where its text lies in the body.
fn read_string<'a>(
    scanner: &mut Scanner<'a>,
    field: &'static str,
) -> Result<(Cow<'a, str>, Range<usize>), DecodeError> {
    let range = scanner.clone().value(3)?;
    if scanner.peek() != Some(b'"') {
        return Err(DecodeError::WrongType { field, expected: "a string" });
    }
    let text = scanner.string()?.decode().ok_or(DecodeError::BadEscape { field })?;
    Ok((text, range.start + 1..range.end - 1))
}

fn read_shape(scanner: &mut Scanner<'_>) -> Result<Vec<u64>, DecodeError> {
    let wrong = DecodeError::WrongType { field: "blobs.shape", expected: "an array of at most 8 whole numbers" };
    let mut shape = Vec::new();
    let mut first = true;
    if scanner.peek() != Some(b'[') {
        scanner.value(3)?;
        return Err(wrong);
    }
    scanner.enter();
    while scanner.next_item(&mut first, b']')? {
        let range = scanner.value(4)?;
        let dim = scanner.text(range).parse();
        if shape.len() == blob::MAX_DIMS {
            return Err(wrong);
        }
        shape.push(dim.map_err(|_| wrong.clone())?);
    }
    Ok(shape)
}

/// Appends a whole JSON envelope with its blobs in base64. `section` is the payload section; [`Payload::offset`] is
/// not looked at. On failure `out` is as it was.
pub fn encode_json_with_blobs(
    head: &Head,
    section: &[u8],
    payload: Payload,
    out: &mut Vec<u8>,
) -> Result<(), BlobError> {
    let blobs = blob::read_table(section, payload)?;
    // The document's length is at most that of the section, which is a slice.
    let document = section.get(..payload.document_len as usize).unwrap_or_default();
    push_head(head, out);
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(document);
    for (index, info) in blobs.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b",\"blobs\":[" } else { b"," });
        push_text(out, b"{\"dtype\":", &info.dtype);
        out.extend_from_slice(b",\"shape\":[");
        for (dim, &size) in info.shape.iter().enumerate() {
            push_number(out, if dim == 0 { b"" } else { b"," }, size);
        }
        out.extend_from_slice(b"],\"data\":\"");
        let bytes = info.range().and_then(|range| section.get(range)).unwrap_or_default();
        STANDARD.encode_append(bytes, out);
        out.extend_from_slice(b"\"}");
    }
    if !blobs.is_empty() {
        out.push(b']');
    }
    out.push(b'}');
    Ok(())
}
