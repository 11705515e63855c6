//! What the embedded broker keeps on disk.
//!
//! Takes the changes of a turn, gives their durability: [`Store::commit`] writes them in one atomic batch, and waits
//! for the disk when something was published. Blocks on the disk in `open`, `commit` and `body`. After a failed commit
//! nothing is written until [`Store::reopen`] has succeeded; the caller keeps what was to be changed and gives it
//! again.
//!
//! Layout of the directory: `VERSION` (the stamp), `store/` (heads, bodies and queues in a log-structured tree),
//! `bodies/` (one file per large body). A body file is complete and synced before its head is committed; files without
//! a head are left-overs of a crash and are deleted at open.

mod error;
mod records;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};

use super::limits::DISK_CHECK_EVERY;
pub use error::OpenError;
pub(super) use error::StoreError;
pub(super) use records::{QueueRecord, StoredHead};

/// Version of the layout and of the records.
const VERSION: u32 = 1;

/// First line of the stamp.
const STAMP: &str = "asya embedded broker store";

/// Threads that flush and compact in the background; two let a flush go before a compaction.
const WORKERS: usize = 2;

/// Key in the `meta` keyspace that is there only after a clean end.
const CLEAN: &[u8] = b"clean";

/// A new message.
pub(super) struct Put {
    pub(super) seq: u64,
    pub(super) head: StoredHead,
    /// The body, unless it is in its file.
    pub(super) body: Option<Slice>,
}

/// Anything else that is to be made durable. Idempotent, so that it can be given again after a failure.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// The head of a message is another one now.
    Head { seq: u64, head: StoredHead },
    /// A message is done with.
    Remove { seq: u64, in_file: bool },
    /// A queue is there, like this.
    Queue { id: u32, record: QueueRecord },
    /// A queue is gone.
    DropQueue { id: u32 },
}

/// What was found at open.
pub(super) struct Loaded {
    pub(super) queues: Vec<(u32, QueueRecord)>,
    pub(super) messages: Vec<(u64, StoredHead)>,
    /// Whether the last process said goodbye; if not, any message may have been delivered before.
    pub(super) clean: bool,
}

struct Tree {
    database: Database,
    meta: Keyspace,
    heads: Keyspace,
    bodies: Keyspace,
}

/// The store of one directory. Only one can be open at a time.
pub(super) struct Store {
    dir: PathBuf,
    fsync: bool,
    tree: Option<Tree>,
    disk_checked: Option<(Instant, u64)>,
    #[cfg(test)]
    pub(super) fault: Option<Fault>,
}

/// A way for a commit to fail, for tests.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing was written.
    BeforeWriting,
    /// All was written, and the sync failed.
    AfterWriting,
}

impl Store {
    /// Opens or creates the store in `dir`.
    pub(super) fn open(dir: &Path, fsync: bool) -> Result<(Self, Loaded), OpenError> {
        fs::create_dir_all(dir.join("bodies")).map_err(|e| OpenError::io(dir, e))?;
        check_stamp(dir)?;
        let tree = Tree::open(dir)?;
        let mut store = Self {
            dir: dir.to_owned(),
            fsync,
            tree: Some(tree),
            disk_checked: None,
            #[cfg(test)]
            fault: None,
        };
        let loaded = store.load()?;
        store.delete_strays(&loaded)?;
        store.set_clean(false).map_err(|e| OpenError::damaged(dir, &e))?;
        Ok((store, loaded))
    }

    /// Whether the last commit succeeded.
    pub(super) fn is_open(&self) -> bool {
        self.tree.is_some()
    }

