//! The worker's end of the rings, for tests, benchmarks and stress: in production this end is Python's.
//!
//! Takes what a `Link` pushed; posts whatever it is told to, true or not. It trusts the sidecar and
//! checks only what keeps it memory-safe.

use std::io;

use crate::bell::Bell;
use crate::cells::Cells;
use crate::wire::{RawCompletion, Submission, Words};

#[cfg(not(any(loom, miri)))]
use std::os::fd::OwnedFd;
#[cfg(not(loom))]
use {
    crate::link::{Geometry, Link},
    crate::mapping::{Access, Mapping},
    crate::region::OutOfRange,
    crate::wire::Extent,
    std::sync::Arc,
};

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// An entry does not carry the sequence that is due, or its kind is unknown.
    #[error("the sidecar's entry {0} is not valid")]
    Corrupt(u64),
    /// A doorbell failed.
    #[error("doorbell: {0}")]
    Io(#[from] io::Error),
}

/// A worker's end.
pub struct Peer {
    submit: Cells,
    complete: Cells,
    submit_bell: Bell,
    complete_bell: Bell,
    /// Number of the next submission entry.
    next: u64,
    /// Number of the next completion entry.
    posted: u64,
    unrung: u64,
    #[cfg(not(loom))]
    input: Arc<Mapping>,
    #[cfg(not(loom))]
    output: Arc<Mapping>,
}

#[cfg(not(loom))]
impl Peer {
    /// The other end of a link of this process, through mappings of its own, as if it were another process.
    pub fn beside(link: &Link) -> io::Result<Self> {
        let (input, output) = link.mappings();
        let (input, output) = (input.again(Access::Read)?, output.again(Access::Write)?);
        let (submit, complete) = link.bells();
        Self::over(input, output, submit.try_clone()?, complete.try_clone()?, &link.geometry())
    }

    /// The end of a worker process that received an `attach` packet.
    #[cfg(not(miri))]
    pub fn attach(descriptors: [OwnedFd; 5], geometry: &Geometry) -> io::Result<(Self, OwnedFd)> {
        let [input, output, submit, complete, lifeline] = descriptors;
        let input = Mapping::open(input, geometry.input_bytes, Access::Read)?;
        let output = Mapping::open(output, geometry.output_bytes, Access::Write)?;
        let peer = Self::over(input, output, Bell::from_fd(submit), Bell::from_fd(complete), geometry)?;
        Ok((peer, lifeline))
    }

    fn over(
        input: Mapping,
        output: Mapping,
        submit_bell: Bell,
        complete_bell: Bell,
        geometry: &Geometry,
    ) -> io::Result<Self> {
        let (input, output) = (Arc::new(input), Arc::new(output));
        // SAFETY: a mapping of the peer's own, to which it makes no references. (Under miri it is the sidecar's, in
        // which only slots are referred to, and they lie after the rings.)
        let submit = unsafe { Cells::new(Arc::clone(&input), geometry.submit_offset, geometry.submit_entries) };
        // SAFETY: as above.
        let complete = unsafe { Cells::new(Arc::clone(&output), geometry.complete_offset, geometry.complete_entries) };
        let (Some(submit), Some(complete)) = (submit, complete) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok(Self { submit, complete, submit_bell, complete_bell, next: 0, posted: 0, unrung: 0, input, output })
    }

    /// Appends a copy of a range of the input to `out`.
    pub fn read(&self, extent: Extent, out: &mut Vec<u8>) -> Result<(), OutOfRange> {
        self.input.at(extent.offset, extent.len).ok_or(OutOfRange::from(extent))?;
        let start = out.len();
        out.resize(start + extent.len as usize, 0);
        let into = out[start..].as_mut_ptr();
        // SAFETY: `into` is the tail of `out`, `extent.len` bytes. The mapping is the peer's own and it makes no
        // references to it; the sidecar does not touch a slot that a call names.
        unsafe { self.input.load(extent.offset, extent.len, into) }.ok_or_else(|| extent.into())
    }

    /// Writes into the output.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OutOfRange> {
        // SAFETY: no reference to an output region is ever made, and the sidecar reads it by atomic loads.
        let stored = unsafe { self.output.store(offset, bytes) };
        stored.ok_or(OutOfRange { offset, len: bytes.len() as u64 })
    }

    /// The doorbell that the sidecar rings.
    pub fn submission_bell(&self) -> &Bell {
        &self.submit_bell
    }
}

impl Peer {
    #[cfg(loom)]
    pub(crate) fn over((submit, submit_bell): (Cells, Bell), (complete, complete_bell): (Cells, Bell)) -> Self {
        Self { submit, complete, submit_bell, complete_bell, next: 0, posted: 0, unrung: 0 }
    }

    /// Takes everything that was announced and appends it to `out`. Returns how many entries that were.
    pub fn take(&mut self, out: &mut Vec<Submission>) -> Result<u64, PeerError> {
        let count = self.submit_bell.take()?;
        for _ in 0..count {
            let words = self.submit.read(self.next);
            self.next += 1;
            let submission = Submission::decode(&words).filter(|_| words[0] == self.next);
            out.push(submission.ok_or(PeerError::Corrupt(self.next - 1))?);
        }
        Ok(count)
    }

    /// Writes a completion, which the sidecar sees at the next [`Peer::ring`].
    pub fn post(&mut self, completion: &RawCompletion) {
        self.post_words(&completion.encode(self.posted + 1));
    }

    /// Writes any words as the next entry.
    pub fn post_words(&mut self, words: &Words) {
        self.complete.write(self.posted, words);
        self.posted += 1;
        self.unrung += 1;
    }

    /// Announces everything that was posted since the last time.
    pub fn ring(&mut self) -> io::Result<()> {
        let count = std::mem::take(&mut self.unrung);
        if count == 0 { Ok(()) } else { self.complete_bell.ring(count) }
    }

    /// Announces any number.
    pub fn ring_lie(&mut self, count: u64) -> io::Result<()> {
        self.complete_bell.ring(count)
    }
}
