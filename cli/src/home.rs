//! The data folder: what `asya run` keeps there, and how the other commands find it.
//!
//! Takes a path; gives the places inside it and the record of who runs there. Blocks on small file operations. On
//! failure: the path and why.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket, less its final zero, on Linux.
const SOCKET_PATH_MAX: usize = 107;
/// The longest name under the folder of sockets: an actor's label and the sidecar's socket.
const SOCKET_NAME_MAX: usize = "/".len() + 63 + "/asya-sidecar.sock".len();

/// A data folder.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
}

/// Who runs in a data folder, for the other commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Process id of `asya run`.
    pub pid: u32,
    /// In the names of all queues.
    pub namespace: String,
    /// The broker.
    pub broker: BrokerAt,
    /// The actors.
    pub actors: Vec<ActorAt>,
}

/// Where a broker is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerAt {
    /// The embedded one's socket.
    Embedded(PathBuf),
    /// RabbitMQ's URL, password and all: the record is readable by its owner alone.
    RabbitMq(String),
    /// SQS, of AWS or at an address.
    Sqs {
        /// The region.
        region: String,
        /// Where it is, unless it is AWS's own.
        endpoint: Option<String>,
    },
}

impl std::fmt::Debug for BrokerAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for BrokerAt {
    /// Never shows a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(socket) => write!(f, "{}", socket.display()),
            Self::RabbitMq(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("amqp", url));
                let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
                write!(f, "{scheme}://{place}")
            }
            Self::Sqs { endpoint: Some(endpoint), .. } => write!(f, "sqs+{endpoint}"),
            Self::Sqs { region, endpoint: None } => write!(f, "sqs://{region}"),
        }
    }
}

/// One running actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorAt {
    /// Its name.
    pub name: String,
    /// Its queue's full name.
    pub queue: String,
    /// Where its sidecar's metrics listen.
    pub metrics: String,
    /// The largest message that its sidecar takes.
    #[serde(default)]
    pub message_bytes_max: Option<u64>,
    /// Why its handler could not be loaded when that was last tried and failed.
    #[serde(default)]
    pub unloadable: Option<String>,
}

/// Held as long as `asya run` lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock is given up when the file is closed")] File);

impl Home {
    /// The folder that was named, or `.asya` here.
    pub fn new(dir: Option<&Path>) -> Self {
        Self { dir: dir.unwrap_or(Path::new(".asya")).to_owned() }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the folder, and takes it for this process.
    pub fn take(&mut self) -> Result<Lock, Error> {
        fs::create_dir_all(&self.dir).map_err(Error::file(&self.dir))?;
        self.dir = self.dir.canonicalize().map_err(Error::file(&self.dir))?;
        // Nothing here is for a repository.
        let ignore = self.dir.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").map_err(Error::file(ignore))?;
        }
        let path = self.dir.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::file(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => {
                let by = self.record().map_or(String::new(), |r| format!(" (process {})", r.pid));
                Err(Error::Usage(format!(
                    "`asya run` is already running in {}{by}\n  = stop it, or give this one a folder of its own with --data",
                    self.dir.display()
                )))
            }
            Err(TryLockError::Error(source)) => Err(Error::File { path, source }),
        }
    }

    /// Whether an `asya run` lives here.
    pub fn is_taken(&self) -> bool {
        File::options()
            .write(true)
            .open(self.dir.join("lock"))
            .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Who runs here, or ran here last.
    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.dir.join("run.json")).ok()?).ok()
    }

    /// Says who runs here. Readable by the owner alone; never seen half written.
    pub fn write_record(&self, record: &Record) -> Result<(), Error> {
        let path = self.dir.join("run.json");
        let fresh = self.dir.join("run.json.new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&fresh)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            fs::rename(&fresh, &path)
        };
        write().map_err(Error::file(&path))
    }

    /// Where the embedded broker keeps its messages.
    pub fn store(&self) -> PathBuf {
        self.dir.join("broker")
    }

    /// Writes a file of the folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).map_err(Error::file(&path))?;
        Ok(path)
    }

    /// The folder of sockets: inside the data folder, or in /tmp where that path would be too
    /// long for a socket. Only this user may enter it.
    pub fn sockets(&self) -> Result<PathBuf, Error> {
        let inside = self.dir.join("run");
        let folder = if inside.as_os_str().len() + SOCKET_NAME_MAX <= SOCKET_PATH_MAX {
            inside
        } else {
            Path::new("/tmp").join(format!("asya-{:012x}", fnv(self.dir.as_os_str().as_encoded_bytes()) >> 16))
        };
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let about = fs::symlink_metadata(&folder).map_err(Error::file(&folder))?;
                if about.is_dir() && about.uid() == rustix::process::geteuid().as_raw() {
                    fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(Error::file(&folder))?;
                    Ok(folder)
                } else {
                    let source = std::io::Error::other("it belongs to somebody else");
                    Err(Error::File { path: folder, source })
                }
            }
            Err(source) => Err(Error::File { path: folder, source }),
        }
    }
}

/// FNV-1a: the same folder must get the same name in every version.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time_and_the_lock_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut home = Home::new(Some(&folder.path().join("data")));
        assert!(!home.is_taken());
        let lock = home.take().unwrap();
        assert!(home.is_taken());
        let refused = Home::new(Some(home.dir())).take().unwrap_err().to_string();
        assert!(refused.contains("already running") && refused.contains("--data"), "{refused}");
        drop(lock);
        assert!(!home.is_taken());
    }

    #[test]
    fn the_record_is_private_and_shows_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Some(folder.path()));
        let broker = BrokerAt::RabbitMq("amqp://user:secret@host:5672/v".into());
        assert_eq!(broker.to_string(), "amqp://host:5672/v");
        assert!(!format!("{broker:?}").contains("secret"));
        let record = Record { pid: 1, namespace: "n".into(), broker, actors: vec![] };
        home.write_record(&record).unwrap();
        assert_eq!(home.record(), Some(record));
        assert_eq!(fs::metadata(folder.path().join("run.json")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn sockets_of_a_deep_folder_go_where_their_path_fits() {
        let folder = tempfile::tempdir().unwrap();
        let near = Home { dir: PathBuf::from("/tmp") };
        assert!(near.dir.join("run").as_os_str().len() + SOCKET_NAME_MAX <= SOCKET_PATH_MAX);
        let deep = folder.path().join("x".repeat(100));
        fs::create_dir(&deep).unwrap();
        let sockets = Home::new(Some(&deep)).sockets().unwrap();
        assert!(sockets.as_os_str().len() + SOCKET_NAME_MAX <= SOCKET_PATH_MAX, "{}", sockets.display());
        assert_eq!(fs::metadata(&sockets).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir(sockets).unwrap();
    }
}
