use super::*;

#[test]
fn an_address_without_anything_is_the_usual_local_one() {
    let config = RabbitMqConfig::from_url("amqp://").unwrap();
    assert_eq!((config.host.as_str(), config.port, config.vhost.as_str()), ("localhost", 5672, "/"));
    assert_eq!((config.user.as_str(), config.password.reveal()), ("guest", "guest"));
    assert_eq!(config.heartbeat, Duration::from_secs(10));
}

#[test]
fn every_part_is_percent_decoded() {
    let config = RabbitMqConfig::from_url("amqp://us%40er:p%2Fa%3As%25@broker:1234/%2Fteam%2Fa?heartbeat=3").unwrap();
    assert_eq!((config.user.as_str(), config.password.reveal()), ("us@er", "p/a:s%"));
    assert_eq!((config.host.as_str(), config.port, config.vhost.as_str()), ("broker", 1234, "/team/a"));
    assert_eq!(config.heartbeat, Duration::from_secs(3));
    assert_eq!(RabbitMqConfig::from_url(&config.to_url()).unwrap().to_url(), config.to_url());
}

#[test]
fn tls_has_its_own_port_and_files() {
    let url =
        "amqps://b/?cacertfile=/ca.pem&certfile=/c.pem&keyfile=/k.pem&server_name_indication=x&verify=verify_peer";
    let config = RabbitMqConfig::from_url(url).unwrap();
    assert_eq!(config.port, 5671);
    let tls = config.tls.unwrap();
    assert_eq!(tls.ca_file, Some("/ca.pem".into()));
    assert_eq!(tls.identity, Some(("/c.pem".into(), "/k.pem".into())));
    assert_eq!(tls.server_name.as_deref(), Some("x"));
}

#[test]
fn an_ipv6_host_is_written_in_brackets() {
    let config = RabbitMqConfig::from_url("amqp://[::1]:99").unwrap();
    assert_eq!((config.host.as_str(), config.port), ("::1", 99));
    assert_eq!(config.address(), "amqp://[::1]:99/%2F");
}

#[test]
fn a_wrong_address_says_what_is_wrong() {
    let wrong = |url: &str| RabbitMqConfig::from_url(url).unwrap_err();
    assert_eq!(wrong("http://x"), ConfigError::Scheme);
    assert_eq!(wrong("amqp://x:0"), ConfigError::Port("0".into()));
    assert_eq!(wrong("amqp://x:70000"), ConfigError::Port("70000".into()));
    assert_eq!(wrong("amqp://a%2:b@x"), ConfigError::Encoding("user name"));
    assert_eq!(wrong("amqp://a:%ff@x"), ConfigError::Encoding("password"));
    assert_eq!(wrong("amqp://x/a/b"), ConfigError::Path);
    assert_eq!(wrong(&format!("amqp://x/{}", "v".repeat(256))), ConfigError::TooLong("virtual host"));
    assert_eq!(wrong("amqp://x?nope=1"), ConfigError::UnknownParameter("nope".into()));
    assert_eq!(wrong("amqp://x?cacertfile=/ca"), ConfigError::NeedsTls("cacertfile"));
    assert!(matches!(wrong("amqp://x?heartbeat=-1"), ConfigError::Parameter { name: "heartbeat", .. }));
    assert!(matches!(wrong("amqp://x?frame_max=100"), ConfigError::Parameter { name: "frame_max", .. }));
    assert!(matches!(wrong("amqps://x?verify=verify_none"), ConfigError::Parameter { name: "verify", .. }));
    assert!(matches!(wrong("amqps://x?certfile=/c.pem"), ConfigError::Parameter { name: "certfile", .. }));
}

#[test]
fn a_password_is_never_printed() {
    let config = RabbitMqConfig::from_url("amqp://u:topsecret@h").unwrap();
    assert!(!format!("{config:?} {:?} {}", config.password, config.address()).contains("topsecret"));
}
