//! Reads the flat specification, the main form.
//!
//! Takes the node of `spec`; gives an [`ActorSpec`]. Blocks on nothing. On failure: problems in the reader.

use crate::actor::{
    ActorSpec, Backoff, Batch, Bundle, Encoding, EnvVar, MetricType, Mount, Policy, PullPolicy, Resiliency, Rule,
    Scaling, ScalingAdvanced, SecretKey, SecretRef, Sidecar, StateProxy, Tracing,
};
use crate::names;
use crate::reader::{Fields, Reader};
use crate::yaml::{Node, Value};
use std::collections::BTreeMap;

/// Worker processes in one pod: each holds its own copy of the model, so that more is a slip.
const WORKERS_MAX: u32 = 256;
/// Calls at once in one worker: each holds room for one result.
const CONCURRENCY_MAX: u32 = 4_096;
/// Payloads in one call, and messages in one bundle: what the sidecar takes.
const ITEMS_MAX: u32 = 4_096;
/// Fragments that one actor may be put together from.
const FLAVORS_MAX: usize = 8;

const PULL_POLICIES: [(&str, PullPolicy); 3] =
    [("Always", PullPolicy::Always), ("IfNotPresent", PullPolicy::IfNotPresent), ("Never", PullPolicy::Never)];

/// Fields that people look for beside the one that they belong in.
const ELSEWHERE: &[(&str, &str)] = &[
    ("minReplicaCount", "scaling.minReplicaCount"),
    ("maxReplicaCount", "scaling.maxReplicaCount"),
    ("minReplicas", "scaling.minReplicaCount"),
    ("maxReplicas", "scaling.maxReplicaCount"),
    ("queueLength", "scaling.queueLength"),
    ("actorTimeout", "timeout"),
    ("retries", "resiliency.policies.default.maxAttempts"),
    ("policies", "resiliency.policies"),
    ("rules", "resiliency.rules"),
    ("batchSize", "batch.size"),
    ("command", "handler"),
    ("name", "actor"),
];

/// Reads the whole of `spec`. `name` is `metadata.name`, which names the actor where `spec.actor` does not.
pub(crate) fn spec(reader: &mut Reader, node: &Node, name: &str) -> ActorSpec {
    let Some(mut f) = reader.fields(node, "spec") else { return ActorSpec::default() };
    let timeout = f.try_read(reader, "timeout", Reader::duration);
    let resiliency = f.try_read(reader, "resiliency", resiliency);
    if timeout.is_some()
        && resiliency.as_ref().is_some_and(|r| r.actor_timeout.is_some_and(|other| Some(other) != timeout))
        && let Some(node) = f.peek("timeout")
    {
        reader.wrong(node.mark, "spec.timeout and spec.resiliency.actorTimeout differ", "give one of them".to_owned());
    }
    let spec = ActorSpec {
        actor: f.try_read(reader, "actor", names::actor).unwrap_or_else(|| name.to_owned()),
        handler: handler(reader, &mut f),
        python_executable: f.try_read(reader, "pythonExecutable", Reader::text),
        env: f.read(reader, "env", env).unwrap_or_default(),
        secret_refs: f.read(reader, "secretRefs", secret_refs).unwrap_or_default(),
        workers: f.try_read(reader, "workers", |r, n, p| r.number(n, p, 1..=WORKERS_MAX)),
        concurrency: f.try_read(reader, "concurrency", |r, n, p| r.number(n, p, 1..=CONCURRENCY_MAX)),
        batch: f.try_read(reader, "batch", batch),
        timeout,
        bundling: f.read(reader, "bundling", bundling).unwrap_or_default(),
        encoding: f.try_read(reader, "encoding", encoding),
        resiliency,
        image: f.try_read(reader, "image", Reader::text),
        image_pull_policy: f.try_read(reader, "imagePullPolicy", pull_policy),
        replicas: f.try_read(reader, "replicas", any_count),
        scaling: f.try_read(reader, "scaling", scaling),
        flavors: f.read(reader, "flavors", flavors).unwrap_or_default(),
        transport: f.try_read(reader, "transport", Reader::text),
        state_proxy: f.read(reader, "stateProxy", state_proxies).unwrap_or_default(),
        sidecar: f.try_read(reader, "sidecar", sidecar),
        tracing: f.try_read(reader, "tracing", tracing),
        graceful_shutdown: f.try_read(reader, "gracefulShutdown", Reader::duration),
        resources: f.try_read(reader, "resources", Reader::opaque_map),
        tolerations: f.read(reader, "tolerations", Reader::opaque_list).unwrap_or_default(),
        node_selector: f.read(reader, "nodeSelector", Reader::text_map).unwrap_or_default(),
        volumes: f.read(reader, "volumes", Reader::opaque_list).unwrap_or_default(),
        volume_mounts: f.read(reader, "volumeMounts", Reader::opaque_list).unwrap_or_default(),
        init_containers: f.read(reader, "initContainers", Reader::opaque_list).unwrap_or_default(),
        sidecars: f.read(reader, "sidecars", Reader::opaque_list).unwrap_or_default(),
        pod_template: f.try_read(reader, "podTemplate", Reader::opaque_map),
    };
    f.finish(reader, ELSEWHERE);
    spec
}

