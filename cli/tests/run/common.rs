//! An `asya run` for a test: in a folder of its own, ended with the test however that ends.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing here takes longer on a machine that works; a slow one is not a reason to fail.
const WATCHDOG: Duration = Duration::from_secs(120);

/// The program under test.
pub const ASYA: &str = env!("CARGO_BIN_EXE_asya");

/// A folder with manifests and handlers, and the commands run in it.
pub struct Place {
    pub folder: tempfile::TempDir,
    /// More arguments of every command that talks to a broker.
    pub broker: RefCell<Vec<String>>,
}

impl Place {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder, broker: RefCell::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts `asya run`; its output goes to `run.log`.
    pub fn run(&self, args: &[&str]) -> Run<'_> {
        let log = File::options().create(true).append(true).open(self.path("run.log")).unwrap();
        let child = Command::new(ASYA)
            // Its own way to tie a program to its parent: it dies with this test.
            .args(["exec", &std::process::id().to_string(), ASYA, "run"])
            .args(args)
            .args(self.broker.borrow().iter())
            .current_dir(self.folder.path())
            .env_remove("VIRTUAL_ENV")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Run { place: self, child }
    }

    /// Runs a command to its end.
    pub fn asya(&self, args: &[&str]) -> Output {
        // It asks nothing but the sidecars.
        let broker = if args.first() == Some(&"status") { Vec::new() } else { self.broker.borrow().clone() };
        Command::new(ASYA).args(args).args(broker).current_dir(self.folder.path()).output().unwrap()
    }

    /// Runs a command that must succeed; gives what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.asya(args);
        assert!(output.status.success(), "{args:?}: {}\n{}", text(&output.stderr), self.log());
        text(&output.stdout)
    }

    /// Runs a command that must fail; gives what it said.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.asya(args);
        assert!(!output.status.success(), "{args:?} succeeded: {}", text(&output.stdout));
        text(&output.stderr)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("run.log")).unwrap_or_default()
    }

    /// How many messages wait in an actor's queue; `None` when the queue is not there.
    pub fn ready(&self, actor: &str) -> Option<u64> {
        let queues: serde_json::Value = serde_json::from_str(&self.ok(&["queues", actor, "--json"])).unwrap();
        let queues = queues.as_array().unwrap().clone();
        queues.iter().find(|q| q["actor"] == actor).unwrap()["ready"].as_u64()
    }

    /// Waits for something, asked for again and again.
    pub fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + WATCHDOG;
        while !done() {
            assert!(Instant::now() < deadline, "{what} did not happen; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running `asya run`.
pub struct Run<'p> {
    place: &'p Place,
    pub child: Child,
}

impl Run<'_> {
    /// Waits until every actor is ready.
    pub fn until_ready(mut self) -> Self {
        let place = self.place;
        place.wait_for("readiness", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("asya run ended with {status}:\n{}", place.log());
            }
            let output = place.asya(&["status", "--json"]);
            let Ok(status) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return false };
            status["actors"].as_array().is_some_and(|actors| actors.iter().all(|a| a["ready"] == true))
        });
        self
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; gives its exit status.
    pub fn ended(mut self) -> Option<i32> {
        let place = self.place;
        let mut status = None;
        place.wait_for("the end of asya run", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// Processes that it has started, and those that these have started.
    pub fn descendants(&self) -> Vec<i32> {
        let mut all = vec![i32::try_from(self.child.id()).unwrap()];
        let mut at = 0;
        while let Some(pid) = all.get(at).copied() {
            for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                let Some(child) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
                if parent(child) == Some(pid) && !all.contains(&child) {
                    all.push(child);
                }
            }
            at += 1;
        }
        all.split_off(1)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        // Its children die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parent(pid: i32) -> Option<i32> {
    let mut stat = String::new();
    File::open(format!("/proc/{pid}/stat")).ok()?.read_to_string(&mut stat).ok()?;
    // The name may hold spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process is there and has not ended.
pub fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// The folder of the examples.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").canonicalize().unwrap()
}
