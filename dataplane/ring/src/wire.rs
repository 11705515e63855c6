//! The bytes of ring entries and part lists, as `docs/RING.md` lays them out. Pure: takes words, gives values and the
//! other way round; checks nothing but what a single entry can show.

/// Bytes of one ring entry.
pub const ENTRY_BYTES: u64 = 128;
/// Bytes of one part in a list of parts.
pub const PART_BYTES: u64 = 24;
/// The most parts that one result may have.
pub const MAX_PARTS: u32 = 64;
/// Blobs, and sections that have blobs, start at multiples of this.
pub const BLOB_ALIGN: u64 = 64;
/// Bytes of one entry in the table of blobs.
pub const BLOB_ENTRY_BYTES: u64 = 128;

/// One entry as sixteen little-endian words.
pub type Words = [u64; 16];

/// A range of a region. Empty ranges are allowed where the context says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// Bytes from the start of the region.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Extent {
    /// The first byte past it; `None` past the end of 64 bits.
    pub const fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }

    /// Whether `inner` lies wholly inside.
    pub fn contains(self, inner: Extent) -> bool {
        match (self.end(), inner.end()) {
            (Some(end), Some(inner_end)) => inner.offset >= self.offset && inner_end <= end,
            _ => false,
        }
    }
}

/// What the sidecar asks of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submission {
    /// Run the handler.
    Call(Call),
    /// The answer to a request for room.
    Grant {
        /// Which call.
        call: u64,
        /// Room in the output region.
        room: Extent,
    },
    /// The other answer to a request for room: never.
    Refuse {
        /// Which call.
        call: u64,
        /// The most bytes that will ever be granted.
        limit: u64,
    },
    /// Cancel the call if it still runs and can be cancelled.
    Cancel {
        /// Which call.
        call: u64,
    },
}

/// One run of the handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Names the call; never the name of one that is still open on the same worker.
    pub call: u64,
    /// The next call belongs to the same batch.
    pub more: bool,
    /// A suspect: nothing else runs beside it.
    pub alone: bool,
    /// Blobs in the payload.
    pub blobs: u32,
    /// The payload section, in the input region; 64-byte aligned when it has blobs.
    pub payload: Extent,
    /// Bytes of the JSON document at its start.
    pub document_len: u64,
    /// The context, JSON, in the input region; at most 4 GiB − 1.
    pub context: Extent,
    /// Milliseconds from when it starts; 0 = none.
    pub timeout_ms: u32,
    /// Room for one result in the output region; `None` = the worker asks when it needs some.
    pub room: Option<Extent>,
}

mod submission_kind {
    pub(super) const CALL: u16 = 1;
    pub(super) const GRANT: u16 = 2;
    pub(super) const CANCEL: u16 = 3;
    pub(super) const REFUSE: u16 = 4;
}

const CALL_MORE: u16 = 1;
const CALL_ALONE: u16 = 2;

impl Submission {
    /// The call that it is about.
    pub const fn call(&self) -> u64 {
        match self {
            Self::Call(call) => call.call,
            Self::Grant { call, .. } | Self::Refuse { call, .. } | Self::Cancel { call } => *call,
        }
    }

    /// The entry's words, under the given sequence.
    pub fn encode(&self, sequence: u64) -> Words {
        let mut words = [0; 16];
        words[0] = sequence;
        words[2] = self.call();
        match *self {
            Self::Call(ref call) => {
                let flags = if call.more { CALL_MORE } else { 0 } | if call.alone { CALL_ALONE } else { 0 };
                words[1] = kind_word(submission_kind::CALL, flags, call.blobs);
                words[3] = call.payload.offset;
                words[4] = call.document_len;
                words[5] = call.payload.len;
                words[6] = call.context.offset;
                words[7] = call.context.len & 0xffff_ffff | u64::from(call.timeout_ms) << 32;
                let room = call.room.unwrap_or_default();
                words[8] = room.offset;
                words[9] = room.len;
            }
            Self::Grant { room, .. } => {
                words[1] = kind_word(submission_kind::GRANT, 0, 0);
                words[8] = room.offset;
                words[9] = room.len;
            }
            Self::Refuse { limit, .. } => {
                words[1] = kind_word(submission_kind::REFUSE, 0, 0);
                words[5] = limit;
            }
            Self::Cancel { .. } => words[1] = kind_word(submission_kind::CANCEL, 0, 0),
        }
        words
    }

    /// Reads an entry; `None` when its kind is unknown. For the worker's side, which trusts the sidecar.
    pub fn decode(words: &Words) -> Option<Self> {
        let (kind, flags, blobs) = split_kind(words[1]);
        let call = words[2];
        let room = Extent { offset: words[8], len: words[9] };
        Some(match kind {
            submission_kind::CALL => Self::Call(Call {
                call,
                more: flags & CALL_MORE != 0,
                alone: flags & CALL_ALONE != 0,
                blobs,
                payload: Extent { offset: words[3], len: words[5] },
                document_len: words[4],
                context: Extent { offset: words[6], len: words[7] & 0xffff_ffff },
                timeout_ms: (words[7] >> 32) as u32,
                room: (room.len > 0).then_some(room),
            }),
            submission_kind::GRANT => Self::Grant { call, room },
            submission_kind::CANCEL => Self::Cancel { call },
            submission_kind::REFUSE => Self::Refuse { call, limit: words[5] },
            _ => return None,
        })
    }
}

