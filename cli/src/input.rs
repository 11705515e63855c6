//! What was named on the command line into messages.
//!
//! Takes JSON literals, files, directories and standard input; gives their messages one by one, in order. Blocks on
//! reading files. On failure: which input, which line, and how to write it. Everything is checked before the first
//! message is given, so that nothing is half sent.

use crate::error::Error;
use crate::message::Content;
use crate::out;
use serde_json::value::RawValue;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// One thing that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// One document, and what to call it.
    Document(String, Vec<u8>),
    /// A file that is one message.
    File(PathBuf),
    /// A file with one message in each line.
    Lines(PathBuf),
}

/// All that was named.
#[derive(Debug)]
pub struct Inputs {
    sources: Vec<Source>,
    /// How many messages there are.
    pub count: u64,
}

/// One message to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Input {
    /// What people call it: a path, a path and line, a literal.
    pub label: String,
    /// What it carries.
    pub content: Content,
}

impl Inputs {
    /// Looks at everything that was named.
    pub fn open(names: &[String]) -> Result<Self, Error> {
        let mut sources = Vec::new();
        for name in names {
            if name == "-" {
                sources.extend(standard_input()?);
            } else if Path::new(name).is_dir() {
                sources.extend(directory(Path::new(name))?);
            } else if Path::new(name).is_file() {
                sources.push(file(PathBuf::from(name)));
            } else {
                sources.push(literal(name)?);
            }
        }
        let mut count = 0;
        for source in &sources {
            count += check(source)?;
        }
        Ok(Self { sources, count })
    }

    /// The messages, in order.
    pub fn messages(self) -> impl Iterator<Item = Result<Input, Error>> {
        self.sources.into_iter().flat_map(messages)
    }
}

fn literal(text: &str) -> Result<Source, Error> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => Ok(Source::Document(text.to_owned(), text.as_bytes().to_vec())),
        Err(error) => {
            let quoted = serde_json::Value::from(text);
            let begins_as_json = text.trim_start().starts_with(['{', '[', '"']);
            Err(Error::Usage(if begins_as_json {
                format!(
                    "this input is not JSON: {error}\n  | {text}\n  = keys and text need double quotes: '{{\"name\": \"Ada\"}}'"
                )
            } else {
                format!(
                    "there is no file {text:?}, and it is not JSON either\n  = to send it as text, write '{quoted}'"
                )
            }))
        }
    }
}

fn standard_input() -> Result<Vec<Source>, Error> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).map_err(Error::system("standard input cannot be read"))?;
    // One document, or several one after another, with or without line breaks inside.
    let mut sources = Vec::new();
    for (i, value) in serde_json::Deserializer::from_str(&text).into_iter::<Box<RawValue>>().enumerate() {
        let value = value.map_err(|e| Error::Usage(format!("standard input is not JSON: {e}")))?;
        sources.push(Source::Document(format!("-:{}", i + 1), value.get().as_bytes().to_vec()));
    }
    if sources.is_empty() {
        return Err(Error::Usage("standard input is empty\n  = give it JSON, one or more documents".to_owned()));
    }
    Ok(sources)
}

fn directory(folder: &Path) -> Result<Vec<Source>, Error> {
    let mut paths = Vec::new();
    let mut skipped = 0_u64;
    for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
        let path = entry.map_err(Error::file(folder))?.path();
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if path.is_file() && !hidden {
            paths.push(path);
        } else {
            skipped += 1;
        }
    }
    if skipped > 0 {
        let entries = if skipped == 1 { "entry" } else { "entries" };
        out::note(&format!("{}: {skipped} {entries} skipped: hidden, or not a file", folder.display()));
    }
    if paths.is_empty() {
        return Err(Error::Usage(format!("{}: there is no file in this directory", folder.display())));
    }
    paths.sort();
    Ok(paths.into_iter().map(file).collect())
}

fn file(path: PathBuf) -> Source {
    if has_extension(&path, &["jsonl", "ndjson"]) { Source::Lines(path) } else { Source::File(path) }
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.iter().any(|x| e.eq_ignore_ascii_case(x)))
}

