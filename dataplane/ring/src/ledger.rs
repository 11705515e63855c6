//! What is open on one worker: decides what may be submitted, and whether what the worker says can be true.
//!
//! Takes submissions and raw completions; gives leave or a reason, and checked completions or a [`Violation`]. Pure:
//! it touches no shared memory, so that any entry a worker could write can be tried on it.
//!
//! # Why no entry is overwritten before it was read
//!
//! Let M be [`CallLimits::max_calls`], the most calls that are open together.
//!
//! *Completions.* Between two entries of the sidecar's, a worker can write for one call at most a RESULT, a ROOM (then
//! it waits for the answer), the entry that ends it, and UNPINNED: four. Once the ending entry was read with PINNED,
//! one. So `4 · open + pinned ≤ entries` keeps every unread entry; a CALL that would break it is not accepted.
//!
//! *Submissions.* Let w be the latest entry known to be consumed: the CALL of any completion that was read, and the
//! answer to a ROOM once the call uses the room or asks again. Entries after w are CALLs of open calls (≤ M), the
//! answer and the cancellation of open calls (≤ 2 M, one of each: a further answer needs a further ROOM), and those of
//! calls that have since ended, which were open when w was written (≤ 2 M). So 5 M entries are the most that are
//! unconsumed, and a ring of 10 M is never more than half full.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::completion::{Completion, Last, Parts, ResultEntry, Violation};
use crate::wire::{
    BLOB_ALIGN, BLOB_ENTRY_BYTES, Call, Extent, MAX_PARTS, PART_BYTES, RawCompletion, Submission, completion_flag,
    completion_kind,
};

/// How much may be open on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Calls that are open together, 1 to 65,536.
    pub max_calls: u32,
    /// Calls that have ended while views of their input live, at most 1,048,576; beyond it no call is accepted until
    /// some are let go (each may post one more entry).
    pub max_pinned: u32,
    /// Bytes of the largest result.
    pub max_result_bytes: u64,
}

impl CallLimits {
    /// Whether each is within the range that its description gives.
    pub fn is_valid(&self) -> bool {
        (1..=1 << 16).contains(&self.max_calls) && self.max_pinned <= 1 << 20
    }

    /// Entries that the submission ring needs, of valid limits.
    pub fn submit_entries(&self) -> u32 {
        (self.max_calls * 10).next_power_of_two().max(32)
    }

    /// Entries that the completion ring needs, of valid limits.
    pub fn complete_entries(&self) -> u32 {
        (self.max_calls * 4 + self.max_pinned).next_power_of_two().max(32)
    }
}

/// Why a submission was not taken. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// As many calls as allowed are open.
    #[error("as many calls as allowed are open on this worker")]
    Full,
    /// Too many ended calls still have views of their input.
    #[error("too many ended calls still pin their input")]
    Pinned,
    /// A call of this name is open or pinned.
    #[error("a call of this name is open")]
    Duplicate,
    /// The call is not open (it may have ended meanwhile).
    #[error("the call is not open")]
    NotOpen,
    /// The call has not asked for room.
    #[error("the call has not asked for room")]
    NotAsked,
    /// A range lies outside its region, or is not aligned.
    #[error("a range lies outside its region or is not aligned")]
    Range,
}

/// Call names are the sidecar's own, so nothing has to be kept from choosing colliding ones.
#[derive(Default)]
pub(crate) struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing; the swap brings the well-mixed upper bits to where the map looks.
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes();
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open(Open),
    Pinned,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    /// Number of its CALL entry.
    entry: u64,
    /// Its payload in the input region.
    input: Extent,
    /// The room that it holds.
    room: Option<Extent>,
    /// It waits for an answer to ROOM.
    asked: bool,
    /// Number of the answer that is not known to be consumed.
    answer: Option<u64>,
    canceled: bool,
}

/// The book of one worker.
pub(crate) struct Ledger {
    calls: HashMap<u64, State, BuildHasherDefault<NameHasher>>,
    open: u32,
    pinned: u32,
    limits: CallLimits,
    /// Where payloads and contexts may lie, in the input region.
    slots: Extent,
    /// Where rooms may lie, in the output region.
    rooms: Extent,
    /// Number of the next submission entry.
    next: u64,
    /// Submission entries known to be consumed.
    consumed: u64,
}

impl Ledger {
    pub(crate) fn new(limits: CallLimits, slots: Extent, rooms: Extent) -> Self {
        let calls = HashMap::with_capacity_and_hasher(limits.max_calls as usize, BuildHasherDefault::default());
        Self { calls, open: 0, pinned: 0, limits, slots, rooms, next: 0, consumed: 0 }
    }

    pub(crate) fn limits(&self) -> CallLimits {
        self.limits
    }

    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    pub(crate) fn pinned(&self) -> u32 {
        self.pinned
    }

