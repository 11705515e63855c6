//! What a configuration is read as, and what is told about a wrong one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::settings::Named;
use super::*;

mod docs;
mod values;

pub(crate) use docs::check_generated;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Reads the pairs, beside an actor's name.
fn read(pairs: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let mut source = map(&[("ASYA_ACTOR_NAME", "echo")]);
    source.extend(map(pairs));
    Config::read(&source)
}

fn config(pairs: &[(&str, &str)]) -> Config {
    read(pairs).unwrap().config
}

fn rabbit(pairs: &[(&str, &str)]) -> RabbitMqConfig {
    match config(pairs).broker {
        Broker::RabbitMq(rabbit) => *rabbit,
        other => panic!("{other:?}"),
    }
}

fn notes(pairs: &[(&str, &str)]) -> Vec<String> {
    read(pairs).unwrap().notes.iter().map(Note::to_string).collect()
}

/// The mistakes, as they are shown.
fn mistakes(pairs: &[(&str, &str)]) -> Vec<String> {
    read(pairs).unwrap_err().mistakes.iter().map(Mistake::to_string).collect()
}

#[test]
fn a_name_is_all_that_is_needed() {
    let Loaded { config, notes } = read(&[]).unwrap();
    assert_eq!(notes, []);
    let expected = Config {
        actor: Actor {
            name: "echo".into(),
            namespace: "default".into(),
            role: Role::Regular,
            sink: "x-sink".into(),
            sump: "x-sump".into(),
        },
        broker: Broker::RabbitMq(Box::new(RabbitMqConfig {
            connection_name: "asya default/echo".into(),
            ..RabbitMqConfig::from_url("amqp://guest:guest@localhost:5672/%2F").unwrap()
        })),
        runtime: Runtime {
            socket_dir: "/var/run/asya".into(),
            workers: 1,
            concurrency: 1,
            batch: Batch { size: 0, bytes: 16 << 20, wait: Duration::ZERO },
            call_timeout: Duration::from_secs(300),
            ready_timeout: Duration::from_secs(300),
        },
        flow: FlowLimits { message_bytes_max: 64 << 20, memory_bytes_max: 256 << 20, window_max: 1024 },
        resiliency: Resiliency::default(),
        remembered: 0,
        publishing: Publishing {
            encoding: EmittedEncoding::AsItArrived,
            attempts_max: 10,
            backoff: Duration::from_secs(1),
        },
        grace_period: Duration::from_secs(30),
        observability: Observability {
            metrics: true,
            listen: Some(Listen { host: String::new(), port: 8080 }),
            prefix: "asya_actor".into(),
        },
        log: Log { filter: LogFilter { level: LevelFilter::INFO, targets: vec![] }, format: LogFormat::Plain },
    };
    assert_eq!(format!("{config:#?}"), format!("{expected:#?}"));
    assert_eq!(rabbit(&[]).password.reveal(), "guest");
    assert_eq!(config.runtime.socket().to_str(), Some("/var/run/asya/asya-sidecar.sock"));
}

