//! The message that travels: what it says (head), where its payload lies, and the two ways it is written down.
//!
//! Takes and gives bytes; blocks on nothing; every malformed input is a [`DecodeError`]. Payload bytes are found,
//! never built into values. The decoders copy the head out, so nothing that they return borrows from the body.

mod context;
mod error;
mod failure;
mod head;
mod headers;
mod json;
mod native;
mod scan;

pub mod blob;
pub mod bundle;
pub mod ids;
pub mod names;

pub use context::context_json;
pub use error::DecodeError;
pub use failure::{failure_of_unparsable, original_of_unparsable};
pub use head::{ErrorInfo, Head, MAX_EXTENSIONS, Phase, Route, RouteShape, Status};
pub use headers::Headers;
pub use json::{InlineBlobs, check_document, encode_json, encode_json_with_blobs, escape_json, parse_status};
pub use native::{HEAD_MAJOR, HEAD_MINOR, MAGIC, TRAILER_LEN, encode_native};
pub use scan::MAX_DEPTH;

/// How a body is written down. Told apart by content type, never by looking at the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`: one JSON object.
    Json,
    /// `application/vnd.asya.native`: payload section, archived head, trailer.
    Native,
}

impl Encoding {
    /// The content type by which it is told.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Native => "application/vnd.asya.native",
        }
    }
}

/// Where a payload section lies inside a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Bytes from the start of the body.
    pub offset: u64,
    /// Bytes of the JSON document, which comes first.
    pub document_len: u64,
    /// Bytes of the whole section; the same as `document_len` when there are no blobs.
    pub len: u64,
    /// Number of blobs.
    pub blobs: u32,
}

/// The payload of a decoded body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayloadIn {
    /// A section that can be used where it lies.
    InPlace(Payload),
    /// A JSON body with a `blobs` sibling: a section must be rebuilt from it, elsewhere.
    Inline(InlineBlobs),
}

/// What a body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Everything but the payload.
    pub head: Head,
    /// Where the payload is.
    pub payload: PayloadIn,
}

/// Reads a body that was declared to be in `encoding`. Strict: a body in the other encoding is an error.
pub fn decode(body: &[u8], encoding: Encoding) -> Result<Decoded, DecodeError> {
    match encoding {
        Encoding::Json => json::decode(body),
        Encoding::Native => native::decode(body),
    }
}
