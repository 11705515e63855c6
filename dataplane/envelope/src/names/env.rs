//! Names of environment variables.

/// Which broker: `rabbitmq`, `sqs`, `embedded`.
pub const ENV_TRANSPORT: &str = "ASYA_TRANSPORT";
/// The actor that this pod is.
pub const ENV_ACTOR_NAME: &str = "ASYA_ACTOR_NAME";
/// The namespace that it lives in.
pub const ENV_NAMESPACE: &str = "ASYA_NAMESPACE";
/// The actor that takes what succeeded.
pub const ENV_ACTOR_SINK: &str = "ASYA_ACTOR_SINK";
/// The actor that takes what failed.
pub const ENV_ACTOR_SUMP: &str = "ASYA_ACTOR_SUMP";
/// Older name of [`ENV_ACTOR_SINK`].
pub const ENV_ACTOR_HAPPY_END: &str = "ASYA_ACTOR_HAPPY_END";
/// Older name of [`ENV_ACTOR_SUMP`].
pub const ENV_ACTOR_ERROR_END: &str = "ASYA_ACTOR_ERROR_END";
/// Whether the way of messages ends here.
pub const ENV_IS_END_ACTOR: &str = "ASYA_IS_END_ACTOR";
/// `regular`, `sink` or `sump`.
pub const ENV_ACTOR_ROLE: &str = "ASYA_ACTOR_ROLE";
/// Longest run of one call.
pub const ENV_ACTOR_TIMEOUT: &str = "ASYA_RESILIENCY_ACTOR_TIMEOUT";
/// Older name of [`ENV_ACTOR_TIMEOUT`].
pub const ENV_RUNTIME_TIMEOUT: &str = "ASYA_RUNTIME_TIMEOUT";
/// Retry policies, JSON.
pub const ENV_RESILIENCY_POLICIES: &str = "ASYA_RESILIENCY_POLICIES";
/// Which errors take which policy, JSON.
pub const ENV_RESILIENCY_RULES: &str = "ASYA_RESILIENCY_RULES";
/// The folder of the socket between sidecar and runtime.
pub const ENV_SOCKET_DIR: &str = "ASYA_SOCKET_DIR";
/// Mode of that socket.
pub const ENV_SOCKET_CHMOD: &str = "ASYA_SOCKET_CHMOD";
/// How long a runtime may take until it is ready.
pub const ENV_RUNTIME_READY_TIMEOUT: &str = "ASYA_RUNTIME_READY_TIMEOUT";
/// Log level.
pub const ENV_LOG_LEVEL: &str = "ASYA_LOG_LEVEL";
/// Whether metrics are served.
pub const ENV_METRICS_ENABLED: &str = "ASYA_METRICS_ENABLED";
/// Where they are served.
pub const ENV_METRICS_ADDR: &str = "ASYA_METRICS_ADDR";
/// What their names begin with.
pub const ENV_METRICS_NAMESPACE: &str = "ASYA_METRICS_NAMESPACE";
/// Metrics of the user's own, JSON.
pub const ENV_CUSTOM_METRICS: &str = "ASYA_CUSTOM_METRICS";
/// The gateway to report to.
pub const ENV_GATEWAY_URL: &str = "ASYA_GATEWAY_URL";
/// How long it may take until it answers.
pub const ENV_GATEWAY_READY_TIMEOUT: &str = "ASYA_GATEWAY_READY_TIMEOUT";
/// The broker, as one URL.
pub const ENV_RABBITMQ_URL: &str = "ASYA_RABBITMQ_URL";
/// The broker's host.
pub const ENV_RABBITMQ_HOST: &str = "ASYA_RABBITMQ_HOST";
/// The broker's port.
pub const ENV_RABBITMQ_PORT: &str = "ASYA_RABBITMQ_PORT";
/// The broker's user.
pub const ENV_RABBITMQ_USERNAME: &str = "ASYA_RABBITMQ_USERNAME";
/// That user's password.
pub const ENV_RABBITMQ_PASSWORD: &str = "ASYA_RABBITMQ_PASSWORD";
/// The exchange of older peers.
pub const ENV_RABBITMQ_EXCHANGE: &str = "ASYA_RABBITMQ_EXCHANGE";
/// The largest window of unsettled deliveries.
pub const ENV_RABBITMQ_PREFETCH: &str = "ASYA_RABBITMQ_PREFETCH";
/// Where SQS is, if not at AWS.
pub const ENV_SQS_ENDPOINT: &str = "ASYA_SQS_ENDPOINT";
/// The region.
pub const ENV_AWS_REGION: &str = "ASYA_AWS_REGION";
/// Seconds that a received message stays hidden.
pub const ENV_SQS_VISIBILITY_TIMEOUT: &str = "ASYA_SQS_VISIBILITY_TIMEOUT";
/// Seconds of a long poll.
pub const ENV_SQS_WAIT_TIME_SECONDS: &str = "ASYA_SQS_WAIT_TIME_SECONDS";
/// How often a missing queue is tried.
pub const ENV_QUEUE_RETRY_MAX_ATTEMPTS: &str = "ASYA_QUEUE_RETRY_MAX_ATTEMPTS";
/// How long between two tries, at first.
pub const ENV_QUEUE_RETRY_BACKOFF: &str = "ASYA_QUEUE_RETRY_BACKOFF";
/// The user's function, `module.function` or `module.Class.method`.
pub const ENV_HANDLER: &str = "ASYA_HANDLER";
/// `payload`, or the older `envelope`.
pub const ENV_HANDLER_MODE: &str = "ASYA_HANDLER_MODE";
/// Whether what a handler returns is checked.
pub const ENV_ENABLE_VALIDATION: &str = "ASYA_ENABLE_VALIDATION";