fn handler(reader: &mut Reader, f: &mut Fields<'_>) -> String {
    match f.get("handler") {
        Some(node) => names::handler(reader, node, "spec.handler").unwrap_or_default(),
        None => {
            // A misspelt `handler` is reported as such; that it is also missing would say the same twice.
            if !f.has_nearly("handler") {
                f.missing(reader, "handler", "name a function: module.function or module.Class.method");
            }
            String::new()
        }
    }
}

/// Variables, as in a container.
pub(crate) fn env(reader: &mut Reader, node: &Node, path: &str) -> Vec<EnvVar> {
    let mut vars: Vec<EnvVar> = Vec::new();
    for (i, item) in reader.list(node, path).iter().enumerate() {
        let Some(mut f) = reader.fields(item, &format!("{path}[{i}]")) else { continue };
        let name = f.try_read(reader, "name", Reader::text);
        let value = f.try_read(reader, "value", Reader::text);
        let value_from = f.try_read(reader, "valueFrom", Reader::opaque_map);
        if value.is_some() && value_from.is_some() {
            reader.wrong(item.mark, "a variable has either value or valueFrom", None);
        }
        match name {
            Some(name) if vars.iter().any(|v| v.name == name) => {
                reader.wrong(item.mark, format!("{path} gives {name} twice"), None);
            }
            Some(name) => vars.push(EnvVar { name, value, value_from }),
            None if f.peek("name").is_none() => f.missing(reader, "name", "write - name: NAME and value: TEXT"),
            None => {}
        }
        f.finish(reader, &[]);
    }
    vars
}

fn secret_refs(reader: &mut Reader, node: &Node, path: &str) -> Vec<SecretRef> {
    let mut refs = Vec::new();
    for (i, item) in reader.list(node, path).iter().enumerate() {
        let Some(mut f) = reader.fields(item, &format!("{path}[{i}]")) else { continue };
        let secret_name = required_text(reader, &mut f, "secretName");
        let keys = f.read(reader, "keys", secret_keys).unwrap_or_default();
        f.finish(reader, &[]);
        refs.extend(secret_name.map(|secret_name| SecretRef { secret_name, keys }));
    }
    refs
}

fn secret_keys(reader: &mut Reader, node: &Node, path: &str) -> Vec<SecretKey> {
    let mut keys = Vec::new();
    for (i, item) in reader.list(node, path).iter().enumerate() {
        let Some(mut f) = reader.fields(item, &format!("{path}[{i}]")) else { continue };
        let key = required_text(reader, &mut f, "key");
        let env_var = required_text(reader, &mut f, "envVar");
        f.finish(reader, &[]);
        keys.extend(key.zip(env_var).map(|(key, env_var)| SecretKey { key, env_var }));
    }
    keys
}

