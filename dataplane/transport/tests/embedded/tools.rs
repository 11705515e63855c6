//! What tools see and do, over the socket.

use asya_transport::embedded::{AdminError, Broker, EmbeddedAdmin, Keep, OpenError, Options, ServeError, Standing};
use asya_transport::{ContentType, Outcome};
use tempfile::TempDir;

fn options() -> Options {
    Options { fsync: false, disk_free_min: 0, ..Options::default() }
}

fn publish(admin: &mut EmbeddedAdmin, queue: &str, body: &[u8]) {
    let outcome = admin.publish(queue, ContentType::Json, "an-id", body).unwrap();
    assert_eq!(outcome, Outcome::Confirmed);
}

#[test]
fn tools_look_remove_move_and_purge() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("socket");
    let broker = Broker::spawn(dir.path(), options(), &socket).unwrap();
    let mut admin = EmbeddedAdmin::connect(&socket).unwrap();
    assert_eq!(admin.declare("work", Some("work-dlq"), 3).unwrap(), None);
    assert!(admin.declare("work", Some("other"), 3).unwrap().unwrap().contains("work-dlq"));
    // A body in a file of its own among small ones.
    let large = vec![7; 3 << 20];
    for body in [&b"one"[..], b"two", &large, b"four"] {
        publish(&mut admin, "work", body);
    }
    assert_eq!(admin.publish("nowhere", ContentType::Json, "", b"x").unwrap(), Outcome::Unroutable);

    let seen = admin.browse("work", 0, 2, 100).unwrap();
    assert_eq!(seen.iter().map(|m| m.body.clone().unwrap()).collect::<Vec<_>>(), [b"one", b"two"]);
    assert_eq!((seen[0].standing, &*seen[0].message_id, seen[0].len), (Standing::Ready, "an-id", 3));
    let rest = admin.browse("work", seen[1].id, 10, 100).unwrap();
    assert_eq!((rest[0].body.clone(), rest[0].len), (None, 3 << 20), "a body that is too long to be shown");
    assert_eq!(admin.get("work", rest[0].id).unwrap().unwrap().body, Some(large));
    assert_eq!(rest[1].body.as_deref(), Some(&b"four"[..]));

    assert!(admin.remove("work", seen[0].id).unwrap());
    assert!(!admin.remove("work", seen[0].id).unwrap(), "removed twice");
    assert!(admin.requeue("work", rest[0].id, "work-dlq").unwrap());
    assert!(matches!(admin.requeue("work", seen[1].id, "nowhere"), Err(AdminError::Broker(_))));
    let queues = admin.queues().unwrap();
    assert_eq!(
        queues.iter().map(|queue| (&*queue.name, queue.ready)).collect::<Vec<_>>(),
        [("work", 2), ("work-dlq", 1)]
    );
    assert_eq!((queues[0].published, queues[0].forgotten, queues[0].bytes), (4, 1, 7));
    assert_eq!(admin.purge("work").unwrap(), 2);
    admin.keep("sink", Some(Keep { messages: 2, bytes: 1000 })).unwrap();
    (0..5).for_each(|_| publish(&mut admin, "sink", b"result"));
    drop(admin);
    broker.stop().unwrap();

    let broker = Broker::spawn(dir.path(), options(), &socket).unwrap();
    let mut admin = EmbeddedAdmin::connect(&socket).unwrap();
    let queues = admin.queues().unwrap();
    let left: Vec<_> = queues.iter().map(|queue| (&*queue.name, queue.ready)).collect();
    assert_eq!(left, [("sink", 2), ("work", 0), ("work-dlq", 1)], "what tools did is not durable");
    assert_eq!(queues[0].keep, Some(Keep { messages: 2, bytes: 1000 }));
    let moved = admin.browse("work-dlq", 0, 1, u64::MAX).unwrap();
    assert_eq!(moved[0].body.as_deref(), Some(&vec![7; 3 << 20][..]));
    assert!(!moved[0].redelivered, "a clean end leaves nothing in doubt");
    assert_eq!(admin.delete("work-dlq").unwrap(), 1);
    broker.stop().unwrap();
    let files = std::fs::read_dir(dir.path().join("bodies")).unwrap().count();
    assert_eq!(files, 0, "the file of a deleted message is left");
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    let _broker = Broker::spawn(dir.path(), options(), &dir.path().join("socket")).unwrap();
    let second = Broker::spawn(dir.path(), options(), &dir.path().join("other"));
    assert!(matches!(second.err(), Some(ServeError::Open(OpenError::InUse(_)))));
    let mut admin = EmbeddedAdmin::connect(&dir.path().join("socket")).unwrap();
    assert!(admin.queues().unwrap().is_empty(), "the first one does not answer any more");
}

#[test]
fn a_socket_path_that_is_too_long_is_told() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("s".repeat(200));
    let error = Broker::spawn(dir.path(), options(), &socket).err().unwrap();
    assert!(matches!(error, ServeError::Listen { .. }), "{error}");
}

/// Whatever comes over the socket costs its own connection at most.
#[test]
fn nonsense_ends_its_connection_alone() {
    use std::io::{Read, Write};
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("socket");
    let _broker = Broker::spawn(dir.path(), options(), &socket).unwrap();
    let mut admin = EmbeddedAdmin::connect(&socket).unwrap();
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 100], &[0; 8], &[9, 0, 0, 0, 4, 0, 1, 0, b'A', b'S']] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Ended, at the latest, because this side has said all it had to.
        let _ = stream.read_to_end(&mut Vec::new());
        assert!(admin.queues().unwrap().is_empty());
    }
}

#[test]
fn the_socket_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("socket");
    let _broker = Broker::spawn(dir.path(), options(), &socket).unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
}
