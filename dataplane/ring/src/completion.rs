//! What a worker said, once it has been checked; or why it cannot be true. Plain values: nothing here refers to memory.

use crate::wire::Extent;

/// What a worker wrote that cannot be true. It costs the worker its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The doorbell counted more entries than there can be.
    #[error("{count} entries announced, at most {most} can be")]
    Count {
        /// What the doorbell said.
        count: u64,
        /// Entries of the ring.
        most: u64,
    },
    /// An entry does not carry the next sequence.
    #[error("sequence {found} where {expected} was due")]
    Sequence {
        /// The sequence due.
        expected: u64,
        /// The sequence found.
        found: u64,
    },
    /// No such kind of entry.
    #[error("unknown kind {0}")]
    Kind(u16),
    /// Flags that are unknown or do not go with the kind.
    #[error("flags {flags:#x} on kind {kind}")]
    Flags {
        /// The entry's kind.
        kind: u16,
        /// Its flags.
        flags: u16,
    },
    /// The entry is about a call that is not open (or, for UNPINNED, not pinned).
    #[error("call {0:#x} is not open")]
    Call(u64),
    /// The named range does not lie inside the room of the call, or is not aligned.
    #[error("{what} at {offset}, {len} bytes, is not inside the call's room")]
    Outside {
        /// Which range.
        what: &'static str,
        /// Its offset.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// The room named is not the one that the call holds.
    #[error("the room named, {len} bytes at {offset}, is not the call's")]
    Room {
        /// Its offset.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// A second request for room while one is open.
    #[error("call {0:#x} asked for room twice")]
    AskedTwice(u64),
    /// Lengths that contradict each other or a limit.
    #[error("document of {document_len} bytes, {blobs} blobs, in a payload of {payload_len} bytes")]
    Lengths {
        /// Length of the document.
        document_len: u64,
        /// Blobs.
        blobs: u32,
        /// Length of the payload.
        payload_len: u64,
    },
    /// More parts than allowed, or a part that is not where it may be, or parts of another length than the payload.
    #[error("a list of {0} parts is not valid")]
    Parts(u32),
    /// The sidecar's doorbell was tampered with.
    #[error("the submission doorbell is full")]
    Doorbell,
}

/// What a worker says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// A result.
    Result(ResultEntry),
    /// The call ended and has no (further) result.
    Done {
        /// Which call.
        call: u64,
        /// How it ended.
        last: Last,
    },
    /// The handler failed.
    Error {
        /// Which call.
        call: u64,
        /// How it ended.
        last: Last,
        /// The error, JSON, in the output region.
        meta: Option<Extent>,
        /// Now the caller's: to free once `meta` has been copied out.
        room: Option<Extent>,
    },
    /// The worker asks for room, and waits. Answer with [`Grant`](crate::Submission::Grant) or
    /// [`Refuse`](crate::Submission::Refuse).
    Room {
        /// Which call.
        call: u64,
        /// How many bytes: any number that the worker likes, so refuse what is more than it will ever be granted.
        wanted: u64,
        /// A room given back: now the caller's to free.
        returned: Option<Extent>,
    },
    /// No view of this ended call's input lives any more: its slot may be reused.
    Unpinned {
        /// Which call.
        call: u64,
    },
}

/// One result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultEntry {
    /// Which call.
    pub call: u64,
    /// `Some` when it ends the call.
    pub last: Option<Last>,
    /// Number of blobs.
    pub blobs: u32,
    /// Length of the JSON document.
    pub document_len: u64,
    /// Length of the payload section.
    pub payload_len: u64,
    /// Where the section is.
    pub parts: Parts,
    /// What the handler changed with SET and DEL, JSON, in the output region.
    pub meta: Option<Extent>,
    /// The room that all of it lies in: now the caller's, to free once the result has left.
    pub room: Extent,
    /// The worker's JSON library is the standard one (told on its first result).
    pub json_stdlib: bool,
}

/// Where a payload section lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// In one piece, in the output region.
    Whole(Extent),
    /// In pieces: read the list with [`OutputRegion::parts`](crate::OutputRegion::parts).
    List {
        /// The list, in the output region.
        list: Extent,
        /// How many parts.
        count: u32,
        /// The input payload of the call, in which parts of the input must lie.
        input: Extent,
    },
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// How long the handler ran for it, in nanoseconds, as the worker says.
    pub elapsed_ns: u64,
    /// Views of its input still live: keep the slot until [`Completion::Unpinned`].
    pub pinned: bool,
    /// Room that the call was granted and did not use: now the caller's to free.
    pub unused: Option<Extent>,
}
