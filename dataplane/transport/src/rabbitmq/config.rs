//! Where the broker is and how to talk to it.
//!
//! Takes an `amqp://` or `amqps://` address, or fields; gives a [`RabbitMqConfig`]. Never blocks. A wrong address is a
//! [`ConfigError`] that says what is allowed; a password never appears in an error, in `Debug` or in a log.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::version::Version;
use crate::amqp::FRAME_MIN_SIZE;

/// What RabbitMQ proposes by default (bytes): large enough that headers of frames vanish beside bodies.
const FRAME_MAX_DEFAULT: u32 = 128 * 1024;
/// Larger frames than this only cost memory (bytes).
const FRAME_MAX_LARGEST: u32 = 1024 * 1024;

/// RabbitMQ's own `consumer_timeout`.
const CONSUMER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30 * 60);

/// How to reach and use one virtual host of one broker.
#[derive(Clone)]
pub struct RabbitMqConfig {
    /// Name or address of the host.
    pub host: String,
    /// Port, 5672 or (TLS) 5671 by default.
    pub port: u16,
    /// User name.
    pub user: String,
    /// Password.
    pub password: Password,
    /// Virtual host.
    pub vhost: String,
    /// How often each side gives a sign of life, at least; zero for never. A peer that is silent for twice as long is
    /// given up. The broker may ask for more often.
    pub heartbeat: Duration,
    /// Shown in the broker's list of connections; ` (consume)` or ` (publish)` is appended.
    pub connection_name: String,
    /// Largest frame to ask for, in bytes. The broker may ask for less, and from 4.1 on takes no wish below 8,192.
    pub frame_max: u32,
    /// How long connecting, TLS and the protocol's handshake may take together.
    pub connect_timeout: Duration,
    /// TLS, where it is wanted.
    pub tls: Option<TlsConfig>,
    /// What the names of the queues begin with in which delayed messages wait (see [`super::delay_queues`]). One for each
    /// namespace: whoever shares it shares the queues.
    pub delay_prefix: String,
    /// Bind declared queues to an exchange too, for publishers of existing Asya installations.
    pub compatibility: Option<Compatibility>,
    /// The broker's `max_message_size`, where it is known. Where it is not, it is learnt from the first refusal.
    pub max_message_bytes: Option<u64>,
    /// How long a delivery may have to be kept. A broker that cannot be told so is refused where it allows less.
    pub longest_hold: Duration,
    /// The `consumer_timeout` that such a broker (before 3.12) was started with; zero for none.
    pub broker_consumer_timeout: Duration,
}

/// What the existing Asya publishes to: a topic exchange, with the bare name of the actor as the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compatibility {
    /// The exchange, `asya` by default there. Declared when it is not there.
    pub exchange: String,
    /// What to cut off the front of a queue's name to get the bare name, such as `asya-default-`. Queues without it
    /// are not bound.
    pub prefix: String,
}

/// How the broker proves who it is, and this client in return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// A PEM file of certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a client certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the broker's certificate must carry, where it is not the host.
    pub server_name: Option<String>,
}

/// A secret that prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps it.
    pub const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for RabbitMqConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqConfig")
            .field("address", &self.address())
            .field("heartbeat", &self.heartbeat)
            .field("connection_name", &self.connection_name)
            .field("frame_max", &self.frame_max)
            .field("connect_timeout", &self.connect_timeout)
            .field("tls", &self.tls)
            .field("delay_prefix", &self.delay_prefix)
            .field("compatibility", &self.compatibility)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("longest_hold", &self.longest_hold)
            .field("broker_consumer_timeout", &self.broker_consumer_timeout)
            .finish_non_exhaustive()
    }
}

impl RabbitMqConfig {
    /// Whether a broker of this version takes deliveries back, and closes the channel, sooner than they may be settled.
    pub(crate) fn takes_back_too_soon(&self, version: Version) -> bool {
        !version.queue_consumer_timeout()
            && !self.broker_consumer_timeout.is_zero()
            && self.longest_hold > self.broker_consumer_timeout
    }

