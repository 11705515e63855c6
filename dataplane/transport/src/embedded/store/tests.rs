//! The store alone: what opens, what does not, what a torn write leaves.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Change, OpenError, Put, QueueRecord, Store, StoredHead};
use crate::ContentType;

fn head(len: u64, in_file: bool) -> StoredHead {
    StoredHead {
        queue: 1,
        content_type: ContentType::Native,
        in_file,
        lost: 0,
        due_ms: 0,
        published_ms: 1,
        len,
        id: "an id".into(),
    }
}

fn put(seq: u64, body: &[u8]) -> Put {
    Put { seq, head: head(body.len() as u64, false), body: Some(body.into()) }
}

fn record() -> QueueRecord {
    QueueRecord { name: "work".into(), dead_letter: Some("work-dlq".into()), delivery_limit: 5, keep: None }
}

fn filled(dir: &Path, count: u64) -> Store {
    let (mut store, _) = Store::open(dir, true).unwrap();
    store.commit(&mut Vec::new(), &mut vec![Change::Queue { id: 1, record: record() }]).unwrap();
    for seq in 1..=count {
        store.commit(&mut vec![put(seq, format!("body {seq}").as_bytes())], &mut Vec::new()).unwrap();
    }
    store
}

#[test]
fn what_was_committed_is_there_after_a_clean_end_and_after_none() {
    let dir = TempDir::new().unwrap();
    let mut store = filled(dir.path(), 3);
    store.commit(&mut Vec::new(), &mut vec![Change::Remove { seq: 2, in_file: false }]).unwrap();
    drop(store);
    let (store, loaded) = Store::open(dir.path(), true).unwrap();
    assert_eq!(loaded.queues, [(1, record())]);
    assert_eq!(loaded.messages.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 3]);
    assert!(!loaded.clean, "a store that was not closed was taken for one that was");
    assert_eq!(store.body(3).unwrap().as_deref(), Some(&b"body 3"[..]));
    store.close().unwrap();
    let (_store, loaded) = Store::open(dir.path(), true).unwrap();
    assert!(loaded.clean);
}

#[test]
fn a_store_that_is_open_cannot_be_opened() {
    let dir = TempDir::new().unwrap();
    let _store = filled(dir.path(), 1);
    let error = Store::open(dir.path(), true).err().unwrap();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    assert!(error.to_string().contains("stop the other broker"), "{error}");
}

#[test]
fn a_newer_version_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(filled(dir.path(), 1));
    fs::write(dir.path().join("VERSION"), "asya embedded broker store\nversion 2\n").unwrap();
    let error = Store::open(dir.path(), true).err().unwrap();
    assert!(matches!(error, OpenError::Version { found: 2, readable: 1, .. }), "{error}");
}

#[test]
fn a_directory_that_is_no_store_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("VERSION"), "something else").unwrap();
    assert!(matches!(Store::open(dir.path(), true), Err(OpenError::Damaged { .. })));
    assert_eq!(fs::read(dir.path().join("VERSION")).unwrap(), b"something else");
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("store")).unwrap();
    assert!(matches!(Store::open(dir.path(), true), Err(OpenError::Damaged { .. })));
}

#[test]
fn a_missing_body_file_is_told_and_strays_are_deleted() {
    let dir = TempDir::new().unwrap();
    let mut store = filled(dir.path(), 1);
    fs::write(store.body_path(7), b"large").unwrap();
    fs::write(store.body_path(8), b"left over").unwrap();
    store.commit(&mut vec![Put { seq: 7, head: head(5, true), body: None }], &mut Vec::new()).unwrap();
    let (kept, stray) = (store.body_path(7), store.body_path(8));
    drop(store);
    let (store, loaded) = Store::open(dir.path(), true).unwrap();
    assert_eq!(loaded.messages.len(), 2);
    assert!(kept.exists() && !stray.exists());
    drop(store);
    fs::remove_file(kept).unwrap();
    let error = Store::open(dir.path(), true).err().unwrap();
    assert!(error.to_string().contains("mv "), "what to do is not said: {error}");
}

/// The journal that is written to: the last one.
fn journal(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Wherever a crash cuts the journal, what comes before the cut is whole and what comes after is gone.
#[test]
fn a_torn_write_leaves_a_prefix() {
    const COUNT: u64 = 40;
    let dir = TempDir::new().unwrap();
    drop(filled(dir.path(), COUNT));
    let whole = fs::read(journal(dir.path())).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut longest = 0;
    for cut in (0..=24).map(|step| end * step / 24) {
        let torn = TempDir::new().unwrap();
        copy(dir.path(), torn.path());
        let mut bytes = whole[..cut].to_vec();
        // What the disk had there before.
        bytes.resize(bytes.len() + 300, 0);
        fs::write(journal(torn.path()), &bytes).unwrap();
        let (store, loaded) = Store::open(torn.path(), true).unwrap();
        let seqs: Vec<u64> = loaded.messages.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "cut at {cut} of {end}");
        for seq in seqs {
            assert_eq!(store.body(seq).unwrap().as_deref(), Some(format!("body {seq}").as_bytes()));
        }
        longest = longest.max(loaded.messages.len());
    }
    assert_eq!(longest as u64, COUNT);
}

/// A power cut may keep later pages of the last, unconfirmed write and not earlier ones. The tree takes that for
/// damage of what it had: nothing is lost and nothing is made up, and a person has to decide.
#[test]
fn a_hole_in_the_last_write_is_told() {
    let dir = TempDir::new().unwrap();
    let mut store = filled(dir.path(), 3);
    let before = fs::read(journal(dir.path())).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    store.commit(&mut vec![put(9, &[0xAB; 30_000])], &mut Vec::new()).unwrap();
    drop(store);
    let mut bytes = fs::read(journal(dir.path())).unwrap();
    bytes[before + 8192..before + 12_288].fill(0);
    fs::write(journal(dir.path()), bytes).unwrap();
    let error = Store::open(dir.path(), true).err().unwrap();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("mv "), "what to do is not said: {error}");
}

/// Whatever is overwritten, opening gives the messages or an error that says what to do.
#[test]
fn a_damaged_store_is_told_or_harmless() {
    let dir = TempDir::new().unwrap();
    drop(filled(dir.path(), 20));
    // A second life, so that tables exist beside the journal.
    drop(filled(dir.path(), 20));
    let mut files = Vec::new();
    let mut folders = vec![dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let mut told = 0;
    for file in files {
        let damaged = TempDir::new().unwrap();
        copy(dir.path(), damaged.path());
        let file = damaged.path().join(file.strip_prefix(dir.path()).unwrap());
        let mut bytes = fs::read(&file).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for byte in bytes.iter_mut().take(end).skip(end / 2).take(16) {
            *byte ^= 0x5A;
        }
        fs::write(&file, bytes).unwrap();
        if let Err(error) = Store::open(damaged.path(), true) {
            assert!(error.to_string().contains(&*damaged.path().to_string_lossy()), "{error}");
            told += 1;
        }
    }
    assert!(told > 0, "no damage was noticed");
}
