//! Reads the older nested specification (`spec.workload.template…`) and translates it into the flat one.
//!
//! Takes the node of `spec`; gives an [`ActorSpec`] that means the same. Blocks on nothing. On failure: problems in
//! the reader, at the places of the older form.

use crate::actor::{ActorSpec, EnvVar, Scaling};
use crate::flat;
use crate::names;
use crate::reader::{Fields, Reader};
use crate::units::GoDuration;
use crate::yaml::{Node, Value};
use std::time::Duration;

/// The container that runs the handler.
const RUNTIME: &str = "asya-runtime";
/// The container that is added.
const SIDECAR: &str = "asya-sidecar";
/// Holds the handler's name in the older form.
const HANDLER: &str = "ASYA_HANDLER";

/// Fields of the flat form, for those who mix the two.
const ELSEWHERE: &[(&str, &str)] = &[
    ("handler", "env ASYA_HANDLER of the container asya-runtime, or the flat form without workload"),
    ("image", "image of the container asya-runtime, or the flat form without workload"),
    ("resiliency", "timeout.processing, or the flat form without workload"),
    ("workers", "the flat form without workload"),
    ("batch", "the flat form without workload"),
];

/// Reads the whole of `spec`. `name` is `metadata.name`, which names the actor.
pub(crate) fn spec(reader: &mut Reader, node: &Node, name: &str) -> ActorSpec {
    let Some(mut f) = reader.fields(node, "spec") else { return ActorSpec::default() };
    let mut spec = ActorSpec { actor: name.to_owned(), ..ActorSpec::default() };
    spec.transport = f.try_read(reader, "transport", Reader::text);
    spec.sidecar = f.try_read(reader, "sidecar", flat::sidecar);
    f.read(reader, "timeout", |reader, node, path| timeout(reader, node, path, &mut spec));
    spec.scaling = f.try_read(reader, "scaling", scaling);
    f.read(reader, "workload", |reader, node, path| workload(reader, node, path, &mut spec));
    f.finish(reader, ELSEWHERE);
    spec
}

fn timeout(reader: &mut Reader, node: &Node, path: &str, spec: &mut ActorSpec) {
    let Some(mut f) = reader.fields(node, path) else { return };
    spec.timeout = f.try_read(reader, "processing", seconds);
    spec.graceful_shutdown = f.try_read(reader, "gracefulShutdown", seconds);
    f.finish(reader, &[]);
}

/// The older form counts in seconds; a duration with a unit is understood as well.
fn seconds(reader: &mut Reader, node: &Node, path: &str) -> Option<GoDuration> {
    match node.value {
        Value::Int(_) => flat::count(reader, node, path).map(|s| GoDuration(Duration::from_secs(s.into()))),
        _ => reader.duration(node, path),
    }
}

fn scaling(reader: &mut Reader, node: &Node, path: &str) -> Option<Scaling> {
    let mut f = reader.fields(node, path)?;
    let scaling = Scaling {
        enabled: f.try_read(reader, "enabled", Reader::flag),
        min_replica_count: f.try_read(reader, "minReplicas", flat::any_count),
        max_replica_count: f.try_read(reader, "maxReplicas", flat::count),
        polling_interval: f.try_read(reader, "pollingInterval", flat::count),
        cooldown_period: f.try_read(reader, "cooldownPeriod", flat::any_count),
        queue_length: f.try_read(reader, "queueLength", flat::count),
        additional_triggers: Vec::new(),
        advanced: f.try_read(reader, "advanced", flat::scaling_advanced),
    };
    f.finish(reader, &[("minReplicaCount", "minReplicas"), ("maxReplicaCount", "maxReplicas")]);
    flat::check_replicas(reader, node, &scaling);
    Some(scaling)
}

fn workload(reader: &mut Reader, node: &Node, path: &str, spec: &mut ActorSpec) {
    let Some(mut f) = reader.fields(node, path) else { return };
    let kinds = [("Deployment", ())];
    f.try_read(reader, "kind", |r, n, p| r.one_of(n, p, &kinds));
    spec.replicas = f.try_read(reader, "replicas", flat::any_count);
    spec.python_executable = f.try_read(reader, "pythonExecutable", Reader::text);
    if f.peek("template").is_none() && !f.has_nearly("template") {
        f.missing(reader, "template", &format!("a pod template with one container named {RUNTIME}"));
    }
    f.read(reader, "template", |reader, node, path| template(reader, node, path, spec));
    f.finish(reader, &[]);
}

