//! Both forms are read, mean the same, and survive being written again.

#![allow(clippy::unwrap_used, clippy::panic)]

use asya_manifest::env::{Broker, FromCluster, Place, cluster_only, from_cluster, runtime, sidecar, without_effect};
use asya_manifest::{AsyncActor, load, load_text};
use std::collections::BTreeMap;
use std::fs;

const FLAT: &str = r#"
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata: {name: text-infer, namespace: demo, labels: {asya.sh/flow: f}}
spec:
  actor: text-infer
  image: img:1
  handler: pkg.Infer.process
  imagePullPolicy: IfNotPresent
  pythonExecutable: python3
  replicas: 1
  workers: 2
  concurrency: 4
  batch: {size: 32, bytes: 4MiB, wait: 5ms}
  timeout: 90s
  bundling: {report: {items: 64, bytes: 256KiB}}
  encoding: native
  gracefulShutdown: 1m
  env:
    - {name: MODEL, value: small}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}
  secretRefs: [{secretName: s, keys: [{key: k, envVar: V}]}]
  scaling: {enabled: true, minReplicaCount: 0, maxReplicaCount: 10, pollingInterval: 30, cooldownPeriod: 300,
            queueLength: 5, additionalTriggers: [{type: cron}],
            advanced: {restoreToOriginalReplicaCount: true, formula: a + b, target: "5", activationTarget: "1", metricType: AverageValue}}
  resiliency:
    policies: {default: {maxAttempts: 3, backoff: exponential, initialDelay: 1s, maxInterval: 30s, maxDuration: 10m, jitter: true, onExhausted: [rescue]}}
    rules: [{errors: [ValueError, pkg.Err], policy: default}]
  flavors: [gpu]
  stateProxy: [{name: n, mount: {path: /state/x}, writeMode: buffered, connector: {image: c}}]
  sidecar: {image: {repository: side, tag: "2", pullPolicy: Always}, env: [{name: ASYA_MAX_WINDOW, value: "64"}], resources: {limits: {memory: 1Gi}}}
  tracing: {endpoint: "http://otel:4317", protocol: grpc}
  resources: {limits: {nvidia.com/gpu: 1}}
  tolerations: [{key: gpu, operator: Exists}]
  nodeSelector: {pool: gpu}
  volumes: [{name: v, emptyDir: {}}]
  volumeMounts: [{name: v, mountPath: /v}]
  initContainers: [{name: i, image: i}]
  sidecars: [{name: s, image: s}]
"#;

const NESTED: &str = r"
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata: {name: text-infer, namespace: demo}
spec:
  transport: rabbitmq
  sidecar: {image: '', imagePullPolicy: IfNotPresent, resources: {}, env: []}
  timeout: {processing: 300, gracefulShutdown: 30}
  scaling: {enabled: false, minReplicas: 0, maxReplicas: 50, pollingInterval: 10, cooldownPeriod: 60, queueLength: 5,
            advanced: {formula: '', metricType: AverageValue}}
  workload:
    kind: Deployment
    replicas: 2
    pythonExecutable: python3
    template:
      metadata: {labels: {team: ml}}
      spec:
        serviceAccountName: runner
        volumes: [{name: v, emptyDir: {}}]
        containers:
          - name: asya-runtime
            image: img
            env: [{name: ASYA_HANDLER, value: m.f}, {name: A, value: b}]
          - {name: extra, image: e}
status: {status: Running}
";

fn one(text: &str) -> AsyncActor {
    load_text("a.yaml", text).unwrap_or_else(|e| panic!("{e}")).remove(0).actor
}

#[test]
fn every_field_of_the_flat_form_is_read_and_written_back() {
    let actor = one(FLAT);
    assert_eq!(actor.spec.sidecar.as_ref().unwrap().image.as_deref(), Some("side:2"));
    // What is written is read again: by serde, and (JSON is YAML) by the reader of manifests.
    let json = serde_json::to_string(&actor).unwrap();
    assert_eq!(serde_json::from_str::<AsyncActor>(&json).unwrap(), actor);
    assert_eq!(one(&json), actor);
}