    /// What to do about it.
    pub(crate) fn too_short(&self) -> String {
        format!(
            "a RabbitMQ before 3.12 takes back what is kept for longer than its consumer_timeout ({:?}), and cannot be told \
             that this actor may keep a message for {:?} (twice the timeout of a call): set consumer_timeout = {} in its \
             rabbitmq.conf and tell it in ASYA_RABBITMQ_CONSUMER_TIMEOUT, or lower ASYA_RESILIENCY_ACTOR_TIMEOUT",
            self.broker_consumer_timeout,
            self.longest_hold,
            self.longest_hold.as_millis(),
        )
    }
}

impl Default for RabbitMqConfig {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 5672,
            user: "guest".into(),
            password: Password::new("guest".into()),
            vhost: "/".into(),
            heartbeat: Duration::from_secs(10),
            connection_name: "asya".into(),
            frame_max: FRAME_MAX_DEFAULT,
            connect_timeout: Duration::from_secs(10),
            tls: None,
            delay_prefix: "asya-default-".into(),
            compatibility: None,
            max_message_bytes: None,
            longest_hold: Duration::ZERO,
            broker_consumer_timeout: CONSUMER_TIMEOUT_DEFAULT,
        }
    }
}

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither `amqp://` nor `amqps://`.
    #[error("a RabbitMQ address starts with amqp:// or amqps://")]
    Scheme,
    /// Not a number from 1 to 65,535.
    #[error("the port {0:?} is not a number from 1 to 65535")]
    Port(String),
    /// `%` without two hexadecimal digits, or not UTF-8 once decoded.
    #[error("the {0} is not percent-encoded UTF-8 (write / as %2F, @ as %40, : as %3A, % as %25)")]
    Encoding(&'static str),
    /// A longer name than the protocol carries.
    #[error("the {0} is longer than 255 bytes")]
    TooLong(&'static str),
    /// More path than a virtual host.
    #[error("after the host comes one virtual host (write a / inside it as %2F)")]
    Path,
    /// A parameter that does not exist.
    #[error(
        "unknown parameter {0:?} (allowed: heartbeat, connection_timeout, frame_max, connection_name, cacertfile, \
         certfile, keyfile, server_name_indication, verify)"
    )]
    UnknownParameter(String),
    /// A parameter's value that cannot be.
    #[error("{name}={value:?}: {allowed}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it can be.
        allowed: &'static str,
    },
    /// A parameter of TLS without TLS.
    #[error("{0} only means something with amqps://")]
    NeedsTls(&'static str),
}

