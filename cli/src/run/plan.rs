//! Which processes `asya run` starts, and with what.
//!
//! Takes actors and where things are; gives a plan for each actor, and what to tell the user. Pure: the environment
//! and the choice of ports are handed in. On failure: every mistake at once.

use crate::error::Error;
use asya_envelope::names::queue_name;
use asya_manifest::Found;
use asya_manifest::env::{self, Broker, Place};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One actor's two processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorPlan {
    /// Its name.
    pub name: String,
    /// Its queue.
    pub queue: String,
    /// Folder of the socket that both share.
    pub socket_dir: PathBuf,
    /// Where the sidecar's metrics listen.
    pub metrics: String,
    /// The sidecar's variables.
    pub sidecar: BTreeMap<String, String>,
    /// The runtime's interpreter.
    pub python: PathBuf,
    /// The runtime's variables.
    pub runtime: BTreeMap<String, String>,
}

impl ActorPlan {
    /// The largest message that the sidecar takes; `None` when its configuration is wrong, which it says itself.
    pub fn message_bytes_max(&self) -> Option<u64> {
        asya_dataplane::config::Config::read(&self.sidecar).ok().map(|loaded| loaded.config.flow.message_bytes_max)
    }
}

/// What is the same for all actors.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// In the names of queues.
    pub namespace: &'a str,
    /// The broker.
    pub broker: Broker<'a>,
    /// Folder of all sockets.
    pub sockets: &'a Path,
    /// What the user's own environment has.
    pub environment: &'a BTreeMap<String, String>,
}

/// Which namespace the actors are in.
pub fn namespace(found: &[Found], asked: Option<&str>) -> Result<String, Error> {
    if let Some(asked) = asked {
        asya_manifest::names::check_actor(asked)
            .map_err(|why| Error::Usage(format!("a namespace cannot be {asked:?}: {why}")))?;
        return Ok(asked.to_owned());
    }
    let mut names: Vec<&str> =
        found.iter().map(|f| f.actor.metadata.namespace.as_deref().unwrap_or("default")).collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [one] => Ok((*one).to_owned()),
        many => Err(Error::Usage(format!(
            "these actors are in different namespaces: {}\n  = choose one for all of them with --namespace, or run them apart",
            many.join(", ")
        ))),
    }
}

/// The plan of one actor.
pub fn actor(found: &Found, around: &Surroundings<'_>, python: PathBuf, metrics: String) -> Result<ActorPlan, Error> {
    let actor = &found.actor;
    let queue = queue_name(around.namespace, actor.name()).map_err(|e| Error::Usage(e.to_string()))?;
    let socket_dir = around.sockets.join(actor.name());
    let socket_text = socket_dir.to_string_lossy().into_owned();
    let place =
        Place { namespace: around.namespace, broker: around.broker, socket_dir: &socket_text, metrics_addr: &metrics };
    // Quiet unless something is wrong: the progress lines say the rest.
    let mut sidecar = BTreeMap::from([("ASYA_LOG_LEVEL".to_owned(), "warn".to_owned())]);
    sidecar.extend(env::sidecar(actor, &place));
    let mut runtime = BTreeMap::from([
        ("ASYA_LOG_LEVEL".to_owned(), "WARNING".to_owned()),
        // Lines that a handler prints are shown when they are printed.
        ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
    ]);
    runtime.extend(env::runtime(actor, &socket_text));
    for needed in env::from_cluster(actor) {
        if let Some(value) = around.environment.get(&needed.variable) {
            runtime.insert(needed.variable, value.clone());
        }
    }
    let folder = found.folder().canonicalize().map_err(Error::file(found.folder()))?;
    if actor.spec.handler.contains(".py:") {
        // A file is named from where its manifest lies, not from where this command is run.
        runtime.insert("ASYA_HANDLER".to_owned(), folder.join(&actor.spec.handler).display().to_string());
    }
    let path = runtime.get("PYTHONPATH").or_else(|| around.environment.get("PYTHONPATH"));
    let path = path.filter(|p| !p.is_empty()).map_or(String::new(), |p| format!(":{p}"));
    runtime.insert("PYTHONPATH".to_owned(), format!("{}{path}", folder.display()));
    Ok(ActorPlan { name: actor.name().to_owned(), queue, socket_dir, metrics, sidecar, python, runtime })
}

