//! The table of environment variables: the one place that names them.
//!
//! Takes nothing, gives [`TABLE`]. Parsing, `--help` and `docs/CONFIG.md` all read it, so none of them can drift from
//! the others; a test checks that [`super::Config::read`] asks for every line of it.

use super::settings::{EmittedEncoding, LogFormat, Named, Role, TransportKind};

/// One environment variable.
#[derive(Debug)]
pub struct Var {
    /// Its name.
    pub name: &'static str,
    /// Older names of the same setting, newest first; understood when `name` is not set.
    pub older: &'static [&'static str],
    /// What values it takes.
    pub kind: Kind,
    /// What holds when it is not set.
    pub default: Absent,
    /// Where documentation lists it.
    pub section: Section,
    /// What it does, in one line.
    pub doc: &'static str,
}

impl Var {
    /// Whether `name` is its name, or an older one.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// All its names, newest first.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.older.iter().copied())
    }
}

/// What values a variable takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A DNS label: it becomes part of a queue name.
    Label,
    /// Any text.
    Text,
    /// Any text, never shown.
    Secret,
    /// A path of a file or folder.
    Path,
    /// An AMQP address, whose password is never shown.
    AmqpUrl,
    /// Yes or no.
    Flag,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A whole number within bounds.
    Count {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A number of bytes within bounds.
    Bytes {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A length of time within bounds.
    Duration {
        /// Shortest, in milliseconds.
        min_ms: u64,
        /// Longest, in milliseconds.
        max_ms: u64,
    },
    /// Where to listen.
    Listen,
    /// A prefix of metric names.
    MetricPrefix,
    /// A level, with exceptions by target.
    LogFilter,
    /// Retry policies by name, as JSON.
    PolicyMap,
    /// Rules that choose a policy by error type, as JSON.
    RuleList,
    /// Understood by other versions only; the reason why nothing comes of it here.
    Unused(&'static str),
}

/// What holds when a variable is not set.
#[derive(Clone, Copy, Debug)]
pub enum Absent {
    /// That is a mistake.
    Required,
    /// This value, as it would be written.
    Value(&'static str),
    /// No value; what that means.
    Means(&'static str),
}

/// Where documentation lists a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Who this sidecar is.
    Actor,
    /// Which broker.
    Transport,
    /// RabbitMQ.
    RabbitMq,
    /// Amazon SQS.
    Sqs,
    /// The embedded broker.
    Embedded,
    /// The Python side.
    Runtime,
    /// Bounds on what is in flight.
    Flow,
    /// Retries and encodings.
    Outcome,
    /// Metrics, health, logs.
    Observability,
    /// Names that other versions know.
    Unused,
}

impl Section {
    /// Every section, in the order of the documentation.
    pub const ALL: &'static [Self] = &[
        Self::Actor,
        Self::Transport,
        Self::RabbitMq,
        Self::Sqs,
        Self::Embedded,
        Self::Runtime,
        Self::Flow,
        Self::Outcome,
        Self::Observability,
        Self::Unused,
    ];

    /// Its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Actor => "Actor",
            Self::Transport => "Transport",
            Self::RabbitMq => "RabbitMQ",
            Self::Sqs => "SQS",
            Self::Embedded => "Embedded broker",
            Self::Runtime => "Runtime",
            Self::Flow => "Flow and memory",
            Self::Outcome => "Outcomes",
            Self::Observability => "Observability",
            Self::Unused => "Accepted, without effect",
        }
    }
}

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// Longer than any handler, short enough that arithmetic on it cannot overflow.
const TIMEOUT_MS_MAX: u64 = 24 * HOUR_MS;

const LATER_GATEWAY: &str = "there is no gateway yet";
const LATER_TRACING: &str = "there is no trace exporter yet";
const NO_PUBSUB: &str = "there is no Pub/Sub transport";

macro_rules! table {
    ($($ident:ident = $name:literal, $older:expr, $section:ident, $kind:expr, $default:expr, $doc:expr;)*) => {
        $(pub(super) static $ident: Var = Var {
            name: $name, older: &$older, kind: $kind, default: $default, section: Section::$section, doc: $doc,
        };)*

        /// Every variable, in the order of the documentation.
        pub static TABLE: &[&Var] = &[$(&$ident),*];
    };
}

use Absent::{Means, Required, Value};

