//! What can be wrong with a store, and what to do about it.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// A store that cannot be opened. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another broker of this one, has it open.
    #[error("the broker's store in {0} is open already: stop the other broker, or use another directory")]
    InUse(PathBuf),
    /// It was written by a newer program.
    #[error(
        "the broker's store in {dir} has version {found}, and this program reads version {readable}: \
         use the program that wrote it, or another directory"
    )]
    Version {
        /// Where.
        dir: PathBuf,
        /// What the stamp says.
        found: u32,
        /// What this program reads.
        readable: u32,
    },
    /// It cannot be made sense of.
    #[error(
        "the broker's store in {dir} is damaged: {why}. To start with an empty one, move it away: \
         mv {dir} {dir}.damaged (its messages stay there)"
    )]
    Damaged {
        /// Where.
        dir: PathBuf,
        /// In what way.
        why: String,
    },
    /// The disk or its permissions.
    #[error("the broker's store in {dir} cannot be read or written: {source}")]
    Io {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn damaged(dir: &Path, why: &dyn Display) -> Self {
        Self::Damaged { dir: dir.to_owned(), why: why.to_string() }
    }

    pub(super) fn io(dir: &Path, source: io::Error) -> Self {
        Self::Io { dir: dir.to_owned(), source }
    }

    pub(super) fn tree(dir: &Path, error: &fjall::Error) -> Self {
        let io_error = match error {
            fjall::Error::Locked => return Self::InUse(dir.to_owned()),
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => error,
            other => return Self::damaged(dir, &format!("{other:?}")),
        };
        match io_error.kind() {
            // What the tree expects to be there is not, or is cut short: not the disk's fault of today.
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Self::damaged(dir, io_error)
            }
            _ => {
                let source = io_error.raw_os_error().map_or_else(
                    || io::Error::new(io_error.kind(), io_error.to_string()),
                    io::Error::from_raw_os_error,
                );
                Self::io(dir, source)
            }
        }
    }
}

/// A write or read that failed. The store is closed after a write that did.
#[derive(Debug, thiserror::Error)]
pub(in crate::embedded) enum StoreError {
    #[error("the store is closed after an earlier failure")]
    Closed,
    #[error("the store failed: {0}")]
    Tree(#[from] fjall::Error),
}