/// Kinds of completion entries.
pub mod completion_kind {
    /// A result of the handler.
    pub const RESULT: u16 = 1;
    /// The call ended without (a further) result.
    pub const DONE: u16 = 2;
    /// The call failed.
    pub const ERROR: u16 = 3;
    /// The worker asks for room.
    pub const ROOM: u16 = 4;
    /// No view of the call's input lives any more.
    pub const UNPINNED: u16 = 5;
}

/// Flags of completion entries.
pub mod completion_flag {
    /// This entry ends the call.
    pub const LAST: u16 = 1;
    /// Views of the input still live.
    pub const PINNED: u16 = 2;
    /// The worker has no orjson.
    pub const JSON_STDLIB: u16 = 4;
    /// All of them.
    pub(crate) const ALL: u16 = LAST | PINNED | JSON_STDLIB;
}

/// A completion entry as the worker wrote it: nothing in it is to be believed yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawCompletion {
    /// One of [`completion_kind`].
    pub kind: u16,
    /// Some of [`completion_flag`].
    pub flags: u16,
    /// Number of blobs.
    pub blobs: u32,
    /// Which call.
    pub call: u64,
    /// Where the document is, in the output region.
    pub document_offset: u64,
    /// Its length; of a request for room: bytes wanted.
    pub document_len: u64,
    /// Length of the whole payload section.
    pub payload_len: u64,
    /// Where the list of parts is.
    pub parts_offset: u64,
    /// How many parts; 0 = contiguous.
    pub parts: u32,
    /// Length of the meta JSON.
    pub meta_len: u32,
    /// Where it is.
    pub meta_offset: u64,
    /// How long the handler ran.
    pub elapsed_ns: u64,
    /// The room that the entry used or gives back.
    pub room_offset: u64,
    /// Its length; 0 = none.
    pub room_len: u64,
}

impl RawCompletion {
    /// The entry's words, under the given sequence.
    pub fn encode(&self, sequence: u64) -> Words {
        let mut words = [0; 16];
        words[0] = sequence;
        words[1] = kind_word(self.kind, self.flags, self.blobs);
        words[2] = self.call;
        words[3] = self.document_offset;
        words[4] = self.document_len;
        words[5] = self.payload_len;
        words[6] = self.parts_offset;
        words[7] = u64::from(self.parts) | u64::from(self.meta_len) << 32;
        words[8] = self.meta_offset;
        words[9] = self.elapsed_ns;
        words[10] = self.room_offset;
        words[11] = self.room_len;
        words
    }

    /// Reads an entry. Any words are one; the sequence is the caller's to check.
    pub fn decode(words: &Words) -> Self {
        let (kind, flags, blobs) = split_kind(words[1]);
        Self {
            kind,
            flags,
            blobs,
            call: words[2],
            document_offset: words[3],
            document_len: words[4],
            payload_len: words[5],
            parts_offset: words[6],
            parts: words[7] as u32,
            meta_len: (words[7] >> 32) as u32,
            meta_offset: words[8],
            elapsed_ns: words[9],
            room_offset: words[10],
            room_len: words[11],
        }
    }
}

/// Which region a part of a result lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartRegion {
    /// The worker's own output.
    Output,
    /// The input: a range of what the call was given.
    Input,
}

/// One part of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which region.
    pub region: PartRegion,
    /// Where in it.
    pub extent: Extent,
}

impl Part {
    /// The bytes of a list's entry.
    pub fn encode(&self) -> [u8; PART_BYTES as usize] {
        let mut bytes = [0; PART_BYTES as usize];
        bytes[0] = match self.region {
            PartRegion::Output => 0,
            PartRegion::Input => 1,
        };
        bytes[8..16].copy_from_slice(&self.extent.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.extent.len.to_le_bytes());
        bytes
    }

    /// Reads a list's entry; `None` when its region is unknown.
    pub fn decode(bytes: &[u8; PART_BYTES as usize]) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        // The upper half of the first word is reserved.
        let region = match word(0) & 0xffff_ffff {
            0 => PartRegion::Output,
            1 => PartRegion::Input,
            _ => return None,
        };
        Some(Self { region, extent: Extent { offset: word(8), len: word(16) } })
    }
}

fn kind_word(kind: u16, flags: u16, high: u32) -> u64 {
    u64::from(kind) | u64::from(flags) << 16 | u64::from(high) << 32
}

fn split_kind(word: u64) -> (u16, u16, u32) {
    (word as u16, (word >> 16) as u16, (word >> 32) as u32)
}
