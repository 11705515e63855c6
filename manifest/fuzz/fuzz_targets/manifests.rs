//! Any text as a manifest: it is told what is wrong, or gives actors whose variables can be made; never anything else.
#![no_main]

use asya_manifest::env::{Broker, Place, cluster_only, from_cluster, runtime, sidecar, without_effect};
use asya_manifest::{load_text, yaml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(documents) = yaml::parse(text) {
        for document in &documents {
            // What was read is a tree of plain values, however it was written.
            serde_json::to_string(&document.to_json()).expect("JSON");
        }
    }
    match load_text("actor.yaml", text) {
        Ok(found) => {
            for one in &found {
                let actor = &one.actor;
                assert!(!actor.name().is_empty() && actor.workers() > 0);
                let broker = Broker::Embedded { socket: "/run/asya/broker.sock" };
                let place = Place { namespace: "default", broker, socket_dir: "/run/asya", metrics_addr: ":8080" };
                let (told, given) = (sidecar(actor, &place), runtime(actor, "/run/asya"));
                assert!(told.contains_key("ASYA_ACTOR_NAME"));
                assert_eq!(given.get("ASYA_ACTOR_NAME").map(String::as_str), Some(actor.name()));
                // What cannot be a variable would fail much later, when a process is started.
                for (name, value) in told.iter().chain(&given) {
                    assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'), "{name:?}: {value:?}");
                }
                let _ = (from_cluster(actor), cluster_only(actor), without_effect(actor));
            }
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
