//! The variables that an actor's two processes get.
//!
//! Takes an actor and where it runs; gives names and values. Pure: reads no environment of its own. Cannot fail.

use crate::actor::{AsyncActor, Encoding};
use std::collections::BTreeMap;

/// Actors that end messages.
const SINKS: [&str; 4] = ["x-sink", "x-sump", "happy-end", "error-end"];

/// Where an actor runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// In the names of its queues.
    pub namespace: &'a str,
    /// The broker.
    pub broker: Broker<'a>,
    /// Folder of the socket that sidecar and runtime share.
    pub socket_dir: &'a str,
    /// Where the sidecar's metrics and health pages listen.
    pub metrics_addr: &'a str,
}

/// A broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker<'a> {
    /// The one inside `asya run`.
    Embedded {
        /// Its Unix socket.
        socket: &'a str,
    },
    /// RabbitMQ.
    RabbitMq {
        /// `amqp://` or `amqps://`; `None` where the variables come from elsewhere (a Secret).
        url: Option<&'a str>,
    },
    /// SQS.
    Sqs {
        /// The region; `None` where the variable comes from elsewhere.
        region: Option<&'a str>,
        /// Where it is, unless it is AWS's own.
        endpoint: Option<&'a str>,
    },
}

/// A variable of the handler whose value only a cluster has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FromCluster {
    /// The variable.
    pub variable: String,
    /// Where the cluster takes it from, for people.
    pub source: String,
}

