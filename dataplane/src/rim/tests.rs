//! The rim against a supervisor and workers that are sockets of the test.

use std::future::poll_fn;
use std::path::PathBuf;

use asya_ring::socket::{Received, Socket};
use serde_json::{Value, json};

use super::*;

const WATCHDOG: Duration = Duration::from_secs(30);

/// A rim for one worker, in a folder of its own.
struct Bench {
    rim: SharedRim,
    events: Vec<WorkerEvent>,
    folder: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("asya-rim-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let settings = RimSettings {
            workers: 1,
            concurrency: 1,
            batch: 0,
            max_message_bytes: 1 << 16,
            memory_bytes: 1 << 20,
            max_window: 4,
            timeout: Duration::ZERO,
        };
        let rim = SharedRim::bind(settings, &folder.join("socket")).unwrap();
        Self { rim, events: Vec::new(), folder }
    }

    fn dial(&self, hello: &Value) -> Socket {
        let socket = Socket::connect(&self.folder.join("socket")).unwrap();
        say(&socket, hello);
        socket
    }

    /// Polls until this holds.
    async fn until(&mut self, mut holds: impl FnMut(&mut Self) -> bool) {
        let polling = poll_fn(|cx| {
            self.rim.poll_workers(cx, &mut self.events);
            if holds(self) { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(WATCHDOG, polling).await.unwrap();
    }

    /// The next packet that this peer is sent.
    async fn hear(&mut self, peer: &Socket) -> Value {
        let (mut packet, mut descriptors) = (Vec::new(), Vec::new());
        self.until(|_| matches!(peer.recv(&mut packet, &mut descriptors), Ok(Received::Packet(_)))).await;
        serde_json::from_slice(&packet).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

fn say(socket: &Socket, packet: &Value) {
    socket.send(packet.to_string().as_bytes(), &[]).unwrap();
}

fn supervisor(workers: &Value) -> Value {
    json!({"type": "supervisor", "version": 1, "pid": 1, "python": "3", "workers": workers})
}

fn worker(generation: u32) -> Value {
    json!({"type": "worker", "version": 1, "worker": 0, "generation": generation, "pid": 2})
}

fn with_bench<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Bench) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(Bench::new(name)).await });
}

#[test]
fn a_kill_that_no_supervisor_heard_is_ordered_of_the_next() {
    with_bench("kill", |mut bench| async move {
        let first = bench.dial(&supervisor(&json!([])));
        assert_eq!(bench.hear(&first).await["generations"], json!([1]));
        let peer = bench.dial(&worker(1));
        assert_eq!(bench.hear(&peer).await["type"], "attach");
        drop(first);
        bench.until(|b| b.rim.supervisor.is_none()).await;
        bench.rim.kill(WorkerId { index: 0, generation: 1 }, Death::TimedOut);
        let second = bench.dial(&supervisor(&json!([{"worker": 0, "pid": 2}])));
        assert_eq!(bench.hear(&second).await["generations"], json!([1]), "it is kept, to be killed");
        let kill = bench.hear(&second).await;
        assert_eq!((&kill["type"], &kill["next_generation"]), (&json!("kill"), &json!(2)));
        drop(peer);
        bench.until(|b| !b.events.is_empty()).await;
        let worker = WorkerId { index: 0, generation: 1 };
        assert_eq!(bench.events, [WorkerEvent::Died { worker, death: Death::TimedOut }]);
    });
}

#[test]
fn a_worker_that_hangs_up_before_it_is_attached_costs_no_memory() {
    with_bench("hangs-up", |mut bench| async move {
        let supervisor = bench.dial(&supervisor(&json!([])));
        bench.hear(&supervisor).await;
        drop(bench.dial(&worker(1)));
        let other = bench.dial(&json!({"type": "worker", "version": 9, "worker": 0, "generation": 1}));
        assert_eq!(bench.hear(&other).await["type"], "refused", "the one before was seen too");
        assert_eq!(bench.rim.memory().output_bytes(), (0, 0));
    });
}

#[test]
fn why_a_worker_could_not_load_is_heard_before_its_death() {
    with_bench("last-words", |mut bench| async move {
        let supervisor = bench.dial(&supervisor(&json!([])));
        bench.hear(&supervisor).await;
        let peer = bench.dial(&worker(1));
        bench.hear(&peer).await;
        say(&peer, &json!({"type": "failed", "error": {"type": "ImportError", "message": "no"}}));
        drop(peer);
        say(&supervisor, &json!({"type": "died", "worker": 0, "generation": 1, "exit_code": 1}));
        bench.until(|b| b.events.iter().any(|e| matches!(e, WorkerEvent::Died { .. }))).await;
        assert!(
            matches!(bench.events[..], [WorkerEvent::Broken { .. }, WorkerEvent::Died { .. }]),
            "{:?}",
            bench.events
        );
        bench.rim.start(0);
        let restart = bench.hear(&supervisor).await;
        assert_eq!((&restart["type"], &restart["generation"]), (&json!("restart"), &json!(2)));
    });
}