#[test]
fn every_variable_takes_effect() {
    let config = config(&[
        ("ASYA_NAMESPACE", "prod"),
        ("ASYA_ACTOR_ROLE", "sink"),
        ("ASYA_ACTOR_SINK", "good"),
        ("ASYA_ACTOR_SUMP", "bad"),
        ("ASYA_TRANSPORT", "RabbitMQ"),
        ("ASYA_RABBITMQ_HOST", "rabbit"),
        ("ASYA_RABBITMQ_PORT", "1234"),
        ("ASYA_RABBITMQ_USERNAME", "u"),
        ("ASYA_RABBITMQ_PASSWORD", "p"),
        ("ASYA_RABBITMQ_VHOST", "v"),
        ("ASYA_RABBITMQ_PREFETCH", "100"),
        ("ASYA_COMPAT_EXCHANGE", "yes"),
        ("ASYA_RABBITMQ_EXCHANGE", "old"),
        ("ASYA_SOCKET_DIR", "/run/a"),
        ("ASYA_WORKERS", "2"),
        ("ASYA_CONCURRENCY", "3"),
        ("ASYA_BATCH_SIZE", "16"),
        ("ASYA_BATCH_BYTES", "1MiB"),
        ("ASYA_BATCH_WAIT", "5ms"),
        ("ASYA_RESILIENCY_ACTOR_TIMEOUT", "1h30m"),
        ("ASYA_RUNTIME_READY_TIMEOUT", "10s"),
        ("ASYA_GRACE_PERIOD", "60"),
        ("ASYA_MAX_MESSAGE_BYTES", "1Mi"),
        ("ASYA_MEMORY_BYTES", "2MiB"),
        ("ASYA_MAX_WINDOW", "200"),
        ("ASYA_RESILIENCY_POLICIES", r#"{"p":{}}"#),
        ("ASYA_QUEUE_RETRY_MAX_ATTEMPTS", "4"),
        ("ASYA_QUEUE_RETRY_BACKOFF", "250ms"),
        ("ASYA_ENCODING", "native"),
        ("ASYA_METRICS_ENABLED", "off"),
        ("ASYA_METRICS_ADDR", "127.0.0.1:0"),
        ("ASYA_METRICS_NAMESPACE", "mine"),
        ("ASYA_LOG_LEVEL", "warning,asya_transport=debug"),
        ("ASYA_LOG_FORMAT", "json"),
    ]);
    assert_eq!(config.actor.namespace, "prod");
    assert_eq!(config.actor.role, Role::Sink);
    assert_eq!((config.actor.sink.as_str(), config.actor.sump.as_str()), ("good", "bad"));
    let Broker::RabbitMq(rabbit) = &config.broker else { panic!("{:?}", config.broker) };
    assert_eq!(rabbit.to_url(), "amqp://u:p@rabbit:1234/v");
    let compatibility = Compatibility { exchange: "old".into(), prefix: "asya-prod-".into() };
    assert_eq!(rabbit.compatibility, Some(compatibility));
    assert_eq!(rabbit.delay_prefix, "asya-prod-");
    assert_eq!(rabbit.connection_name, "asya prod/echo");
    assert_eq!(config.runtime.socket_dir, std::path::Path::new("/run/a"));
    assert_eq!((config.runtime.workers, config.runtime.concurrency), (2, 3));
    assert_eq!(config.runtime.batch, Batch { size: 16, bytes: 1 << 20, wait: Duration::from_millis(5) });
    assert_eq!(config.runtime.call_timeout, Duration::from_secs(5_400));
    assert_eq!(config.runtime.ready_timeout, Duration::from_secs(10));
    assert_eq!(config.grace_period, Duration::from_secs(60));
    let flow = FlowLimits { message_bytes_max: 1 << 20, memory_bytes_max: 2 << 20, window_max: 100 };
    assert_eq!(config.flow, flow);
    assert!(!config.resiliency.is_empty());
    assert_eq!((config.publishing.attempts_max, config.publishing.backoff), (4, Duration::from_millis(250)));
    assert_eq!(config.publishing.encoding, EmittedEncoding::Native);
    assert!(!config.observability.metrics);
    assert_eq!(config.observability.listen, Some(Listen { host: "127.0.0.1".into(), port: 0 }));
    assert_eq!(config.observability.prefix, "mine");
    assert_eq!(config.log.filter.level, LevelFilter::WARN);
    assert_eq!(config.log.filter.targets, [("asya_transport".to_owned(), LevelFilter::DEBUG)]);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn every_line_of_the_table_is_asked_for_and_has_a_legal_default() {
    let source = map(&[("ASYA_ACTOR_NAME", "echo")]);
    let mut reader = Reader::new(&source);
    Config::read_all(&mut reader);
    let table: BTreeSet<_> = TABLE.iter().map(|var| var.name).collect();
    assert_eq!(reader.asked, table);
    assert_eq!(table.len(), TABLE.len(), "a name is in the table twice");
    assert_eq!(reader.mistakes, []);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let source = map(&[
        ("ASYA_ACTR_NAME", "echo"),
        ("ASYA_TRANSPORT", "rabitmq"),
        ("ASYA_WORKERS", "0"),
        ("ASYA_BATCH_SIZE", "many"),
        ("ASYA_RESILIENCY_ACTOR_TIMEOUT", "5 minutes"),
        ("ASYA_MAX_MESSAGE_BYTES", "64mib"),
        ("ASYA_METRICS_ADDR", "8080"),
        ("ASYA_LOG_LEVEL", "LOUD"),
        ("ASYA_METRICS_ENABLED", "maybe"),
    ]);
    let error = Config::read(&source).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"9 mistakes in the configuration
  ASYA_ACTOR_NAME: is required (allowed: a DNS label (a-z, 0-9, -; at most 63), not ending in -dlq or -delay)
  ASYA_TRANSPORT="rabitmq": unknown; did you mean rabbitmq? (allowed: rabbitmq, sqs, embedded)
  ASYA_WORKERS="0": too small (allowed: 1 to 256)
  ASYA_BATCH_SIZE="many": not a whole number (allowed: 0 to 4096)
  ASYA_RESILIENCY_ACTOR_TIMEOUT="5 minutes": unknown unit " minutes" (allowed: 1ms to 24h, such as 5m, 1h30m, 250ms, or seconds)
  ASYA_MAX_MESSAGE_BYTES="64mib": unknown unit "mib" (allowed: 1KiB to 16GiB, such as 64MiB)
  ASYA_METRICS_ENABLED="maybe": neither yes nor no (allowed: true, 1, yes, on; false, 0, no, off)
  ASYA_METRICS_ADDR="8080": no port (allowed: host:port, :port, or off)
  ASYA_LOG_LEVEL="LOUD": "LOUD" is not a level (allowed: off, error, warn, info, debug, trace; then target=level, by commas)
  note: ASYA_ACTR_NAME is unknown and has no effect; did you mean ASYA_ACTOR_NAME?"#
    );
}

#[test]
fn case_28_a_missing_actor_name_is_a_mistake() {
    let error = Config::read(&map(&[("ASYA_ACTOR_NAME", "")])).unwrap_err();
    assert_eq!(error.mistakes.len(), 1);
    assert_eq!(error.mistakes[0].variable, "ASYA_ACTOR_NAME");
    assert!(error.to_string().starts_with("1 mistake in the configuration\n"));
}

#[test]
fn older_names_are_understood_and_newer_ones_win() {
    let old =
        [("ASYA_RUNTIME_TIMEOUT", "7s"), ("ASYA_ACTOR_HAPPY_END", "happy-end"), ("ASYA_ACTOR_ERROR_END", "error-end")];
    let config = config(&old);
    assert_eq!(config.runtime.call_timeout, Duration::from_secs(7));
    assert_eq!((config.actor.sink.as_str(), config.actor.sump.as_str()), ("happy-end", "error-end"));
    assert_eq!(
        notes(&old),
        [
            "ASYA_ACTOR_HAPPY_END is the older name of ASYA_ACTOR_SINK",
            "ASYA_ACTOR_ERROR_END is the older name of ASYA_ACTOR_SUMP",
            "ASYA_RUNTIME_TIMEOUT is the older name of ASYA_RESILIENCY_ACTOR_TIMEOUT",
        ]
    );

    let both = [("ASYA_RUNTIME_TIMEOUT", "7s"), ("ASYA_RESILIENCY_ACTOR_TIMEOUT", "8s")];
    assert_eq!(super::tests::config(&both).runtime.call_timeout, Duration::from_secs(8));
    assert_eq!(
        notes(&both),
        ["ASYA_RUNTIME_TIMEOUT has no effect: ASYA_RESILIENCY_ACTOR_TIMEOUT is set too, and is the newer name"]
    );
    let same = [("ASYA_RUNTIME_TIMEOUT", "7s"), ("ASYA_RESILIENCY_ACTOR_TIMEOUT", "7s")];
    assert_eq!(notes(&same), [""; 0]);

    // A mistake is told under the name that was written.
    assert!(mistakes(&[("ASYA_RUNTIME_TIMEOUT", "soon")])[0].starts_with("ASYA_RUNTIME_TIMEOUT=\"soon\""));
}

#[test]
fn unknown_names_are_told_with_what_was_meant() {
    assert_eq!(
        notes(&[
            ("ASYA_BATCHSIZE", "4"),
            ("ASYA_FROBNICATE", "1"),
            ("ASYA_HANDLER", "m.f"),
            ("ASYA_SOCKET_CHMOD", "0o666"),
            ("ASYA_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("ASYA_GATEWAY_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("PATH", "/bin"),
        ]),
        [
            "ASYA_BATCHSIZE is unknown and has no effect; did you mean ASYA_BATCH_SIZE?",
            "ASYA_FROBNICATE is unknown and has no effect",
        ]
    );
}

#[test]
fn what_has_no_effect_here_says_why() {
    assert_eq!(
        notes(&[("ASYA_GATEWAY_URL", "http://gateway"), ("ASYA_CUSTOM_METRICS", "9bad")]),
        [
            "ASYA_GATEWAY_URL has no effect here: there is no gateway yet",
            "ASYA_CUSTOM_METRICS has no effect here: nothing ever fed these metrics",
        ]
    );
    assert_eq!(notes(&[("ASYA_BATCH_WAIT", "1s")]), ["ASYA_BATCH_WAIT has no effect while ASYA_BATCH_SIZE is below 2"]);
}

#[test]
fn a_port_that_kubernetes_set_for_a_service_is_passed_over() {
    let pairs = [("ASYA_RABBITMQ_PORT", "tcp://10.1.2.3:5672"), ("ASYA_RABBITMQ_HOST", "asya-rabbitmq")];
    let rabbit = rabbit(&pairs);
    assert_eq!((rabbit.host.as_str(), rabbit.port), ("asya-rabbitmq", 5672));
    assert_eq!(notes(&pairs), ["ASYA_RABBITMQ_PORT is passed over: Kubernetes set it for a Service of that name"]);
}

#[test]
fn secrets_are_never_shown() {
    let marker = "hunter2";
    let loaded = read(&[
        ("ASYA_RABBITMQ_PASSWORD", marker),
        ("ASYA_RABBITMQ_URL", "amqp://user:hunter2@broker/vhost"),
        ("ASYA_RABBITMQ_USERNAME", "other"),
    ])
    .unwrap();
    assert!(!format!("{loaded:?}").contains(marker));
    let Broker::RabbitMq(rabbit) = &loaded.config.broker else { panic!("not RabbitMQ") };
    assert_eq!(rabbit.password.reveal(), marker);

    for broken in [
        "http://user:hunter2@broker",
        "user:hunter2@broker",
        "amqp://user:hunter2@broker:port",
        "amqp://user:hunter2@broker/a/b",
        "amqp://user:hunter2@broker?hartbeat=1",
        "amqp://user:hunter2",
        "amqp://user:x/hunter2@broker/v",
        "amqp://user:x@hunter2@broker:port",
    ] {
        let error = read(&[("ASYA_RABBITMQ_URL", broken)]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(marker), "{broken}: {error}");
        assert!(error.to_string().contains("ASYA_RABBITMQ_URL"), "{error}");
    }
    assert_eq!(
        mistakes(&[("ASYA_RABBITMQ_URL", "http://user:hunter2@broker/x")]),
        [
            r#"ASYA_RABBITMQ_URL="http://user:***@broker/x": a RabbitMQ address starts with amqp:// or amqps:// (allowed: amqp:// or amqps://user:password@host:port/vhost)"#
        ]
    );
}

#[test]
fn the_url_wins_over_the_parts_and_the_parts_fill_it_in() {
    let full = rabbit(&[
        ("ASYA_RABBITMQ_URL", "amqps://me%40x:a%2Fb@[::1]/%2F?heartbeat=7&connection_name=mine"),
        ("ASYA_RABBITMQ_VHOST", "v"),
        ("ASYA_RABBITMQ_CA_FILE", "/ca.pem"),
    ]);
    assert_eq!((full.host.as_str(), full.port, full.user.as_str()), ("::1", 5671, "me@x"));
    assert_eq!((full.password.reveal(), full.vhost.as_str()), ("a/b", "/"));
    assert_eq!((full.heartbeat, full.connection_name.as_str()), (Duration::from_secs(7), "mine"));
    assert_eq!(full.tls.unwrap().ca_file, Some("/ca.pem".into()));
    let own = [("ASYA_RABBITMQ_URL", "amqps://b?cacertfile=/own.pem"), ("ASYA_RABBITMQ_CA_FILE", "/ca.pem")];
    assert_eq!(rabbit(&own).tls.unwrap().ca_file, Some("/own.pem".into()));
    let plain = [("ASYA_RABBITMQ_CA_FILE", "/ca.pem")];
    assert_eq!(notes(&plain), ["ASYA_RABBITMQ_CA_FILE has no effect without an amqps:// address"]);

    let bare = rabbit(&[
        ("ASYA_RABBITMQ_URL", "amqp://broker/"),
        ("ASYA_RABBITMQ_USERNAME", "u"),
        ("ASYA_RABBITMQ_VHOST", "v"),
    ]);
    assert_eq!(bare.to_url(), "amqp://u:guest@broker:5672/v");
    assert!(mistakes(&[("ASYA_RABBITMQ_URL", "amqp://b?hartbeat=1")])[0].contains("unknown parameter \"hartbeat\""));
    assert_eq!(
        notes(&[("ASYA_RABBITMQ_URL", "amqp://broker"), ("ASYA_RABBITMQ_HOST", "other")]),
        ["ASYA_RABBITMQ_HOST has no effect: ASYA_RABBITMQ_URL says it"]
    );
}

#[test]
fn the_role_follows_the_name_unless_it_is_said() {
    let role = |pairs: &[(&str, &str)]| config(pairs).actor.role;
    assert_eq!(role(&[("ASYA_ACTOR_NAME", "x-sink")]), Role::Sink);
    assert_eq!(role(&[("ASYA_ACTOR_NAME", "x-sump")]), Role::Sump);
    // The older names are other names of the same actors, whichever the variables use.
    assert_eq!(role(&[("ASYA_ACTOR_NAME", "happy-end")]), Role::Sink);
    let older = ("ASYA_ACTOR_ERROR_END", "error-end");
    assert_eq!(role(&[("ASYA_ACTOR_NAME", "error-end"), older, ("ASYA_IS_END_ACTOR", "true")]), Role::Sump);
    assert_eq!(role(&[("ASYA_IS_END_ACTOR", "on")]), Role::Sink);
    assert_eq!(role(&[("ASYA_IS_END_ACTOR", "false")]), Role::Regular);
    assert_eq!(role(&[("ASYA_ACTOR_ROLE", "sump"), ("ASYA_IS_END_ACTOR", "1")]), Role::Sump);

    assert!(mistakes(&[("ASYA_ACTOR_ROLE", "regular"), ("ASYA_IS_END_ACTOR", "1")])[0].contains("contradicts"));
    assert!(mistakes(&[("ASYA_ACTOR_NAME", "x-sink"), ("ASYA_ACTOR_ROLE", "regular")])[0].contains("for ever"));
    assert!(mistakes(&[("ASYA_ACTOR_NAME", "x-sump"), ("ASYA_IS_END_ACTOR", "no")])[0].contains("for ever"));
}

#[test]
fn what_only_makes_sense_together_is_checked_together() {
    assert!(mistakes(&[("ASYA_TRANSPORT", "embedded")])[0].starts_with("ASYA_EMBEDDED_SOCKET: is required"));
    let embedded = config(&[("ASYA_TRANSPORT", "embedded"), ("ASYA_EMBEDDED_SOCKET", "/tmp/b.sock")]).broker;
    assert_eq!(embedded.kind(), TransportKind::Embedded);
    assert!(matches!(embedded, Broker::Embedded { socket } if socket == std::path::Path::new("/tmp/b.sock")));

    assert_eq!(
        mistakes(&[("ASYA_MEMORY_BYTES", "100MiB")]),
        [
            r#"ASYA_MEMORY_BYTES="100MiB": 100MiB is less than twice ASYA_MAX_MESSAGE_BYTES (64MiB) (allowed: at least 128MiB)"#
        ]
    );
    // The default is told without a value, since nobody wrote one.
    assert!(mistakes(&[("ASYA_MAX_MESSAGE_BYTES", "1GiB")])[0].starts_with("ASYA_MEMORY_BYTES: 256MiB is less"));
    // One mistake is not told as two.
    assert_eq!(mistakes(&[("ASYA_MEMORY_BYTES", "much")]).len(), 1);

    assert!(mistakes(&[("ASYA_ACTOR_SUMP", "x-sink")])[0].contains("same actor"));
    assert!(mistakes(&[("ASYA_BATCH_SIZE", "32"), ("ASYA_MAX_WINDOW", "31")])[0].starts_with("ASYA_MAX_WINDOW=\"31\""));
    let prefetch = mistakes(&[("ASYA_BATCH_SIZE", "32"), ("ASYA_RABBITMQ_PREFETCH", "1")]);
    assert!(prefetch[0].starts_with("ASYA_RABBITMQ_PREFETCH=\"1\": a window of 1 never fills a batch of 32"));
    assert_eq!(config(&[("ASYA_RABBITMQ_PREFETCH", "1")]).flow.window_max, 1);
}

#[test]
fn sqs_is_aws_unless_an_endpoint_is_named() {
    let sqs = |pairs: &[(&str, &str)]| match config(&[pairs, &[("ASYA_TRANSPORT", "sqs")]].concat()).broker {
        Broker::Sqs(sqs) => *sqs,
        other => panic!("{other:?}"),
    };
    let plain = sqs(&[("ASYA_SQS_VISIBILITY_TIMEOUT", "0"), ("ASYA_SQS_ENDPOINT", ""), ("ASYA_NAMESPACE", "prod")]);
    assert_eq!((plain.endpoint.as_deref(), plain.region.as_str()), (None, "us-east-1"));
    assert_eq!((plain.visibility_timeout, plain.wait), (Duration::from_secs(90), Duration::from_secs(20)));
    assert_eq!(plain.actor_prefix.as_deref(), Some("asya-prod-"));
    assert!(plain.tags.contains(&("asya.sh/namespace".into(), "prod".into())) && plain.keys.is_none());
    let local = sqs(&[
        ("ASYA_SQS_ENDPOINT", "http://localhost:9324"),
        ("ASYA_AWS_REGION", "eu-west-1"),
        ("ASYA_SQS_VISIBILITY_TIMEOUT", "300"),
        ("ASYA_SQS_WAIT_TIME_SECONDS", "1"),
    ]);
    assert_eq!((local.endpoint.as_deref(), local.region.as_str()), (Some("http://localhost:9324"), "eu-west-1"));
    assert_eq!((local.visibility_timeout, local.wait), (Duration::from_secs(300), Duration::from_secs(1)));

    for (name, value) in [
        ("ASYA_SQS_ENDPOINT", "localhost:9324"),
        ("ASYA_SQS_ENDPOINT", "http://"),
        ("ASYA_SQS_VISIBILITY_TIMEOUT", "3s"),
        ("ASYA_SQS_VISIBILITY_TIMEOUT", "4500ms"),
        ("ASYA_SQS_VISIBILITY_TIMEOUT", "13h"),
        ("ASYA_SQS_WAIT_TIME_SECONDS", "21"),
    ] {
        assert!(mistakes(&[(name, value)])[0].starts_with(&format!("{name}={value:?}: ")), "{name}={value}");
    }
}

#[test]
fn rules_name_policies_that_exist() {
    let policies = r#"{"default":{"maxAttempts":3},"never":{"maxAttempts":1},"slow":{"maxAttempts":9,"backoff":"linear",
        "initialDelay":"2s","maxInterval":10,"maxDuration":"10m","jitter":true,"thenRoute":["recovery"]}}"#;
    let rules = r#"[{"errors":["ValueError","pkg.Err"],"policy":"slow"},{"errors":["Exception"],"policy":"never"}]"#;
    let resiliency = config(&[("ASYA_RESILIENCY_POLICIES", policies), ("ASYA_RESILIENCY_RULES", rules)]).resiliency;
    let slow = crate::retry::Policy {
        attempts_max: 9,
        backoff: crate::retry::Backoff::Linear,
        initial_delay: Duration::from_secs(2),
        interval_max: Duration::from_secs(10),
        duration_max: Some(Duration::from_secs(600)),
        jitter: true,
        on_exhausted: vec!["recovery".into()],
    };
    let mro = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(resiliency.policy_for("ValueError", &[]), Some(&slow));
    assert_eq!(resiliency.policy_for("json.decoder.JSONDecodeError", &mro(&["ValueError", "Exception"])), Some(&slow));
    assert_eq!(resiliency.policy_for("pkg.Err", &[]), Some(&slow));
    assert_eq!(resiliency.policy_for("other.Err", &mro(&["KeyError"])).map(|p| p.attempts_max), Some(3));
    // A rule about `Exception` matches through the ancestors.
    assert_eq!(resiliency.policy_for("MemoryError", &mro(&["Exception"])).map(|p| p.attempts_max), Some(1));
    assert_eq!(Resiliency::default().policy_for("ValueError", &[]), None);

    let nobody = r#"{"default":{"onExhausted":["mend","Not A Name"]}}"#;
    assert!(mistakes(&[("ASYA_RESILIENCY_POLICIES", nobody)])[0].contains(r#"default.onExhausted names "Not A Name""#));

    let itself = r#"{"default":{"onExhausted":["echo"]}}"#;
    assert!(mistakes(&[("ASYA_RESILIENCY_POLICIES", itself)])[0].contains("fail again for ever"));

    let typo = [
        ("ASYA_RESILIENCY_POLICIES", r#"{"default":{}}"#),
        ("ASYA_RESILIENCY_RULES", r#"[{"errors":["E"],"policy":"defualt"}]"#),
    ];
    assert!(mistakes(&typo)[0].contains(r#"there is no policy "defualt"; did you mean default? (allowed: default)"#));
    let wrong = [
        ("ASYA_RESILIENCY_POLICIES", r#"{"default":{"maxAttempt":3}}"#),
        ("ASYA_RESILIENCY_RULES", r#"{"errors":[]}"#),
    ];
    let wrong = mistakes(&wrong);
    assert!(wrong[0].contains("unknown field `maxAttempt`"), "{wrong:?}");
    assert!(wrong[1].starts_with("ASYA_RESILIENCY_RULES="), "{wrong:?}");
    for (policy, problem) in [
        (r#"{"p":{"maxAttempts":0}}"#, "p.maxAttempts is 0"),
        (r#"{"p":{"initialDelay":"soon"}}"#, "p.initialDelay: "),
        (r#"{"p":{"maxInterval":-1}}"#, "p.maxInterval: "),
    ] {
        let found = mistakes(&[("ASYA_RESILIENCY_POLICIES", policy)]);
        assert!(found[0].contains(problem), "{policy}: {found:?}");
    }
}

/// A source with one value that is not text.
struct NotText;

impl Source for NotText {
    fn get(&self, name: &str) -> Option<OsString> {
        use std::os::unix::ffi::OsStringExt;
        (name == "ASYA_ACTOR_NAME").then(|| OsString::from_vec(vec![b'e', 0xff]))
    }

    fn names(&self) -> Vec<String> {
        vec!["ASYA_ACTOR_NAME".into()]
    }
}

#[test]
fn a_value_that_is_not_text_is_one_mistake() {
    let error = Config::read(&NotText).unwrap_err();
    assert_eq!(error.mistakes.iter().map(|m| m.problem.as_str()).collect::<Vec<_>>(), ["is not UTF-8"]);
}

#[test]
fn words_of_enums_agree_with_their_values() {
    for (name, role) in Role::NAMES.iter().zip(Role::VALUES) {
        assert_eq!(*name, role.as_str());
    }
    assert_eq!(TransportKind::NAMES.len(), TransportKind::VALUES.len());
}
