//! A sidecar in small: regions, arenas, one link and one socket, driving `echo_worker.py` and checking every byte that
//! comes back. Every wait has a watchdog.

// Each test file uses its own part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Lines};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use asya_ring::socket::{Listener, Received, Socket};
use asya_ring::{
    Arena, ArenaConfig, Call, CallLimits, Completion, Extent, InputRegion, Last, Link, OutputRegion, Part, PartRegion,
    PollError, ResultEntry, Submission,
};

/// Long enough for any honest step on a busy machine; reaching it fails the test.
pub const WATCHDOG: Duration = Duration::from_secs(30);

/// What `echo_worker.py` is to do with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    One = 0,
    Parts = 1,
    Two = 2,
    Error = 3,
    Pinned = 4,
}

/// How a call is given room for its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomFor {
    Result,
    Nothing,
    OnePage,
}

struct Open {
    slot: Extent,
    payload: Extent,
    mode: Mode,
    results: u32,
    canceled: bool,
}

/// What has come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub entries: u64,
    pub results: u64,
    pub errors: u64,
    pub done: u64,
    pub rooms: u64,
    pub unpinned: u64,
    pub bytes: u64,
}

pub struct Sidecar {
    pub input: InputRegion,
    pub arena: Arena,
    pub output: OutputRegion,
    pub rooms: Arena,
    pub link: Link,
    pub counts: Counts,
    open: HashMap<u64, Open>,
    pinned: HashMap<u64, Extent>,
    next_call: u64,
    completions: Vec<Completion>,
    copy: Vec<u8>,
    parts: Vec<Part>,
}

impl Sidecar {
    pub fn new(max_calls: u32, slot_bytes: u64) -> Self {
        let limits = CallLimits { max_calls, max_pinned: 64, max_result_bytes: 4 << 20 };
        let input = InputRegion::create(1, limits, slot_bytes).expect("input region");
        let output = OutputRegion::create(limits, slot_bytes * 8).expect("output region");
        let link = Link::new(&input, &output).expect("link");
        let arena = input.arena(8192, 256);
        let rooms = Arena::new(ArenaConfig {
            space: output.rooms(),
            small_bytes: 4096,
            small_slots: 256,
            budget_bytes: slot_bytes * 2,
            warm_bytes: slot_bytes / 4,
        });
        Self {
            input,
            arena,
            output,
            rooms,
            link,
            counts: Counts::default(),
            open: HashMap::new(),
            pinned: HashMap::new(),
            next_call: 1 << 40,
            completions: Vec::new(),
            copy: Vec::new(),
            parts: Vec::new(),
        }
    }

    pub fn open_calls(&self) -> usize {
        self.open.len()
    }

    pub fn idle(&self) -> bool {
        self.open.is_empty() && self.pinned.is_empty()
    }

    /// Pushes one call with `len` pseudo-random bytes; false when something is full.
    pub fn call(&mut self, len: u64, seed: u64, mode: Mode, room_for: RoomFor) -> bool {
        // The context comes first, so that the payload keeps clear of alignment.
        let Some(slot) = self.arena.alloc(len + 8) else { return false };
        let room = match room_for {
            RoomFor::Nothing => None,
            RoomFor::OnePage => self.rooms.alloc(1),
            RoomFor::Result => self.rooms.alloc(len.max(4096)),
        };
        let context = Extent { offset: slot.offset, len: 8 };
        let payload = Extent { offset: slot.offset + 8, len };
        fill(self.input.slice_mut(payload).expect("payload"), seed);
        let crc = crc32fast::hash(self.input.slice(payload).expect("payload"));
        let words = self.input.slice_mut(context).expect("context");
        words[..4].copy_from_slice(&crc.to_le_bytes());
        words[4..].copy_from_slice(&(mode as u32).to_le_bytes());
        let call = self.next_call;
        let submission = Call { call, document_len: len, payload, context, room, ..Call::default() };
        if self.link.push(&Submission::Call(submission)).is_err() {
            self.arena.free(slot).expect("just allocated");
            if let Some(room) = room {
                self.rooms.free(room).expect("just allocated");
            }
            return false;
        }
        self.next_call += 1;
        let results = if mode == Mode::Two { 2 } else { 1 };
        self.open.insert(call, Open { slot, payload, mode, results, canceled: false });
        true
    }