#[test]
fn the_sidecar_gets_the_names_of_the_contract() {
    let actor = one(FLAT);
    let broker = Broker::Embedded { socket: "/run/b.sock" };
    let env = sidecar(&actor, &Place { namespace: "demo", broker, socket_dir: "/run/a", metrics_addr: "127.0.0.1:9" });
    let expected: BTreeMap<String, String> = [
        ("ASYA_ACTOR_NAME", "text-infer"),
        ("ASYA_NAMESPACE", "demo"),
        ("ASYA_TRANSPORT", "embedded"),
        ("ASYA_EMBEDDED_SOCKET", "/run/b.sock"),
        ("ASYA_SOCKET_DIR", "/run/a"),
        ("ASYA_METRICS_ADDR", "127.0.0.1:9"),
        ("ASYA_WORKERS", "2"),
        ("ASYA_CONCURRENCY", "4"),
        ("ASYA_BATCH_SIZE", "32"),
        ("ASYA_BATCH_BYTES", "4194304"),
        ("ASYA_BATCH_WAIT", "5ms"),
        ("ASYA_RESILIENCY_ACTOR_TIMEOUT", "1m30s"),
        ("ASYA_GRACE_PERIOD", "1m"),
        ("ASYA_ENCODING", "native"),
        ("ASYA_MAX_WINDOW", "64"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        (
            "ASYA_RESILIENCY_POLICIES",
            r#"{"default":{"maxAttempts":3,"backoff":"exponential","initialDelay":"1s","maxInterval":"30s","maxDuration":"10m","jitter":true,"onExhausted":["rescue"]}}"#,
        ),
        ("ASYA_RESILIENCY_RULES", r#"[{"errors":["ValueError","pkg.Err"],"policy":"default"}]"#),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    assert_eq!(env, expected);
}

#[test]
fn the_runtime_gets_its_handler_and_what_the_manifest_writes() {
    let actor = one(FLAT);
    let env = runtime(&actor, "/run/a");
    let pairs: Vec<(&str, &str)> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let expected = [
        ("ASYA_ACTOR_NAME", "text-infer"),
        ("ASYA_BATCH_SIZE", "32"),
        ("ASYA_CONCURRENCY", "4"),
        ("ASYA_GRACE_PERIOD", "1m"),
        ("ASYA_HANDLER", "pkg.Infer.process"),
        ("ASYA_SOCKET_DIR", "/run/a"),
        ("MODEL", "small"),
    ];
    assert_eq!(pairs, expected);
    let needed = |variable: &str, source: &str| FromCluster { variable: variable.into(), source: source.into() };
    assert_eq!(
        from_cluster(&actor),
        [needed("TOKEN", "key token of the secret hub"), needed("V", "key k of the secret s")]
    );
    assert_eq!(without_effect(&actor), ["bundling", "tracing"]);
    assert!(cluster_only(&actor).contains(&"image") && cluster_only(&actor).contains(&"scaling"));
    assert_eq!(cluster_only(&one(MINIMAL)), [""; 0]);
}

const MINIMAL: &str = "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: a}\nspec: {handler: m.f}\n";

#[test]
fn an_actor_is_named_by_its_metadata_where_the_spec_does_not() {
    assert_eq!(one(MINIMAL).name(), "a");
    assert_eq!(one(MINIMAL).workers(), 1);
}

#[test]
fn a_sink_is_told_that_it_ends_messages() {
    let place = Place { namespace: "d", broker: Broker::RabbitMq { url: None }, socket_dir: "/s", metrics_addr: ":1" };
    let env = sidecar(&one(&MINIMAL.replace("name: a", "name: x-sink")), &place);
    assert_eq!(env.get("ASYA_IS_END_ACTOR").map(String::as_str), Some("true"));
    assert!(!sidecar(&one(MINIMAL), &place).contains_key("ASYA_IS_END_ACTOR"));
}

#[test]
fn the_nested_form_becomes_the_flat_one() {
    let actor = one(NESTED);
    let flat = one(r"
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata: {name: text-infer, namespace: demo}
spec:
  handler: m.f
  image: img
  transport: rabbitmq
  sidecar: {imagePullPolicy: IfNotPresent, resources: {}}
  timeout: 5m
  gracefulShutdown: 30s
  scaling: {enabled: false, minReplicaCount: 0, maxReplicaCount: 50, pollingInterval: 10, cooldownPeriod: 60,
            queueLength: 5, advanced: {formula: '', metricType: AverageValue}}
  replicas: 2
  pythonExecutable: python3
  env: [{name: A, value: b}]
  volumes: [{name: v, emptyDir: {}}]
  sidecars: [{name: extra, image: e}]
  podTemplate: {metadata: {labels: {team: ml}}, spec: {serviceAccountName: runner}}
");
    assert_eq!(actor, flat);
}

#[test]
fn mistakes_in_the_nested_form_are_told_where_they_stand() {
    let report = |text: &str| load_text("a.yaml", text).unwrap_err().to_string();
    let no_runtime = report(&NESTED.replace("asya-runtime", "main"));
    assert!(no_runtime.contains("no container named asya-runtime, only: main, extra"), "{no_runtime}");
    let reserved = report(&NESTED.replace("name: extra", "name: asya-sidecar"));
    assert!(reserved.contains("the name asya-sidecar is reserved"), "{reserved}");
    let handler = report(&NESTED.replace("value: m.f", "value: m.py"));
    assert!(handler.contains("ASYA_HANDLER cannot be \"m.py\""), "{handler}");
    assert!(handler.starts_with("a.yaml:23:"), "{handler}");
    let none = report(&NESTED.replace("{name: ASYA_HANDLER, value: m.f}, ", ""));
    assert!(none.contains("env has no ASYA_HANDLER"), "{none}");
    let command = report(&NESTED.replace("image: img", "image: img\n            command: [sh]"));
    assert!(command.contains("must not have a command"), "{command}");
    let kind = report(&NESTED.replace("kind: Deployment", "kind: StatefulSet"));
    assert!(kind.contains("spec.workload.kind cannot be \"StatefulSet\"") && kind.contains("allowed: Deployment"));
    let mixed = report(&NESTED.replace("  transport: rabbitmq", "  transport: rabbitmq\n  handler: m.f"));
    assert!(mixed.contains("unknown field \"handler\" in spec") && mixed.contains("env ASYA_HANDLER"), "{mixed}");
}

#[test]
fn directories_give_their_manifests_in_order_and_other_kinds_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("b.yaml", &MINIMAL.replace("name: a", "name: second"));
    write(
        "a.yml",
        &format!("{}---\napiVersion: v1\nkind: ConfigMap\ndata: {{x: y}}\n", MINIMAL.replace("name: a", "name: first")),
    );
    write("notes.txt", "not a manifest");
    let found = load(&[folder.path().to_owned()]).unwrap();
    assert_eq!(found.iter().map(|f| f.actor.name()).collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(found[0].folder(), folder.path());

    write("c.yaml", MINIMAL.replace("handler", "hander").as_str());
    write("d.yaml", MINIMAL.replace("name: a", "name: first").as_str());
    let report = load(&[folder.path().to_owned(), folder.path().join("absent.yaml")]).unwrap_err().to_string();
    for part in ["c.yaml:4:8: unknown field \"hander\"", "already an actor \"first\"", "absent.yaml: cannot be read"] {
        assert!(report.contains(part), "{part}: {report}");
    }
}

#[test]
fn a_place_with_no_actor_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().to_owned()];
    assert!(load(&paths).unwrap_err().to_string().contains("no .yaml or .yml file in this directory"));
    fs::write(folder.path().join("a.yaml"), "kind: ConfigMap\n").unwrap();
    let report = load(&paths).unwrap_err().to_string();
    assert!(report.contains("there is no AsyncActor here") && report.contains("asya init"), "{report}");
}
