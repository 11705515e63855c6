//! What the sidecar is told by its environment.
//!
//! Takes a [`Source`] of variables, gives a [`Config`] whose values are legal, together and one by one. Blocks on
//! nothing. On failure it gives *every* mistake at once; the caller prints them and exits with [`EXIT_CONFIG`].

use std::fmt;
use std::time::Duration;

use asya_envelope::names::{canonical_actor, queue_prefix};
use asya_transport::rabbitmq::{Compatibility, Password, RabbitMqConfig};
use asya_transport::sqs::SqsConfig;

mod amqp_url;
mod help;
mod near;
mod reader;
mod resiliency;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod value;
mod vars;

use crate::retry::Resiliency;
pub use help::{help, markdown};
pub use settings::{
    Actor, Batch, Broker, EmittedEncoding, FlowLimits, Listen, Log, LogFilter, LogFormat, Observability, Publishing,
    Role, Runtime, TransportKind,
};
pub use source::{Environment, Source};
pub use vars::{Absent, Kind, Section, TABLE, Var};

#[cfg(test)]
pub(crate) use tests::check_generated;

use reader::Reader;

/// Exit status of a process whose configuration is wrong (`EX_USAGE`).
pub const EXIT_CONFIG: u8 = 64;

/// Everything that the sidecar is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who it is.
    pub actor: Actor,
    /// Which broker, and where.
    pub broker: Broker,
    /// The Python side.
    pub runtime: Runtime,
    /// Bounds on what is in flight.
    pub flow: FlowLimits,
    /// When failed messages are tried again.
    pub resiliency: Resiliency,
    /// Finished messages that are remembered, so that a copy does not run again.
    pub remembered: usize,
    /// How results leave.
    pub publishing: Publishing,
    /// How long draining may take.
    pub grace_period: Duration,
    /// Metrics and health.
    pub observability: Observability,
    /// Logs.
    pub log: Log,
}

/// A configuration, and what to tell about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is not wrong but should be known; to be logged as warnings.
    pub notes: Vec<Note>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The variable, under the name that it is set by.
    pub variable: &'static str,
    /// Its value, where it has one that may be shown.
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?}: {} (allowed: {})", self.variable, self.problem, self.allowed),
            None => write!(f, "{}: {} (allowed: {})", self.variable, self.problem, self.allowed),
        }
    }
}

/// One thing that is not wrong but should be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The variable.
    pub variable: String,
    /// What is to be known about it.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.text)
    }
}

/// Everything that is wrong, at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// What is wrong; at least one thing.
    pub mistakes: Vec<Mistake>,
    /// What else should be known: a misspelt name often explains a missing one.
    pub notes: Vec<Note>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.mistakes.len();
        write!(f, "{count} {} in the configuration", if count == 1 { "mistake" } else { "mistakes" })?;
        for mistake in &self.mistakes {
            write!(f, "\n  {mistake}")?;
        }
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads everything.
    pub fn read(source: &dyn Source) -> Result<Loaded, ConfigError> {
        let mut reader = Reader::new(source);
        let config = Self::read_all(&mut reader);
        let Reader { mut mistakes, notes, .. } = reader;
        mistakes.sort_by_key(|mistake| TABLE.iter().position(|var| var.is_named(mistake.variable)));
        if mistakes.is_empty() { Ok(Loaded { config, notes }) } else { Err(ConfigError { mistakes, notes }) }
    }

    /// Reads everything; what is mistaken has stand-in values.
    fn read_all(reader: &mut Reader<'_>) -> Self {
        let actor = actor(reader);
        let broker = broker(reader, &actor);
        let runtime = runtime(reader);
        let flow = flow(reader, &runtime);
        let resiliency = resiliency(reader, &actor.name);
        let config = Self {
            actor,
            broker,
            runtime,
            flow,
            resiliency,
            remembered: reader.count(&vars::DEDUP_WINDOW),
            publishing: Publishing {
                encoding: reader.choice(&vars::ENCODING).unwrap_or(EmittedEncoding::AsItArrived),
                attempts_max: reader.count(&vars::QUEUE_RETRY_MAX_ATTEMPTS),
                backoff: reader.duration(&vars::QUEUE_RETRY_BACKOFF),
            },
            grace_period: reader.duration(&vars::GRACE_PERIOD),
            observability: Observability {
                metrics: reader.flag(&vars::METRICS_ENABLED).unwrap_or_default(),
                listen: reader.listen(&vars::METRICS_ADDR),
                prefix: reader.text(&vars::METRICS_NAMESPACE),
            },
            log: Log {
                filter: reader.log_filter(&vars::LOG_LEVEL),
                format: reader.choice(&vars::LOG_FORMAT).unwrap_or(LogFormat::Plain),
            },
        };
        for &var in TABLE {
            if let Kind::Unused(why) = var.kind {
                reader.unused(var, why);
            }
        }
        reader.unknown();
        config
    }
}

