//! The servers that `tests/servers/with-brokers.sh --sqs` started.
//!
//! Takes what that script exports; gives addresses and configurations. A missing server fails the test with the way to
//! start it.

use std::time::Duration;

use asya_transport::sqs::{Keys, SqsConfig};

const HOW: &str = "start servers with: tests/servers/with-brokers.sh --sqs -- \
                   cargo test -p asya-transport --features broker-tests,sqs --test sqs";

/// How long a message is hidden in these tests: short, because what a crashed client held comes back only then.
pub const VISIBILITY: Duration = Duration::from_secs(4);

/// One server of SQS's API.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub name: &'static str,
}

impl Server {
    pub const ELASTICMQ: Self = Self { name: "elasticmq" };
    pub const MINISTACK: Self = Self { name: "ministack" };

    /// `host:port`.
    pub fn address(self) -> (String, u16) {
        let list =
            std::env::var("ASYA_TEST_SQS_URLS").unwrap_or_else(|_| panic!("ASYA_TEST_SQS_URLS is not set: {HOW}"));
        let prefix = format!("{}=http://", self.name);
        let found = list.split(' ').find_map(|pair| pair.strip_prefix(&prefix));
        let found = found.unwrap_or_else(|| panic!("ASYA_TEST_SQS_URLS names no {}: {HOW}", self.name));
        let (host, port) = found.split_once(':').unwrap();
        (host.to_owned(), port.parse().unwrap())
    }

    pub fn config(self) -> SqsConfig {
        let (host, port) = self.address();
        config(&host, port)
    }
}

impl Server {
    /// A client of the SDK's, for what the transport does not do.
    pub fn client(self) -> aws_sdk_sqs::Client {
        use aws_sdk_sqs::config::{BehaviorVersion, Builder, Credentials, Region};
        let (host, port) = self.address();
        let http = aws_smithy_http_client::Builder::new().build_http();
        let config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .endpoint_url(format!("http://{host}:{port}"))
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"));
        aws_sdk_sqs::Client::from_conf(config.build())
    }
}

/// For a server at this address: short leases, short polls, any credentials.
pub fn config(host: &str, port: u16) -> SqsConfig {
    SqsConfig {
        endpoint: Some(format!("http://{host}:{port}")),
        visibility_timeout: VISIBILITY,
        wait: Duration::from_secs(1),
        keys: Some(Keys { id: "test".to_owned(), secret: "test".to_owned() }),
        ..SqsConfig::default()
    }
}

/// The beginning of queue names that nothing has used before.
pub fn fresh_prefix() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
