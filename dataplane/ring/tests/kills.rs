//! kill -9 of either side at every step of the protocol. The survivor notices, takes only what is whole, and goes on
//! with a new peer.
//!
//! The worker's steps are listed by `echo_worker.py`, the sidecar's by [`SIDECAR_STEPS`]; each side kills itself on
//! arriving at the step, so that no timing is involved.

#![cfg(not(any(loom, miri)))]

mod common;

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use asya_ring::socket::{Listener, Socket};
use common::{Echo, Mode, Random, RoomFor, Sidecar, echo_steps, report, wait_either};

/// One of each kind of answer, and one that needs two rounds.
fn push_a_few(sidecar: &mut Sidecar, random: &mut Random) {
    for (mode, room) in [
        (Mode::One, RoomFor::Result),
        (Mode::Two, RoomFor::Result),
        (Mode::One, RoomFor::Nothing),
        (Mode::Parts, RoomFor::OnePage),
        (Mode::Error, RoomFor::Result),
        (Mode::Pinned, RoomFor::Result),
    ] {
        assert!(sidecar.call(1 + random.below(9_000), random.next(), mode, room), "room for a few");
    }
    sidecar.cancel_one();
}

/// Runs `rounds` of calls; false when the worker is gone before they are done.
fn traffic(sidecar: &mut Sidecar, socket: &Socket, random: &mut Random, rounds: u32) -> bool {
    for _ in 0..rounds {
        push_a_few(sidecar, random);
        sidecar.link.ring().expect("ring");
        while !sidecar.idle() {
            let (ended, rung) = wait_either(socket.as_fd(), sidecar.link.as_fd());
            if ended {
                return false;
            }
            if rung {
                sidecar.pump().expect("an honest worker");
            }
        }
    }
    true
}

