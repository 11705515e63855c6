//! The values of a configuration: what [`super::Config`] is made of.
//!
//! Takes nothing and does nothing: plain data. Secrets are [`Secret`], which no formatting shows.

use std::fmt;
use std::net::{TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use asya_transport::rabbitmq::RabbitMqConfig;
use asya_transport::sqs::SqsConfig;
use tracing::level_filters::LevelFilter;

/// An enum that is written as one of a few words.
pub(super) trait Named: Copy + 'static {
    /// The words, in the order of `VALUES`.
    const NAMES: &'static [&'static str];
    /// The values.
    const VALUES: &'static [Self];
}

macro_rules! named {
    ($(#[$doc:meta])* $enum:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum { $($(#[$vdoc])* $variant,)* }

        impl $enum {
            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl Named for $enum {
            const NAMES: &'static [&'static str] = &[$($name),*];
            const VALUES: &'static [Self] = &[$(Self::$variant),*];
        }
    };
}

named! {
    /// What becomes of a message at this actor.
    Role {
        /// Handled, then sent on along its route.
        Regular = "regular",
        /// Ends here, successful.
        Sink = "sink",
        /// Ends here, failed.
        Sump = "sump",
    }
}

named! {
    /// A kind of broker.
    TransportKind {
        /// RabbitMQ.
        RabbitMq = "rabbitmq",
        /// Amazon SQS.
        Sqs = "sqs",
        /// The broker inside `asya run`.
        Embedded = "embedded",
    }
}

named! {
    /// How what is sent on is encoded.
    EmittedEncoding {
        /// As the message was encoded on arrival.
        AsItArrived = "as-it-arrived",
        /// JSON.
        Json = "json",
        /// Payload first, archived head last.
        Native = "native",
    }
}

named! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Plain = "plain",
        /// One JSON object a line.
        Json = "json",
    }
}

/// Who this sidecar is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its name; names its queue.
    pub name: String,
    /// Its namespace, and that of every actor that it sends to.
    pub namespace: String,
    /// Whether messages end here.
    pub role: Role,
    /// The actor that takes success.
    pub sink: String,
    /// The actor that takes failure.
    pub sump: String,
}

/// Which broker, and where it is.
#[derive(Clone, Debug)]
pub enum Broker {
    /// RabbitMQ.
    RabbitMq(Box<RabbitMqConfig>),
    /// Amazon SQS.
    Sqs(Box<SqsConfig>),
    /// The broker inside `asya run`.
    Embedded {
        /// Its Unix socket.
        socket: PathBuf,
    },
}

impl Broker {
    /// Its kind.
    pub const fn kind(&self) -> TransportKind {
        match self {
            Self::RabbitMq(_) => TransportKind::RabbitMq,
            Self::Sqs(_) => TransportKind::Sqs,
            Self::Embedded { .. } => TransportKind::Embedded,
        }
    }
}

/// The Python side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Folder of the socket that the runtime dials.
    pub socket_dir: PathBuf,
    /// Worker processes.
    pub workers: u16,
    /// Calls at once within one worker.
    pub concurrency: u16,
    /// When a batch is released.
    pub batch: Batch,
    /// How long one call may run.
    pub call_timeout: Duration,
    /// How long the first worker may take to be ready.
    pub ready_timeout: Duration,
}

impl Runtime {
    /// The socket that the sidecar listens on.
    pub fn socket(&self) -> PathBuf {
        self.socket_dir.join("asya-sidecar.sock")
    }
}

/// When a batch of the handler is released: at whichever bound is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Most payloads in one call; 0 = one payload a call, not in a list.
    pub size: u16,
    /// Most payload bytes in one call, beyond a first payload.
    pub bytes: u64,
    /// How long the first payload may wait for more.
    pub wait: Duration,
}

impl Batch {
    /// Payloads that one call takes at most: 1 when there is no batching.
    pub const fn items_max(&self) -> u16 {
        if self.size == 0 { 1 } else { self.size }
    }
}

/// Bounds on what is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// Largest body, and largest result, in bytes.
    pub message_bytes_max: u64,
    /// Bytes of messages in flight.
    pub memory_bytes_max: u64,
    /// Deliveries held at once.
    pub window_max: u16,
}

/// How results leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publishing {
    /// Their encoding.
    pub encoding: EmittedEncoding,
    /// Attempts while the target queue is missing.
    pub attempts_max: u32,
    /// Wait before the second attempt; doubles each time.
    pub backoff: Duration,
}

/// Metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observability {
    /// Whether `/metrics` answers.
    pub metrics: bool,
    /// Where to listen; `None` = nowhere.
    pub listen: Option<Listen>,
    /// Prefix of every metric name.
    pub prefix: String,
}

/// Where to listen for TCP connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Host name or address; empty = every address of this machine.
    pub host: String,
    /// Port; 0 = any free one.
    pub port: u16,
}

impl Listen {
    /// Opens the listening socket. May block on name resolution.
    pub fn bind(&self) -> std::io::Result<TcpListener> {
        if !self.host.is_empty() {
            return TcpListener::bind(
                (self.host.as_str(), self.port).to_socket_addrs()?.collect::<Vec<_>>().as_slice(),
            );
        }
        // One dual-stack socket where the machine has IPv6, as Go does for ":8080".
        TcpListener::bind(("::", self.port)).or_else(|_| TcpListener::bind(("0.0.0.0", self.port)))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// What is logged.
    pub filter: LogFilter,
    /// How lines look.
    pub format: LogFormat,
}

/// A least level, with exceptions by target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    /// The least level.
    pub level: LevelFilter,
    /// Other least levels for targets that begin so.
    pub targets: Vec<(String, LevelFilter)>,
}
