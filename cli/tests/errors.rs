//! What goes wrong before anything runs, and what the user is told.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

use assert_cmd::cargo::cargo_bin_cmd;
use std::fs;
use std::path::Path;

/// Runs `asya` in a folder; gives its exit status, standard output and standard error.
fn asya(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = cargo_bin_cmd!("asya").current_dir(folder).args(args).env_remove("VIRTUAL_ENV").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const GOOD: &str = "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: a}\nspec:\n  handler: m.f\n";

#[test]
fn a_typo_in_a_manifest_is_answered_with_the_line_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), GOOD.replace("handler", "hanlder")).unwrap();
    let (status, _, error) = asya(folder.path(), &["run", "a.yaml"]);
    assert_eq!(status, 64);
    assert!(
        error.starts_with(
            "error: a.yaml:5:3: unknown field \"hanlder\" in spec\n  5 |   hanlder: m.f\n    |   ^^^^^^^\n    \
             = did you mean: handler\n    = allowed: actor, batch,"
        ),
        "{error}"
    );
    assert!(!folder.path().join(".asya").exists());
}

#[test]
fn a_path_without_manifests_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (status, _, error) = asya(folder.path(), &["run", ".", "absent.yaml"]);
    assert_eq!(status, 64);
    assert!(error.contains("no .yaml or .yml file in this directory"), "{error}");
    assert!(error.contains("absent.yaml: cannot be read: No such file"), "{error}");
}

#[test]
fn a_python_that_is_not_there_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), GOOD).unwrap();
    let (status, _, error) = asya(folder.path(), &["run", "a.yaml", "--python", "/absent/python"]);
    assert_eq!(status, 64);
    assert!(error.contains("/absent/python (from --python) does not work") && error.contains("venv"), "{error}");
    assert!(!folder.path().join(".asya").exists());
}

#[test]
fn a_secret_that_only_a_cluster_has_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "  secretRefs: [{secretName: hub, keys: [{key: token, envVar: SECRET_HUB_TOKEN}]}]\n";
    fs::write(folder.path().join("a.yaml"), format!("{GOOD}{secret}")).unwrap();
    let (status, _, error) = asya(folder.path(), &["run", "a.yaml"]);
    assert_eq!(status, 64);
    assert!(
        error.contains("a needs the variable SECRET_HUB_TOKEN, in a cluster from key token of the secret hub"),
        "{error}"
    );
}

#[test]
fn without_a_broker_the_commands_say_what_to_start() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["send", "a", "{}"][..],
        &["queues"],
        &["failed"],
        &["dead"],
        &["dead", "requeue", "--all"],
        &["results"],
        &["status"],
    ] {
        let (status, _, error) = asya(folder.path(), args);
        assert_eq!(status, 1, "{args:?}");
        assert!(error.contains("no broker is running in .asya"), "{args:?}: {error}");
        assert!(error.contains("start `asya run PATHS…` first"), "{args:?}: {error}");
        assert!(error.contains("--transport"), "{args:?}: {error}");
    }
}

#[test]
fn inputs_that_are_not_json_are_told_before_any_broker_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (status, _, error) = asya(folder.path(), &["send", "a", "{name: 1}"]);
    assert_eq!(status, 64);
    assert!(error.contains("this input is not JSON: key must be a string at line 1 column 2"), "{error}");
    let inputs = folder.path().join("inputs");
    fs::create_dir_all(inputs.join("inside")).unwrap();
    fs::write(inputs.join(".hidden"), "").unwrap();
    fs::write(inputs.join("a.txt"), "a").unwrap();
    let (_, _, error) = asya(folder.path(), &["send", "a", "inputs"]);
    assert!(error.contains("inputs: 2 entries skipped: hidden, or not a file"), "{error}");
    fs::write(folder.path().join("many.jsonl"), "{}\n{\"a\":}\n").unwrap();
    let (status, _, error) = asya(folder.path(), &["send", "a", "many.jsonl"]);
    assert_eq!(status, 64);
    assert!(error.contains("many.jsonl:2: not JSON: expected value at line 1 column 6"), "{error}");
    let (_, _, error) = asya(folder.path(), &["send", "a,B", "{}"]);
    assert!(error.contains("the route \"a,B\" names \"B\": only a-z, 0-9 and - are allowed"), "{error}");
    let (_, _, error) = asya(folder.path(), &["send", "a", "{}", "--transport", "http://x"]);
    assert!(error.contains("--transport:") && error.contains("amqp://user:password@host:5672/vhost"), "{error}");
}