fn batch(reader: &mut Reader, node: &Node, path: &str) -> Option<Batch> {
    // `batch: 32` is what people write first.
    if let Value::Int(_) = node.value {
        let size = reader.number(node, path, 1..=ITEMS_MAX)?;
        return Some(Batch { size, bytes: None, wait: None });
    }
    let mut f = reader.fields(node, path)?;
    let size = f.try_read(reader, "size", |r, n, p| r.number(n, p, 1..=ITEMS_MAX));
    if f.peek("size").is_none() && !f.has_nearly("size") {
        f.missing(reader, "size", "the most payloads in one call, such as size: 32");
    }
    let bytes = f.try_read(reader, "bytes", Reader::bytes);
    let wait = f.try_read(reader, "wait", Reader::duration);
    f.finish(reader, &[]);
    size.map(|size| Batch { size, bytes, wait })
}

fn bundling(reader: &mut Reader, node: &Node, path: &str) -> BTreeMap<String, Bundle> {
    by_destination(reader, node, path, |reader, node, path| {
        let mut f = reader.fields(node, path)?;
        let items = f.try_read(reader, "items", |r, n, p| r.number(n, p, 1..=ITEMS_MAX));
        if f.peek("items").is_none() && !f.has_nearly("items") {
            f.missing(reader, "items", "the most messages in one bundle, such as items: 64");
        }
        let bytes = f.try_read(reader, "bytes", Reader::bytes);
        f.finish(reader, &[]);
        items.map(|items| Bundle { items, bytes })
    })
}

fn encoding(reader: &mut Reader, node: &Node, path: &str) -> Option<Encoding> {
    let choices = [("as-it-arrived", Encoding::AsItArrived), ("json", Encoding::Json), ("native", Encoding::Native)];
    reader.one_of(node, path, &choices)
}

fn by_destination<T>(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    mut read: impl FnMut(&mut Reader, &Node, &str) -> Option<T>,
) -> BTreeMap<String, T> {
    let Value::Map(entries) = &node.value else {
        let help = format!("write {}: {{ACTOR: …}}", path.rsplit('.').next().unwrap_or(path));
        reader.wrong(node.mark, format!("{path} is given by destination actor"), help);
        return BTreeMap::new();
    };
    let mut read_entry = |reader: &mut Reader, entry: &crate::yaml::Entry| {
        if let Err(why) = names::check_actor(&entry.key) {
            reader.wrong(entry.mark, format!("{path}: \"{}\" is no actor: {why}", entry.key), None);
        }
        read(reader, &entry.value, &format!("{path}.{}", entry.key)).map(|value| (entry.key.clone(), value))
    };
    entries.iter().filter_map(|entry| read_entry(reader, entry)).collect()
}

fn resiliency(reader: &mut Reader, node: &Node, path: &str) -> Option<Resiliency> {
    let mut f = reader.fields(node, path)?;
    let actor_timeout = f.try_read(reader, "actorTimeout", Reader::duration);
    let policies = f.read(reader, "policies", policies).unwrap_or_default();
    let rules = f.read(reader, "rules", |r, n, p| rules(r, n, p, &policies)).unwrap_or_default();
    f.finish(reader, &[("timeout", "actorTimeout"), ("maxAttempts", "policies.default.maxAttempts")]);
    Some(Resiliency { actor_timeout, policies, rules })
}

fn policies(reader: &mut Reader, node: &Node, path: &str) -> BTreeMap<String, Policy> {
    let Value::Map(entries) = &node.value else {
        reader.wrong(node.mark, format!("{path} must be a mapping from names to policies"), None);
        return BTreeMap::new();
    };
    entries
        .iter()
        .filter_map(|e| Some((e.key.clone(), policy(reader, &e.value, &format!("{path}.{}", e.key))?)))
        .collect()
}

