//! The sidecar's end of one worker's two rings.
//!
//! Takes [`Submission`]s and gives [`Completion`]s. Never blocks: [`Link::push`] says when it is full, [`Link::poll`]
//! takes what is there. A worker that writes what cannot be true is reported once and for ever as a [`Violation`];
//! after it has died, [`Link::salvage`] takes what it had finished and not announced.

use std::io;

use crate::bell::Bell;
use crate::cells::Cells;
use crate::completion::{Completion, Violation};
use crate::ledger::{CallLimits, Ledger, PushError};
use crate::wire::{RawCompletion, Submission};

#[cfg(not(loom))]
use {
    crate::mapping::Mapping,
    crate::region::{InputRegion, OutputRegion, RingLease},
    std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    std::sync::Arc,
};

/// Where everything lies: the numbers of the `attach` packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the input region.
    pub input_bytes: u64,
    /// Bytes of the output region.
    pub output_bytes: u64,
    /// Where the submission ring begins, in the input region.
    pub submit_offset: u64,
    /// Its entries.
    pub submit_entries: u32,
    /// Where the completion ring begins, in the output region.
    pub complete_offset: u64,
    /// Its entries.
    pub complete_entries: u32,
    /// The largest result.
    pub max_result_bytes: u64,
}

/// Why [`Link::poll`] or [`Link::ring`] failed.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The worker lied: kill it, reason `corrupt`.
    #[error("the worker broke the ring's rules: {0}")]
    Violation(#[from] Violation),
    /// The doorbell could not be read or written.
    #[error("doorbell: {0}")]
    Io(#[from] io::Error),
}

/// Both rings of one worker in one generation.
pub struct Link {
    submit: Cells,
    complete: Cells,
    submit_bell: Bell,
    complete_bell: Bell,
    ledger: Ledger,
    /// Number of the next completion entry.
    next: u64,
    /// Submissions that are written and not announced.
    unrung: u64,
    broken: Option<Violation>,
    #[cfg(not(loom))]
    shared: Shared,
}

/// What a worker is given, and what keeps it.
#[cfg(not(loom))]
struct Shared {
    geometry: Geometry,
    input: Arc<Mapping>,
    output: Arc<Mapping>,
    /// Read end for the worker; the write end is open for as long as this process lives and the link does.
    #[cfg_attr(miri, expect(dead_code, reason = "there is no other process to give it to"))]
    lifeline: OwnedFd,
    _alive: OwnedFd,
    _ring: RingLease,
}

#[cfg(not(loom))]
impl Link {
    /// A link to a worker that will map these two regions, which must have been made for the same limits. Fails with
    /// [`io::ErrorKind::QuotaExceeded`] when all rings of the input region are in use.
    pub fn new(input: &InputRegion, output: &OutputRegion) -> io::Result<Self> {
        let limits = input.limits();
        if output.limits() != limits {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the regions were made for different limits"));
        }
        let ring = input.lease_ring().ok_or(io::ErrorKind::QuotaExceeded)?;
        let geometry = Geometry {
            input_bytes: input.bytes(),
            output_bytes: output.bytes(),
            submit_offset: ring.offset,
            submit_entries: limits.submit_entries(),
            complete_offset: 0,
            complete_entries: limits.complete_entries(),
            max_result_bytes: limits.max_result_bytes,
        };
        let (input_map, output_map) = (Arc::clone(input.mapping()), Arc::clone(output.mapping()));
        // SAFETY: the ring lies before `InputRegion::slots`, and `InputRegion` makes references to slots only. The
        // lease makes this the only link that writes it.
        let submit = unsafe { Cells::new(Arc::clone(&input_map), geometry.submit_offset, geometry.submit_entries) };
        // SAFETY: `OutputRegion` makes no references at all.
        let complete =
            unsafe { Cells::new(Arc::clone(&output_map), geometry.complete_offset, geometry.complete_entries) };
        let (Some(submit), Some(complete)) = (submit, complete) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let (lifeline, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let ledger = Ledger::new(limits, input.slots(), output.rooms());
        let shared = Shared { geometry, input: input_map, output: output_map, lifeline, _alive: alive, _ring: ring };
        Ok(Self {
            submit,
            complete,
            submit_bell: Bell::new()?,
            complete_bell: Bell::new()?,
            ledger,
            next: 0,
            unrung: 0,
            broken: None,
            shared,
        })
    }

    /// The numbers of the `attach` packet.
    pub fn geometry(&self) -> Geometry {
        self.shared.geometry
    }

    /// The descriptors of the `attach` packet, in their order: input, output, submit, complete, lifeline.
    #[cfg(not(miri))]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 5] {
        [
            self.shared.input.descriptor(),
            self.shared.output.descriptor(),
            self.submit_bell.as_fd(),
            self.complete_bell.as_fd(),
            self.shared.lifeline.as_fd(),
        ]
    }

    /// A second descriptor of the worker's doorbell, for a reactor that wants to own one. It is readable when
    /// [`Link::poll`] has something to take; edge-triggered reactors need no read of their own.
    pub fn completion_bell(&self) -> io::Result<Bell> {
        self.complete_bell.try_clone()
    }

    pub(crate) fn bells(&self) -> (&Bell, &Bell) {
        (&self.submit_bell, &self.complete_bell)
    }

    pub(crate) fn mappings(&self) -> (&Mapping, &Mapping) {
        (&self.shared.input, &self.shared.output)
    }
}

impl Link {
    /// The two ends of rings that exist already; what loom models.
    #[cfg(loom)]
    pub(crate) fn over(
        (submit, submit_bell): (Cells, Bell),
        (complete, complete_bell): (Cells, Bell),
        ledger: Ledger,
    ) -> Self {
        Self { submit, complete, submit_bell, complete_bell, ledger, next: 0, unrung: 0, broken: None }
    }

    /// Writes a submission, which the worker sees at the next [`Link::ring`].
    ///
    /// Only calls are ever refused for want of space; grants, refusals and cancellations of open calls always fit. A
    /// second cancellation of the same call is dropped.
    pub fn push(&mut self, submission: &Submission) -> Result<(), PushError> {
        if let Some(entry) = self.ledger.admit(submission)? {
            debug_assert!(self.ledger.unconsumed() <= self.submit.entries() / 2);
            self.submit.write(entry, &submission.encode(entry + 1));
            self.unrung += 1;
        }
        Ok(())
    }

    /// Announces everything that was pushed since the last time, with one write; none when there is nothing.
    pub fn ring(&mut self) -> Result<(), PollError> {
        if self.unrung == 0 {
            return Ok(());
        }
        match self.submit_bell.ring(self.unrung) {
            Ok(()) => {
                self.unrung = 0;
                Ok(())
            }
            // The counter holds 2^64 − 2, so only the worker's tampering can have filled it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(self.broken.insert(Violation::Doorbell).to_owned().into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes everything that the worker has announced and appends it to `out`. Returns how many entries that were; 0
    /// when none. What came before a violation is in `out`; the violation then comes back from every later call.
    pub fn poll(&mut self, out: &mut Vec<Completion>) -> Result<u64, PollError> {
        if let Some(violation) = self.broken {
            return Err(violation.into());
        }
        let count = self.complete_bell.take()?;
        if count > self.complete.entries() {
            return Err(self
                .broken
                .insert(Violation::Count { count, most: self.complete.entries() })
                .to_owned()
                .into());
        }
        for _ in 0..count {
            let completion = self.take().inspect_err(|&violation| self.broken = Some(violation))?;
            out.push(completion);
        }
        Ok(count)
    }

    /// Takes what a worker that is dead (its socket has ended *and* its process is reaped) had written and not
    /// announced: entries that carry the next sequence. Appends them to `out` and returns their number.
    pub fn salvage(&mut self, out: &mut Vec<Completion>) -> Result<u64, PollError> {
        let announced = self.poll(out)?;
        for salvaged in 0..self.complete.entries() {
            match self.take() {
                Ok(completion) => out.push(completion),
                // Where its writing ended.
                Err(Violation::Sequence { .. }) => return Ok(announced + salvaged),
                Err(violation) => {
                    self.broken = Some(violation);
                    return Err(violation.into());
                }
            }
        }
        Ok(announced + self.complete.entries())
    }

    fn take(&mut self) -> Result<Completion, Violation> {
        // Copied out once: every check below is of this copy.
        let words = self.complete.read(self.next);
        let expected = self.next + 1;
        if words[0] != expected {
            return Err(Violation::Sequence { expected, found: words[0] });
        }
        self.next = expected;
        self.ledger.accept(&RawCompletion::decode(&words))
    }

    /// Calls that are open.
    pub fn open_calls(&self) -> u32 {
        self.ledger.open()
    }

    /// Ended calls whose input is still viewed.
    pub fn pinned_calls(&self) -> u32 {
        self.ledger.pinned()
    }

    /// What it was made for.
    pub fn limits(&self) -> CallLimits {
        self.ledger.limits()
    }
}

#[cfg(not(loom))]
impl AsFd for Link {
    /// The worker's doorbell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.complete_bell.as_fd()
    }
}

#[cfg(not(loom))]
impl AsRawFd for Link {
    /// The worker's doorbell.
    fn as_raw_fd(&self) -> RawFd {
        self.complete_bell.as_raw_fd()
    }
}
