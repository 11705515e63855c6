//! `asya dead`: what failed is listed, shown, and sent again.

use crate::common::{ASYA, Place, text};
use asya_transport::embedded::EmbeddedAdmin;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

/// Fails in one way or the other until a file is there, then says what it got.
const UNTIL_MENDED: &str = "\
import os, zlib

class Refused(ConnectionError):
    pass

def run(payload):
    if os.path.exists('mended'):
        return {'crc': zlib.crc32(bytes(payload['data']))} if 'data' in payload else payload
    if payload.get('refuse'):
        raise Refused('no')
    raise KeyError('x')
";

fn manifest(actor: &str) -> String {
    format!(
        "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {{name: {actor}}}\nspec:\n  handler: {actor}.run\n"
    )
}

/// Actors with one handler.
fn place(actors: &[&str], python: &str) -> Place {
    let place = Place::new(&[]);
    for actor in actors {
        std::fs::write(place.path(&format!("{actor}.yaml")), manifest(actor)).unwrap();
        std::fs::write(place.path(&format!("{actor}.py")), python).unwrap();
    }
    place
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn said(place: &Place, args: &[&str]) -> String {
    let output = place.asya(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

/// Ids of what failed, in order; each command looks when what the last one held is back.
fn ids(place: &Place, args: &[&str]) -> Vec<String> {
    let listed = lines(&place.ok(&[&["dead", "list", "--json"], args].concat()));
    listed.iter().map(|failure| failure["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_failed_is_listed_shown_and_sent_again_where_it_failed() {
    let place = place(&["work", "other"], UNTIL_MENDED);
    let _run = place.run(&["work.yaml", "other.yaml"]).until_ready();
    place.ok(&["send", "work,other", r#"{"n":1}"#, "--id", "one", "--header", "tenant=t"]);
    place.wait_for("the first failure", || place.ready("x-sump") == Some(1));
    place.ok(&["send", "work", r#"{"n":2,"refuse":true}"#, "--id", "two"]);
    place.wait_for("the second failure", || place.ready("x-sump") == Some(2));
    place.ok(&["send", "other", r#"{"n":3}"#, "--id", "three"]);
    place.wait_for("the third failure", || place.ready("x-sump") == Some(3));

    let table = place.ok(&["dead"]);
    let row = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
    let rows: Vec<Vec<String>> = table.lines().map(row).collect();
    assert_eq!(rows[1], ["one", "work", "RuntimeError", "1", "KeyError", "'x'"], "{table}");
    assert_eq!(
        rows[4..],
        [&[][..], &["ACTOR", "REASON", "COUNT"], &["other", "RuntimeError", "1"], &["work", "RuntimeError", "2"]],
        "{table}"
    );
    assert_eq!(place.ok(&["dead", "--limit", "1"]).lines().count(), 2 + 1 + 3);

    assert_eq!(ids(&place, &[]), ["one", "two", "three"]);
    assert_eq!(ids(&place, &["--actor", "work"]), ["one", "two"]);
    assert_eq!(ids(&place, &["--error", "OSError"]), ["two"], "an ancestor");
    assert_eq!(ids(&place, &["--error", "Refused"]), ["two"], "a short name");
    assert_eq!(ids(&place, &["--actor", "other", "--error", "KeyError"]), ["three"]);
    assert_eq!(ids(&place, &["--reason", "Timeout"]), [""; 0]);
    assert_eq!(ids(&place, &["--limit", "2"]), ["one", "two"]);
    let failure = &lines(&place.ok(&["dead", "--json", "--actor", "other"]))[0];
    assert_eq!(
        (&failure["reason"], &failure["error"], &failure["queue"]),
        (&"RuntimeError".into(), &"KeyError".into(), &"asya-default-x-sump".into())
    );

    let shown = place.ok(&["dead", "show", "thr", "one"]);
    assert_eq!(shown.matches("Traceback").count(), 2, "{shown}");
    assert!(shown.contains(r#"payload   {"n":1}"#) && shown.contains(r#"payload   {"n":3}"#), "{shown}");
    let error = place.fails(&["dead", "show", "one", "nobody"]);
    assert!(error.contains("no failed message has an id that begins with \"nobody\""), "{error}");

    // A dry run changes nothing, not even the order.
    let output = place.asya(&["dead", "requeue", "--actor", "work", "--dry-run"]);
    assert_eq!(text(&output.stdout), "one  work → work\ntwo  work → work\n");
    assert_eq!(text(&output.stderr), "2 messages would be sent again: 2 to work\n");
    assert_eq!(ids(&place, &[]), ["one", "two", "three"]);

    // Still failing, it comes back, as the newest.
    assert_eq!(said(&place, &["dead", "requeue", "one"]), "1 message sent again: 1 to work\n");
    place.wait_for("the failure to come back", || ids(&place, &[]) == ["two", "three", "one"]);
    let error = place.fails(&["dead", "requeue", "on"]);
    assert!(error.contains("no failed message has the id \"on\"") && error.contains("ids must be whole"), "{error}");
    assert_eq!(ids(&place, &[]).len(), 3);

    std::fs::write(place.path("mended"), "").unwrap();
    assert_eq!(said(&place, &["dead", "requeue", "--error", "ConnectionError"]), "1 message sent again: 1 to work\n");
    place.wait_for("the first result", || place.ready("x-sink") == Some(1));
    assert_eq!(ids(&place, &[]), ["three", "one"]);
    assert_eq!(said(&place, &["dead", "requeue", "--all", "--limit", "1"]), "1 message sent again: 1 to other\n");
    place.wait_for("the second result", || place.ready("x-sink") == Some(2));
    assert_eq!(said(&place, &["dead", "requeue", "--all"]), "1 message sent again: 1 to work\n");
    place.wait_for("all results", || place.ready("x-sink") == Some(3));
    assert_eq!(place.ready("x-sump"), Some(0));
    let results = lines(&place.ok(&["results", "--envelopes"]));
    let one = results.iter().find(|result| result["id"] == "one").unwrap();
    assert_eq!(
        (&one["payload"]["n"], &one["headers"]["tenant"], &one["route"]["prev"]),
        (&1.into(), &"t".into(), &serde_json::json!(["work", "other"]))
    );
    assert_eq!(said(&place, &["dead", "requeue", "--all"]), "0 messages sent again\n");
    assert_eq!(said(&place, &["dead"]), "nothing has failed\n");
}

#[test]
fn binary_parts_come_back_whole_and_another_route_can_be_named() {
    let place = place(&["work", "other"], UNTIL_MENDED);
    let _run = place.run(&["work.yaml", "other.yaml"]).until_ready();
    let bytes: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
    std::fs::write(place.path("5000.bin"), bytes).unwrap();
    place.ok(&["send", "work", "5000.bin", "--id", "file"]);
    place.wait_for("the failure", || place.ready("x-sump") == Some(1));
    std::fs::write(place.path("mended"), "").unwrap();
    let error = place.fails(&["dead", "requeue", "file", "--to", "other,wrok"]);
    assert!(error.contains("the route names \"wrok\"") && error.contains("did you mean: work"), "{error}");
    assert_eq!(said(&place, &["dead", "requeue", "file", "--to", "other,work"]), "1 message sent again: 1 to other\n");
    place.wait_for("the result", || place.ready("x-sink") == Some(1));
    let result = &lines(&place.ok(&["results", "--envelopes"]))[0];
    assert_eq!(
        (&result["payload"]["crc"], &result["route"]["prev"]),
        (&CRC_5000.into(), &serde_json::json!(["other", "work"]))
    );
}

const CRC_5000: u64 = 0xc160_7408;

#[test]
fn what_has_nowhere_to_go_stays_and_is_told() {
    let place = place(&["work", "gone"], UNTIL_MENDED);
    let run = place.run(&["work.yaml", "gone.yaml"]).until_ready();
    place.ok(&["send", "gone", "{}", "--id", "lost"]);
    place.wait_for("the first failure", || place.ready("x-sump") == Some(1));
    place.ok(&["send", "work", "{}", "--id", "fine"]);
    place.wait_for("the second failure", || place.ready("x-sump") == Some(2));
    run.signal(Signal::INT);
    assert_eq!(run.ended(), Some(0));
    std::fs::write(place.path("mended"), "").unwrap();
    let _run = place.run(&["work.yaml"]).until_ready();
    let record: Value = serde_json::from_slice(&std::fs::read(place.path(".asya/run.json")).unwrap()).unwrap();
    let socket = record["broker"]["embedded"].as_str().unwrap();
    EmbeddedAdmin::connect(std::path::Path::new(socket)).unwrap().delete("asya-default-gone").unwrap();

    for args in [&["dead", "requeue", "--all", "--dry-run"][..], &["dead", "requeue", "--all"]] {
        let output = place.asya(args);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains("1 to work") && error.contains("1: gone has no queue asya-default-gone (lost)"),
            "{error}"
        );
        assert!(error.contains("error: 1 message could not be sent again"), "{error}");
    }
    place.wait_for("the other one's result", || place.ready("x-sink") == Some(1));
    assert_eq!(ids(&place, &[]), ["lost"]);
}

#[test]
fn what_the_broker_gave_up_is_among_it_and_goes_back_as_it_is() {
    let small = manifest("work") + "  sidecar: {env: [{name: ASYA_MAX_MESSAGE_BYTES, value: 64KiB}]}\n";
    let place = place(&["work"], UNTIL_MENDED);
    std::fs::write(place.path("work.yaml"), &small).unwrap();
    let run = place.run(&["work.yaml"]).until_ready();
    std::fs::write(place.path("large.bin"), vec![7; 100_000]).unwrap();
    place.ok(&["send", "work", "large.bin", "--id", "big"]);
    place.wait_for("the dead letter", || ids(&place, &[]) == ["big"]);
    let failure = &lines(&place.ok(&["dead", "--json", "--reason", "DeadLettered"]))[0];
    assert_eq!((&failure["actor"], &failure["queue"]), (&"work".into(), &"asya-default-work-dlq".into()));
    assert!(place.ok(&["dead", "show", "big"]).contains("binary    100000 bytes"));
    assert_eq!(ids(&place, &["--reason", "RuntimeError"]), [""; 0]);
    // An actor that does not run now is known to the broker all the same.
    run.signal(Signal::INT);
    assert_eq!(run.ended(), Some(0));
    std::fs::write(place.path("mended"), "").unwrap();
    std::fs::write(place.path("work.yaml"), manifest("work")).unwrap();
    std::fs::write(place.path("other.yaml"), manifest("other")).unwrap();
    std::fs::write(place.path("other.py"), UNTIL_MENDED).unwrap();
    let run = place.run(&["other.yaml"]).until_ready();
    assert_eq!(said(&place, &["dead", "requeue", "--reason", "DeadLettered"]), "1 message sent again: 1 to work\n");
    assert_eq!((ids(&place, &[]).len(), place.ready("work")), (0, Some(1)));
    run.signal(Signal::INT);
    assert_eq!(run.ended(), Some(0));
    let _run = place.run(&["work.yaml"]).until_ready();
    place.wait_for("the result", || place.ready("x-sink") == Some(1));
}

/// Ids of messages and how many there are of all.
fn ids_and_count(envelopes: &str) -> (BTreeSet<String>, usize) {
    let envelopes = lines(envelopes);
    (envelopes.iter().map(|envelope| envelope["id"].as_str().unwrap().to_owned()).collect(), envelopes.len())
}

/// What waits in the failure sink, and in the queue of an actor that takes nothing.
fn totals(place: &Place) -> (u64, u64) {
    (place.ready("x-sump").unwrap(), place.ready("parked").unwrap())
}

#[test]
fn a_requeue_that_is_interrupted_or_killed_loses_nothing() {
    const COUNT: u64 = 3000;
    let place = place(&["work"], "def run(payload):\n    raise KeyError('x')\n");
    // What is sent here waits: its handler does not import yet.
    std::fs::write(place.path("parked.yaml"), manifest("parked")).unwrap();
    std::fs::write(place.path("parked.py"), "import no_such_module\n").unwrap();
    let _run = place.run(&["work.yaml", "parked.yaml"]);
    place.wait_for("the queues", || place.asya(&["queues", "work", "parked"]).status.success());
    std::fs::write(place.path("many.jsonl"), "{}\n".repeat(COUNT as usize)).unwrap();
    let (mut sent, mut killed_midway) = (0, 0);
    // A machine that is fast enough to end every one before its signal comes gets more to do.
    while killed_midway == 0 {
        place.ok(&["send", "work", "many.jsonl", "--id", &format!("m{sent}")]);
        sent += COUNT;
        place.wait_for("all failures", || place.ready("x-sump") == Some(COUNT));
        let mut signals = [Signal::INT].into_iter().chain(std::iter::repeat(Signal::KILL));
        while place.ready("x-sump") != Some(0) {
            let before = totals(&place);
            let mut requeue = Command::new(ASYA)
                .args(["dead", "requeue", "--all", "--to", "parked"])
                .current_dir(place.folder.path())
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            place.wait_for("some to be sent", || totals(&place).1 > before.1);
            let signal = signals.next().unwrap();
            rustix::process::kill_process(rustix::process::Pid::from_child(&requeue), signal).unwrap();
            let status = requeue.wait().unwrap();
            // What it held goes back with its connection.
            place.wait_for("what was held", || {
                let queues: Value = serde_json::from_str(&place.ok(&["queues", "--json"])).unwrap();
                queues.as_array().unwrap().iter().all(|queue| queue["actor"] != "x-sump" || queue["unsettled"] == 0)
            });
            let after = totals(&place);
            assert!(after.0 + after.1 >= sent, "{after:?} of {sent}");
            if signal == Signal::INT {
                assert_eq!(after.0 + after.1, before.0 + before.1, "what is under way is awaited");
                // Interrupted while the last ones were under way, it says so all the same.
                assert!(status.code() == Some(1) || (status.code(), after.0) == (Some(0), 0), "{status}, {after:?}");
            }
            killed_midway += u64::from(status.code().is_none() && after.0 > 0);
        }
    }
    std::fs::write(place.path("parked.py"), "def run(payload):\n    return payload\n").unwrap();
    place.wait_for("all results", || place.ready("parked") == Some(0) && place.ready("x-sink").unwrap() >= sent);
    let (ids, count) = ids_and_count(&place.ok(&["results", "--envelopes", "--limit", "100000"]));
    assert_eq!(ids.len() as u64, sent);
    // A copy is a message that was under way when its sender was killed: 512 at most each time.
    assert!(count as u64 - sent <= 512 * killed_midway, "{count} results, {killed_midway} kills");
}