/// The pod template. What the flat form has a field for moves there; the rest stays, for the pod to be merged with.
fn template(reader: &mut Reader, node: &Node, path: &str, spec: &mut ActorSpec) {
    let pod_path = format!("{path}.spec");
    let Some(pod) = node.get("spec") else {
        reader.wrong(node.mark, format!("{pod_path} is missing"), format!("a pod with one container named {RUNTIME}"));
        return;
    };
    let Some(mut f) = reader.fields(pod, &pod_path) else { return };
    spec.tolerations = f.read(reader, "tolerations", Reader::opaque_list).unwrap_or_default();
    spec.node_selector = f.read(reader, "nodeSelector", Reader::text_map).unwrap_or_default();
    spec.volumes = f.read(reader, "volumes", Reader::opaque_list).unwrap_or_default();
    spec.init_containers = f.read(reader, "initContainers", Reader::opaque_list).unwrap_or_default();
    f.read(reader, "containers", |reader, node, path| containers(reader, node, path, spec));
    if f.peek("containers").is_none() {
        f.missing(reader, "containers", &format!("one container named {RUNTIME}"));
    }
    spec.pod_template = rest(node, &f);
}

fn containers(reader: &mut Reader, node: &Node, path: &str, spec: &mut ActorSpec) {
    let containers = reader.list(node, path);
    let name = |c: &Node| c.get("name").and_then(Node::as_str).unwrap_or_default().to_owned();
    let mut runtimes = containers.iter().filter(|c| name(c) == RUNTIME);
    match (runtimes.next(), runtimes.next()) {
        (Some(runtime), None) => container(reader, runtime, &format!("{path}.{RUNTIME}"), spec),
        (None, _) => {
            let names: Vec<String> = containers.iter().map(name).collect();
            let message = format!("{path} has no container named {RUNTIME}, only: {}", names.join(", "));
            reader.wrong(node.mark, message, "the handler runs in the container of that name".to_owned());
        }
        (Some(_), Some(second)) => {
            reader.wrong(second.mark, format!("{path} has more than one container named {RUNTIME}"), None);
        }
    }
    for other in containers.iter().filter(|c| name(c) != RUNTIME) {
        if name(other) == SIDECAR {
            reader.wrong(
                other.mark,
                format!("the name {SIDECAR} is reserved: that container is added by itself"),
                None,
            );
        }
        spec.sidecars.push(other.to_json());
    }
}

fn container(reader: &mut Reader, node: &Node, path: &str, spec: &mut ActorSpec) {
    let Some(mut f) = reader.fields(node, path) else { return };
    f.read(reader, "name", |_, _, _| ());
    spec.image = f.try_read(reader, "image", Reader::text);
    spec.image_pull_policy = f.try_read(reader, "imagePullPolicy", flat::pull_policy);
    spec.resources = f.try_read(reader, "resources", Reader::opaque_map);
    spec.volume_mounts = f.read(reader, "volumeMounts", Reader::opaque_list).unwrap_or_default();
    spec.env = f.read(reader, "env", flat::env).unwrap_or_default();
    if let Some(command) = f.peek("command") {
        reader.wrong(command.mark, format!("{path} must not have a command"), "the runtime is its command".to_owned());
    }
    handler(reader, node, &f, path, spec);
}

fn handler(reader: &mut Reader, node: &Node, f: &Fields<'_>, path: &str, spec: &mut ActorSpec) {
    let Some(at) = spec.env.iter().position(|v| v.name == HANDLER) else {
        let help = "write - {name: ASYA_HANDLER, value: module.function}".to_owned();
        reader.wrong(node.mark, format!("{path}.env has no {HANDLER}"), help);
        return;
    };
    let EnvVar { value, .. } = spec.env.remove(at);
    let text = value.unwrap_or_default();
    let place = f.peek("env").and_then(|env| match &env.value {
        Value::List(items) => items.iter().find(|v| v.get("name").and_then(Node::as_str) == Some(HANDLER)),
        _ => None,
    });
    match names::check_handler(&text) {
        Ok(()) => spec.handler = text,
        Err(why) => {
            let place = place.and_then(|v| v.get("value")).or(place).unwrap_or(node);
            reader.wrong(place.mark, format!("{HANDLER} cannot be \"{text}\""), why);
        }
    }
}

/// What of the pod template has no field of its own.
fn rest(template: &Node, f: &Fields<'_>) -> Option<serde_json::Value> {
    let mut json = template.to_json();
    let pod = json.get_mut("spec")?.as_object_mut()?;
    for moved in f.known() {
        pod.remove(*moved);
    }
    let empty = pod.is_empty();
    let outer = json.as_object_mut()?;
    if empty {
        outer.remove("spec");
    }
    outer.retain(|_, value| value.as_object().is_none_or(|map| !map.is_empty()));
    (!outer.is_empty()).then_some(json)
}
