//! What a manifest says, as types.
//!
//! Takes nothing, gives the types that the operator, `asya run` and the CRD generator share. Parts that belong to
//! Kubernetes (resources, tolerations, volumes, …) are kept as they were written.

use crate::units::{ByteSize, GoDuration};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The only version there is.
pub const API_VERSION: &str = "asya.sh/v1alpha1";
/// The only kind there is.
pub const KIND: &str = "AsyncActor";

/// One actor: a queue, a handler, and how to run them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AsyncActor {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// Names and labels.
    pub metadata: Metadata,
    /// What to run.
    pub spec: ActorSpec,
}

impl AsyncActor {
    /// The actor's name, which also names its queue.
    pub fn name(&self) -> &str {
        &self.spec.actor
    }

    /// The most that one call of the handler may take, where the manifest says.
    pub fn timeout(&self) -> Option<GoDuration> {
        self.spec.timeout.or_else(|| self.spec.resiliency.as_ref().and_then(|r| r.actor_timeout))
    }

    /// Worker processes of one pod.
    pub fn workers(&self) -> u32 {
        self.spec.workers.unwrap_or(1)
    }
}

/// The part of Kubernetes' object metadata that matters here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name of the object.
    pub name: String,
    /// Its namespace, which also is in the names of its queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels, passed on to everything made from it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The specification, in its flat form. The older nested form is translated into it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ActorSpec {
    /// Names the queue; a DNS label.
    pub actor: String,
    /// `module.function` or `module.Class.method`.
    pub handler: String,
    /// Which Python runs it in the container. Default: `python3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python_executable: Option<String>,
    /// Variables of the handler's process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Variables that come from secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret_refs: Vec<SecretRef>,

    /// Worker processes of one pod, each with its own copy of the handler. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Calls that run at once in one worker. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Hands the handler lists of payloads instead of single ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// The most that one call may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// Results that are ready together travel as one broker message, by destination.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bundling: BTreeMap<String, Bundle>,
    /// How results are encoded. Default: as the message arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// Retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resiliency: Option<Resiliency>,

    /// Container image of the handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When to pull it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Pods, when scaling is off. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How the number of pods follows the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Names of reusable fragments of this specification; at most eight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flavors: Vec<String>,
    /// The operator's transport to use, where it offers several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Files that a handler sees and a store keeps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub state_proxy: Vec<StateProxy>,
    /// The sidecar's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
    /// Where traces go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// How long a pod may take to finish what it holds when it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graceful_shutdown: Option<GoDuration>,

    /// The handler's container: requests and limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Value>,
    /// Of the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Value>,
    /// Of the pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Of the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Value>,
    /// Of the handler's container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<Value>,
    /// Of the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Value>,
    /// More containers of the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sidecars: Vec<Value>,
    /// What else the older form's pod template says, merged into the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<Value>,
}

/// One variable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where in the cluster its value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<Value>,
}

/// One secret and the variables that its keys become.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Name of the Secret.
    pub secret_name: String,
    /// Its keys.
    pub keys: Vec<SecretKey>,
}

/// One key of a secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// The key.
    pub key: String,
    /// The variable that it becomes.
    pub env_var: String,
}

/// When a batch is handed over: at whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// The most payloads in one call.
    pub size: u32,
    /// The most bytes in one call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteSize>,
    /// How long the first payload may wait for others. Default: not at all; a batch is what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<GoDuration>,
}

/// How much may travel together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bundle {
    /// The most messages in one bundle.
    pub items: u32,
    /// The most bytes in one bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteSize>,
}

/// How results are encoded; binary parts always make them native.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// As the message arrived.
    AsItArrived,
    /// For people, scripts and older peers.
    Json,
    /// Payload first, binary parts as they are.
    Native,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// For every pod.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Never.
    Never,
}

/// How the number of pods follows the queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Scaling {
    /// Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replica_count: Option<u32>,
    /// Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replica_count: Option<u32>,
    /// Seconds between looks at the queue. Default: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polling_interval: Option<u32>,
    /// Seconds without work before the last pod goes. Default: 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_period: Option<u32>,
    /// Messages in the queue for each pod. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<u32>,
    /// More KEDA triggers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_triggers: Vec<Value>,
    /// KEDA's scaling modifiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advanced: Option<ScalingAdvanced>,
}

/// KEDA's scaling modifiers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScalingAdvanced {
    /// Go back to the first number of pods when scaling is taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_to_original_replica_count: Option<bool>,
    /// Formula over the triggers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formula: Option<String>,
    /// Its target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// From which value on it is active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_target: Option<String>,
    /// What the target means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_type: Option<MetricType>,
}

/// What a scaling target means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetricType {
    /// Per pod.
    AverageValue,
    /// In all.
    Value,
    /// Percent of the pods' requests.
    Utilization,
}

/// Timeout and retries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resiliency {
    /// The most that one call may take; the same as [`ActorSpec::timeout`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor_timeout: Option<GoDuration>,
    /// Retry policies by name; `default` is for errors that no rule names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<String, Policy>,
    /// Which errors get which policy; the first match wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// One retry policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// Attempts in all, the first one counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How the delay grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// Before the first retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<GoDuration>,
    /// The longest delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<GoDuration>,
    /// No retry later than this after the first attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<GoDuration>,
    /// Spread the delays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<bool>,
    /// Actors that take the message when no attempt is left; none = the failure sink.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_exhausted: Vec<String>,
}

/// How the delay between attempts grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// Not at all.
    Constant,
    /// By the initial delay each time.
    Linear,
    /// Doubled each time.
    Exponential,
}

/// Which errors get which policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Names of Python exceptions; a base class matches what derives from it.
    pub errors: Vec<String>,
    /// Name of the policy.
    pub policy: String,
}

/// One mounted store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StateProxy {
    /// Its name.
    pub name: String,
    /// Where the handler sees it.
    pub mount: Mount,
    /// When writes reach the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_mode: Option<String>,
    /// The container that talks to the store.
    pub connector: Value,
}

/// A path in the handler's container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Absolute.
    pub path: String,
}

/// The sidecar's container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sidecar {
    /// Its image, as one reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When to pull it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// More variables of the sidecar; they win over what the rest of the manifest gives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Requests and limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Value>,
}

/// Where traces go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tracing {
    /// Of the collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `grpc` or `http/protobuf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}