#[test]
fn a_worker_killed_at_each_step_costs_only_itself() {
    let (mut kills, mut salvaged) = (0, 0);
    for step in echo_steps() {
        for occurrence in [1, 4] {
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("asya-sidecar.sock");
            let listener = Listener::bind(&path).expect("bind");
            let mut sidecar = Sidecar::new(16, 4 << 20);
            let mut echo = Echo::start(&path, 1, Some((&step, occurrence)));
            let mut random = Random(u64::from(occurrence) << 32 | 1);
            if let Some(socket) = sidecar.attach(&listener, 1, r#""generation": 1"#)
                && traffic(&mut sidecar, &socket, &mut random, 6)
            {
                // A step that comes once in a life, or as often as there are wake-ups.
                assert!(occurrence > 1, "never came to {step:?}");
                continue;
            }
            let posted = echo.line().expect("says what it posted");
            let posted: u64 = posted.strip_prefix("posted ").expect(&posted).parse().expect("a number");
            assert!(echo.was_killed());
            let before = sidecar.counts.entries;
            sidecar.pump().expect("what it announced is whole");
            sidecar.salvage().expect("what it did not announce is whole or not there");
            assert_eq!(sidecar.counts.entries, posted, "killed at {step:?}, {occurrence}");
            salvaged += posted - before;
            kills += 1;

            // The next worker, with fresh memory for its results, works.
            let mut next = Sidecar::new(16, 4 << 20);
            let _echo = Echo::start(&path, 2, None);
            let socket = next.attach(&listener, 2, r#""generation": 2"#).expect("attach");
            assert!(traffic(&mut next, &socket, &mut random, 1));
        }
    }
    report(&format!("kills: a worker killed {kills} times, {salvaged} entries taken after its death"));
    assert!(kills >= 15 && salvaged > 0);
}

#[test]
fn a_worker_killed_at_any_instant_leaves_no_torn_entry() {
    let kills = 25;
    let mut entries = 0;
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("asya-sidecar.sock");
    let listener = Listener::bind(&path).expect("bind");
    let mut random = Random(0xdead_0000_0000_0001);
    for _ in 0..kills {
        let mut sidecar = Sidecar::new(32, 8 << 20);
        let mut echo = Echo::start(&path, 1, None);
        let socket = sidecar.attach(&listener, 1, r#""generation": 1"#).expect("attach");
        // It dies while it works through what was pushed after so many answers.
        let enough = random.below(400);
        while sidecar.counts.entries < enough {
            while sidecar.call(random.below(3_000), random.next(), Mode::One, RoomFor::Result) {}
            sidecar.link.ring().expect("ring");
            let (ended, rung) = wait_either(socket.as_fd(), sidecar.link.as_fd());
            assert!(!ended);
            if rung {
                sidecar.pump().expect("an honest worker");
            }
        }
        while sidecar.call(random.below(3_000), random.next(), Mode::Two, RoomFor::Result) {}
        sidecar.link.ring().expect("ring");
        echo.kill();
        assert!(echo.was_killed());
        sidecar.pump().expect("what it announced is whole");
        sidecar.salvage().expect("what it did not announce is whole or not there");
        entries += sidecar.counts.entries;
    }
    report(&format!("kills: {kills} workers killed at any instant, {entries} entries, none torn"));
}

/// Where the sidecar is made to die, in the order in which it comes there.
const SIDECAR_STEPS: [&str; 10] = [
    "listening",
    "accepted",
    "hello received",
    "attach sent",
    "ready received",
    "pushed",
    "rung",
    "answers waiting",
    "answers read",
    "half-way through",
];

/// The step, when this process is the sidecar that is to die.
const STEP: &str = "ASYA_RING_DIE_AT";
/// Its socket.
const SOCKET: &str = "ASYA_RING_SOCKET";

#[test]
#[ignore = "the sidecar of a_sidecar_killed_at_each_step_is_noticed, which starts it"]
fn dying_sidecar() {
    let at = std::env::var(STEP).expect("a step");
    let path = std::env::var(SOCKET).expect("a path");
    let mut die = |step: &str| {
        if step == at {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    };
    let listener = Listener::bind(Path::new(&path)).expect("bind");
    die("listening");
    let mut sidecar = Sidecar::new(16, 4 << 20);
    let socket = sidecar.attach_with(&listener, 1, r#""generation": 1"#, &mut die).expect("attach");
    let mut random = Random(3);
    push_a_few(&mut sidecar, &mut random);
    die("pushed");
    sidecar.link.ring().expect("ring");
    die("rung");
    let (ended, _) = wait_either(socket.as_fd(), sidecar.link.as_fd());
    assert!(!ended);
    die("answers waiting");
    sidecar.pump().expect("an honest worker");
    die("answers read");
    traffic(&mut sidecar, &socket, &mut random, 3);
    push_a_few(&mut sidecar, &mut random);
    sidecar.link.ring().expect("ring");
    die("half-way through");
    panic!("no such step: {at}");
}

#[test]
fn a_sidecar_killed_at_each_step_is_noticed() {
    for step in SIDECAR_STEPS {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("asya-sidecar.sock");
        let mut first = start_dying_sidecar(step, &path);
        let mut echo = Echo::start(&path, 1, None);
        assert_eq!(first.wait().expect("wait").signal(), Some(9), "died at {step:?}");

        // Whoever had reached it says that it is gone, and dials again as one that has its handler still.
        let dialled = SIDECAR_STEPS.iter().position(|&s| s == step) > Some(0);
        if dialled {
            assert_eq!(echo.line().as_deref(), Some("gone"), "died at {step:?}");
        }
        let listener = Listener::bind(&path).expect("takes the dead one's place");
        let mut second = Sidecar::new(16, 4 << 20);
        let hello = if dialled { r#""generation": 0"# } else { r#""generation": "# };
        let socket = match second.attach(&listener, 2, hello) {
            Some(socket) => socket,
            // It had dialled the first one just before its end, and is back for the second.
            None => second.attach(&listener, 2, r#""generation": 0"#).expect("attach"),
        };
        assert!(traffic(&mut second, &socket, &mut Random(5), 2), "works for the next after {step:?}");
    }
    report(&format!("kills: a sidecar killed at {} steps, noticed and replaced each time", SIDECAR_STEPS.len()));
}

fn start_dying_sidecar(step: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "dying_sidecar"])
        .env(STEP, step)
        .env(SOCKET, path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program again")
}