    fn load(&mut self) -> Result<Loaded, OpenError> {
        let dir = self.dir.clone();
        let damaged = |why: &dyn std::fmt::Display| OpenError::damaged(&dir, why);
        let tree = self.tree.as_ref().ok_or_else(|| damaged(&"it is closed"))?;
        let mut loaded = Loaded { queues: Vec::new(), messages: Vec::new(), clean: false };
        for entry in tree.meta.iter() {
            let (key, value) = entry.into_inner().map_err(|e| OpenError::tree(&dir, &e))?;
            if *key == *CLEAN {
                loaded.clean = true;
            } else if let Some((b'q', id)) = key.split_first()
                && let Ok(id) = id.try_into()
            {
                let record = QueueRecord::decode(&value).map_err(|e| damaged(&e))?;
                loaded.queues.push((u32::from_be_bytes(id), record));
            }
        }
        for entry in tree.heads.iter() {
            let (key, value) = entry.into_inner().map_err(|e| OpenError::tree(&dir, &e))?;
            let seq = key.as_ref().try_into().map(u64::from_be_bytes).map_err(|e| damaged(&e))?;
            let head = StoredHead::decode(&value).map_err(|e| damaged(&e))?;
            if head.in_file {
                let len = fs::metadata(self.body_path(seq)).map(|file| file.len()).unwrap_or(0);
                if len != head.len {
                    return Err(damaged(&format!("the body of message {seq} has {len} of {} bytes", head.len)));
                }
            }
            loaded.messages.push((seq, head));
        }
        Ok(loaded)
    }

    fn delete_strays(&self, loaded: &Loaded) -> Result<(), OpenError> {
        let known: HashSet<PathBuf> =
            loaded.messages.iter().filter(|(_, head)| head.in_file).map(|(seq, _)| self.body_path(*seq)).collect();
        let io = |e| OpenError::io(&self.dir, e);
        for entry in fs::read_dir(self.dir.join("bodies")).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if !known.contains(&path) {
                fs::remove_file(&path).map_err(io)?;
            }
        }
        Ok(())
    }

    /// Where the body of a large message is.
    pub(super) fn body_path(&self, seq: u64) -> PathBuf {
        self.dir.join("bodies").join(format!("{seq:020}"))
    }

    /// Makes `puts` and `changes` durable, all or nothing. On success both are empty and files of removed messages are
    /// gone; on failure both are as they were, and the store is closed.
    pub(super) fn commit(&mut self, puts: &mut Vec<Put>, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        if puts.is_empty() && changes.is_empty() {
            return Ok(());
        }
        let tree = self.tree.as_ref().ok_or(StoreError::Closed)?;
        // A removal that is not on the disk yet costs a second delivery after a power cut; a publish that is not
        // costs a message that was promised.
        let mode = if self.fsync && !puts.is_empty() { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = tree.database.batch().durability(Some(mode));
        for put in puts.iter() {
            batch.insert(&tree.heads, put.seq.to_be_bytes(), put.head.encode());
            if let Some(body) = &put.body {
                batch.insert(&tree.bodies, put.seq.to_be_bytes(), body.clone());
            }
        }
        for change in changes.iter() {
            tree.add(&mut batch, change);
        }
        if let Err(error) = self.write(batch) {
            // The tree refuses everything after a failed write, and some of that write may be on the disk.
            self.tree = None;
            return Err(error);
        }
        puts.clear();
        for change in changes.drain(..) {
            if let Change::Remove { seq, in_file: true } = change {
                self.delete_body(seq);
            }
        }
        Ok(())
    }

    #[cfg(not(test))]
    fn write(&mut self, batch: fjall::OwnedWriteBatch) -> Result<(), StoreError> {
        Ok(batch.commit()?)
    }

    #[cfg(test)]
    fn write(&mut self, batch: fjall::OwnedWriteBatch) -> Result<(), StoreError> {
        let fault = self.fault;
        if fault != Some(Fault::BeforeWriting) {
            batch.commit()?;
        }
        match fault {
            Some(_) => Err(StoreError::Tree(fjall::Error::Poisoned)),
            None => Ok(()),
        }
    }

    /// Deletes a body file; a failure costs disk until the next open deletes it as a stray.
    pub(super) fn delete_body(&self, seq: u64) {
        if let Err(error) = fs::remove_file(self.body_path(seq)) {
            tracing::warn!(seq, %error, "a body file could not be deleted");
        }
    }

    /// The body of a message that is not in a file.
    pub(super) fn body(&self, seq: u64) -> Result<Option<Slice>, StoreError> {
        let tree = self.tree.as_ref().ok_or(StoreError::Closed)?;
        Ok(tree.bodies.get(seq.to_be_bytes())?)
    }

    /// Opens the store again after a failed commit, and removes the messages in it that `is_known` does not know: a
    /// failed commit may have written some.
    pub(super) fn reopen(&mut self, is_known: impl Fn(u64) -> bool) -> Result<(), OpenError> {
        #[cfg(test)]
        if self.fault.is_some() {
            return Err(OpenError::io(&self.dir, io::ErrorKind::StorageFull.into()));
        }
        let tree = Tree::open(&self.dir)?;
        let mut batch = tree.database.batch().durability(Some(PersistMode::SyncData));
        for entry in tree.heads.iter() {
            let key = entry.key().map_err(|e| OpenError::tree(&self.dir, &e))?;
            if key.as_ref().try_into().map(u64::from_be_bytes).is_ok_and(|seq| !is_known(seq)) {
                batch.remove(&tree.heads, key.clone());
                batch.remove(&tree.bodies, key);
            }
        }
        batch.commit().map_err(|e| OpenError::tree(&self.dir, &e))?;
        self.tree = Some(tree);
        Ok(())
    }

    /// So many bytes of bodies are about to be written.
    pub(super) fn expect_bytes(&mut self, len: u64) {
        if let Some((_, free)) = &mut self.disk_checked {
            *free = free.saturating_sub(len);
        }
    }

    /// Bytes that are free on the disk: as of at most [`DISK_CHECK_EVERY`] ago, less what was expected since.
    pub(super) fn disk_free(&mut self, now: Instant) -> u64 {
        match self.disk_checked {
            Some((at, free)) if now.duration_since(at) < DISK_CHECK_EVERY => free,
            _ => {
                let free =
                    rustix::fs::statvfs(&self.dir).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
                self.disk_checked = Some((now, free));
                free
            }
        }
    }

    /// Says goodbye: all is on the disk, and what is stored was not delivered without being settled.
    pub(super) fn close(mut self) -> Result<(), StoreError> {
        self.set_clean(true)
    }

    fn set_clean(&mut self, clean: bool) -> Result<(), StoreError> {
        let tree = self.tree.as_ref().ok_or(StoreError::Closed)?;
        let mut batch = tree.database.batch().durability(Some(PersistMode::SyncData));
        if clean {
            batch.insert(&tree.meta, CLEAN, [1]);
        } else {
            batch.remove(&tree.meta, CLEAN);
        }
        Ok(batch.commit()?)
    }
}