    /// Cancels some open call: the echo worker ignores it, as any synchronous worker does.
    pub fn cancel_one(&mut self) {
        if let Some((&call, open)) = self.open.iter_mut().find(|(_, open)| !open.canceled) {
            open.canceled = true;
            self.link.push(&Submission::Cancel { call }).expect("a cancellation always fits");
        }
    }

    /// Takes what was announced and checks it.
    pub fn pump(&mut self) -> Result<u64, PollError> {
        let mut completions = std::mem::take(&mut self.completions);
        let count = self.link.poll(&mut completions);
        self.handle(&mut completions);
        self.completions = completions;
        count
    }

    /// Takes what a dead worker left and checks it.
    pub fn salvage(&mut self) -> Result<u64, PollError> {
        let mut completions = Vec::new();
        let count = self.link.salvage(&mut completions);
        self.handle(&mut completions);
        count
    }

    fn handle(&mut self, completions: &mut Vec<Completion>) {
        for completion in completions.drain(..) {
            self.counts.entries += 1;
            match completion {
                Completion::Result(result) => self.result(&result),
                Completion::Done { call, last } => {
                    self.counts.done += 1;
                    assert_eq!(self.open[&call].payload.len, 0, "only an empty payload is answered by DONE");
                    self.end(call, last);
                }
                Completion::Error { call, last, meta, room } => {
                    self.counts.errors += 1;
                    assert_eq!(self.open[&call].mode, Mode::Error);
                    self.copy.clear();
                    self.output.copy_out(meta.expect("an error has meta"), &mut self.copy).expect("checked");
                    assert!(self.copy.starts_with(b"{\"type\":\"ValueError\""), "{:?}", self.copy);
                    self.free_room(room.expect("meta lies in a room"));
                    self.end(call, last);
                }
                Completion::Room { call, wanted, returned } => {
                    self.counts.rooms += 1;
                    if let Some(room) = returned {
                        self.free_room(room);
                    }
                    let room = self.rooms.alloc(wanted).expect("the budget holds every open call");
                    self.link.push(&Submission::Grant { call, room }).expect("an answer always fits");
                }
                Completion::Unpinned { call } => {
                    self.counts.unpinned += 1;
                    let slot = self.pinned.remove(&call).expect("was pinned");
                    self.arena.free(slot).expect("was allocated");
                }
            }
        }
        // The worker may be dead or have been killed: what it does not hear is checked elsewhere.
        let _ = self.link.ring();
    }

    fn result(&mut self, result: &ResultEntry) {
        self.counts.results += 1;
        let payload = self.open[&result.call].payload;
        assert_eq!(result.payload_len, payload.len);
        self.parts.clear();
        self.output.parts(result, &mut self.parts).expect("parts");
        self.copy.clear();
        for part in &self.parts {
            match part.region {
                PartRegion::Output => self.output.copy_out(part.extent, &mut self.copy).expect("checked"),
                PartRegion::Input => self.copy.extend_from_slice(self.input.slice(part.extent).expect("checked")),
            }
        }
        self.counts.bytes += self.copy.len() as u64;
        assert!(self.copy == self.input.slice(payload).expect("payload"), "wrong bytes in call {}", result.call);
        self.free_room(result.room);
        let open = self.open.get_mut(&result.call).expect("open");
        open.results -= 1;
        assert_eq!(open.results == 0, result.last.is_some());
        if let Some(last) = result.last {
            self.end(result.call, last);
        }
    }

    fn end(&mut self, call: u64, last: Last) {
        let open = self.open.remove(&call).expect("was open");
        assert_eq!(last.pinned, open.mode == Mode::Pinned && open.payload.len > 0);
        if let Some(room) = last.unused {
            self.free_room(room);
        }
        if last.pinned {
            self.pinned.insert(call, open.slot);
        } else {
            self.arena.free(open.slot).expect("was allocated");
        }
    }

    fn free_room(&mut self, room: Extent) {
        self.rooms.free(room).expect("was allocated");
        while let Some(hole) = self.rooms.next_punch() {
            self.output.punch(hole).expect("punch");
        }
    }