fn actor(reader: &mut Reader<'_>) -> Actor {
    let name = reader.text(&vars::ACTOR_NAME);
    let namespace = reader.text(&vars::NAMESPACE);
    let sink = reader.text(&vars::ACTOR_SINK);
    let sump = reader.text(&vars::ACTOR_SUMP);
    if canonical_actor(&sink) == canonical_actor(&sump)
        && !reader.is_mistaken(&vars::ACTOR_SINK)
        && !reader.is_mistaken(&vars::ACTOR_SUMP)
    {
        let problem = "is the same actor as ASYA_ACTOR_SINK: success and failure could not be told apart".to_owned();
        reader.mistake(&vars::ACTOR_SUMP, problem, "another actor".to_owned());
    }
    // An actor that takes what ends must not send it on: it would arrive here again, for ever.
    let by_name = match canonical_actor(&name) {
        n if n == canonical_actor(&sump) => Role::Sump,
        n if n == canonical_actor(&sink) => Role::Sink,
        _ => Role::Regular,
    };
    let is_end = reader.flag(&vars::IS_END_ACTOR);
    let role = match (reader.choice::<Role>(&vars::ACTOR_ROLE), is_end) {
        (Some(role), Some(is_end)) if is_end != (role != Role::Regular) => {
            let problem = format!("contradicts ASYA_ACTOR_ROLE={}", role.as_str());
            reader.mistake(&vars::IS_END_ACTOR, problem, "one of the two, or both saying the same".to_owned());
            role
        }
        (Some(role), _) => role,
        (None, Some(true)) if by_name == Role::Regular => Role::Sink,
        (None, Some(false)) => Role::Regular,
        (None, _) => by_name,
    };
    if role == Role::Regular && by_name != Role::Regular && !name.is_empty() {
        let problem = format!("{name} is the {}: its messages would come back to it for ever", by_name.as_str());
        let var = if is_end.is_some() { &vars::IS_END_ACTOR } else { &vars::ACTOR_ROLE };
        reader.mistake(var, problem, format!("ASYA_ACTOR_ROLE={}, or unset", by_name.as_str()));
    }
    Actor { name, namespace, role, sink, sump }
}

fn broker(reader: &mut Reader<'_>, actor: &Actor) -> Broker {
    let kind = reader.choice(&vars::TRANSPORT);
    let rabbitmq = rabbitmq(reader, actor);
    let sqs = sqs(reader, actor);
    let socket = reader.path(&vars::EMBEDDED_SOCKET);
    match kind {
        Some(TransportKind::Embedded) => {
            if socket.is_none() && !reader.is_mistaken(&vars::EMBEDDED_SOCKET) {
                let problem = "is required with ASYA_TRANSPORT=embedded".to_owned();
                reader.mistake(&vars::EMBEDDED_SOCKET, problem, value::allowed(vars::EMBEDDED_SOCKET.kind));
            }
            Broker::Embedded { socket: socket.unwrap_or_default() }
        }
        Some(TransportKind::Sqs) => Broker::Sqs(Box::new(sqs)),
        Some(TransportKind::RabbitMq) | None => Broker::RabbitMq(Box::new(rabbitmq)),
    }
}

