//! What Prometheus' own checker says of the exposition. Runs where `promtool` is installed.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

#[test]
fn promtool_finds_nothing_to_complain_of() {
    let (mut metrics, reader) = metrics();
    let destination = metrics.destination("asya-default-next", MessageType::Routing);
    metrics.sent(destination, Duration::from_micros(40), 1_000);
    metrics.processing.record(Duration::from_micros(90));
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Ok(promtool) => promtool,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: promtool is not installed (apt-get install prometheus)");
            return;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    promtool.stdin.take().unwrap().write_all(reader.render().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert_eq!(said.trim(), "");
}
