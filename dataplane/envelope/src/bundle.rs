//! Several messages that travel as one: their bodies one after the other, an index, a fixed trailer.
//!
//! ```text
//! body 0 | padding to 64 | body 1 | padding to 64 | … | index: members × 24 bytes | trailer, 32 bytes
//! ```
//! Each body starts at a multiple of 64, so that a payload in it keeps its alignment. Little endian. Index entry: `offset`
//! u64, `len` u64, `encoding` u64 (0 = JSON, 1 = native). Trailer: `members` u64, version u64, CRC-32 of index and of the
//! trailer so far u64, [`MAGIC`].

use crate::{DecodeError, Encoding};

/// The last eight bytes of a bundle.
pub const MAGIC: [u8; 8] = *b"\x89ASYB\r\n\x1a";
/// The version that is written and read.
pub const VERSION: u64 = 1;
/// Most messages in one bundle: more would be held by one pod for too long.
pub const MEMBERS_MAX: u64 = 4096;

const ALIGN: usize = 64;
const ENTRY: usize = 24;
const TRAILER: usize = 32;

/// Where one message of a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the bundle.
    pub offset: u64,
    /// Length of its body in bytes.
    pub len: u64,
    /// How its body is encoded.
    pub encoding: Encoding,
}

/// The messages of a body; `None` when it is not a bundle.
pub fn split(body: &[u8]) -> Option<Result<Vec<Member>, DecodeError>> {
    body.ends_with(&MAGIC).then(|| members(body).ok_or(DecodeError::BadBundle))
}

fn members(body: &[u8]) -> Option<Vec<Member>> {
    let trailer = body.len().checked_sub(TRAILER)?;
    let word = |at: usize| Some(u64::from_le_bytes(*body.get(at..)?.first_chunk()?));
    let (count, version, checksum) = (word(trailer)?, word(trailer + 8)?, word(trailer + 16)?);
    if version != VERSION || count == 0 || count > MEMBERS_MAX {
        return None;
    }
    let index = trailer.checked_sub(count as usize * ENTRY)?;
    if u64::from(crc32fast::hash(body.get(index..trailer + 16)?)) != checksum {
        return None;
    }
    let mut end = 0;
    let mut members = Vec::with_capacity(count as usize);
    for at in (index..trailer).step_by(ENTRY) {
        let (offset, len, encoding) = (word(at)?, word(at + 8)?, word(at + 16)?);
        // In order and apart, so that no byte belongs to two messages.
        if !offset.is_multiple_of(ALIGN as u64) || offset < end || offset.checked_add(len)? > index as u64 {
            return None;
        }
        end = offset + len;
        let encoding = match encoding {
            0 => Encoding::Json,
            1 => Encoding::Native,
            _ => return None,
        };
        members.push(Member { offset, len, encoding });
    }
    Some(members)
}

/// One body of these. At most [`MEMBERS_MAX`] are taken; the caller sees to that.
pub fn join<'a>(bodies: impl IntoIterator<Item = (Encoding, &'a [u8])>) -> Vec<u8> {
    let (mut out, mut index, mut count) = (Vec::new(), Vec::new(), 0_u64);
    for (encoding, body) in bodies {
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        let encoding = match encoding {
            Encoding::Json => 0_u64,
            Encoding::Native => 1,
        };
        for word in [out.len() as u64, body.len() as u64, encoding] {
            index.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(body);
        count += 1;
    }
    let start = out.len();
    out.extend_from_slice(&index);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    let checksum = u64::from(crc32fast::hash(out.get(start..).unwrap_or_default()));
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&MAGIC);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_joined_is_split_again() {
        let bodies = [(Encoding::Json, b"{}".as_slice()), (Encoding::Native, &[7; 100]), (Encoding::Json, b"")];
        let bundle = join(bodies);
        let members = split(&bundle).unwrap().unwrap();
        assert_eq!(members.len(), 3);
        for (member, (encoding, body)) in members.iter().zip(bodies) {
            assert_eq!(member.encoding, encoding);
            assert_eq!(&bundle[member.offset as usize..][..member.len as usize], body);
        }
    }

    #[test]
    fn another_body_is_no_bundle() {
        assert_eq!(split(b"{}"), None);
        assert_eq!(split(&crate::native::MAGIC), None);
    }

    #[test]
    fn any_flipped_bit_of_index_or_trailer_is_noticed() {
        let bundle = join([(Encoding::Json, b"{}".as_slice()), (Encoding::Json, b"[]")]);
        let index = bundle.len() - TRAILER - 2 * ENTRY;
        for at in index..bundle.len() - MAGIC.len() {
            let mut bad = bundle.clone();
            bad[at] ^= 1;
            assert_eq!(split(&bad), Some(Err(DecodeError::BadBundle)), "byte {at}");
        }
        for len in 0..bundle.len() {
            assert_ne!(split(&bundle[..len]).map(|s| s.is_ok()), Some(true), "cut to {len}");
        }
    }
}