fn policy(reader: &mut Reader, node: &Node, path: &str) -> Option<Policy> {
    let mut f = reader.fields(node, path)?;
    let growth = [("constant", Backoff::Constant), ("linear", Backoff::Linear), ("exponential", Backoff::Exponential)];
    let mut on_exhausted = f.read(reader, "onExhausted", actors).unwrap_or_default();
    // The name that the same field had for a while.
    on_exhausted.extend(f.read(reader, "thenRoute", actors).unwrap_or_default());
    let policy = Policy {
        max_attempts: f.try_read(reader, "maxAttempts", |r, n, p| r.number(n, p, 1..=u32::MAX)),
        backoff: f.try_read(reader, "backoff", |r, n, p| r.one_of(n, p, &growth)),
        initial_delay: f.try_read(reader, "initialDelay", Reader::duration),
        max_interval: f.try_read(reader, "maxInterval", Reader::duration),
        max_duration: f.try_read(reader, "maxDuration", Reader::duration),
        jitter: f.try_read(reader, "jitter", Reader::flag),
        on_exhausted,
    };
    f.finish(reader, &[]);
    Some(policy)
}

fn actors(reader: &mut Reader, node: &Node, path: &str) -> Vec<String> {
    reader.list(node, path).iter().filter_map(|item| names::actor(reader, item, path)).collect()
}

fn rules(reader: &mut Reader, node: &Node, path: &str, policies: &BTreeMap<String, Policy>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (i, item) in reader.list(node, path).iter().enumerate() {
        let Some(mut f) = reader.fields(item, &format!("{path}[{i}]")) else { continue };
        let errors = f.read(reader, "errors", text_list).unwrap_or_default();
        if f.peek("errors").is_none() {
            f.missing(reader, "errors", "name Python exceptions, such as errors: [ValueError, pkg.Error]");
        }
        let choices: Vec<(&str, &str)> = policies.keys().map(|name| (name.as_str(), name.as_str())).collect();
        let policy = f.try_read(reader, "policy", |r, n, p| r.one_of(n, p, &choices)).map(str::to_owned);
        if f.peek("policy").is_none() {
            f.missing(reader, "policy", "name one of resiliency.policies");
        }
        f.finish(reader, &[]);
        rules.extend(policy.map(|policy| Rule { errors, policy }));
    }
    rules
}

fn scaling(reader: &mut Reader, node: &Node, path: &str) -> Option<Scaling> {
    let mut f = reader.fields(node, path)?;
    let scaling = Scaling {
        enabled: f.try_read(reader, "enabled", Reader::flag),
        min_replica_count: f.try_read(reader, "minReplicaCount", any_count),
        max_replica_count: f.try_read(reader, "maxReplicaCount", count),
        polling_interval: f.try_read(reader, "pollingInterval", count),
        cooldown_period: f.try_read(reader, "cooldownPeriod", any_count),
        queue_length: f.try_read(reader, "queueLength", count),
        additional_triggers: f.read(reader, "additionalTriggers", Reader::opaque_list).unwrap_or_default(),
        advanced: f.try_read(reader, "advanced", scaling_advanced),
    };
    f.finish(reader, &[("minReplicas", "minReplicaCount"), ("maxReplicas", "maxReplicaCount")]);
    check_replicas(reader, node, &scaling);
    Some(scaling)
}

/// The least must not be above the most.
pub(crate) fn check_replicas(reader: &mut Reader, node: &Node, scaling: &Scaling) {
    if let (Some(least), Some(most)) = (scaling.min_replica_count, scaling.max_replica_count)
        && least > most
    {
        reader.wrong(node.mark, format!("the least number of replicas ({least}) is above the most ({most})"), None);
    }
}

pub(crate) fn scaling_advanced(reader: &mut Reader, node: &Node, path: &str) -> Option<ScalingAdvanced> {
    let mut f = reader.fields(node, path)?;
    let types = [
        ("AverageValue", MetricType::AverageValue),
        ("Value", MetricType::Value),
        ("Utilization", MetricType::Utilization),
    ];
    let advanced = ScalingAdvanced {
        restore_to_original_replica_count: f.try_read(reader, "restoreToOriginalReplicaCount", Reader::flag),
        formula: f.try_read(reader, "formula", Reader::text),
        target: f.try_read(reader, "target", Reader::text),
        activation_target: f.try_read(reader, "activationTarget", Reader::text),
        metric_type: f.try_read(reader, "metricType", |r, n, p| r.one_of(n, p, &types)),
    };
    f.finish(reader, &[]);
    Some(advanced)
}