fn rabbitmq(reader: &mut Reader<'_>, actor: &Actor) -> RabbitMqConfig {
    let host = reader.text(&vars::RABBITMQ_HOST);
    let port = reader.count(&vars::RABBITMQ_PORT);
    let user = reader.text(&vars::RABBITMQ_USERNAME);
    let password = Password::new(reader.text(&vars::RABBITMQ_PASSWORD));
    let vhost = reader.text(&vars::RABBITMQ_VHOST);
    let mut config = match reader.amqp_url(&vars::RABBITMQ_URL) {
        None => RabbitMqConfig { host, port, user, password, vhost, ..RabbitMqConfig::default() },
        // What the URL leaves out (user, virtual host) still comes from the other variables; what it says wins.
        Some(url) => {
            for (var, said) in [
                (&vars::RABBITMQ_HOST, true),
                (&vars::RABBITMQ_PORT, true),
                (&vars::RABBITMQ_USERNAME, url.names_user),
                (&vars::RABBITMQ_PASSWORD, url.names_user),
                (&vars::RABBITMQ_VHOST, url.names_vhost),
            ] {
                // That Kubernetes has set a port by itself has been told already.
                if said && reader.is_set(var) && !reader.notes.iter().any(|note| note.variable == var.name) {
                    reader.note(var.name, "has no effect: ASYA_RABBITMQ_URL says it");
                }
            }
            let mut config = url.config;
            if !url.names_user {
                (config.user, config.password) = (user, password);
            }
            if !url.names_vhost {
                config.vhost = vhost;
            }
            config
        }
    };
    if let Some(ca_file) = reader.path(&vars::RABBITMQ_CA_FILE) {
        match &mut config.tls {
            Some(tls) => tls.ca_file = tls.ca_file.take().or(Some(ca_file)),
            None => reader.note(vars::RABBITMQ_CA_FILE.name, "has no effect without an amqps:// address"),
        }
    }
    let exchange = reader.text(&vars::RABBITMQ_EXCHANGE);
    if reader.flag(&vars::COMPAT_EXCHANGE).unwrap_or_default() {
        // Queues are bound by what is left of their name without this: the actor's bare name.
        config.compatibility = Some(Compatibility { exchange, prefix: queue_prefix(&actor.namespace) });
    }
    config.delay_prefix = queue_prefix(&actor.namespace);
    config.broker_consumer_timeout = reader.duration(&vars::RABBITMQ_CONSUMER_TIMEOUT);
    if config.connection_name == RabbitMqConfig::default().connection_name {
        config.connection_name = format!("asya {}/{}", actor.namespace, actor.name);
    }
    config
}

/// The shortest visibility timeout that can be kept: a quarter of it is for the way of a call, half of the rest for one
/// that fails.
const VISIBILITY_MIN: Duration = Duration::from_secs(4);