impl RabbitMqConfig {
    /// Reads an address such as `amqps://user:password@host:5671/vhost?cacertfile=/ca.pem&heartbeat=10`.
    ///
    /// Without a path the virtual host is `/`; with an empty one (`amqp://host/`) too, since nobody has an empty name.
    /// Parameters are RabbitMQ's own: `heartbeat` (s), `connection_timeout` (ms), `cacertfile`, `certfile` and
    /// `keyfile`, `server_name_indication`, `verify` (only `verify_peer`); and `frame_max` (bytes), `connection_name`.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let rest = if let Some(rest) = url.strip_prefix("amqps://") {
            config.tls = Some(TlsConfig::default());
            config.port = 5671;
            rest
        } else {
            url.strip_prefix("amqp://").ok_or(ConfigError::Scheme)?
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = match authority.rsplit_once('@') {
            Some((login, host)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                config.user = short(user, "user name")?;
                config.password = Password::new(decoded(password, "password")?);
                host
            }
            None => authority,
        };
        config.set_host(host)?;
        if path.contains('/') {
            return Err(ConfigError::Path);
        }
        if !path.is_empty() {
            config.vhost = short(path, "virtual host")?;
        }
        for parameter in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            config.set_parameter(name, decoded(value, "query")?)?;
        }
        match config.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
            Some((certificate, key)) if certificate.as_os_str().is_empty() || key.as_os_str().is_empty() => {
                Err(ConfigError::Parameter {
                    name: "certfile",
                    value: certificate.display().to_string(),
                    allowed: "certfile and keyfile only go together",
                })
            }
            _ => Ok(config),
        }
    }

    fn set_host(&mut self, host: &str) -> Result<(), ConfigError> {
        let (name, port) = match host.strip_prefix('[') {
            Some(v6) => match v6.split_once(']') {
                Some((name, rest)) => (name, rest.strip_prefix(':')),
                None => (v6, None),
            },
            None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
        };
        if !name.is_empty() {
            self.host = decoded(name, "host")?;
        }
        if let Some(port) = port {
            self.port =
                port.parse().ok().filter(|port| *port != 0).ok_or_else(|| ConfigError::Port(port.to_owned()))?;
        }
        Ok(())
    }

    fn set_parameter(&mut self, name: &str, value: String) -> Result<(), ConfigError> {
        match name {
            "heartbeat" => {
                self.heartbeat = Duration::from_secs(number("heartbeat", &value, 0, 65_535, "seconds, 0 to 65535")?);
            }
            "connection_timeout" => {
                let allowed = "milliseconds, 1 to 600000";
                self.connect_timeout =
                    Duration::from_millis(number("connection_timeout", &value, 1, 600_000, allowed)?);
            }
            "frame_max" => {
                let (least, most) = (u64::from(FRAME_MIN_SIZE), u64::from(FRAME_MAX_LARGEST));
                self.frame_max = number("frame_max", &value, least, most, "bytes, 4096 to 1048576")? as u32;
            }
            "connection_name" => self.connection_name = value,
            "cacertfile" => self.tls_mut("cacertfile")?.ca_file = Some(value.into()),
            "certfile" => self.tls_mut("certfile")?.identity.get_or_insert_default().0 = value.into(),
            "keyfile" => self.tls_mut("keyfile")?.identity.get_or_insert_default().1 = value.into(),
            "server_name_indication" => self.tls_mut("server_name_indication")?.server_name = Some(value),
            "verify" => {
                self.tls_mut("verify")?;
                if value != "verify_peer" {
                    let allowed = "only verify_peer (trust a certificate of your own with cacertfile)";
                    return Err(ConfigError::Parameter { name: "verify", value, allowed });
                }
            }
            other => return Err(ConfigError::UnknownParameter(other.to_owned())),
        }
        Ok(())
    }

    fn tls_mut(&mut self, parameter: &'static str) -> Result<&mut TlsConfig, ConfigError> {
        self.tls.as_mut().ok_or(ConfigError::NeedsTls(parameter))
    }

    /// The address without user and password, for people.
    pub fn address(&self) -> String {
        let scheme = if self.tls.is_some() { "amqps" } else { "amqp" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}/{}", self.port, encoded(&self.vhost))
    }

    /// The address with user and password, as other clients take it.
    pub fn to_url(&self) -> String {
        let login = format!("{}:{}@", encoded(&self.user), encoded(self.password.reveal()));
        self.address().replacen("://", &format!("://{login}"), 1)
    }
}

fn number(name: &'static str, value: &str, least: u64, most: u64, allowed: &'static str) -> Result<u64, ConfigError> {
    let wrong = || ConfigError::Parameter { name, value: value.to_owned(), allowed };
    value.parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(wrong)
}

fn short(text: &str, what: &'static str) -> Result<String, ConfigError> {
    let text = decoded(text, what)?;
    if text.len() > 255 { Err(ConfigError::TooLong(what)) } else { Ok(text) }
}

fn decoded(text: &str, what: &'static str) -> Result<String, ConfigError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digit = |at: usize| after.get(at).and_then(|&c| char::from(c).to_digit(16));
            let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                return Err(ConfigError::Encoding(what));
            };
            bytes.push((high * 16 + low) as u8);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| ConfigError::Encoding(what))
}

fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests;
