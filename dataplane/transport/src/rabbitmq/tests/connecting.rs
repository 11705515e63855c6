//! Getting in, or not.

use std::time::Duration;

use super::client::Client;
use super::server::{Manners, Server};
use crate::api::{Event, Outcome};
use crate::rabbitmq::RabbitMqConfig;

#[test]
fn refused_credentials_are_final() {
    let refuse = Some((403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"));
    let server = Server::new(Manners { refuse, ..Manners::default() });
    let mut client = Client::new(
        RabbitMqConfig::from_url(&format!("amqp://someone:topsecret@127.0.0.1:{}/v", server.config().port)).unwrap(),
    );
    client.declare("early", None);
    assert!(matches!(client.next(), Event::DeclareFailed { queue, .. } if queue == "early"));
    let Event::Fatal { why } = client.next() else { panic!() };
    assert!(why.contains("ACCESS_REFUSED") && why.contains("check the user name and the password"), "{why}");
    assert!(why.contains("127.0.0.1") && !why.contains("topsecret"), "{why}");
    client.publish(1, b"");
    assert_eq!(client.published(), (1, Outcome::Lost));
    client.declare("late", None);
    assert!(matches!(client.next(), Event::DeclareFailed { queue, .. } if queue == "late"));
    let tried = server.accepted();
    let later = std::time::Instant::now() + Duration::from_millis(400);
    client.quiet_until(|| std::time::Instant::now() > later);
    assert!(tried <= 2 && server.accepted() == tried, "it is not tried again");
}

#[test]
fn an_unknown_virtual_host_is_final() {
    let server = Server::new(Manners { refuse: Some((530, "NOT_ALLOWED - vhost v not found")), ..Manners::default() });
    let mut client = Client::new(server.config());
    let Event::Fatal { why } = client.next() else { panic!() };
    assert!(why.contains("vhost v not found") && why.contains("check that the virtual host exists"), "{why}");
}

#[test]
fn a_broker_that_takes_messages_back_too_soon_is_refused_with_what_to_set() {
    let minute = Duration::from_secs(60);
    for (version, hold, allowed, refused) in
        [("3.10.8", 31, 30, true), ("3.10.8", 30, 30, false), ("3.10.8", 31, 0, false), ("3.12.0", 31, 30, false)]
    {
        let server = Server::new(Manners { version, ..Manners::default() });
        let mut config = server.config();
        (config.longest_hold, config.broker_consumer_timeout) = (hold * minute, allowed * minute);
        match Client::new(config).next() {
            Event::Fatal { why } => {
                assert!(refused && why.contains("consumer_timeout = 1860000"), "{version}, {hold}: {why}");
            }
            other => assert!(!refused && other == Event::Connected { epoch: 1 }, "{version}, {hold}: {other:?}"),
        }
    }
}

#[test]
fn a_limit_on_connections_passes() {
    let text = "NOT_ALLOWED - access to vhost '/' refused for user 'u': connection limit (1) is reached";
    let server = Server::new(Manners { refuse: Some((530, text)), ..Manners::default() });
    let mut client = Client::new(server.config());
    let (epoch, why) = client.lost();
    assert_eq!(epoch, 0);
    assert!(why.contains("connection limit"), "{why}");
    server.set_manners(|manners| manners.refuse = None);
    loop {
        match client.next() {
            Event::Lost { epoch: 0, .. } => {}
            other => break assert_eq!(other, Event::Connected { epoch: 1 }),
        }
    }
}

#[test]
fn nobody_there_is_told_and_tried_again() {
    let config = Server::new(Manners::default()).config();
    let address = config.address();
    let mut client = Client::new(config);
    for _ in 0..3 {
        let (epoch, why) = client.lost();
        assert_eq!(epoch, 0);
        assert!(why.contains(&address), "{why}");
    }
}

#[test]
fn frames_that_are_too_small_are_refused() {
    let server = Server::new(Manners { frame_max: 2048, ..Manners::default() });
    let (epoch, why) = Client::new(server.config()).lost();
    assert_eq!(epoch, 0);
    assert!(why.contains("4096"), "{why}");
}

#[test]
fn a_handshake_that_hangs_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = RabbitMqConfig::from_url("amqp://127.0.0.1").unwrap();
    config.port = listener.local_addr().unwrap().port();
    config.connect_timeout = Duration::from_millis(50);
    let (epoch, why) = Client::new(config).lost();
    assert_eq!(epoch, 0);
    assert!(why.contains("no answer within 50ms"), "{why}");
}