table! {
    ACTOR_NAME = "ASYA_ACTOR_NAME", [], Actor, Kind::Label, Required,
        "The actor that this sidecar serves; names its queue, `asya-{namespace}-{actor}`.";
    NAMESPACE = "ASYA_NAMESPACE", [], Actor, Kind::Label, Value("default"),
        "Namespace of the actor and of every actor that it sends to.";
    ACTOR_ROLE = "ASYA_ACTOR_ROLE", [], Actor, Kind::Choice(Role::NAMES),
        Means("`sink` or `sump` for an actor of that name, else `regular`"),
        "`sink` and `sump` end messages: they take whatever arrives and send nothing on.";
    IS_END_ACTOR = "ASYA_IS_END_ACTOR", [], Actor, Kind::Flag, Means("as `ASYA_ACTOR_ROLE` says"),
        "Older way to say `ASYA_ACTOR_ROLE`: true means `sump` for the actor that is the sump, else `sink`.";
    ACTOR_SINK = "ASYA_ACTOR_SINK", ["ASYA_ACTOR_HAPPY_END"], Actor, Kind::Label, Value("x-sink"),
        "The actor that takes messages that reached the end of their route, or that a handler ended.";
    ACTOR_SUMP = "ASYA_ACTOR_SUMP", ["ASYA_ACTOR_ERROR_END"], Actor, Kind::Label, Value("x-sump"),
        "The actor that takes every failed message.";

    TRANSPORT = "ASYA_TRANSPORT", [], Transport, Kind::Choice(TransportKind::NAMES), Value("rabbitmq"),
        "The broker that messages travel by.";

    RABBITMQ_URL = "ASYA_RABBITMQ_URL", [], RabbitMq, Kind::AmqpUrl, Means("made from the five variables below"),
        "Where the broker is: `amqp://user:password@host:5672/vhost`, or `amqps://…` for TLS, with RabbitMQ's usual parameters. Wins over the five below.";
    RABBITMQ_HOST = "ASYA_RABBITMQ_HOST", [], RabbitMq, Kind::Text, Value("localhost"), "Host of the broker.";
    RABBITMQ_PORT = "ASYA_RABBITMQ_PORT", [], RabbitMq, Kind::Count { min: 1, max: 65_535 }, Value("5672"),
        "Port of the broker. A value that Kubernetes sets for a Service (`tcp://…`) is passed over.";
    RABBITMQ_USERNAME = "ASYA_RABBITMQ_USERNAME", [], RabbitMq, Kind::Text, Value("guest"), "User name.";
    RABBITMQ_PASSWORD = "ASYA_RABBITMQ_PASSWORD", [], RabbitMq, Kind::Secret, Value("guest"), "Password.";
    RABBITMQ_VHOST = "ASYA_RABBITMQ_VHOST", [], RabbitMq, Kind::Text, Value("/"), "Virtual host.";
    RABBITMQ_CA_FILE = "ASYA_RABBITMQ_CA_FILE", [], RabbitMq, Kind::Path, Means("the system's certificates"),
        "PEM file of the authorities that may sign the certificate of an `amqps://` broker.";
    RABBITMQ_PREFETCH = "ASYA_RABBITMQ_PREFETCH", [], RabbitMq, Kind::Count { min: 1, max: 65_535 },
        Means("adaptive, up to `ASYA_MAX_WINDOW`"),
        "Most deliveries held at once; the window still adapts below it.";
    RABBITMQ_CONSUMER_TIMEOUT = "ASYA_RABBITMQ_CONSUMER_TIMEOUT", [], RabbitMq,
        Kind::Duration { min_ms: 0, max_ms: TIMEOUT_MS_MAX }, Value("30m"),
        "The `consumer_timeout` of a broker before 3.12, which clients cannot set; `0s`: it has none. An actor whose calls may take longer than half of it does not start there.";
    COMPAT_EXCHANGE = "ASYA_COMPAT_EXCHANGE", [], RabbitMq, Kind::Flag, Value("false"),
        "Also bind the actor's queue to the exchange below by its bare name, for senders that publish there.";
    RABBITMQ_EXCHANGE = "ASYA_RABBITMQ_EXCHANGE", [], RabbitMq, Kind::Text, Value("asya"),
        "The topic exchange that `ASYA_COMPAT_EXCHANGE` binds to. Publishing never goes through it.";

    SQS_ENDPOINT = "ASYA_SQS_ENDPOINT", [], Sqs, Kind::Text, Means("AWS's own of the region"),
        "Address of another server that speaks SQS's JSON protocol: `http://…` or `https://…`.";
    AWS_REGION = "ASYA_AWS_REGION", [], Sqs, Kind::Text, Value("us-east-1"), "The region of the queues.";
    SQS_VISIBILITY_TIMEOUT = "ASYA_SQS_VISIBILITY_TIMEOUT", [], Sqs, Kind::Duration { min_ms: 0, max_ms: 12 * HOUR_MS },
        Value("0s"),
        "How soon what a lost sidecar held comes back; `0s`: 90 s. It is extended for as long as a message is held, so it need not cover a call.";
    SQS_WAIT_TIME_SECONDS = "ASYA_SQS_WAIT_TIME_SECONDS", [], Sqs, Kind::Count { min: 0, max: 20 }, Value("20"),
        "How long an idle sidecar's one open call waits for a message: fewer calls are billed when it is long.";

    EMBEDDED_SOCKET = "ASYA_EMBEDDED_SOCKET", [], Embedded, Kind::Path, Means("a mistake with `ASYA_TRANSPORT=embedded`"),
        "Unix socket of the broker inside `asya run`.";

    SOCKET_DIR = "ASYA_SOCKET_DIR", [], Runtime, Kind::Path, Value("/var/run/asya"),
        "Folder of the socket that the runtime dials (`asya-sidecar.sock`); shared by both containers.";
    WORKERS = "ASYA_WORKERS", [], Runtime, Kind::Count { min: 1, max: 256 }, Value("1"),
        "Worker processes. Each loads its own copy of the handler, and of its model.";
    CONCURRENCY = "ASYA_CONCURRENCY", [], Runtime, Kind::Count { min: 1, max: 4_096 }, Value("1"),
        "Calls that one worker runs at once: threads, or tasks of one event loop for `async def`.";
    BATCH_SIZE = "ASYA_BATCH_SIZE", [], Runtime, Kind::Count { min: 0, max: 4_096 }, Value("0"),
        "Most payloads in one call of the handler, which then takes and returns a list. 0: one payload, no list.";
    BATCH_BYTES = "ASYA_BATCH_BYTES", [], Runtime, Kind::Bytes { min: 1, max: 64 * GIB }, Value("16MiB"),
        "A batch is released before its payloads exceed this; one payload always fits.";
    BATCH_WAIT = "ASYA_BATCH_WAIT", [], Runtime, Kind::Duration { min_ms: 0, max_ms: MINUTE_MS }, Value("0s"),
        "How long a batch that is not full may wait for more. 0s: it takes what is there.";
    ACTOR_TIMEOUT = "ASYA_RESILIENCY_ACTOR_TIMEOUT", ["ASYA_RUNTIME_TIMEOUT"], Runtime,
        Kind::Duration { min_ms: 1, max_ms: TIMEOUT_MS_MAX }, Value("5m"),
        "How long one call may run. Then it is cancelled, or its worker is killed and replaced; the pod stays.";
    RUNTIME_READY_TIMEOUT = "ASYA_RUNTIME_READY_TIMEOUT", [], Runtime,
        Kind::Duration { min_ms: SECOND_MS, max_ms: TIMEOUT_MS_MAX }, Value("5m"),
        "How long the first worker may take to import and construct the handler before the sidecar exits.";
    GRACE_PERIOD = "ASYA_GRACE_PERIOD", [], Runtime, Kind::Duration { min_ms: 0, max_ms: TIMEOUT_MS_MAX }, Value("30s"),
        "How long draining may take after SIGTERM; what is unfinished shortly before is handed back.";

    MAX_MESSAGE_BYTES = "ASYA_MAX_MESSAGE_BYTES", [], Flow, Kind::Bytes { min: KIB, max: 16 * GIB }, Value("64MiB"),
        "Largest message body, and largest result, that is let into memory.";
    MEMORY_BYTES = "ASYA_MEMORY_BYTES", [], Flow, Kind::Bytes { min: 2 * KIB, max: 1_024 * GIB }, Value("256MiB"),
        "Bytes of messages in flight; at least twice `ASYA_MAX_MESSAGE_BYTES`. At the limit the sidecar stops reading.";
    MAX_WINDOW = "ASYA_MAX_WINDOW", [], Flow, Kind::Count { min: 1, max: 65_535 }, Value("1024"),
        "Most deliveries held at once; the window adapts to the handler's speed below it.";

    RESILIENCY_POLICIES = "ASYA_RESILIENCY_POLICIES", [], Outcome, Kind::PolicyMap, Means("no retries"),
        "Retry policies by name, JSON, see below.";
    RESILIENCY_RULES = "ASYA_RESILIENCY_RULES", [], Outcome, Kind::RuleList, Means("the policy `default` for every error"),
        "Which policy an error falls under, JSON, see below.";
    DEDUP_WINDOW = "ASYA_DEDUP_WINDOW", [], Outcome, Kind::Count { min: 0, max: 1_000_000 }, Value("0"),
        "Messages that were finished here last and are remembered, by id and hop (some 200 bytes each): a copy of one is dropped. `0`: none. What another pod has finished is not known.";
    QUEUE_RETRY_MAX_ATTEMPTS = "ASYA_QUEUE_RETRY_MAX_ATTEMPTS", [], Outcome, Kind::Count { min: 1, max: 1_000 }, Value("10"),
        "Attempts to publish to a queue that is missing before the message fails as `Unroutable`.";
    QUEUE_RETRY_BACKOFF = "ASYA_QUEUE_RETRY_BACKOFF", [], Outcome,
        Kind::Duration { min_ms: 1, max_ms: MINUTE_MS }, Value("1s"),
        "Wait before the second of these attempts; doubles each time, up to 30 s.";
    ENCODING = "ASYA_ENCODING", [], Outcome, Kind::Choice(EmittedEncoding::NAMES), Value("as-it-arrived"),
        "Encoding of what is sent on. Blobs always go as `native`; both are always understood.";

    METRICS_ENABLED = "ASYA_METRICS_ENABLED", [], Observability, Kind::Flag, Value("true"),
        "Whether `/metrics` answers. The health pages answer either way.";
    METRICS_ADDR = "ASYA_METRICS_ADDR", [], Observability, Kind::Listen, Value(":8080"),
        "Where `/metrics`, `/healthz` and `/readyz` listen. Port 0 picks one; `off` opens nothing.";
    METRICS_NAMESPACE = "ASYA_METRICS_NAMESPACE", [], Observability, Kind::MetricPrefix, Value("asya_actor"),
        "Prefix of every metric name.";
    LOG_LEVEL = "ASYA_LOG_LEVEL", [], Observability, Kind::LogFilter, Value("INFO"),
        "Least level that is logged, with exceptions by target: `info,asya_transport=debug`. Shared with the runtime.";
    LOG_FORMAT = "ASYA_LOG_FORMAT", [], Observability, Kind::Choice(LogFormat::NAMES), Value("plain"),
        "How log lines look.";

    GATEWAY_URL = "ASYA_GATEWAY_URL", [], Unused, Kind::Unused(LATER_GATEWAY), Means("no gateway"),
        "Where progress is reported.";
    GATEWAY_READY_TIMEOUT = "ASYA_GATEWAY_READY_TIMEOUT", [], Unused, Kind::Unused(LATER_GATEWAY), Means("no gateway"),
        "How long to wait for the gateway at start.";
    SOCKET_MESH_DIR = "ASYA_SOCKET_MESH_DIR", [], Unused, Kind::Unused("use `ASYA_TRANSPORT=embedded`"),
        Means("no socket transport"), "Folder of the socket transport.";
    CUSTOM_METRICS = "ASYA_CUSTOM_METRICS", [], Unused, Kind::Unused("nothing ever fed these metrics"), Means("none"),
        "Metrics of the user's own, as JSON.";
    QUEUE_AUTO_CREATE = "ASYA_QUEUE_AUTO_CREATE", [], Unused,
        Kind::Unused("missing queues are always declared, existing ones used as they are"), Means("always"),
        "Whether queues are declared.";
    PUBSUB_PROJECT_ID = "ASYA_PUBSUB_PROJECT_ID", [], Unused, Kind::Unused(NO_PUBSUB), Means("none"), "Pub/Sub project.";
    PUBSUB_ENDPOINT = "ASYA_PUBSUB_ENDPOINT", [], Unused, Kind::Unused(NO_PUBSUB), Means("none"), "Pub/Sub endpoint.";
    OTEL_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", [], Unused, Kind::Unused(LATER_TRACING), Means("no tracing"),
        "Where traces are sent.";
    OTEL_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL", [], Unused, Kind::Unused(LATER_TRACING), Means("no tracing"),
        "How traces are sent.";
}

/// Variables of the same prefix that belong to the runtime, to system actors or to other parts; no news when seen here.
pub(super) static FOREIGN: &[&str] = &[
    "ASYA_HANDLER",
    "ASYA_HANDLER_MODE",
    "ASYA_JSON",
    "ASYA_ENABLE_VALIDATION",
    "ASYA_SOCKET_CHMOD",
    "ASYA_SOCKET_NAME",
    "ASYA_CHUNK_SIZE",
    "ASYA_STATE_PROXY_MOUNTS",
    "ASYA_PERSISTENCE_MOUNT",
    "ASYA_SINK_HOOKS",
    "ASYA_SINK_FANOUT_HOOKS",
    "ASYA_PAUSE_METADATA",
    "ASYA_RESUME_MERGE_MODE",
    "ASYA_S3_BUCKET",
    "ASYA_S3_ENDPOINT",
    "ASYA_S3_ACCESS_KEY",
    "ASYA_S3_SECRET_KEY",
    "ASYA_S3_RESULTS_PREFIX",
    "ASYA_S3_ERRORS_PREFIX",
];
