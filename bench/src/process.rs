//! The processes that are measured: started with their output in a file, weighed by the kernel's own counters, and
//! killed with whoever started them.
//!
//! Takes commands, gives pids and numbers from `/proc`. Never blocks, except on the end of a process it has killed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Error;

/// `USER_HZ`: the unit of the times in `/proc/PID/stat`, fixed at 100 by the kernel's interface on x86-64 and arm64.
const TICKS_PER_SECOND: u64 = 100;

/// One process that is killed when this value, or the process that holds it, goes away.
pub struct Process {
    /// What it is called in reports.
    pub name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; its output goes to `folder/name.log`.
    pub fn start(name: &'static str, command: &Command, folder: &Path) -> Result<Self, Error> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(Error::system(format!("cannot write {}", log.display())))?;
        let errors = output.try_clone().map_err(Error::system("cannot share a log"))?;
        // `setpriv` becomes the command, so that its pid is the command's.
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(variable, value),
                None => wrapped.env_remove(variable),
            };
        }
        let child = wrapped
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(Error::system(format!("cannot start {name} ({})", command.get_program().display())))?;
        Ok(Self { name, child, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error when it has ended.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(self.stuck(&format!("ended with {status}"))),
            _ => Ok(()),
        }
    }

    /// The error that says how it failed, with the end of its log.
    pub fn stuck(&self, how: &str) -> Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let log = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        Error::Stuck { what: format!("{} {how}", self.name), log }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its own children (Python's workers) are tied to it by themselves; the benchmark relies on it in no other way.
        for pid in family(self.pid()).into_iter().rev() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process and all of its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && let Some(parent) = stat(id).and_then(|fields| fields.get(1)?.parse().ok())
        {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        all.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    all
}

/// Processor time that these processes have used so far.
pub fn cpu(pids: &[u32]) -> Duration {
    let ticks = |pid: &u32| -> Option<u64> {
        let fields = stat(*pid)?;
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    Duration::from_millis(pids.iter().filter_map(ticks).sum::<u64>() * (1000 / TICKS_PER_SECOND))
}

/// Memory of a process that is in RAM, in KiB: all of it, and what it shares with nobody by way of a file or a memfd.
pub fn memory_kib(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    (field("VmRSS:"), field("RssAnon:"))
}

/// The fields of `/proc/PID/stat` after the command's name, from the state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}
