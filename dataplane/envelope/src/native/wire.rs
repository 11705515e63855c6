//! The archived head, version 1: **frozen**. A field is never added, moved or retyped here; what is new goes to the
//! extension list. Golden vectors hold its bytes.

use rkyv::rancor::{Failure, Panic, ResultExt};
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize, access, api::high::to_bytes_in};

use crate::{DecodeError, ErrorInfo, Head, Headers, Phase, Route, RouteShape, Status, scan};

const SHAPE_CURR: u8 = 0;
const SHAPE_ACTORS: u8 = 1;

#[derive(Archive, Serialize)]
struct WireHead<'a> {
    #[rkyv(with = InlineAsBox)]
    id: &'a str,
    #[rkyv(with = Map<InlineAsBox>)]
    parent_id: Option<&'a str>,
    #[rkyv(with = Map<InlineAsBox>)]
    namespace: Option<&'a str>,
    #[rkyv(with = InlineAsBox)]
    prev: &'a [String],
    #[rkyv(with = InlineAsBox)]
    curr: &'a str,
    #[rkyv(with = InlineAsBox)]
    next: &'a [String],
    shape: u8,
    /// A JSON object.
    #[rkyv(with = InlineAsBox)]
    headers: &'a str,
    status: Option<WireStatus<'a>>,
    /// Names and raw JSON.
    #[rkyv(with = InlineAsBox)]
    extensions: &'a [(String, String)],
}

#[derive(Archive, Serialize)]
struct WireStatus<'a> {
    /// Position in `Phase::ALL`.
    phase: u8,
    #[rkyv(with = Map<InlineAsBox>)]
    reason: Option<&'a str>,
    #[rkyv(with = InlineAsBox)]
    actor: &'a str,
    attempt: u32,
    max_attempts: u32,
    #[rkyv(with = InlineAsBox)]
    created_at: &'a str,
    #[rkyv(with = InlineAsBox)]
    updated_at: &'a str,
    #[rkyv(with = Map<InlineAsBox>)]
    deadline_at: Option<&'a str>,
    error: Option<WireError<'a>>,
}

#[derive(Archive, Serialize)]
struct WireError<'a> {
    #[rkyv(with = InlineAsBox)]
    message: &'a str,
    #[rkyv(with = InlineAsBox)]
    error_type: &'a str,
    #[rkyv(with = InlineAsBox)]
    mro: &'a [String],
    #[rkyv(with = Map<InlineAsBox>)]
    traceback: Option<&'a str>,
}

impl<'a> WireHead<'a> {
    fn new(head: &'a Head) -> Self {
        Self {
            id: &head.id,
            parent_id: head.parent_id.as_deref(),
            namespace: head.namespace.as_deref(),
            prev: &head.route.prev,
            curr: &head.route.curr,
            next: &head.route.next,
            shape: match head.shape {
                RouteShape::Curr => SHAPE_CURR,
                RouteShape::Actors => SHAPE_ACTORS,
            },
            headers: head.headers.as_json(),
            status: head.status.as_ref().map(WireStatus::new),
            extensions: &head.extensions,
        }
    }
}

impl<'a> WireStatus<'a> {
    fn new(status: &'a Status) -> Self {
        Self {
            phase: status.phase.code(),
            reason: status.reason.as_deref(),
            actor: &status.actor,
            attempt: status.attempt,
            max_attempts: status.max_attempts,
            created_at: &status.created_at,
            updated_at: &status.updated_at,
            deadline_at: status.deadline_at.as_deref(),
            error: status.error.as_ref().map(|error| WireError {
                message: &error.message,
                error_type: &error.error_type,
                mro: &error.mro,
                traceback: error.traceback.as_deref(),
            }),
        }
    }
}

/// Appends the archive of `head`.
pub(super) fn write(head: &Head, out: &mut Vec<u8>) {
    // Nothing in it can fail: it writes to memory and shares no pointer.
    let buffer = std::mem::take(out);
    *out = to_bytes_in::<_, Panic>(&WireHead::new(head), buffer).always_ok();
}

/// Reads an archive that nobody has checked.
pub(super) fn read(bytes: &[u8]) -> Result<Head, DecodeError> {
    let wire = access::<ArchivedWireHead<'_>, Failure>(bytes).map_err(|_| DecodeError::CorruptHead)?;
    let mut extensions = Vec::with_capacity(wire.extensions.len());
    for pair in wire.extensions.iter() {
        scan::check(pair.1.as_bytes(), 2)?;
        extensions.push((pair.0.as_str().to_owned(), scan::trim(pair.1.as_str()).to_owned()));
    }
    let head = Head {
        id: wire.id.as_ref().into(),
        parent_id: wire.parent_id.as_ref().map(|text| text.as_ref().into()),
        namespace: wire.namespace.as_ref().map(|text| text.as_ref().into()),
        route: Route { prev: list(&wire.prev), curr: wire.curr.as_ref().into(), next: list(&wire.next) },
        shape: match wire.shape {
            SHAPE_CURR => RouteShape::Curr,
            SHAPE_ACTORS => RouteShape::Actors,
            _ => return Err(DecodeError::UnknownValue { field: "shape" }),
        },
        headers: Headers::from_json(wire.headers.as_ref())?,
        status: wire.status.as_ref().map(status).transpose()?,
        extensions,
    };
    head.check()?;
    Ok(head)
}

fn status(wire: &ArchivedWireStatus<'_>) -> Result<Status, DecodeError> {
    Ok(Status {
        phase: Phase::from_code(wire.phase).ok_or(DecodeError::UnknownPhase)?,
        reason: wire.reason.as_ref().map(|text| text.as_ref().into()),
        actor: wire.actor.as_ref().into(),
        attempt: wire.attempt.to_native(),
        max_attempts: wire.max_attempts.to_native(),
        created_at: wire.created_at.as_ref().into(),
        updated_at: wire.updated_at.as_ref().into(),
        deadline_at: wire.deadline_at.as_ref().map(|text| text.as_ref().into()),
        error: wire.error.as_ref().map(|error| ErrorInfo {
            message: error.message.as_ref().into(),
            error_type: error.error_type.as_ref().into(),
            mro: list(&error.mro),
            traceback: error.traceback.as_ref().map(|text| text.as_ref().into()),
        }),
    })
}

fn list(archived: &[rkyv::string::ArchivedString]) -> Vec<String> {
    archived.iter().map(|item| item.as_str().to_owned()).collect()
}
