//! A broker in a process of its own: this test binary, started again.
//!
//! The child dies with the thread that started it, so that a killed test leaves nothing behind.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use asya_transport::conformance::{Capabilities, Client, Harness, drive};
use asya_transport::embedded::{Broker, EmbeddedAdmin, EmbeddedTransport, Options, socket_path};
use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Longest wait for a broker's first answer.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// Where the child finds its directory, and how it is to run.
const DIR: &str = "EMBEDDED_TEST_DIR";
const FSYNC: &str = "EMBEDDED_TEST_FSYNC";
const BODY_LIMIT: &str = "EMBEDDED_TEST_BODY_LIMIT";
const DISK_FREE_MIN: &str = "EMBEDDED_TEST_DISK_FREE_MIN";

/// Largest body of a test's broker, so small that one more byte can be tried.
pub const BODY_MAX: u64 = 16 << 20;

/// The child's side: not a test of its own.
#[test]
#[ignore = "runs as the broker of the other tests"]
fn broker_process() {
    let Ok(dir) = env::var(DIR) else { return };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let disk_free_min = env::var(DISK_FREE_MIN).unwrap().parse().unwrap();
    let options = Options {
        fsync: env::var(FSYNC).is_ok(),
        message_bytes_max: env::var(BODY_LIMIT).unwrap().parse().unwrap(),
        disk_free_min,
        ..Options::default()
    };
    let dir = Path::new(&dir);
    let _running = Broker::spawn(dir, options, &socket_path(dir)).unwrap();
    loop {
        std::thread::park();
    }
}

/// A broker's process. Killed when dropped.
pub struct Process {
    child: Child,
    dir: PathBuf,
}

/// How a broker's process is started.
#[derive(Clone, Copy)]
pub struct Start {
    pub fsync: bool,
    pub disk_free_min: u64,
    pub message_bytes_max: u64,
}

impl Default for Start {
    fn default() -> Self {
        Self { fsync: true, disk_free_min: 0, message_bytes_max: BODY_MAX }
    }
}

impl Process {
    /// Starts a broker on `dir` and waits until it answers.
    pub fn start(dir: &Path, start: Start) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "harness::broker_process", "--ignored", "--nocapture"]);
        command.env(DIR, dir).env(DISK_FREE_MIN, start.disk_free_min.to_string());
        command.env(BODY_LIMIT, start.message_bytes_max.to_string());
        if start.fsync {
            command.env(FSYNC, "1");
        }
        command.stdout(Stdio::null()).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let mut process = Self { child, dir: dir.to_owned() };
        process.wait_until_up();
        process
    }

    fn wait_until_up(&mut self) {
        let begun = Instant::now();
        while EmbeddedAdmin::connect(&socket_path(&self.dir)).and_then(|mut admin| admin.queues()).is_err() {
            assert!(begun.elapsed() < WATCHDOG, "the broker does not answer");
            assert!(self.child.try_wait().unwrap().is_none(), "the broker has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn admin(&self) -> EmbeddedAdmin {
        EmbeddedAdmin::connect(&socket_path(&self.dir)).unwrap()
    }

    /// Most memory that the process had at a time, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A current-thread runtime, as a sidecar has.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub struct EmbeddedHarness {
    process: Process,
    dir: TempDir,
    runtime: Runtime,
    begun: Instant,
    prefixes: u32,
}

impl EmbeddedHarness {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(dir.path(), Start::default());
        Self { process, dir, runtime: runtime(), begun: Instant::now(), prefixes: 0 }
    }
}

impl Harness for EmbeddedHarness {
    type T = EmbeddedTransport;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            keeps_order: true,
            counts_lost: true,
            limit_counts_requeues: false,
            limit_counts_lost: true,
            max_body: BODY_MAX,
            can_break: true,
            can_restart: true,
            can_delete: true,
            can_block: true,
        }
    }

    fn fresh_prefix(&mut self) -> String {
        self.prefixes += 1;
        format!("asya-case{}-", self.prefixes)
    }

    fn connect(&mut self) -> EmbeddedTransport {
        EmbeddedTransport::new(socket_path(self.dir.path()))
    }

    fn step(&mut self, clients: &mut [Client<EmbeddedTransport>], max: Duration) {
        drive(&self.runtime, clients, max);
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn break_connections(&mut self) {
        self.process.admin().disconnect_others().unwrap();
    }

    fn restart_broker(&mut self) {
        self.process.kill();
        self.process = Process::start(self.dir.path(), Start::default());
    }

    fn delete_queue(&mut self, queue: &str) {
        self.process.admin().delete(queue).unwrap();
    }

    fn block(&mut self, blocked: bool) {
        self.process.admin().pause_publishing(blocked).unwrap();
    }
}