fn flavors(reader: &mut Reader, node: &Node, path: &str) -> Vec<String> {
    let flavors = text_list(reader, node, path);
    if flavors.len() > FLAVORS_MAX {
        reader.wrong(node.mark, format!("{path} names {} flavors; at most {FLAVORS_MAX}", flavors.len()), None);
    }
    flavors
}

fn state_proxies(reader: &mut Reader, node: &Node, path: &str) -> Vec<StateProxy> {
    let mut proxies = Vec::new();
    for (i, item) in reader.list(node, path).iter().enumerate() {
        let Some(mut f) = reader.fields(item, &format!("{path}[{i}]")) else { continue };
        let name = required_text(reader, &mut f, "name");
        let mount = f.try_read(reader, "mount", |reader, node, path| {
            let mut f = reader.fields(node, path)?;
            let mount = required_text(reader, &mut f, "path");
            f.finish(reader, &[]);
            mount
        });
        if f.peek("mount").is_none() {
            f.missing(reader, "mount", "write mount: {path: /state/x}");
        }
        let write_mode = f.try_read(reader, "writeMode", Reader::text);
        let connector = f.try_read(reader, "connector", Reader::opaque_map).unwrap_or_default();
        f.finish(reader, &[]);
        proxies.extend(name.zip(mount).map(|(name, path)| StateProxy {
            name,
            mount: Mount { path },
            write_mode,
            connector,
        }));
    }
    proxies
}

/// The sidecar's container; its image is one reference or, in newer manifests, three parts.
pub(crate) fn sidecar(reader: &mut Reader, node: &Node, path: &str) -> Option<Sidecar> {
    let mut f = reader.fields(node, path)?;
    let mut policy = f.try_read(reader, "imagePullPolicy", pull_policy);
    let image = f.try_read(reader, "image", |reader, node, path| {
        if node.as_str().is_some() {
            return reader.text(node, path);
        }
        let mut f = reader.fields(node, path)?;
        let repository = f.try_read(reader, "repository", Reader::text);
        let tag = f.try_read(reader, "tag", Reader::text);
        policy = f.try_read(reader, "pullPolicy", pull_policy).or(policy);
        f.finish(reader, &[]);
        repository.map(|repository| tag.map_or_else(|| repository.clone(), |tag| format!("{repository}:{tag}")))
    });
    let sidecar = Sidecar {
        // The older manifests' way to say "the default".
        image: image.filter(|image| !image.is_empty()),
        image_pull_policy: policy,
        env: f.read(reader, "env", env).unwrap_or_default(),
        resources: f.try_read(reader, "resources", Reader::opaque_map),
    };
    f.finish(reader, &[]);
    Some(sidecar)
}

fn tracing(reader: &mut Reader, node: &Node, path: &str) -> Option<Tracing> {
    let mut f = reader.fields(node, path)?;
    let tracing = Tracing {
        endpoint: f.try_read(reader, "endpoint", Reader::text),
        protocol: f.try_read(reader, "protocol", Reader::text),
    };
    f.finish(reader, &[]);
    Some(tracing)
}

pub(crate) fn pull_policy(reader: &mut Reader, node: &Node, path: &str) -> Option<PullPolicy> {
    reader.one_of(node, path, &PULL_POLICIES)
}

/// A number from 1.
pub(crate) fn count(reader: &mut Reader, node: &Node, path: &str) -> Option<u32> {
    reader.number(node, path, 1..=u32::MAX)
}

/// A number from 0.
pub(crate) fn any_count(reader: &mut Reader, node: &Node, path: &str) -> Option<u32> {
    reader.number(node, path, 0..=u32::MAX)
}

fn text_list(reader: &mut Reader, node: &Node, path: &str) -> Vec<String> {
    reader.list(node, path).iter().filter_map(|item| reader.text(item, path)).collect()
}

fn required_text(reader: &mut Reader, f: &mut Fields<'_>, field: &'static str) -> Option<String> {
    if f.peek(field).is_none() && !f.has_nearly(field) {
        f.missing(reader, field, "it is required");
    }
    f.try_read(reader, field, Reader::text)
}