    pub fn attach_packet(&self, generation: u32) -> String {
        let g = self.link.geometry();
        format!(
            r#"{{"type":"attach","version":1,"worker":0,"generation":{generation},"input_bytes":{},"output_bytes":{},"submit_ring":{{"offset":{},"entries":{}}},"complete_ring":{{"offset":{},"entries":{}}},"max_result_bytes":{}}}"#,
            g.input_bytes,
            g.output_bytes,
            g.submit_offset,
            g.submit_entries,
            g.complete_offset,
            g.complete_entries,
            g.max_result_bytes
        )
    }

    /// Waits for a worker and attaches it. `None` when it is gone before it was ready.
    pub fn attach(&mut self, listener: &Listener, generation: u32, hello: &str) -> Option<Socket> {
        self.attach_with(listener, generation, hello, &mut |_| {})
    }

    /// As [`Sidecar::attach`]; calls `step` after each of its steps.
    pub fn attach_with(
        &mut self,
        listener: &Listener,
        generation: u32,
        hello: &str,
        step: &mut dyn FnMut(&str),
    ) -> Option<Socket> {
        assert!(readable(listener.as_fd()), "no worker came");
        let socket = listener.accept().expect("accept");
        step("accepted");
        let first = next_packet(&socket)?;
        assert!(first.contains(r#""type": "worker""#) && first.contains(hello), "{first}");
        step("hello received");
        match socket.send(self.attach_packet(generation).as_bytes(), &self.link.descriptors()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return None,
            sent => sent.expect("attach"),
        }
        step("attach sent");
        let ready = next_packet(&socket)?;
        assert!(ready.contains(r#""type":"ready""#), "{ready}");
        step("ready received");
        Some(socket)
    }
}

/// Which of two descriptors has something; panics when neither has within the watchdog's time.
pub fn wait_either(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> (bool, bool) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(a, PollFlags::IN), PollFd::from_borrowed_fd(b, PollFlags::IN)];
    let timeout = Timespec { tv_sec: WATCHDOG.as_secs() as i64, tv_nsec: 0 };
    let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout))).expect("poll");
    assert!(ready > 0, "nothing within {WATCHDOG:?}");
    (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
}

/// Whether it becomes readable (or ends) within the watchdog's time.
pub fn readable(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: WATCHDOG.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout))).expect("poll") > 0
}

/// The next packet; `None` at the end.
pub fn next_packet(socket: &Socket) -> Option<String> {
    assert!(readable(socket.as_fd()), "no packet within {WATCHDOG:?}");
    let (mut packet, mut descriptors) = (Vec::new(), Vec::new());
    match socket.recv(&mut packet, &mut descriptors).expect("recv") {
        Received::End => None,
        Received::Packet(_) => Some(String::from_utf8(packet).expect("JSON is UTF-8")),
    }
}

/// A running `echo_worker.py`, killed when dropped.
pub struct Echo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Echo {
    pub fn start(socket: &Path, generation: u32, kill_at: Option<(&str, u32)>) -> Self {
        let mut command = Command::new("python3");
        command.arg(script()).arg(socket).arg(generation.to_string());
        if let Some((step, occurrence)) = kill_at {
            command.arg(step).arg(occurrence.to_string());
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("python3");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// The next line that it says; `None` at its end.
    pub fn line(&mut self) -> Option<String> {
        self.lines.next().map(|line| line.expect("UTF-8"))
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
    }

    /// Waits for its end. Whether it was SIGKILL.
    pub fn was_killed(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        self.child.wait().expect("wait").signal() == Some(9)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/echo_worker.py")
}

/// The steps at which `echo_worker.py` can be made to die.
pub fn echo_steps() -> Vec<String> {
    let listed = Command::new("python3").arg(script()).arg("--steps").output().expect("python3");
    let steps: Vec<_> = String::from_utf8(listed.stdout).expect("UTF-8").lines().map(str::to_owned).collect();
    assert!(steps.len() >= 10, "{steps:?}");
    steps
}

/// Says a line that the test harness does not capture: how much was done.
pub fn report(line: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "asya-ring: {line}");
}

/// A small pseudo-random generator (xorshift64*), the same on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn fill(bytes: &mut [u8], seed: u64) {
    let mut random = Random(seed | 1);
    for chunk in bytes.chunks_mut(8) {
        let word = random.next().to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}