    /// Submission entries that may not be overwritten.
    pub(crate) fn unconsumed(&self) -> u64 {
        self.next - self.consumed
    }

    /// Notes a submission. Gives the number of its entry; `None` when there is nothing to write.
    pub(crate) fn admit(&mut self, submission: &Submission) -> Result<Option<u64>, PushError> {
        let entry = self.next;
        match *submission {
            Submission::Call(ref call) => self.admit_call(call, entry)?,
            Submission::Grant { call, room } => {
                self.check_room(room)?;
                let open = self.asking(call)?;
                open.asked = false;
                open.answer = Some(entry);
                open.room = Some(room);
            }
            Submission::Refuse { call, .. } => {
                let open = self.asking(call)?;
                open.asked = false;
                open.answer = Some(entry);
            }
            Submission::Cancel { call } => {
                let open = self.opened(call)?;
                if open.canceled {
                    return Ok(None);
                }
                open.canceled = true;
            }
        }
        self.next += 1;
        Ok(Some(entry))
    }

    fn admit_call(&mut self, call: &Call, entry: u64) -> Result<(), PushError> {
        if self.open >= self.limits.max_calls {
            return Err(PushError::Full);
        }
        if u64::from(self.open + 1) * 4 + u64::from(self.pinned) > u64::from(self.limits.complete_entries()) {
            return Err(PushError::Pinned);
        }
        let fits = self.slots.contains(call.payload)
            && (call.context.len == 0 || self.slots.contains(call.context))
            && call.context.len <= u64::from(u32::MAX)
            && call.document_len <= call.payload.len
            && (call.blobs == 0 || call.payload.offset.is_multiple_of(BLOB_ALIGN));
        if !fits {
            return Err(PushError::Range);
        }
        if let Some(room) = call.room {
            self.check_room(room)?;
        }
        if self.calls.contains_key(&call.call) {
            return Err(PushError::Duplicate);
        }
        let open = Open { entry, input: call.payload, room: call.room, asked: false, answer: None, canceled: false };
        self.calls.insert(call.call, State::Open(open));
        self.open += 1;
        Ok(())
    }

    fn check_room(&self, room: Extent) -> Result<(), PushError> {
        let fits = room.len > 0 && room.offset.is_multiple_of(crate::PAGE) && self.rooms.contains(room);
        if fits { Ok(()) } else { Err(PushError::Range) }
    }

    fn opened(&mut self, call: u64) -> Result<&mut Open, PushError> {
        match self.calls.get_mut(&call) {
            Some(State::Open(open)) => Ok(open),
            _ => Err(PushError::NotOpen),
        }
    }

    fn asking(&mut self, call: u64) -> Result<&mut Open, PushError> {
        let open = self.opened(call)?;
        if open.asked { Ok(open) } else { Err(PushError::NotAsked) }
    }

    /// Checks what a worker wrote and books it. After a violation the worker is to be killed: nothing more is asked.
    pub(crate) fn accept(&mut self, raw: &RawCompletion) -> Result<Completion, Violation> {
        check_flags(raw)?;
        let call = raw.call;
        if raw.kind == completion_kind::UNPINNED {
            return match self.calls.get(&call) {
                Some(State::Pinned) => {
                    self.calls.remove(&call);
                    self.pinned -= 1;
                    Ok(Completion::Unpinned { call })
                }
                _ => Err(Violation::Call(call)),
            };
        }
        let Some(State::Open(open)) = self.calls.get_mut(&call) else { return Err(Violation::Call(call)) };

        // All checks before any change, so that a violation leaves the book as it was.
        let named = named_room(raw, open.room)?;
        if let Some(meta) = meta(raw) {
            inside(named, "meta", meta, 1)?;
        }
        let parts = if raw.kind == completion_kind::RESULT {
            check_lengths(raw, self.limits.max_result_bytes)?;
            Some(check_parts(raw, named, open.input)?)
        } else {
            None
        };
        if raw.kind == completion_kind::ROOM && open.asked {
            return Err(Violation::AskedTwice(call));
        }
        if raw.kind == completion_kind::ROOM && named.is_none() && open.room.is_some() {
            return Err(Violation::Room { offset: raw.room_offset, len: raw.room_len });
        }

        // An honest worker has read its CALL; and the answer to its ROOM once it uses that room or goes on.
        let mut read = open.entry + 1;
        let goes_on = matches!(raw.kind, completion_kind::RESULT | completion_kind::ROOM);
        if let Some(answer) = open.answer.take_if(|_| named.is_some() || goes_on) {
            read = read.max(answer + 1);
        }
        if named.is_some() {
            open.room = None;
        }
        open.asked |= raw.kind == completion_kind::ROOM;
        let unused = open.room;
        self.consumed = self.consumed.max(read);

        let last = self.end(raw, unused);
        Ok(match (raw.kind, last, parts, named) {
            (completion_kind::DONE, Some(last), ..) => Completion::Done { call, last },
            (completion_kind::ERROR, Some(last), _, room) => Completion::Error { call, last, meta: meta(raw), room },
            (completion_kind::RESULT, last, Some(parts), Some(room)) => Completion::Result(ResultEntry {
                call,
                last,
                blobs: raw.blobs,
                document_len: raw.document_len,
                payload_len: raw.payload_len,
                parts,
                meta: meta(raw),
                room,
                json_stdlib: raw.flags & completion_flag::JSON_STDLIB != 0,
            }),
            (completion_kind::ROOM, ..) => Completion::Room { call, wanted: raw.document_len, returned: named },
            (kind, ..) => return Err(Violation::Kind(kind)),
        })
    }