/// The sidecar's variables.
pub fn sidecar(actor: &AsyncActor, place: &Place<'_>) -> BTreeMap<String, String> {
    let spec = &actor.spec;
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    set("ASYA_ACTOR_NAME", actor.name().to_owned());
    set("ASYA_NAMESPACE", place.namespace.to_owned());
    set("ASYA_SOCKET_DIR", place.socket_dir.to_owned());
    set("ASYA_METRICS_ADDR", place.metrics_addr.to_owned());
    match place.broker {
        Broker::Embedded { socket } => {
            set("ASYA_TRANSPORT", "embedded".to_owned());
            set("ASYA_EMBEDDED_SOCKET", socket.to_owned());
        }
        Broker::RabbitMq { url } => {
            set("ASYA_TRANSPORT", "rabbitmq".to_owned());
            url.map(|url| set("ASYA_RABBITMQ_URL", url.to_owned()));
        }
        Broker::Sqs { region, endpoint } => {
            set("ASYA_TRANSPORT", "sqs".to_owned());
            region.map(|region| set("ASYA_AWS_REGION", region.to_owned()));
            endpoint.map(|endpoint| set("ASYA_SQS_ENDPOINT", endpoint.to_owned()));
        }
    }
    if SINKS.contains(&actor.name()) {
        set("ASYA_IS_END_ACTOR", "true".to_owned());
    }
    set("ASYA_WORKERS", actor.workers().to_string());
    spec.concurrency.map(|n| set("ASYA_CONCURRENCY", n.to_string()));
    if let Some(batch) = spec.batch {
        set("ASYA_BATCH_SIZE", batch.size.to_string());
        batch.bytes.map(|bytes| set("ASYA_BATCH_BYTES", bytes.0.to_string()));
        batch.wait.map(|wait| set("ASYA_BATCH_WAIT", wait.to_string()));
    }
    actor.timeout().map(|timeout| set("ASYA_RESILIENCY_ACTOR_TIMEOUT", timeout.to_string()));
    spec.graceful_shutdown.map(|grace| set("ASYA_GRACE_PERIOD", grace.to_string()));
    spec.encoding.map(|encoding| {
        let name = match encoding {
            Encoding::AsItArrived => "as-it-arrived",
            Encoding::Json => "json",
            Encoding::Native => "native",
        };
        set("ASYA_ENCODING", name.to_owned())
    });
    if let Some(resiliency) = &spec.resiliency {
        if !resiliency.policies.is_empty() {
            set("ASYA_RESILIENCY_POLICIES", json(&resiliency.policies));
        }
        if !resiliency.rules.is_empty() {
            set("ASYA_RESILIENCY_RULES", json(&resiliency.rules));
        }
    }
    if let Some(tracing) = &spec.tracing {
        tracing.endpoint.as_ref().map(|endpoint| set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.clone()));
        tracing.protocol.as_ref().map(|protocol| set("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.clone()));
    }
    // Last, so that they win: the way to reach a setting that has no field.
    let more = spec.sidecar.iter().flat_map(|sidecar| &sidecar.env);
    env.extend(more.filter_map(|var| Some((var.name.clone(), var.value.clone()?))));
    env
}

/// The runtime's variables, less those of [`from_cluster`].
pub fn runtime(actor: &AsyncActor, socket_dir: &str) -> BTreeMap<String, String> {
    let written = actor.spec.env.iter().filter(|var| var.value_from.is_none());
    let mut env: BTreeMap<String, String> =
        written.map(|var| (var.name.clone(), var.value.clone().unwrap_or_default())).collect();
    // After the user's own, so that nothing can come between the two halves of an actor.
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    set("ASYA_HANDLER", actor.spec.handler.clone());
    set("ASYA_ACTOR_NAME", actor.name().to_owned());
    set("ASYA_SOCKET_DIR", socket_dir.to_owned());
    actor.spec.concurrency.map(|n| set("ASYA_CONCURRENCY", n.to_string()));
    actor.spec.batch.map(|batch| set("ASYA_BATCH_SIZE", batch.size.to_string()));
    actor.spec.graceful_shutdown.map(|grace| set("ASYA_GRACE_PERIOD", grace.to_string()));
    env
}

/// The runtime's variables whose values only a cluster has: elsewhere somebody must give them.
pub fn from_cluster(actor: &AsyncActor) -> Vec<FromCluster> {
    let referenced = actor.spec.env.iter().filter_map(|var| {
        let source = var.value_from.as_ref()?;
        Some(FromCluster { variable: var.name.clone(), source: describe(source) })
    });
    let secrets = actor.spec.secret_refs.iter().flat_map(|secret| {
        secret.keys.iter().map(|key| FromCluster {
            variable: key.env_var.clone(),
            source: format!("key {} of the secret {}", key.key, secret.secret_name),
        })
    });
    referenced.chain(secrets).collect()
}

fn describe(source: &serde_json::Value) -> String {
    let reference = |kind: &str| {
        let text = |field: &str| source.get(kind)?.get(field)?.as_str();
        Some((text("name")?, text("key")?))
    };
    if let Some((name, key)) = reference("secretKeyRef") {
        format!("key {key} of the secret {name}")
    } else if let Some((name, key)) = reference("configMapKeyRef") {
        format!("key {key} of the config map {name}")
    } else {
        source.to_string()
    }
}

/// Serialising these types cannot fail: they hold text, numbers and lists, under text keys.
fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Fields of this actor that do nothing outside a cluster, by the names that they have in the flat form.
pub fn cluster_only(actor: &AsyncActor) -> Vec<&'static str> {
    let spec = &actor.spec;
    let sidecar = spec.sidecar.as_ref();
    let used = [
        ("image", spec.image.is_some()),
        ("imagePullPolicy", spec.image_pull_policy.is_some()),
        ("pythonExecutable", spec.python_executable.is_some()),
        ("replicas", spec.replicas.is_some()),
        ("scaling", spec.scaling.is_some()),
        ("flavors", !spec.flavors.is_empty()),
        ("transport", spec.transport.is_some()),
        ("stateProxy", !spec.state_proxy.is_empty()),
        ("sidecar.image", sidecar.is_some_and(|s| s.image.is_some() || s.image_pull_policy.is_some())),
        ("sidecar.resources", sidecar.is_some_and(|s| s.resources.is_some())),
        ("resources", spec.resources.is_some()),
        ("tolerations", !spec.tolerations.is_empty()),
        ("nodeSelector", !spec.node_selector.is_empty()),
        ("volumes", !spec.volumes.is_empty()),
        ("volumeMounts", !spec.volume_mounts.is_empty()),
        ("initContainers", !spec.init_containers.is_empty()),
        ("sidecars", !spec.sidecars.is_empty()),
        ("podTemplate", spec.pod_template.is_some()),
    ];
    used.into_iter().filter(|(_, used)| *used).map(|(name, _)| name).collect()
}

/// Fields of this actor that are understood and checked, and that no sidecar acts on yet.
pub fn without_effect(actor: &AsyncActor) -> Vec<&'static str> {
    let used = [("bundling", !actor.spec.bundling.is_empty()), ("tracing", actor.spec.tracing.is_some())];
    used.into_iter().filter(|(_, used)| *used).map(|(name, _)| name).collect()
}
