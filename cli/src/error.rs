//! What goes wrong in a command, told with what to do next.
//!
//! Takes facts; gives text and an exit status. Blocks on nothing.

use std::path::PathBuf;
use std::process::ExitCode;

/// Exit status of a command that was used wrongly (`EX_USAGE`), as the sidecar's for its configuration.
pub const USAGE: u8 = 64;

/// Exit status of a command whose standard output was closed while it had more to say: as if SIGPIPE had ended it.
const CLOSED: u8 = 128 + 13;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody runs in this data folder.
    #[error("no broker is running in {}\n  = start `asya run PATHS…` first, name its --data folder, or give --transport amqp://… or sqs://…", .0.display())]
    NoBroker(PathBuf),
    /// The broker does not answer, or refuses.
    #[error("the broker at {place} cannot be used: {why}")]
    Broker {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
    /// A queue cannot be used.
    #[error("the queue {queue} cannot be used: {why}")]
    Queue {
        /// Its full name.
        queue: String,
        /// Why.
        why: String,
    },
    /// The user asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// Manifests with mistakes.
    #[error(transparent)]
    Manifests(#[from] asya_manifest::Problems),
    /// A file cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something else of the operating system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Nobody reads standard output any more.
    #[error("standard output is closed")]
    Closed,
    /// The command ran, and its result is a failure that is told already.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The process's exit status.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Manifests(_) => ExitCode::from(USAGE),
            Self::Closed => ExitCode::from(CLOSED),
            _ => ExitCode::FAILURE,
        }
    }

    /// For `map_err` on file operations.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// For `map_err` on other operations.
    pub fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
