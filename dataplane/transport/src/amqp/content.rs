//! The header of a content: how long its body is, and the few properties that matter here.
//!
//! Takes the payload of a header frame; gives a [`ContentHeader`] that borrows from it. Never blocks. Malformed
//! properties are a [`WireError`].

use super::wire::{Reader, Table, WireError};

/// Presence bits of the properties, first to last.
pub mod flag {
    /// `content-type`.
    pub const CONTENT_TYPE: u16 = 1 << 15;
    /// `content-encoding`.
    pub const CONTENT_ENCODING: u16 = 1 << 14;
    /// `headers`.
    pub const HEADERS: u16 = 1 << 13;
    /// `delivery-mode`.
    pub const DELIVERY_MODE: u16 = 1 << 12;
    /// `message-id`.
    pub const MESSAGE_ID: u16 = 1 << 7;
    /// Another word of flags follows. No property of class `basic` needs one.
    pub const MORE: u16 = 1;
}

/// A content header, in place. Absent properties are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// Length of the body in bytes, over all its frames.
    pub body_len: u64,
    /// `content-type`.
    pub content_type: &'a [u8],
    /// `headers`.
    pub headers: Table<'a>,
}

impl<'a> ContentHeader<'a> {
    /// Reads the payload of a header frame.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        const WHAT: &str = "a content header";
        let mut r = Reader::new(payload);
        r.u32(WHAT)?; // class and weight
        let body_len = r.u64(WHAT)?;
        let flags = r.u16(WHAT)?;
        let mut more = flags;
        while more & flag::MORE != 0 {
            more = r.u16(WHAT)?;
        }
        let mut header = Self { body_len, ..Self::default() };
        if flags & flag::CONTENT_TYPE != 0 {
            header.content_type = r.short_str(WHAT)?;
        }
        if flags & flag::CONTENT_ENCODING != 0 {
            r.short_str(WHAT)?;
        }
        if flags & flag::HEADERS != 0 {
            header.headers = r.table(WHAT)?;
        }
        // The properties after the headers are of no interest, and the frame's length says where they end.
        Ok(header)
    }
}