impl Tree {
    fn open(dir: &Path) -> Result<Self, OpenError> {
        let error = |e| OpenError::tree(dir, &e);
        let database = Database::builder(dir.join("store")).worker_threads(WORKERS).open().map_err(error)?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default).map_err(error);
        let (meta, heads, bodies) = (keyspace("meta")?, keyspace("heads")?, keyspace("bodies")?);
        Ok(Self { database, meta, heads, bodies })
    }

    fn add(&self, batch: &mut fjall::OwnedWriteBatch, change: &Change) {
        match change {
            Change::Head { seq, head } => batch.insert(&self.heads, seq.to_be_bytes(), head.encode()),
            Change::Remove { seq, in_file } => {
                batch.remove(&self.heads, seq.to_be_bytes());
                if !in_file {
                    batch.remove(&self.bodies, seq.to_be_bytes());
                }
            }
            Change::Queue { id, record } => batch.insert(&self.meta, queue_key(*id), record.encode()),
            Change::DropQueue { id } => batch.remove(&self.meta, queue_key(*id)),
        }
    }
}

fn queue_key(id: u32) -> [u8; 5] {
    let [a, b, c, d] = id.to_be_bytes();
    [b'q', a, b, c, d]
}

fn check_stamp(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("VERSION");
    match fs::read_to_string(&path) {
        Ok(stamp) => {
            let version = stamp.strip_prefix(STAMP).and_then(|rest| rest.trim().strip_prefix("version "));
            match version.and_then(|version| version.parse::<u32>().ok()) {
                Some(VERSION) => Ok(()),
                Some(found) => Err(OpenError::Version { dir: dir.to_owned(), found, readable: VERSION }),
                None => Err(OpenError::damaged(dir, &"VERSION does not say what it should")),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if dir.join("store").exists() {
                return Err(OpenError::damaged(dir, &"there is no VERSION in it"));
            }
            write_synced(&path, format!("{STAMP}\nversion {VERSION}\n").as_bytes()).map_err(|e| OpenError::io(dir, e))
        }
        Err(error) => Err(OpenError::io(dir, error)),
    }
}

/// Writes a small file so that after a crash it is either whole or not there.
fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
