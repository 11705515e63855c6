//! On the embedded broker.

use crate::common::{ASYA, Place, examples, lives, text};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const MANIFEST: &str =
    "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: work}\nspec:\n  handler: work.run\n";

fn place(python: &str) -> Place {
    Place::new(&[("work.yaml", MANIFEST), ("work.py", python)])
}

#[test]
fn hello_runs_answers_and_drains() {
    let place = Place::new(&[]);
    let hello = examples().join("hello");
    let run = place.run(&[hello.to_str().unwrap()]).until_ready();
    assert_eq!(
        place.ok(&["send", "greet,shout", r#"{"name":"Ada"}"#, "--wait"]),
        "{\"name\":\"Ada\",\"greeting\":\"HELLO, ADA!!!\"}\n"
    );

    std::fs::write(place.path("many.jsonl"), (0..500).map(|i| format!("{{\"name\":\"{i}\"}}\n")).collect::<String>())
        .unwrap();
    let out = place.ok(&["send", "greet", "many.jsonl", "--wait", "--journal", "sent.jsonl", "--header", "tenant=t"]);
    assert_eq!(out.lines().count(), 500);
    let journal = std::fs::read_to_string(place.path("sent.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 500);

    place.wait_for("all results in the sink", || place.ready("x-sink") == Some(501));
    assert_eq!(place.ok(&["results", "--limit", "2"]).lines().count(), 2);
    // Looking takes nothing away, taking does.
    place.wait_for("what was looked at to be back", || place.ready("x-sink") == Some(501));
    let taken = place.ok(&["results", "--take", "--envelopes", "--limit", "1000"]);
    let envelopes: Vec<serde_json::Value> = taken.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(envelopes.len(), 501);
    assert_eq!(envelopes.iter().filter(|e| e["headers"]["tenant"] == "t").count(), 500);
    assert_eq!(place.ready("x-sink"), Some(0));
    assert_eq!(place.ready("x-sump"), Some(0));

    let status: serde_json::Value = serde_json::from_str(&place.ok(&["status", "--json"])).unwrap();
    let greet = status["actors"].as_array().unwrap().iter().find(|a| a["actor"] == "greet").unwrap().clone();
    assert_eq!(greet["processed"], 501);
    assert!(greet["p50_seconds"].as_f64().unwrap() > 0.0);
    assert!(place.log().contains("ignored here, only a cluster uses it: image"), "{}", place.log());

    let children = run.descendants();
    assert!(children.len() >= 6, "two sidecars, two supervisors, two workers: {children:?}");
    run.signal(Signal::INT);
    assert_eq!(run.ended(), Some(0));
    assert!(
        place.log().contains("stopping: running calls finish") && place.log().ends_with("stopped\n"),
        "{}",
        place.log()
    );
    place.wait_for("the end of all processes", || !children.iter().any(|pid| lives(*pid)));
    assert!(!place.path(".asya/run").exists());
}

#[test]
fn a_failure_is_shown_with_its_traceback() {
    let place = place("def run(payload):\n    print('working on', payload)\n    return payload['x'] + 1\n");
    let _run = place.run(&["work.yaml"]).until_ready();
    let error = place.fails(&["send", "work", r#"{"y":1}"#, "--wait", "--id", "bad-one"]);
    assert!(error.contains("bad-one failed at work: KeyError: 'x'") && error.contains("1 of 1 failed"), "{error}");
    assert_eq!(place.ok(&["send", "work", r#"{"x":1}"#, "--wait"]), "2\n");

    place.wait_for("the failure in the sump", || place.ready("x-sump") == Some(1));
    let table = place.ok(&["failed"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["bad-one", "work", "1", "KeyError", "'x'"]);
    let shown = place.ok(&["failed", "--show", "bad"]);
    for part in [
        "route     work",
        "error     KeyError: 'x'",
        r#"payload   {"y":1}"#,
        "Traceback (most recent call last)",
        "work.py",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let unknown = place.fails(&["failed", "--show", "nobody"]);
    assert!(unknown.contains("no failed message has an id that begins with \"nobody\""), "{unknown}");
    place.wait_for("printed lines", || place.log().contains("work | working on {'x': 1}"));
}

#[test]
fn a_handler_that_does_not_import_is_told_and_its_messages_wait() {
    let place = place("import no_such_module_anywhere\n");
    let run = place.run(&["work.yaml"]);
    place.wait_for("the reason", || place.log().contains("No module named 'no_such_module_anywhere'"));
    place.ok(&["send", "work", r#"{"x":1}"#]);
    assert_eq!(place.ready("work"), Some(1));
    assert_eq!(place.ready("x-sump"), Some(0));
    // Tried again and again, it is told in full once, and why the actor is not ready can be asked.
    place.wait_for("another try", || {
        place.log().contains("ModuleNotFoundError: No module named 'no_such_module_anywhere' (again, as above)")
    });
    assert_eq!(place.log().matches("import no_such_module_anywhere").count(), 1, "{}", place.log());
    assert_eq!(place.log().matches("the handler cannot be loaded: ModuleNotFoundError").count(), 1, "{}", place.log());
    let status = place.ok(&["status"]);
    let why = "work: the handler cannot be loaded: ModuleNotFoundError: No module named 'no_such_module_anywhere'";
    assert!(status.contains(why), "{status}");
    // Mended, it goes on by itself.
    std::fs::write(place.path("work.py"), "def run(payload):\n    return payload\n").unwrap();
    place.wait_for("the message at its end", || place.ready("x-sink") == Some(1));
    drop(run);
}

#[test]
fn a_route_to_nowhere_is_refused_and_when_forced_ends_in_the_sump() {
    let quick = format!("{MANIFEST}  sidecar: {{env: [{{name: ASYA_QUEUE_RETRY_MAX_ATTEMPTS, value: \"1\"}}]}}\n");
    let place = Place::new(&[("work.yaml", &quick), ("work.py", "def run(payload):\n    return payload\n")]);
    let _run = place.run(&["work.yaml"]).until_ready();
    let error = place.fails(&["send", "work,wrok", "{}"]);
    for part in ["the route names \"wrok\"", "did you mean: work", "running here: work", "--unchecked"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(place.ready("x-sink"), Some(0));
    place.ok(&["send", "work,wrok", "{}", "--unchecked", "--id", "lost-way"]);
    place.wait_for("the message in the sump", || place.ready("x-sump") == Some(1));
    let shown = place.ok(&["failed", "--show", "lost-way"]);
    assert!(shown.contains("Unroutable") && shown.contains("wrok"), "{shown}");
}

#[test]
fn binary_files_arrive_whole() {
    let place = place(
        "import zlib\n\ndef run(payload):\n    return {'name': payload['name'], 'crc': zlib.crc32(bytes(payload['data']))}\n",
    );
    let _run = place.run(&["work.yaml"]).until_ready();
    let folder = place.path("files");
    std::fs::create_dir(&folder).unwrap();
    for size in [0_usize, 1, 5_000, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        std::fs::write(folder.join(format!("{size}.bin")), bytes).unwrap();
    }
    let out = place.ok(&["send", "work", "files", "--wait"]);
    let mut answers: Vec<(String, u64)> = out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|answer| (answer["name"].as_str().unwrap().to_owned(), answer["crc"].as_u64().unwrap()))
        .collect();
    answers.sort();
    let crcs = [("0.bin", 0), ("1.bin", 0xd202_ef8d), ("3000000.bin", CRC_3000000), ("5000.bin", CRC_5000)];
    assert_eq!(answers, crcs.map(|(name, crc)| (name.to_owned(), crc)));
}

const CRC_5000: u64 = 0xc160_7408;
const CRC_3000000: u64 = 0x5b72_1d06;

#[test]
fn what_was_sent_survives_the_death_of_everything() {
    let place = place("import time\n\ndef run(payload):\n    time.sleep(payload['sleep'])\n    return payload\n");
    let run = place.run(&["work.yaml"]).until_ready();
    place.ok(&["send", "work", r#"{"sleep":600}"#, r#"{"sleep":0}"#, r#"{"sleep":0}"#]);
    let children = run.descendants();
    run.signal(Signal::KILL);
    assert_eq!(run.ended(), None);
    place.wait_for("the end of all processes", || !children.iter().any(|pid| lives(*pid)));

    // The second time the handler is quick; all three are still there.
    std::fs::write(place.path("work.py"), "def run(payload):\n    return payload\n").unwrap();
    let run = place.run(&["work.yaml", "--until-idle"]);
    assert_eq!(run.ended(), Some(0));
    let _again = place.run(&["work.yaml"]).until_ready();
    assert_eq!(place.ready("x-sink"), Some(3));
    assert_eq!(place.ready("x-sump"), Some(0));
}

#[test]
fn a_second_interrupt_forces_and_says_what_goes_back() {
    let place = place("import time\n\ndef run(payload):\n    time.sleep(600)\n");
    let run = place.run(&["work.yaml"]).until_ready();
    place.ok(&["send", "work", "{}"]);
    place.wait_for("the call to run", || place.ready("work") == Some(0));
    let children = run.descendants();
    run.signal(Signal::INT);
    place.wait_for("the drain", || place.log().contains("Ctrl-C again to force"));
    run.signal(Signal::INT);
    assert_eq!(run.ended(), Some(0));
    assert!(
        place.log().contains("these go back to their queues and run again next time: 1 of work"),
        "{}",
        place.log()
    );
    place.wait_for("the end of all processes", || !children.iter().any(|pid| lives(*pid)));
}

#[test]
fn a_process_that_dies_is_started_again() {
    let place = place("def run(payload):\n    return payload\n");
    let run = place.run(&["work.yaml"]).until_ready();
    let is_sidecar =
        |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| text(&line).contains("\0sidecar"));
    let sidecar = run.descendants().into_iter().find(is_sidecar).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(sidecar).unwrap(), Signal::KILL).unwrap();
    place.wait_for("the new sidecar", || place.log().contains("work : the sidecar ended (killed by signal 9"));
    assert_eq!(place.ok(&["send", "work", r#"{"x":1}"#, "--wait"]), "{\"x\":1}\n");
    drop(run);
}

#[test]
fn two_runs_cannot_share_a_folder() {
    let place = place("def run(payload):\n    return payload\n");
    let _run = place.run(&["work.yaml"]).until_ready();
    let error = place.fails(&["run", "work.yaml"]);
    assert!(error.contains("already running in") && error.contains("--data"), "{error}");
}

#[test]
fn sinks_stay_bounded() {
    let place = place("def run(payload):\n    return payload\n");
    let _run = place.run(&["work.yaml", "--keep", "10"]).until_ready();
    std::fs::write(place.path("many.jsonl"), "{}\n".repeat(100)).unwrap();
    place.ok(&["send", "work", "many.jsonl", "--wait"]);
    place.wait_for("the sink to be cut", || place.ready("x-sink") == Some(10));
}

#[test]
fn a_message_that_is_too_large_is_told_and_kept() {
    let small = format!("{MANIFEST}  sidecar: {{env: [{{name: ASYA_MAX_MESSAGE_BYTES, value: 64KiB}}]}}\n");
    let place = Place::new(&[("work.yaml", &small), ("work.py", "def run(payload):\n    return 1\n")]);
    let _run = place.run(&["work.yaml"]).until_ready();
    std::fs::write(place.path("large.bin"), vec![7; 100_000]).unwrap();
    let said = text(&place.asya(&["send", "work", "large.bin", "{}", "--id", "big"]).stderr);
    assert!(said.contains("large.bin is a message of 100") && said.contains("work takes 65536 at most"), "{said}");
    assert!(said.contains("spec.sidecar.env") && said.contains("ASYA_MEMORY_BYTES"), "{said}");
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    place.wait_for("the small one at its end", || place.ready("x-sink") == Some(1));
    let output = place.asya(&["failed"]);
    let said = text(&output.stderr);
    assert!(said.contains("the broker itself gave up 1 message of work: `asya failed --dead work`"), "{said}");
    let whole = place.ok(&["failed", "--dead", "work", "--envelopes"]);
    let envelope: serde_json::Value = serde_json::from_str(&whole).unwrap();
    assert_eq!((envelope["id"].as_str(), envelope["blobs"][0]["shape"][0].as_u64()), (Some("big-0"), Some(100_000)));
    assert!(place.ok(&["failed", "--dead", "work", "--show", "big"]).contains("binary    100000 bytes"));
    let listed = text(&place.asya(&["failed", "--dead", "work"]).stderr);
    assert!(listed.contains("`asya failed --dead work --show ID`"), "{listed}");
    // Wherever it is, its id is enough.
    place.wait_for("what was looked at to be back", || {
        text(&place.asya(&["failed", "--show", "big"]).stdout).contains("binary    100000 bytes")
    });
}

#[test]
fn waiting_in_vain_ends_and_leaves_no_queue_behind() {
    let place = place("def run(payload):\n    return payload\n");
    let _run = place.run(&["work.yaml"]).until_ready();
    let error = place.fails(&["send", "work", "{}", "--wait", "--expect", "2", "--timeout", "1s"]);
    assert!(error.contains("1 of 2 results came, and none for 1s"), "{error}");
    assert!(!place.ok(&["queues"]).contains("reply"), "{}", place.ok(&["queues"]));
}

/// Runs a command that somebody stops reading after one line; gives its exit status and what it said.
fn read_one_line(place: &Place, args: &[&str]) -> (Option<i32>, String) {
    let mut child = Command::new(ASYA)
        .args(args)
        .current_dir(place.folder.path())
        .env_remove("VIRTUAL_ENV")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "{args:?}");
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stderr))
}

#[test]
fn a_closed_standard_output_ends_a_run_gracefully() {
    // A path too long for sockets, which then are in /tmp.
    let place = place("def run(payload):\n    return payload\n");
    let data = place.path(&"deep".repeat(30));
    let (status, said) = read_one_line(&place, &["run", "work.yaml", "--data", data.to_str().unwrap()]);
    assert_eq!((status, said.as_str()), (Some(141), ""));
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(data.join("run.json")).unwrap()).unwrap();
    let socket = std::path::Path::new(record["broker"]["embedded"].as_str().unwrap());
    assert!(socket.starts_with("/tmp/") && !socket.starts_with(&data), "{}", socket.display());
    assert!(!socket.parent().unwrap().exists(), "{}", socket.display());
}

#[test]
fn a_closed_standard_output_ends_a_list_quietly_and_takes_nothing_unseen() {
    let place = place("def run(payload):\n    return {'text': 'x' * 100_000}\n");
    let _run = place.run(&["work.yaml"]).until_ready();
    std::fs::write(place.path("many.jsonl"), "{}\n".repeat(40)).unwrap();
    let (status, said) = read_one_line(&place, &["send", "work", "many.jsonl", "--wait"]);
    assert_eq!((status, said.as_str()), (Some(141), ""));
    assert!(!place.ok(&["queues"]).contains("reply"), "{}", place.ok(&["queues"]));
    place.wait_for("all results in the sink", || place.ready("x-sink") == Some(40));
    for take in [&[][..], &["--take"]] {
        let (status, said) = read_one_line(&place, &[&["results", "--limit", "100"], take].concat());
        assert_eq!((status, said.as_str()), (Some(141), ""), "{take:?}");
    }
    // A pipe holds less than one of these results, so all but what was read or lay in the pipe are still there.
    place.wait_for("what was not shown to be back", || place.ready("x-sink").is_some_and(|ready| ready >= 30));
}

#[test]
fn waiting_for_a_broker_that_is_gone_is_said_and_ends() {
    let place = place("import time\n\ndef run(payload):\n    open('called', 'w')\n    time.sleep(600)\n");
    let run = place.run(&["work.yaml"]).until_ready();
    let waiting = Command::new(ASYA)
        .args(["send", "work", "{}", "--wait", "--timeout", "5s"])
        .current_dir(place.folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.wait_for("the call to run", || place.path("called").exists());
    run.signal(Signal::KILL);
    let output = waiting.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("the broker is gone; waiting for it to come back (").count(), 1, "{said}");
    assert!(said.contains("0 of 1 results came, and none for 5s"), "{said}");
}

#[test]
fn a_copy_of_a_result_is_not_another_result() {
    let place = place("def run(payload):\n    return payload\n");
    let _run = place.run(&["work.yaml"]).until_ready();
    let waiting = Command::new(ASYA)
        .args(["send", "work", "1", "--id", "same", "--wait", "--expect", "2", "--timeout", "10s"])
        .current_dir(place.folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.wait_for("the first result", || place.ready("x-sink") == Some(1));
    let queues: serde_json::Value = serde_json::from_str(&place.ok(&["queues", "--json"])).unwrap();
    let mut names = queues.as_array().unwrap().iter().map(|q| q["queue"].as_str().unwrap());
    let reply = names.find(|name| name.contains("-reply-")).unwrap();
    place.ok(&["send", "work", "2", "--id", "same", "--header", &format!("x-asya-reply-to={reply}")]);
    place.wait_for("its copy", || place.ready("x-sink") == Some(2));
    let output = waiting.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), "1\n"), "{said}");
    assert!(said.contains("1 of 2 results came, and none for 10s"), "{said}");
}

#[test]
fn what_is_not_shown_and_what_is_not_there_is_said() {
    let place = place("def run(payload):\n    return payload['x']\n");
    let _run = place.run(&["work.yaml"]).until_ready();
    std::fs::write(place.path("many.jsonl"), "{}\n".repeat(25)).unwrap();
    place.ok(&["send", "work", "many.jsonl"]);
    place.wait_for("the failures", || place.ready("x-sump") == Some(25));
    let output = place.asya(&["failed"]);
    assert_eq!(text(&output.stdout).lines().count(), 21);
    assert!(text(&output.stderr).contains("20 of 25 shown; --limit N shows more"), "{}", text(&output.stderr));
    place.wait_for("what was looked at to be back", || place.ready("x-sump") == Some(25));
    let output = place.asya(&["failed", "--limit", "25"]);
    assert_eq!(text(&output.stdout).lines().count(), 26);
    assert!(!text(&output.stderr).contains("shown;"), "{}", text(&output.stderr));
    assert!(place.fails(&["failed", "--limit", "0"]).contains("'--limit <N>'"));
    for args in [&["failed", "--dead", "wrok"][..], &["queues", "wrok"]] {
        let output = place.asya(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(said.contains("there is no queue asya-default-wrok") && said.contains("did you mean: work"), "{said}");
    }
}
