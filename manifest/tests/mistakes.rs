//! Every mistake is told with its place, what was meant and what is allowed, all of them at once.

#![allow(clippy::unwrap_used, clippy::panic)]

use asya_manifest::load_text;

/// The report of a text that is called `a.yaml`.
fn report(text: &str) -> String {
    load_text("a.yaml", text).unwrap_err().to_string()
}

/// A manifest with these lines in its `spec`, which begins on line 6.
fn with_spec(lines: &str) -> String {
    format!("apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata:\n  name: a\nspec:\n{lines}")
}

#[test]
fn a_typo_is_answered_with_the_line_what_was_meant_and_what_is_allowed() {
    assert_eq!(
        report(&with_spec("  actor: a\n  hanlder: m.f\n")),
        "a.yaml:7:3: unknown field \"hanlder\" in spec
  7 |   hanlder: m.f
    |   ^^^^^^^
    = did you mean: handler
    = allowed: actor, batch, bundling, concurrency, encoding, env, flavors, gracefulShutdown, handler, image, \
imagePullPolicy, initContainers, nodeSelector, podTemplate, pythonExecutable, replicas, resiliency, resources, \
scaling, secretRefs, sidecar, sidecars, stateProxy, timeout, tolerations, tracing, transport, volumeMounts, volumes, \
workers"
    );
}

#[test]
fn all_mistakes_come_at_once_in_the_order_of_their_lines() {
    let text = with_spec(
        "  actor: My_Actor
  handler: work:run
  timeout: 30
  workers: 0
  batch: {sise: 4, wait: soon}
  bundling: {next: {items: 8, bytes: many}}
  env: [{name: A, value: 1}, {name: A, value: two}]
  scaling: {minReplicas: 1}
  maxReplicas: 3
  resiliency:
    policies: {default: {backoff: exponental}}
    rules: [{errors: [ValueError], policy: defualt}]
",
    );
    let report = report(&text);
    let heads: Vec<&str> = report.lines().filter(|l| l.starts_with("a.yaml:")).collect();
    assert_eq!(
        heads,
        [
            "a.yaml:6:10: spec.actor cannot be \"My_Actor\": only a-z, 0-9 and - are allowed",
            "a.yaml:7:12: spec.handler cannot be \"work:run\"",
            "a.yaml:8:12: spec.timeout has no unit",
            "a.yaml:9:12: spec.workers must be from 1 to 256",
            "a.yaml:10:11: unknown field \"sise\" in spec.batch",
            "a.yaml:10:26: spec.batch.wait: \"soon\" is not a duration",
            "a.yaml:11:38: spec.bundling.next.bytes: \"many\" is not a size",
            "a.yaml:12:26: spec.env[0].value must be text, and this is a number",
            "a.yaml:12:30: spec.env gives A twice",
            "a.yaml:13:13: unknown field \"minReplicas\" in spec.scaling",
            "a.yaml:14:3: unknown field \"maxReplicas\" in spec",
            "a.yaml:16:35: spec.resiliency.policies.default.backoff cannot be \"exponental\"",
            "a.yaml:17:44: spec.resiliency.rules[0].policy cannot be \"defualt\"",
        ]
    );
    for meant in [
        "such as my-actor",
        "write it with dots, work.run, or name a file: work.py:run",
        "for seconds write 30s",
        "did you mean: size",
        "quote it: \"1\"",
        "did you mean: minReplicaCount",
        "did you mean: scaling.maxReplicaCount",
        "did you mean: exponential",
        "did you mean: default",
        "13 mistakes",
    ] {
        assert!(report.contains(meant), "{meant}: {report}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let report = report("apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nspec: {image: x}\n");
    assert!(report.contains("metadata is missing"), "{report}");
    assert!(report.contains("spec.handler is missing"), "{report}");
    assert!(report.contains("module.function or module.Class.method"), "{report}");
}

#[test]
fn two_actors_of_one_name_name_the_first() {
    let one = with_spec("  actor: a\n  handler: m.f\n");
    let report = report(&format!("{one}---\n{one}"));
    assert!(report.starts_with("a.yaml:14:10: there is already an actor \"a\", at a.yaml:1"), "{report}");
}

#[test]
fn a_misspelt_kind_or_version_is_not_passed_over() {
    let good = with_spec("  handler: m.f\n");
    let kind = report(&good.replace("AsyncActor", "AsyncActr"));
    assert!(kind.contains("a.yaml:2:7: kind cannot be \"AsyncActr\"") && kind.contains("did you mean: AsyncActor"));
    let version = report(&good.replace("v1alpha1", "v1"));
    assert!(version.contains("apiVersion cannot be \"asya.sh/v1\"") && version.contains("asya.sh/v1alpha1"));
}

#[test]
fn what_is_not_yaml_says_where() {
    let report = report("apiVersion: asya.sh/v1alpha1\nkind: [AsyncActor\nspec: x\n");
    assert!(report.starts_with("a.yaml:") && report.contains("not YAML"), "{report}");
}

#[test]
fn a_key_given_twice_is_a_mistake() {
    let report = report(&with_spec("  handler: m.f\n  handler: m.g\n"));
    assert!(report.contains("\"handler\" was already given on line 6"), "{report}");
}

#[test]
fn the_wrong_kind_of_value_says_both_kinds() {
    let report = report(&with_spec("  handler: [m.f]\n  env: {A: b}\n  scaling: on\n  workers: many\n"));
    for line in [
        "spec.handler must be text, and this is a list",
        "spec.env must be a list, and this is a mapping",
        "spec.scaling must be a mapping, and this is text",
        "spec.workers must be a whole number, and this is text",
    ] {
        assert!(report.contains(line), "{line}: {report}");
    }
}

#[test]
fn timeouts_that_differ_are_a_mistake() {
    let report = report(&with_spec("  handler: m.f\n  timeout: 1m\n  resiliency: {actorTimeout: 2m}\n"));
    assert!(report.contains("spec.timeout and spec.resiliency.actorTimeout differ"), "{report}");
    let same = with_spec("  handler: m.f\n  timeout: 60s\n  resiliency: {actorTimeout: 1m}\n");
    assert!(load_text("a.yaml", &same).is_ok());
}