#[test]
fn init_writes_what_run_accepts_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (status, out, _) = asya(folder.path(), &["init", "text-infer"]);
    assert_eq!(status, 0);
    assert!(out.contains("asya run text-infer.yaml") && out.contains("asya send text-infer"), "{out}");
    let found = asya_manifest::load(&[folder.path().join("text-infer.yaml")]).unwrap();
    assert_eq!(found[0].actor.spec.handler, "text_infer.process");
    assert!(fs::read_to_string(folder.path().join("text_infer.py")).unwrap().contains("def process("));
    let (status, _, error) = asya(folder.path(), &["init", "text-infer"]);
    assert_eq!(status, 64);
    assert!(error.contains("is already there; nothing was written"), "{error}");
    let (status, _, error) = asya(folder.path(), &["init", "Text"]);
    assert_eq!(status, 64);
    assert!(error.contains("an actor cannot be called \"Text\""), "{error}");
}

#[test]
fn every_mistake_on_the_command_line_ends_with_64() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &[][..],
        &["nosuch"],
        &["send"],
        &["send", "a", "{}", "--timeout", "soon", "--wait"],
        &["failed", "--limit", "0"],
        &["dead", "--limit", "0"],
        &["dead", "show"],
        &["dead", "requeue", "id-1", "--all"],
    ] {
        let (status, out, error) = asya(folder.path(), args);
        assert_eq!((status, out.as_str()), (64, ""), "{args:?}");
        assert!(error.contains("Usage: asya") || error.contains("--help"), "{args:?}: {error}");
    }
    for args in [&["--version"][..], &["--help"], &["send", "--help"]] {
        let (status, out, error) = asya(folder.path(), args);
        assert!(status == 0 && !out.is_empty() && error.is_empty(), "{args:?}: {status} {error}");
    }
}

#[test]
fn nothing_is_sent_again_that_was_not_chosen() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["dead", "requeue"][..], &["dead", "requeue", "--dry-run", "--to", "a", "--limit", "1", "--raw"]] {
        let (status, _, error) = asya(folder.path(), args);
        assert_eq!(status, 64, "{args:?}");
        for part in ["Name IDs, --actor, --reason or --error, or say --all", "`asya dead` lists", "--dry-run"] {
            assert!(error.contains(part), "{args:?}: {part}: {error}");
        }
    }
    let (status, _, error) = asya(folder.path(), &["dead", "requeue", "--all", "--to", "a,,b"]);
    assert_eq!(status, 64);
    assert!(error.contains("the route \"a,,b\" names \"\""), "{error}");
}

#[test]
fn the_help_teaches_with_examples() {
    let folder = tempfile::tempdir().unwrap();
    let (status, out, _) = asya(folder.path(), &["--help"]);
    assert_eq!(status, 0);
    for example in [
        "asya init hello",
        "asya run hello.yaml",
        "asya send prepare,classify,report digits/",
        "asya failed --show ID",
        "asya dead",
    ] {
        assert!(out.contains(example), "{example}: {out}");
    }
}

/// Every command and every option is in docs/CLI.md, and every field of a manifest in docs/MANIFEST.md.
#[test]
fn the_documentation_leaves_nothing_out() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let read = |name: &str| fs::read_to_string(docs.join(name)).unwrap();
    let page = read("CLI.md");
    let folder = tempfile::tempdir().unwrap();
    let commands =
        ["run", "send", "queues", "status", "results", "failed", "dead", "dead show", "dead requeue", "init"];
    for command in commands {
        assert!(page.contains(&format!("asya {command}")), "{command}");
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let (_, help, _) = asya(folder.path(), &words);
        let options = help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2);
        for option in options.map(|o| o.trim_end_matches(|c: char| !c.is_ascii_alphanumeric())) {
            assert!(page.contains(option), "{command} {option}");
        }
    }
    let page = read("MANIFEST.md");
    let typos = format!(
        "{GOOD}  resiliency: {{policies: {{p: {{zz: 1}}}}, zz: 1}}\n  scaling: {{zz: 1}}\n  batch: {{zz: 1}}\n  zz: 1\n"
    );
    let report = asya_manifest::load_text("a.yaml", &typos).unwrap_err().to_string();
    let mut fields = 0;
    for allowed in report.lines().filter_map(|line| line.split_once("= allowed: ")) {
        for field in allowed.1.split(", ") {
            fields += 1;
            assert!(page.contains(&format!("`{field}`")) || page.contains(&format!(".{field}`")), "{field}");
        }
    }
    assert!(fields > 40, "{report}");
}
