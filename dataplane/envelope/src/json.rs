//! The JSON encoding: one object, read in one pass and written around a payload that is passed on as it is.

mod blobs;
mod decode;
mod encode;

pub use blobs::{InlineBlobs, encode_json_with_blobs};
pub use decode::parse_status;
pub(crate) use decode::{decode, salvage_headers};
pub use encode::{encode_json, escape_json};
pub(crate) use encode::{push_route, push_status, push_text};

use crate::{DecodeError, scan};

/// Checks that `document` can stand as the payload of a JSON envelope: one JSON value, not nested too deep. For
/// those who turn a native message into JSON, whose document nobody has looked at.
pub fn check_document(document: &[u8]) -> Result<(), DecodeError> {
    scan::check(document, 1)
}
