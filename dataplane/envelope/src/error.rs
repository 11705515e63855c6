//! Everything that can be wrong with a body, one variant each, so that callers decide by type and never by text.

use crate::blob::BlobError;

/// Why a body is not a message. [`DecodeError::name`] is stable: golden vectors, metrics and logs use it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body has no byte at all.
    #[error("the body is empty")]
    Empty,
    /// Not JSON, or cut short.
    #[error("not JSON: expected {expected} at byte {at}")]
    Syntax {
        /// Bytes from the start of the text.
        at: usize,
        /// What would have been right there.
        expected: &'static str,
    },
    /// Not UTF-8.
    #[error("not UTF-8 at byte {at}")]
    Utf8 {
        /// Where the first wrong sequence starts.
        at: usize,
    },
    /// Arrays and objects nest deeper than [`crate::MAX_DEPTH`].
    #[error("nested deeper than {} levels at byte {at}", crate::MAX_DEPTH)]
    TooDeep {
        /// Where the level too many opens.
        at: usize,
    },
    /// JSON, but not an object.
    #[error("the envelope is not a JSON object")]
    NotAnObject,
    /// The message ends before the body does.
    #[error("the body goes on after the end of the message, at byte {at}")]
    TrailingBytes {
        /// The first byte too many.
        at: u64,
    },
    /// A field that may occur once occurs twice, so that readers could disagree about what the message says.
    #[error("the field {field:?} occurs twice")]
    DuplicateField {
        /// Its name, the beginning of it where it is long.
        field: String,
    },
    /// A field that must be there is not.
    #[error("the field {field:?} is missing")]
    MissingField {
        /// Its name; inner fields as a path with dots.
        field: &'static str,
    },
    /// A field is of the wrong type.
    #[error("the field {field:?} is not {expected}")]
    WrongType {
        /// Its name; inner fields as a path with dots.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A string of the head has an escape that stands for no character, such as half of a surrogate pair.
    #[error("the field {field:?} is not text: an escape in it stands for no character")]
    BadEscape {
        /// Its name; inner fields as a path with dots.
        field: &'static str,
    },
    /// The id is empty. Allowed only for a failure message about a body that had no id to tell.
    #[error("the id is empty")]
    EmptyId,
    /// A route names an actor whose name is empty.
    #[error("{field:?} names an actor with an empty name")]
    EmptyActor {
        /// The list, as a path with dots.
        field: &'static str,
    },
    /// `route.actors` is empty.
    #[error("\"route.actors\" is empty")]
    EmptyRoute,
    /// `route.current` points neither into `route.actors` nor just past its end.
    #[error("\"route.current\" is {current}, but there are {actors} actors")]
    CurrentOutOfBounds {
        /// The number, as written.
        current: String,
        /// How many actors there are.
        actors: usize,
    },
    /// A route has fields of both shapes.
    #[error("the route mixes \"prev\", \"curr\", \"next\" with \"actors\", \"current\"")]
    MixedRoute,
    /// A route is finished and yet goes on.
    #[error("\"route.curr\" is empty while \"route.next\" is not")]
    RouteGap,
    /// `status.phase` is none of the known ones.
    #[error("\"status.phase\" is none of the known phases")]
    UnknownPhase,
    /// More unknown fields than [`crate::MAX_EXTENSIONS`].
    #[error("more than {} unknown fields", crate::MAX_EXTENSIONS)]
    TooManyExtensions,
    /// An unknown field has a name that the extension list keeps for itself.
    #[error("the field name {field:?} is reserved")]
    ReservedField {
        /// Its name, the beginning of it where it is long.
        field: String,
    },
    /// The payload's table of blobs is wrong.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A blob's `data` is not base64 (standard alphabet, padded).
    #[error("the data of blob {blob} is not base64")]
    Base64 {
        /// Which blob.
        blob: u32,
    },
    /// The room given for a rebuilt section is not as long as the section.
    #[error("the section needs {needed} bytes of room, not {given}")]
    WrongRoom {
        /// What it needs.
        needed: u64,
        /// What was given.
        given: u64,
    },
    /// A native body that is too short for what it must hold.
    #[error("the body is cut short: {needed} bytes needed, {given} there")]
    Truncated {
        /// What it needs.
        needed: u64,
        /// What is there.
        given: u64,
    },
    /// A native body does not end with the magic number.
    #[error("not a native body: the magic number is missing at its end")]
    BadMagic,
    /// A native body of a version that this reader does not know. To be passed on byte for byte.
    #[error("native version {major}.{minor} is unknown")]
    UnknownVersion {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// The checksum of a native head does not match.
    #[error("the checksum of the head does not match")]
    BadChecksum,
    /// A bundle whose index, trailer or checksum is wrong.
    #[error("the bundle's index does not match its bodies")]
    BadBundle,
    /// The checksum of a native head matches, but the head does not hold together.
    #[error("the archived head is corrupt")]
    CorruptHead,
    /// A native head has a value that no known version writes.
    #[error("the archived head has an unknown value in {field:?}")]
    UnknownValue {
        /// Its name, as a path with dots.
        field: &'static str,
    },
}

impl DecodeError {
    /// A stable name in snake case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Syntax { .. } => "not_json",
            Self::Utf8 { .. } => "not_utf8",
            Self::TooDeep { .. } => "too_deep",
            Self::NotAnObject => "not_an_object",
            Self::TrailingBytes { .. } => "trailing_bytes",
            Self::DuplicateField { .. } => "duplicate_field",
            Self::MissingField { .. } => "missing_field",
            Self::WrongType { .. } => "wrong_type",
            Self::BadEscape { .. } => "bad_escape",
            Self::EmptyId => "empty_id",
            Self::EmptyActor { .. } => "empty_actor",
            Self::EmptyRoute => "empty_route",
            Self::CurrentOutOfBounds { .. } => "current_out_of_bounds",
            Self::MixedRoute => "mixed_route",
            Self::RouteGap => "route_gap",
            Self::UnknownPhase => "unknown_phase",
            Self::TooManyExtensions => "too_many_extensions",
            Self::ReservedField { .. } => "reserved_field",
            Self::Blob(error) => error.name(),
            Self::Base64 { .. } => "bad_base64",
            Self::WrongRoom { .. } => "wrong_room",
            Self::Truncated { .. } => "truncated",
            Self::BadMagic => "bad_magic",
            Self::UnknownVersion { .. } => "unknown_version",
            Self::BadChecksum => "bad_checksum",
            Self::BadBundle => "bad_bundle",
            Self::CorruptHead => "corrupt_head",
            Self::UnknownValue { .. } => "unknown_value",
        }
    }
}

/// The beginning of a name that came from outside, short enough for a log line.
pub(crate) fn excerpt(name: &str) -> String {
    const MAX_CHARS: usize = 64;
    name.chars().take(MAX_CHARS).collect()
}
