//! Over RabbitMQ, on every broker that `tests/servers/with-brokers.sh` has started.

use crate::common::{Place, examples};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use rustix::process::Signal;
use serde_json::Value;

/// Puts a message where the longest retry waits. Whoever makes that queue first, it is used as it is.
fn wait_for_a_retry(url: &str, namespace: &str) {
    let rung = format!("asya-{namespace}-60m-delay");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = lapin::Connection::connect(url, Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(rung.as_str().into(), options, Default::default()).await.unwrap();
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let sent = channel.basic_publish("".into(), rung.as_str().into(), options, b"{}", Default::default()).await;
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
        wait_for_a_retry(url, &namespace);
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