/// How many messages a source holds, after a look at each.
fn check(source: &Source) -> Result<u64, Error> {
    match source {
        Source::Document(..) => Ok(1),
        Source::File(path) if has_extension(path, &["json"]) => content(path).map(|_| 1),
        Source::File(path) => File::open(path).map(|_| 1).map_err(Error::file(path)),
        Source::Lines(path) => {
            let mut count = 0;
            for line in lines(path.clone())? {
                line?;
                count += 1;
            }
            Ok(count)
        }
    }
}

fn messages(source: Source) -> Box<dyn Iterator<Item = Result<Input, Error>>> {
    match source {
        Source::Document(label, document) => {
            Box::new(std::iter::once(Ok(Input { label, content: Content::Json(document) })))
        }
        Source::File(path) => {
            let input = content(&path).map(|content| Input { label: path.display().to_string(), content });
            Box::new(std::iter::once(input))
        }
        Source::Lines(path) => match lines(path) {
            Ok(lines) => Box::new(lines),
            Err(error) => Box::new(std::iter::once(Err(error))),
        },
    }
}

fn content(path: &Path) -> Result<Content, Error> {
    let bytes = fs::read(path).map_err(Error::file(path))?;
    if has_extension(path, &["json"]) {
        check_json(&bytes).map_err(|why| Error::Usage(format!("{}: not JSON: {why}", path.display())))?;
        return Ok(Content::Json(bytes));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Content::Blob { name, bytes })
}

fn lines(path: PathBuf) -> Result<impl Iterator<Item = Result<Input, Error>>, Error> {
    let file = File::open(&path).map_err(Error::file(&path))?;
    let numbered = (1_u64..).zip(BufReader::new(file).lines());
    Ok(numbered.filter_map(move |(number, line)| match line {
        Err(source) => Some(Err(Error::File { path: path.clone(), source })),
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(match check_json(line.as_bytes()) {
            Ok(()) => {
                Ok(Input { label: format!("{}:{number}", path.display()), content: Content::Json(line.into_bytes()) })
            }
            Err(why) => Err(Error::Usage(format!(
                "{}:{number}: not JSON: {why}\n  = each line of a .jsonl file is one JSON document",
                path.display()
            ))),
        }),
    }))
}

fn check_json(bytes: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<&RawValue>(bytes).map(drop).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(names: &[&str]) -> Result<Vec<Input>, String> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let inputs = Inputs::open(&names).map_err(|e| e.to_string())?;
        let count = inputs.count;
        let messages: Vec<Input> = inputs.messages().map(Result::unwrap).collect();
        assert_eq!(count, messages.len() as u64);
        Ok(messages)
    }

    #[test]
    fn literals_files_lines_and_directories() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.bin"), [0, 255]).unwrap();
        fs::write(path("b.json"), "{\"b\": 1}").unwrap();
        fs::write(path("c.jsonl"), "{\"c\": 1}\n\n[2]\n").unwrap();
        fs::write(path(".hidden"), "x").unwrap();
        let messages = all(&["{\"a\": 0}", folder.path().to_str().unwrap()]).unwrap();
        let contents: Vec<Content> = messages.iter().map(|m| m.content.clone()).collect();
        let json = |text: &str| Content::Json(text.as_bytes().to_vec());
        let file = Content::Blob { name: "a.bin".into(), bytes: vec![0, 255] };
        assert_eq!(contents, [json("{\"a\": 0}"), file, json("{\"b\": 1}"), json("{\"c\": 1}"), json("[2]")]);
        assert!(messages[4].label.ends_with("c.jsonl:3"), "{}", messages[4].label);
    }

    #[test]
    fn what_is_wrong_is_said_before_anything_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let bad = folder.path().join("bad.jsonl");
        fs::write(&bad, "{}\n{oops}\n").unwrap();
        let why = all(&["{}", bad.to_str().unwrap()]).unwrap_err();
        assert!(why.contains("bad.jsonl:2: not JSON"), "{why}");
        let why = all(&["{name: 1}"]).unwrap_err();
        assert!(why.contains("keys and text need double quotes"), "{why}");
        let why = all(&["hello"]).unwrap_err();
        assert!(why.contains("there is no file \"hello\"") && why.contains("'\"hello\"'"), "{why}");
        let empty = tempfile::tempdir().unwrap();
        let why = all(&[empty.path().to_str().unwrap()]).unwrap_err();
        assert!(why.contains("there is no file in this directory"), "{why}");
    }
}