#[test]
fn the_successor_of_a_killed_worker_counts_as_running() {
    with_bench("successor", |mut bench| async move {
        let supervisor = bench.dial(&supervisor(&json!([])));
        bench.hear(&supervisor).await;
        let peer = bench.dial(&worker(1));
        bench.hear(&peer).await;
        bench.rim.kill(WorkerId { index: 0, generation: 1 }, Death::TimedOut);
        assert_eq!(bench.hear(&supervisor).await["type"], "kill");
        say(&supervisor, &json!({"type": "died", "worker": 0, "generation": 1, "signal": 9}));
        bench.until(|b| !b.events.is_empty()).await;
        assert!(bench.rim.seats[0].running && bench.rim.seats[0].generation == 2);
        drop(peer);
    });
}

/// A first packet of worker 0 that kept its handler.
fn keeper(pid: u32) -> Value {
    json!({"type": "worker", "version": 1, "worker": 0, "generation": 0, "pid": pid})
}

#[test]
fn only_the_process_that_the_supervisor_names_attaches_again() {
    with_bench("keeps", |mut bench| async move {
        let first = bench.dial(&supervisor(&json!([])));
        assert_eq!(bench.hear(&first).await["generations"], json!([1]));
        let none = bench.dial(&keeper(2));
        let why = "the runtime does not say that process 2 is its worker 0 and kept its handler";
        assert_eq!(bench.hear(&none).await["why"], why, "a process under way has a generation");
        drop(first);
        bench.until(|b| b.rim.supervisor.is_none()).await;
        let second = bench.dial(&supervisor(&json!([{"worker": 0, "pid": 2}])));
        assert_eq!(bench.hear(&second).await["generations"], json!([2]));
        let other = bench.dial(&keeper(3));
        assert_eq!(bench.hear(&other).await["type"], "refused", "another process");
        let kept = bench.dial(&keeper(2));
        let attach = bench.hear(&kept).await;
        assert_eq!((&attach["type"], &attach["generation"]), (&json!("attach"), &json!(2)));
        let again = bench.dial(&keeper(2));
        let why = "worker 0 is attached already, as process 2; this is process 2";
        assert_eq!(bench.hear(&again).await["why"], why);
        drop(kept);
        bench.until(|b| !b.events.is_empty()).await;
        let late = bench.dial(&keeper(2));
        assert_eq!(bench.hear(&late).await["type"], "refused", "it has attached once");
    });
}

#[test]
fn a_worker_that_attaches_again_before_the_supervisor_waits_for_its_word() {
    for (named, answer) in [(json!([{"worker": 0, "pid": 2}]), "attach"), (json!([]), "refused")] {
        with_bench(&format!("early-{answer}"), |mut bench| async move {
            let kept = bench.dial(&keeper(2));
            bench.until(|b| b.rim.seats[0].early.is_some()).await;
            let supervisor = bench.dial(&supervisor(&named));
            assert_eq!(bench.hear(&supervisor).await["type"], "start");
            assert_eq!(bench.hear(&kept).await["type"], answer);
            assert!(bench.rim.seats[0].early.is_none());
        });
    }
}

#[test]
fn a_worker_of_an_earlier_supervisor_is_not_taken_for_one_of_the_next() {
    with_bench("orphan", |mut bench| async move {
        let first = bench.dial(&supervisor(&json!([])));
        bench.hear(&first).await;
        let orphan = bench.dial(&worker(1));
        bench.hear(&orphan).await;
        drop(first);
        bench.until(|b| b.rim.supervisor.is_none()).await;
        let second = bench.dial(&supervisor(&json!([{"worker": 0, "pid": 3}])));
        assert_eq!(bench.hear(&second).await["generations"], json!([2]));
        let worker = WorkerId { index: 0, generation: 1 };
        assert_eq!(bench.events, [WorkerEvent::Died { worker, death: Death::Detached }]);
        let kept = bench.dial(&keeper(3));
        assert_eq!(bench.hear(&kept).await["type"], "attach");
    });
}

#[test]
fn a_second_supervisor_is_refused_while_the_first_is_connected() {
    with_bench("second", |mut bench| async move {
        let first = bench.dial(&supervisor(&json!([])));
        bench.hear(&first).await;
        let peer = bench.dial(&worker(1));
        bench.hear(&peer).await;
        let second = bench.dial(&json!({"type": "supervisor", "version": 1, "pid": 9, "workers": []}));
        let refused = bench.hear(&second).await;
        assert_eq!(refused, json!({"type": "refused", "why": "another runtime (pid 1) is attached", "retry": true}));
        bench.rim.kill(WorkerId { index: 0, generation: 1 }, Death::TimedOut);
        assert_eq!(bench.hear(&first).await["type"], "kill", "the first is still obeyed, and its worker attached");
        assert_eq!(bench.events, []);
        drop(first);
        let third = bench.dial(&supervisor(&json!([])));
        assert_eq!(bench.hear(&third).await["type"], "start", "though nobody has looked since the first went");
    });
}

#[test]
fn a_runtime_of_another_version_is_refused_for_good() {
    with_bench("version", |mut bench| async move {
        let other = bench.dial(&json!({"type": "supervisor", "version": 2, "pid": 9}));
        let refused = bench.hear(&other).await;
        assert_eq!(refused, json!({"type": "refused", "why": "version 2, wanted 1", "retry": false}));
    });
}
