//! Files and directories into actors.
//!
//! Takes paths; gives every actor that they hold, with the folder that its manifest lies in. Blocks on reading files.
//! On failure: every mistake of every file at once.

use crate::actor::{API_VERSION, ActorSpec, AsyncActor, KIND, Metadata};
use crate::problem::{Problem, Problems, Source, nearest};
use crate::reader::Reader;
use crate::yaml::{Mark, Node};
use crate::{flat, names, nested, yaml};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// A manifest of more bytes is a mistaken path.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// One actor and where it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The actor.
    pub actor: AsyncActor,
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line that its document begins on.
    pub line: usize,
}

impl Found {
    /// The folder that the manifest lies in, which is on the handler's path.
    pub fn folder(&self) -> &Path {
        match self.file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

/// Reads files, and of directories the `.yaml` and `.yml` files directly in them, in the order of their names.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Found>, Problems> {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for path in files(paths, &mut problems) {
        match text(&path) {
            Ok(text) => found.extend(read(&path, text, &mut problems)),
            Err(error) => problems.push(whole(&path, format!("cannot be read: {error}"), None)),
        }
    }
    duplicates(&found, &mut problems);
    if found.is_empty() && problems.is_empty() {
        for path in paths {
            let help = "write one, or let `asya init NAME` do it".to_owned();
            problems.push(whole(path, "there is no AsyncActor here".to_owned(), Some(help)));
        }
    }
    if problems.is_empty() { Ok(found.into_iter().map(|(found, _)| found).collect()) } else { Err(Problems(problems)) }
}

/// Reads the documents of one text, which is called `name` in messages.
pub fn load_text(name: &str, text: &str) -> Result<Vec<Found>, Problems> {
    let mut problems = Vec::new();
    let found = read(Path::new(name), text.to_owned(), &mut problems);
    duplicates(&found, &mut problems);
    if problems.is_empty() { Ok(found.into_iter().map(|(found, _)| found).collect()) } else { Err(Problems(problems)) }
}

type Placed = (Found, (Arc<Source>, Mark));

fn files(paths: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match manifests_in(path) {
            Ok(inside) if inside.is_empty() => {
                let help = "name a file, or a directory with manifests".to_owned();
                problems.push(whole(path, "there is no .yaml or .yml file in this directory".to_owned(), Some(help)));
            }
            Ok(inside) => files.extend(inside),
            Err(error) => problems.push(whole(path, format!("cannot be read: {error}"), None)),
        }
    }
    files
}

fn manifests_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut inside: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if is_yaml && path.is_file() {
            inside.push(path);
        }
    }
    inside.sort();
    Ok(inside)
}

fn text(path: &Path) -> io::Result<String> {
    let bytes = fs::metadata(path)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {bytes} bytes, and a manifest at most {FILE_BYTES_MAX}")));
    }
    fs::read_to_string(path)
}

fn whole(path: &Path, message: String, help: Option<String>) -> Problem {
    let source = Arc::new(Source { name: path.display().to_string(), text: String::new() });
    Problem { source, mark: None, message, meant: None, help }
}

fn read(path: &Path, text: String, problems: &mut Vec<Problem>) -> Vec<Placed> {
    let source = Arc::new(Source { name: path.display().to_string(), text });
    let documents = match yaml::parse(&source.text) {
        Ok(documents) => documents,
        Err(error) => {
            let source = Arc::clone(&source);
            problems.push(Problem { source, mark: Some(error.mark), message: error.message, meant: None, help: None });
            return Vec::new();
        }
    };
    let mut reader = Reader::new(Arc::clone(&source));
    let mut found = Vec::new();
    for document in &documents {
        if let Some((actor, mark)) = document_actor(&mut reader, document) {
            let line = document.mark.line;
            found.push((Found { actor, file: path.to_owned(), line }, (Arc::clone(&source), mark)));
        }
    }
    reader.problems.sort_by_key(|p| p.mark);
    problems.append(&mut reader.problems);
    found
}

