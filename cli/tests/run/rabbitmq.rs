//! Over RabbitMQ, on every broker that `tests/servers/with-brokers.sh` has started.

use crate::common::{Place, examples, text};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use rustix::process::Signal;
use serde_json::Value;

/// Puts a message of some other program into a queue. Whoever makes that queue first, it is used as it is.
fn put(url: &str, queue: &str, body: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = lapin::Connection::connect(url, Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let options = QueueDeclareOptions { durable: true, passive: !queue.ends_with("-delay"), ..Default::default() };
        channel.queue_declare(queue.into(), options, Default::default()).await.unwrap();
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let sent = channel.basic_publish("".into(), queue.into(), options, body, Default::default()).await;
        assert!(sent.unwrap().await.unwrap().is_ack());
    });
}

#[test]
fn hello_runs_over_rabbitmq() {
    let urls = std::env::var("ASYA_TEST_AMQP_URLS").expect("run this by tests/servers/with-brokers.sh");
    for (version, url) in urls.split_whitespace().map(|named| named.split_once('=').unwrap()) {
        let place = Place::new(&[]);
        let namespace = format!("cli-{}", std::process::id());
        place.broker.replace(["--transport", url, "--namespace", &namespace].map(str::to_owned).to_vec());
        let run = place.run(&[examples().join("hello").to_str().unwrap()]).until_ready();
        let answer = place.ok(&["send", "greet,shout", r#"{"name":"Ada"}"#, "--wait"]);
        assert_eq!(answer, "{\"name\":\"Ada\",\"greeting\":\"HELLO, ADA!!!\"}\n", "{version}");
        let error = place.fails(&["send", "greet", r#"{"nome":"Ada"}"#, "--wait", "--id", "bad"]);
        assert!(error.contains("bad failed at greet: KeyError: 'name'"), "{version}: {error}");
        let error = place.fails(&["send", "greet,nobody", "{}"]);
        assert!(error.contains("there is no queue") && !error.contains("guest:"), "{version}: {error}");

        place.wait_for("the outcomes in the sinks", || {
            (place.ready("x-sink"), place.ready("x-sump")) == (Some(1), Some(1))
        });
        assert!(place.ok(&["failed", "--show", "bad"]).contains("Traceback"), "{version}");
        place.wait_for("what was looked at to be back", || place.ready("x-sump") == Some(1));
        assert_eq!(place.ok(&["results", "--take"]).lines().count(), 1, "{version}");
        assert_eq!(place.ready("x-sink"), Some(0), "{version}");

        assert!(!place.ok(&["queues"]).contains("-delay"), "{version}");
        put(url, &format!("asya-{namespace}-60m-delay"), b"{}");
        let queues: serde_json::Value = serde_json::from_str(&place.ok(&["queues", "--json"])).unwrap();
        let rung = format!("asya-{namespace}-60m-delay");
        let waiting = queues.as_array().unwrap().iter().find(|queue| queue["queue"] == *rung).unwrap();
        assert_eq!((&waiting["actor"], &waiting["ready"]), (&Value::Null, &Value::Null), "{version}");
        assert_eq!(waiting["delayed"], 1, "{version}");
        // Without --transport the commands find the broker by the data folder.
        place.broker.take();
        assert_eq!(
            place.ok(&["send", "greet", r#"{"name":"Bob"}"#, "--wait"]),
            "{\"name\":\"Bob\",\"greeting\":\"Hello, Bob!\"}\n"
        );

        run.signal(Signal::INT);
        assert_eq!(run.ended(), Some(0), "{version}: {}", place.log());
        assert!(!place.log().contains("is used as it is"), "{version}: {}", place.log());
    }
}

/// Raises until a file is there.
const UNTIL_MENDED: &str = "\
import os

def run(payload):
    if not os.path.exists('mended'):
        raise KeyError('x')
    return payload
";

const MANIFEST: &str =
    "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: work}\nspec:\n  handler: work.run\n";

#[test]
fn what_failed_is_sent_again_over_rabbitmq() {
    let urls = std::env::var("ASYA_TEST_AMQP_URLS").expect("run this by tests/servers/with-brokers.sh");
    for (version, url) in urls.split_whitespace().map(|named| named.split_once('=').unwrap()) {
        let place = Place::new(&[("work.yaml", MANIFEST), ("work.py", UNTIL_MENDED)]);
        let namespace = format!("cli-dead-{}", std::process::id());
        place.broker.replace(["--transport", url, "--namespace", &namespace].map(str::to_owned).to_vec());
        let run = place.run(&["work.yaml"]).until_ready();
        let queue = format!("asya-{namespace}-work");
        std::fs::write(place.path("many.jsonl"), (0..600).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>())
            .unwrap();
        place.ok(&["send", "work", "many.jsonl", "--id", "m"]);
        place.wait_for("the failures", || place.ready("x-sump") == Some(600));
        // A body that no actor can read, and one that some other program has put where the broker's own are.
        put(url, &queue, b"{no");
        place.wait_for("the unreadable one", || place.ready("x-sump") == Some(601));
        put(url, &format!("{queue}-dlq"), b"{nor this");

        // Looking takes nothing away and shows nothing twice; what is back is seen once the broker has taken it.
        let back = |sump| {
            place.wait_for("what was looked at to be back", || {
                let ready = place.ready("x-sump");
                if ready != Some(sump) {
                    eprintln!("{version}: x-sump holds {ready:?} and not {sump}");
                }
                ready == Some(sump)
            });
        };
        let table = place.ok(&["dead"]);
        let summary: Vec<Vec<&str>> = table.lines().rev().take(3).map(|l| l.split_whitespace().collect()).collect();
        let counts = [["work", "RuntimeError", "600"], ["work", "ParseError", "1"], ["work", "DeadLettered", "1"]];
        assert_eq!(summary, counts, "{version}: {table}");
        back(601);
        let output = place.asya(&["dead", "requeue", "m-7", "m-590", "--dry-run"]);
        assert_eq!(text(&output.stdout), "m-7  work → work\nm-590  work → work\n", "{version}");
        back(601);

        // What was not chosen stays; one that fails again comes back behind it.
        let said = text(&place.asya(&["dead", "requeue", "m-7", "m-590"]).stderr);
        assert_eq!(said, "2 messages sent again: 2 to work\n", "{version}");
        back(601);
        std::fs::write(place.path("mended"), "").unwrap();
        let output = place.asya(&["dead", "requeue", "--all"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{version}: {said}");
        for part in [
            "600 messages sent again: 600 to work",
            "2 messages could not be sent and stay where found:",
            "1: work could not read its body; --raw sends that body there again",
            "1: a body that cannot be read (",
        ] {
            assert!(said.contains(part), "{version}: {part}: {said}");
        }
        place.wait_for("all results", || place.ready("x-sink") == Some(600));
        back(1);
        let results = place.ok(&["results", "--envelopes", "--limit", "1000", "--take"]);
        let results = results.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let ids: std::collections::BTreeSet<u64> = results.map(|r| r["payload"]["n"].as_u64().unwrap()).collect();
        assert_eq!(ids, (0..600).collect(), "{version}");

        // Sent byte for byte, both fail to be read once more; now their actor tells of both.
        let said = text(&place.asya(&["dead", "requeue", "--all", "--raw"]).stderr);
        assert_eq!(said, "2 messages sent again: 2 to work\n", "{version}");
        back(2);
        let envelopes = place.ok(&["failed", "--envelopes"]);
        let mut bodies: Vec<String> = envelopes
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|failure| failure["payload"]["original_body"].as_str().unwrap().to_owned())
            .collect();
        bodies.sort();
        assert_eq!(bodies, ["{no", "{nor this"], "{version}");
        // Elsewhere nobody knows which actors there are.
        let elsewhere = place.asya(&["dead", "--data", "elsewhere"]);
        assert!(text(&elsewhere.stderr).contains("no actor is known here"), "{version}: {}", text(&elsewhere.stderr));
        run.signal(Signal::INT);
        assert_eq!(run.ended(), Some(0), "{version}: {}", place.log());
    }
}
