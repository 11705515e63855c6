//! Where SQS is, and a client of it.
//!
//! Takes a [`SqsConfig`], gives the SDK's client. Waits for whoever gives out credentials (files, a token of the
//! cluster, the pod's agent, the machine's metadata), each of which has its own time limit in the SDK. Cannot fail:
//! missing credentials show at the first call.

use std::fmt;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{Credentials, Region, StalledStreamProtectionConfig};
use aws_smithy_http_client::tls;

/// How long a connection may take to open.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// How long an answer may take, beyond what a call waits on purpose. SQS answers in tens of milliseconds; a call without
/// a limit has been seen to stay open for ever (awslabs/aws-sdk-rust#1094).
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// A connection that was idle for this long is not used again: what is between may have forgotten it.
const IDLE_TIME_MAX: Duration = Duration::from_secs(20);

/// The longest wait that a receiving call may ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(20);
/// The longest visibility timeout, and the longest that extending one can keep a message.
pub const VISIBILITY_MAX: Duration = Duration::from_secs(12 * 3600);

/// Where SQS is, and how it is used.
#[derive(Clone, Debug)]
pub struct SqsConfig {
    /// Address of a server that speaks SQS's JSON protocol; `None`: AWS's own of the region.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// How long a delivery is hidden from others, from its receipt on: 1 s to [`VISIBILITY_MAX`], whole seconds.
    pub visibility_timeout: Duration,
    /// How long a receiving call waits for a message: up to [`WAIT_MAX`], whole seconds.
    pub wait: Duration,
    /// Tags of queues that are made.
    pub tags: Vec<(String, String)>,
    /// What the names of actors' queues begin with: the rest is tagged as the actor.
    pub actor_prefix: Option<String>,
    /// Instead of what the SDK finds: environment, profile, web identity, container, instance.
    pub keys: Option<Keys>,
}

/// An access key.
#[derive(Clone)]
pub struct Keys {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Default for SqsConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            visibility_timeout: Duration::from_secs(90),
            wait: WAIT_MAX,
            tags: Vec::new(),
            actor_prefix: None,
            keys: None,
        }
    }
}

impl SqsConfig {
    /// How long one call may take that waits on purpose for `wait`.
    pub(super) fn timeouts(wait: Duration) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIME_MAX)
            .operation_attempt_timeout(wait + ANSWER_TIME_MAX)
            .build()
    }

    /// What of a lease may be over when its message is delivered: the call's way, and what it waits for room. Whoever
    /// holds it is told of the rest.
    pub(super) fn slack(&self) -> Duration {
        self.visibility_timeout / 4
    }

    pub(super) async fn client(&self) -> Client {
        // ring, as everywhere in this program: one TLS library, and no C++ compiler to build it.
        let http = aws_smithy_http_client::Builder::new()
            .pool_idle_timeout(IDLE_TIME_MAX)
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).region(Region::new(self.region.clone())).http_client(http);
        if let Some(Keys { id, secret }) = &self.keys {
            loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "configuration"));
        }
        let shared = loader.load().await;
        let mut config = aws_sdk_sqs::config::Builder::from(&shared)
            // Who asks knows better: a send that is repeated is a message twice, a delete is repeated in a batch.
            .retry_config(RetryConfig::disabled())
            // A long poll is a stream that stalls.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(Self::timeouts(Duration::ZERO));
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Client::from_conf(config.build())
    }
}