/// Reads one document. Documents of other kinds are passed over: a file of a cluster holds all sorts of things.
fn document_actor(reader: &mut Reader, node: &Node) -> Option<(AsyncActor, Mark)> {
    let kind = node.get("kind");
    let api_version = node.get("apiVersion").and_then(Node::as_str).unwrap_or_default();
    let written = kind.and_then(Node::as_str).unwrap_or_default();
    let ours = written == KIND || api_version.starts_with("asya.sh/");
    if !ours && kind.is_some() && nearest(written, [KIND]).is_none() {
        return None;
    }
    let mut f = reader.fields(node, "")?;
    f.read(reader, "kind", |r, n, p| r.one_of(n, p, &[(KIND, ())]));
    f.read(reader, "apiVersion", |r, n, p| r.one_of(n, p, &[(API_VERSION, ())]));
    if kind.is_none() {
        f.missing(reader, "kind", &format!("write kind: {KIND}"));
    }
    if node.get("apiVersion").is_none() {
        f.missing(reader, "apiVersion", &format!("write apiVersion: {API_VERSION}"));
    }
    // What a cluster writes into it.
    f.get("status");
    let metadata = f.try_read(reader, "metadata", metadata).unwrap_or_default();
    if f.peek("metadata").is_none() {
        f.missing(reader, "metadata", "write metadata: {name: NAME}");
    }
    let read_spec = |reader: &mut Reader, node: &Node, _: &str| {
        let older = node.get("workload").is_some();
        if older { nested::spec(reader, node, &metadata.name) } else { flat::spec(reader, node, &metadata.name) }
    };
    let spec: Option<ActorSpec> = f.read(reader, "spec", read_spec);
    if f.peek("spec").is_none() {
        f.missing(reader, "spec", "write spec: {actor: NAME, handler: module.function}");
    }
    f.finish(reader, &[("handler", "spec.handler"), ("actor", "spec.actor"), ("name", "metadata.name")]);
    let place = node.get("spec").and_then(|s| s.get("actor")).or(node.get("metadata").and_then(|m| m.get("name")));
    let mark = place.map_or(node.mark, |n| n.mark);
    let actor = AsyncActor { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), metadata, spec: spec? };
    Some((actor, mark))
}

fn metadata(reader: &mut Reader, node: &Node, path: &str) -> Option<Metadata> {
    let mut f = reader.fields(node, path)?;
    let metadata = Metadata {
        name: f.try_read(reader, "name", names::actor).unwrap_or_default(),
        namespace: f.try_read(reader, "namespace", names::actor),
        labels: f.read(reader, "labels", Reader::text_map).unwrap_or_default(),
        annotations: f.read(reader, "annotations", Reader::text_map).unwrap_or_default(),
    };
    if f.peek("name").is_none() && !f.has_nearly("name") {
        f.missing(reader, "name", "it is required");
    }
    for written_by_the_cluster in [
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ] {
        f.get(written_by_the_cluster);
    }
    f.finish(reader, &[("actor", "spec.actor")]);
    Some(metadata)
}

/// Two actors of one name would share a queue without knowing of each other.
fn duplicates(found: &[Placed], problems: &mut Vec<Problem>) {
    let mut seen: BTreeMap<(Option<&str>, &str), &Found> = BTreeMap::new();
    for (found, (source, mark)) in found {
        let name = found.actor.name();
        if name.is_empty() {
            continue;
        }
        match seen.get(&(found.actor.metadata.namespace.as_deref(), name)) {
            Some(first) => problems.push(Problem {
                source: Arc::clone(source),
                mark: Some(*mark),
                message: format!("there is already an actor \"{name}\", at {}:{}", first.file.display(), first.line),
                meant: None,
                help: Some("give each actor a name of its own".to_owned()),
            }),
            None => {
                seen.insert((found.actor.metadata.namespace.as_deref(), name), found);
            }
        }
    }
}