/// Variables that a cluster would give and that nobody gives here.
pub fn missing(found: &[Found], environment: &BTreeMap<String, String>) -> Result<(), Error> {
    let mut lines = Vec::new();
    for found in found {
        for needed in env::from_cluster(&found.actor) {
            if !environment.contains_key(&needed.variable) {
                let name = found.actor.name();
                lines.push(format!(
                    "{name} needs the variable {}, in a cluster from {}",
                    needed.variable, needed.source
                ));
            }
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    Err(Error::Usage(format!("{}\n  = set it in the environment of this command: export NAME=…", lines.join("\n"))))
}

/// What to tell before anything starts.
pub fn notes(found: &[Found]) -> Vec<String> {
    let collect = |fields: fn(&asya_manifest::AsyncActor) -> Vec<&'static str>| {
        let mut names: Vec<&str> = found.iter().flat_map(|f| fields(&f.actor)).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    };
    let ignored = collect(env::cluster_only);
    let idle = collect(env::without_effect);
    let mut notes = Vec::new();
    if !ignored.is_empty() {
        notes.push(format!("ignored here, only a cluster uses it: {ignored}"));
    }
    if !idle.is_empty() {
        notes.push(format!("checked, but without effect in this version: {idle}"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use asya_manifest::load_text;

    const TEXT: &str = "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: a, namespace: one}\n\
        spec: {handler: m.f, image: i, bundling: {b: {items: 2}}, secretRefs: [{secretName: s, keys: [{key: k, envVar: TOKEN}]}]}\n";

    fn found(text: &str) -> Vec<Found> {
        load_text("a.yaml", text).unwrap()
    }

    #[test]
    fn one_namespace_for_all() {
        assert_eq!(namespace(&found(TEXT), None).unwrap(), "one");
        assert_eq!(namespace(&found(TEXT), Some("two")).unwrap(), "two");
        let both = format!("{TEXT}---\n{}", TEXT.replace("one", "two").replace("name: a", "name: b"));
        let why = namespace(&found(&both), None).unwrap_err().to_string();
        assert!(why.contains("one, two") && why.contains("--namespace"), "{why}");
    }

    #[test]
    fn what_only_a_cluster_has_is_named() {
        let why = missing(&found(TEXT), &BTreeMap::new()).unwrap_err().to_string();
        assert!(why.contains("a needs the variable TOKEN, in a cluster from key k of the secret s"), "{why}");
        assert!(missing(&found(TEXT), &BTreeMap::from([("TOKEN".into(), "x".into())])).is_ok());
        let notes = notes(&found(TEXT));
        assert_eq!(notes[0], "ignored here, only a cluster uses it: image");
        assert_eq!(notes[1], "checked, but without effect in this version: bundling");
    }

    #[test]
    fn the_two_processes_find_each_other_and_the_handler() {
        let environment = BTreeMap::from([("TOKEN".into(), "x".into()), ("PYTHONPATH".into(), "/lib".into())]);
        let around = Surroundings {
            namespace: "one",
            broker: Broker::Embedded { socket: "/s/broker.sock" },
            sockets: Path::new("/s"),
            environment: &environment,
        };
        let plan = actor(&found(TEXT)[0], &around, "python3".into(), "127.0.0.1:1".into()).unwrap();
        assert_eq!(plan.queue, "asya-one-a");
        assert_eq!(plan.sidecar["ASYA_SOCKET_DIR"], "/s/a");
        assert_eq!(plan.runtime["ASYA_SOCKET_DIR"], "/s/a");
        assert_eq!(plan.runtime["TOKEN"], "x");
        let here = std::env::current_dir().unwrap();
        assert_eq!(plan.runtime["PYTHONPATH"], format!("{}:/lib", here.display()));
    }
}
