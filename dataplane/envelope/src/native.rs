//! The native encoding: the payload section, then the archived head, then a fixed trailer.
//!
//! ```text
//! section | head (rkyv 0.8, unaligned, little endian, 32-bit offsets) | trailer, 40 bytes
//! ```
//! The payload comes first so that it starts where the body does. Trailer, little endian:
//!
//! | at | type | |
//! | --- | --- | --- |
//! | 0 | u64 | bytes of the section |
//! | 8 | u64 | bytes of its document |
//! | 16 | u32 | number of its blobs |
//! | 20 | u32 | bytes of the head |
//! | 24 | u16 | major version |
//! | 26 | u16 | minor version |
//! | 28 | u32 | CRC-32 (IEEE) of the head and of bytes 0 to 27 of the trailer |
//! | 32 | 8 bytes | [`MAGIC`] |
//!
//! Versions and magic number stay where they are in every version to come. Nothing of a body is trusted: lengths, checksum,
//! archive (bytecheck) and table are checked in this order before anything is read.

mod wire;

use crate::blob::{self, BlobError};
use crate::{DecodeError, Decoded, Head, Payload, PayloadIn};

/// The last eight bytes of a native body.
pub const MAGIC: [u8; 8] = *b"\x89ASYA\r\n\x1a";
/// Major version that is written. A reader of version N accepts N and N−1; there is none before 1.
pub const HEAD_MAJOR: u16 = 1;
/// Minor version that is written. A reader accepts any: a higher one only adds to the extension list.
pub const HEAD_MINOR: u16 = 0;
/// Bytes of the trailer.
pub const TRAILER_LEN: usize = 40;

const CHECKED_LEN: usize = 28;

/// Appends what follows the payload section of a native body: body = section + `suffix`. [`Payload::offset`] is not
/// looked at.
pub fn encode_native(head: &Head, payload: Payload, suffix: &mut Vec<u8>) {
    let start = suffix.len();
    wire::write(head, suffix);
    let head_len = suffix.len() - start;
    suffix.extend_from_slice(&payload.len.to_le_bytes());
    suffix.extend_from_slice(&payload.document_len.to_le_bytes());
    suffix.extend_from_slice(&payload.blobs.to_le_bytes());
    // The archive's offsets have 32 bits, so that a longer one could not have been written.
    suffix.extend_from_slice(&(head_len as u32).to_le_bytes());
    suffix.extend_from_slice(&HEAD_MAJOR.to_le_bytes());
    suffix.extend_from_slice(&HEAD_MINOR.to_le_bytes());
    let checksum = crc32fast::hash(suffix.get(start..).unwrap_or_default());
    suffix.extend_from_slice(&checksum.to_le_bytes());
    suffix.extend_from_slice(&MAGIC);
}

/// The trailer's fields as they stand.
struct Trailer {
    section_len: u64,
    document_len: u64,
    blobs: u32,
    head_len: u32,
    major: u16,
    minor: u16,
    checksum: u32,
    magic: [u8; 8],
}

impl Trailer {
    fn read(bytes: &[u8; TRAILER_LEN]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            section_len: u64::from_le_bytes(take(&mut rest)),
            document_len: u64::from_le_bytes(take(&mut rest)),
            blobs: u32::from_le_bytes(take(&mut rest)),
            head_len: u32::from_le_bytes(take(&mut rest)),
            major: u16::from_le_bytes(take(&mut rest)),
            minor: u16::from_le_bytes(take(&mut rest)),
            checksum: u32::from_le_bytes(take(&mut rest)),
            magic: take(&mut rest),
        }
    }
}

/// The next bytes of a trailer, whose length is known to suffice.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((chunk, after)) => {
            *rest = after;
            *chunk
        }
        None => [0; N],
    }
}

/// Decodes a native body.
pub(crate) fn decode(body: &[u8]) -> Result<Decoded, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::Empty);
    }
    let given = body.len() as u64;
    let short = |needed: u64| DecodeError::Truncated { needed, given };
    let (before, trailer_bytes) = body.split_last_chunk::<TRAILER_LEN>().ok_or_else(|| short(TRAILER_LEN as u64))?;
    let trailer = Trailer::read(trailer_bytes);
    if trailer.magic != MAGIC {
        return Err(DecodeError::BadMagic);
    }
    if trailer.major != HEAD_MAJOR {
        return Err(DecodeError::UnknownVersion { major: trailer.major, minor: trailer.minor });
    }
    let needed = trailer.section_len.saturating_add(u64::from(trailer.head_len)).saturating_add(TRAILER_LEN as u64);
    if needed > given {
        return Err(short(needed));
    }
    if needed < given {
        return Err(DecodeError::TrailingBytes { at: trailer.section_len + u64::from(trailer.head_len) });
    }
    // At most the body's length, which is that of a slice.
    let (section, head) = before.split_at_checked(trailer.section_len as usize).ok_or_else(|| short(needed))?;
    let checked = trailer_bytes.get(..CHECKED_LEN).unwrap_or_default();
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(head);
    checksum.update(checked);
    if checksum.finalize() != trailer.checksum {
        return Err(DecodeError::BadChecksum);
    }
    let payload =
        Payload { offset: 0, document_len: trailer.document_len, len: trailer.section_len, blobs: trailer.blobs };
    if payload.document_len > payload.len {
        return Err(BlobError::WrongLength { len: payload.len, document_len: payload.document_len }.into());
    }
    if payload.document_len == 0 {
        return Err(DecodeError::MissingField { field: "payload" });
    }
    let head = wire::read(head)?;
    blob::check_table(section, payload)?;
    Ok(Decoded { head, payload: PayloadIn::InPlace(payload) })
}