    /// Closes the call when the entry ends it.
    fn end(&mut self, raw: &RawCompletion, unused: Option<Extent>) -> Option<Last> {
        let ends = raw.flags & completion_flag::LAST != 0
            || matches!(raw.kind, completion_kind::DONE | completion_kind::ERROR);
        if !ends {
            return None;
        }
        let pinned = raw.flags & completion_flag::PINNED != 0;
        self.open -= 1;
        if pinned {
            self.pinned += 1;
            self.calls.insert(raw.call, State::Pinned);
        } else {
            self.calls.remove(&raw.call);
        }
        Some(Last { elapsed_ns: raw.elapsed_ns, pinned, unused })
    }
}

fn check_flags(raw: &RawCompletion) -> Result<(), Violation> {
    let allowed = match raw.kind {
        completion_kind::RESULT | completion_kind::DONE | completion_kind::ERROR => completion_flag::ALL,
        completion_kind::ROOM | completion_kind::UNPINNED => completion_flag::JSON_STDLIB,
        kind => return Err(Violation::Kind(kind)),
    };
    let last = raw.flags & completion_flag::LAST != 0 || raw.kind != completion_kind::RESULT;
    let pinned = raw.flags & completion_flag::PINNED != 0;
    if raw.flags & !allowed != 0 || (pinned && !last) {
        return Err(Violation::Flags { kind: raw.kind, flags: raw.flags });
    }
    Ok(())
}

/// The room that the entry names, which must be the one that the call holds.
fn named_room(raw: &RawCompletion, held: Option<Extent>) -> Result<Option<Extent>, Violation> {
    let named = Extent { offset: raw.room_offset, len: raw.room_len };
    match raw.kind {
        completion_kind::DONE => Ok(None),
        _ if named.len == 0 => Ok(None),
        _ if held == Some(named) => Ok(held),
        _ => Err(Violation::Room { offset: named.offset, len: named.len }),
    }
}

fn meta(raw: &RawCompletion) -> Option<Extent> {
    let carries = matches!(raw.kind, completion_kind::RESULT | completion_kind::ERROR);
    (carries && raw.meta_len > 0).then_some(Extent { offset: raw.meta_offset, len: u64::from(raw.meta_len) })
}

fn inside(room: Option<Extent>, what: &'static str, range: Extent, align: u64) -> Result<Extent, Violation> {
    match room {
        Some(room) if room.contains(range) && range.offset.is_multiple_of(align) => Ok(range),
        _ => Err(Violation::Outside { what, offset: range.offset, len: range.len }),
    }
}

fn check_lengths(raw: &RawCompletion, max_result_bytes: u64) -> Result<(), Violation> {
    let RawCompletion { document_len, blobs, payload_len, .. } = *raw;
    // With blobs, the document is followed by padding and by the table of blobs.
    let least = match blobs {
        0 => Some(document_len),
        _ => document_len
            .checked_next_multiple_of(BLOB_ALIGN)
            .and_then(|table| table.checked_add(u64::from(blobs) * BLOB_ENTRY_BYTES)),
    };
    let fits = document_len > 0
        && payload_len <= max_result_bytes
        && least.is_some_and(|least| if blobs == 0 { payload_len == least } else { payload_len >= least });
    if fits { Ok(()) } else { Err(Violation::Lengths { document_len, blobs, payload_len }) }
}

fn check_parts(raw: &RawCompletion, room: Option<Extent>, input: Extent) -> Result<Parts, Violation> {
    if raw.parts == 0 {
        let whole = Extent { offset: raw.document_offset, len: raw.payload_len };
        let align = if raw.blobs == 0 { 1 } else { BLOB_ALIGN };
        return Ok(Parts::Whole(inside(room, "payload", whole, align)?));
    }
    if raw.parts > MAX_PARTS {
        return Err(Violation::Parts(raw.parts));
    }
    let list = Extent { offset: raw.parts_offset, len: u64::from(raw.parts) * PART_BYTES };
    Ok(Parts::List { list: inside(room, "parts", list, 8)?, count: raw.parts, input })
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
