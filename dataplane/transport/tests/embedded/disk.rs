//! A disk that is really full: a small tmpfs, where it may be mounted.

use std::path::Path;
use std::process::Command;

use asya_transport::conformance::script::Message;
use asya_transport::{ContentType, Outcome};
use tempfile::TempDir;

use crate::harness::{Process, Start};

/// A small disk of memory. Unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "asya-test"]).arg(dir.path()).status();
        mount.is_ok_and(|status| status.success()).then(|| Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A mount that stays costs the memory of a few files, and is seen in the test's output.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn fill_and_empty(disk_free_min: u64) {
    let Some(disk) = SmallDisk::mount(48) else {
        eprintln!("skipped: no tmpfs can be mounted here");
        return;
    };
    let dir: &Path = disk.0.path();
    let mut process = Process::start(dir, Start { disk_free_min, ..Start::default() });
    let mut admin = process.admin();
    admin.declare("work", None, 0).unwrap();
    let mut confirmed = Vec::new();
    let mut refusals = 0;
    for seed in 0..200 {
        // Small, shared and filed bodies.
        let message = Message::of(seed, [2000, 700_000, 3 << 20][seed as usize % 3]);
        let body = message.body();
        match admin.publish("work", ContentType::Json, "", &body).unwrap() {
            Outcome::Confirmed => confirmed.push(body),
            Outcome::Refused(why) => {
                refusals += 1;
                if refusals == 1 {
                    println!("refused after {}: {why}", confirmed.len());
                }
            }
            other => panic!("a publish to a full disk ended as {other:?}"),
        }
    }
    assert!(refusals > 0 && confirmed.len() > 5, "{refusals} refusals, {} confirmed", confirmed.len());
    // It works on once there is room, and after a kill everything that was confirmed is there.
    for _ in 0..3 {
        let first = admin.browse("work", 0, 1, 0).unwrap()[0].id;
        assert!(admin.remove("work", first).unwrap());
        confirmed.remove(0);
    }
    process.kill();
    let process = Process::start(dir, Start { disk_free_min, ..Start::default() });
    let mut admin = process.admin();
    let mut after = 0;
    for body in confirmed {
        let message = admin.browse("work", after, 1, u64::MAX).unwrap().pop().expect("a confirmed message is gone");
        assert!(
            message.body.as_deref() == Some(&*body),
            "a confirmed body of {} bytes came back different",
            body.len()
        );
        after = message.id;
    }
    admin.purge("work").unwrap();
    let again = std::iter::repeat_with(|| admin.publish("work", ContentType::Json, "", b"again").unwrap());
    // The store may need a moment to be opened again; each refusal takes a turn.
    let outcome = again.take(100_000).find(|outcome| *outcome == Outcome::Confirmed);
    assert!(outcome.is_some(), "an emptied disk takes nothing");
}

#[test]
fn a_disk_that_runs_full_refuses_and_loses_nothing() {
    fill_and_empty(0);
}

#[test]
fn a_disk_that_is_nearly_full_refuses_in_time() {
    fill_and_empty(20 << 20);
}