fn sqs(reader: &mut Reader<'_>, actor: &Actor) -> SqsConfig {
    let defaults = SqsConfig::default();
    let endpoint = Some(reader.text(&vars::SQS_ENDPOINT)).filter(|url| !url.is_empty());
    if let Some(url) = &endpoint
        && !["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
    {
        reader.mistake(&vars::SQS_ENDPOINT, "not an address".to_owned(), "http://host:port or https://host".to_owned());
    }
    let visibility = reader.duration(&vars::SQS_VISIBILITY_TIMEOUT);
    if !visibility.is_zero() && (visibility < VISIBILITY_MIN || visibility.subsec_nanos() > 0) {
        let allowed = "0s, or whole seconds from 4s to 12h".to_owned();
        reader.mistake(&vars::SQS_VISIBILITY_TIMEOUT, "SQS could not keep it".to_owned(), allowed);
    }
    let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    SqsConfig {
        endpoint,
        region: reader.text(&vars::AWS_REGION),
        visibility_timeout: if visibility.is_zero() { defaults.visibility_timeout } else { visibility },
        wait: Duration::from_secs(reader.number(&vars::SQS_WAIT_TIME_SECONDS).unwrap_or_default()),
        tags: vec![tag("asya.sh/managed-by", "asya"), tag("asya.sh/namespace", &actor.namespace)],
        actor_prefix: Some(format!("asya-{}-", actor.namespace)),
        ..defaults
    }
}

fn runtime(reader: &mut Reader<'_>) -> Runtime {
    let batch = Batch {
        size: reader.count(&vars::BATCH_SIZE),
        bytes: reader.number(&vars::BATCH_BYTES).unwrap_or_default(),
        wait: reader.duration(&vars::BATCH_WAIT),
    };
    if !batch.wait.is_zero() && batch.items_max() == 1 && !reader.is_mistaken(&vars::BATCH_SIZE) {
        reader.note(vars::BATCH_WAIT.name, "has no effect while ASYA_BATCH_SIZE is below 2");
    }
    Runtime {
        socket_dir: reader.path(&vars::SOCKET_DIR).unwrap_or_default(),
        workers: reader.count(&vars::WORKERS),
        concurrency: reader.count(&vars::CONCURRENCY),
        batch,
        call_timeout: reader.duration(&vars::ACTOR_TIMEOUT),
        ready_timeout: reader.duration(&vars::RUNTIME_READY_TIMEOUT),
    }
}

fn flow(reader: &mut Reader<'_>, runtime: &Runtime) -> FlowLimits {
    let window: u16 = reader.count(&vars::MAX_WINDOW);
    let prefetch = reader.number(&vars::RABBITMQ_PREFETCH).and_then(|n| u16::try_from(n).ok());
    let limits = FlowLimits {
        message_bytes_max: reader.number(&vars::MAX_MESSAGE_BYTES).unwrap_or_default(),
        memory_bytes_max: reader.number(&vars::MEMORY_BYTES).unwrap_or_default(),
        window_max: prefetch.map_or(window, |prefetch| prefetch.min(window)),
    };
    let memory_is_known = !reader.is_mistaken(&vars::MEMORY_BYTES) && !reader.is_mistaken(&vars::MAX_MESSAGE_BYTES);
    let least = limits.message_bytes_max.saturating_mul(2);
    // One message on its way in and one on its way out must fit together, or the largest could never be handled.
    if memory_is_known && limits.memory_bytes_max < least {
        let problem = format!(
            "{} is less than twice ASYA_MAX_MESSAGE_BYTES ({})",
            value::show_bytes(limits.memory_bytes_max),
            value::show_bytes(limits.message_bytes_max)
        );
        reader.mistake(&vars::MEMORY_BYTES, problem, format!("at least {}", value::show_bytes(least)));
    }
    let batch = runtime.batch.items_max();
    let window_is_known = !reader.is_mistaken(&vars::MAX_WINDOW)
        && !reader.is_mistaken(&vars::BATCH_SIZE)
        && !reader.is_mistaken(&vars::RABBITMQ_PREFETCH);
    if window_is_known && limits.window_max < batch {
        let var = if limits.window_max < window { &vars::RABBITMQ_PREFETCH } else { &vars::MAX_WINDOW };
        let problem = format!("a window of {} never fills a batch of {batch}", limits.window_max);
        reader.mistake(var, problem, format!("at least ASYA_BATCH_SIZE ({batch})"));
    }
    limits
}

fn resiliency(reader: &mut Reader<'_>, actor: &str) -> Resiliency {
    let policies = reader.policies(&vars::RESILIENCY_POLICIES);
    let rules = reader.rules(&vars::RESILIENCY_RULES);
    if !reader.is_mistaken(&vars::RESILIENCY_POLICIES) {
        for (name, _) in policies.iter().filter(|(_, p)| p.on_exhausted.first().is_some_and(|first| first == actor)) {
            let problem =
                format!("{name}.onExhausted sends what is exhausted to {actor}, where it would fail again for ever");
            reader.mistake(&vars::RESILIENCY_POLICIES, problem, "another actor".to_owned());
        }
        let known = || policies.keys().map(String::as_str);
        for rule in rules.iter().filter(|rule| !policies.contains_key(&rule.policy)) {
            let meant = near::nearest(&rule.policy, known()).map(|near| format!("; did you mean {near}?"));
            let problem = format!("there is no policy {:?}{}", rule.policy, meant.unwrap_or_default());
            let names: Vec<_> = known().collect();
            let allowed = match names.as_slice() {
                [] => "names of ASYA_RESILIENCY_POLICIES, which has none".to_owned(),
                names => names.join(", "),
            };
            reader.mistake(&vars::RESILIENCY_RULES, problem, allowed);
        }
    }
    Resiliency::new(policies, rules)
}
