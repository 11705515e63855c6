//! The pages, asked for over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::*;
use crate::metrics::{Identity, Metrics};

/// No answer takes so long; a test that waits for it has failed.
const WATCHDOG: Duration = Duration::from_secs(30);

struct Fixture {
    admin: Admin,
    health: Arc<Health>,
    metrics: Metrics,
}

fn loopback() -> Listen {
    Listen { host: "127.0.0.1".into(), port: 0 }
}

fn started(with_metrics: bool) -> Fixture {
    let (metrics, reader) = Metrics::new("asya_actor", &Identity { actor: "echo".into(), transport: "embedded" });
    let health = Arc::new(Health::default());
    let admin = Admin::start(&loopback(), with_metrics.then_some(reader), Arc::clone(&health)).unwrap();
    Fixture { admin, health, metrics }
}

/// Sends raw bytes, gives everything that comes back.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Status and body of a GET.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[test]
fn case_29_metrics_and_health_are_served() {
    let fixture = started(true);
    let address = fixture.admin.address();
    fixture.metrics.received.inc();
    let (status, body) = get(address, "/metrics");
    assert_eq!(status, 200);
    let sample = r#"asya_actor_messages_received_total{queue="echo",transport="embedded"} 1"#;
    assert!(body.lines().any(|line| line == sample), "{body}");
    assert_eq!(get(address, "/health"), (200, "ok\n".into()));
    assert_eq!(get(address, "/healthz"), (200, "ok\n".into()));
    // A query, as some probes append one, changes nothing.
    assert_eq!(get(address, "/healthz?verbose").0, 200);
    let head = exchange(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").to_ascii_lowercase();
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
}

#[test]
fn readiness_tells_every_reason() {
    let fixture = started(true);
    let address = fixture.admin.address();
    let reasons = "the broker is not connected\nno worker is ready\n".to_owned();
    assert_eq!(get(address, "/readyz"), (503, reasons));
    fixture.health.set_connected(true);
    fixture.health.set_ready_workers(2);
    assert_eq!(get(address, "/readyz"), (200, "ok\n".into()));
    fixture.health.set_problem(Some("the broker refused the password".into()));
    assert_eq!(get(address, "/readyz"), (503, "the broker refused the password\n".into()));
    fixture.health.set_problem(None);
    fixture.health.set_draining();
    assert_eq!(get(address, "/readyz"), (503, "draining\n".into()));
    // A drain is not a reason to be killed.
    assert_eq!(get(address, "/healthz").0, 200);
}

#[test]
fn a_data_thread_that_does_not_turn_is_dead() {
    let start = Instant::now();
    let health = Health::new(start);
    assert_eq!(health.alive(start), Ok(()));
    assert_eq!(health.alive(start + HEARTBEAT_AGE_MAX), Ok(()));
    let late = start + HEARTBEAT_AGE_MAX + Duration::from_secs(1);
    assert_eq!(health.alive(late), Err("the data thread has not turned for 11 s".into()));
    health.beat(late);
    assert_eq!(health.alive(late), Ok(()));
    // A clock read before the beat was stored is no failure.
    assert_eq!(health.alive(start), Ok(()));

    let long_ago = Instant::now().checked_sub(HEARTBEAT_AGE_MAX * 2).unwrap();
    let admin = Admin::start(&loopback(), None, Arc::new(Health::new(long_ago))).unwrap();
    assert_eq!(get(admin.address(), "/healthz").0, 503);
}

#[test]
fn what_is_not_there_is_told() {
    let fixture = started(false);
    let address = fixture.admin.address();
    assert_eq!(get(address, "/metrics"), (404, "metrics are off: ASYA_METRICS_ENABLED=false\n".into()));
    assert_eq!(get(address, "/healthz").0, 200);
    assert_eq!(get(address, "/"), (404, "here are /metrics, /healthz, /health and /readyz\n".into()));
    let refused = exchange(address, "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 405"), "{refused}");
    assert!(refused.to_ascii_lowercase().contains("allow: get, head\r\n"), "{refused}");
    let head = exchange(address, "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    let nonsense = exchange(address, "\0\0\0\0\r\n\r\n");
    assert!(nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
}

#[test]
fn idle_connections_do_not_keep_a_probe_out() {
    let fixture = started(true);
    let address = fixture.admin.address();
    // One fewer than there are places: the last one still serves.
    let idle: Vec<_> = (1..CONNECTIONS_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_eq!(get(address, "/healthz").0, 200);
    // As soon as one gives up, or is given up on, the next is served.
    let all: Vec<_> = idle.into_iter().chain([TcpStream::connect(address).unwrap()]).collect();
    all.iter().for_each(|stream| stream.shutdown(Shutdown::Both).unwrap());
    assert_eq!(get(address, "/healthz").0, 200);
}

#[test]
fn a_taken_port_is_an_error_that_says_what_to_do() {
    let fixture = started(true);
    let taken = Listen { host: "127.0.0.1".into(), port: fixture.admin.address().port() };
    let error = Admin::start(&taken, None, Arc::clone(&fixture.health)).unwrap_err();
    assert!(matches!(&error, AdminError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse), "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot listen on {taken}")) && text.contains("ASYA_METRICS_ADDR"), "{text}");

    let nowhere = Listen { host: "host.invalid".into(), port: 1 };
    assert!(matches!(Admin::start(&nowhere, None, Arc::clone(&fixture.health)), Err(AdminError::Bind { .. })));
}

#[test]
fn it_listens_everywhere_when_no_host_is_named_and_ends_when_dropped() {
    let everywhere = Listen { host: String::new(), port: 0 };
    let admin = Admin::start(&everywhere, None, Arc::new(Health::default())).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], admin.address().port()));
    assert_eq!(get(address, "/healthz").0, 200);
    // Dropping waits for the thread, and with it for the socket to close.
    drop(admin);
    assert!(TcpStream::connect(address).is_err());
}
