//! One child process: started, watched, started again when it dies, stopped when asked.
//!
//! Takes a command and a signal of how far stopping has come; gives lines to print. Blocks on the process. On failure
//! to start: the same as a death, a line and another try.

use super::traceback::{Tracebacks, unloadable};
use crate::retry::Backoff;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// A process that lived this long did start: its next death is a new matter.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// A longer line is cut: one line of a handler's output must not fill memory.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Exit status of a sidecar whose configuration is wrong: another start would end the same way.
const EXIT_CONFIG: i32 = 64;

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not at all.
    Run,
    /// Sidecars finish what they hold.
    Sidecars,
    /// Runtimes end, now that nothing needs them.
    Runtimes,
    /// Everything ends now.
    Force,
}

/// What a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The sidecar.
    Sidecar,
    /// The Python side.
    Runtime,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Runtime => "Python runtime",
        }
    }

    /// When it is told to stop.
    fn stops_at(self) -> Stop {
        match self {
            Self::Sidecar => Stop::Sidecars,
            Self::Runtime => Stop::Runtimes,
        }
    }
}

/// What to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A process of this actor wrote it.
    From(String, String),
    /// About this actor.
    About(String, String),
    /// The handler of this actor cannot be loaded, and why.
    Unloadable(String, String),
    /// This actor cannot run: everything stops.
    Hopeless(String, String),
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The actor it belongs to.
    pub actor: String,
    /// What it is.
    pub part: Part,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Its variables, beside those of this process that are not Asya's own.
    pub env: BTreeMap<String, String>,
    /// How long it may take to stop.
    pub grace: Duration,
}

/// Keeps one child running until it is told to stop.
pub async fn supervise(spec: Spec, mut stop: watch::Receiver<Stop>, lines: mpsc::Sender<Line>) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    while *stop.borrow() < Stop::Sidecars {
        let started = Instant::now();
        let ended = match start(&spec) {
            Err(error) => format!("the {} cannot be started: {error}", spec.part.name()),
            Ok(mut child) => {
                let output = forward(&spec, &mut child, &lines);
                let status = watch_until_end(&spec, &mut child, &mut stop).await;
                // Its last words come before what is said about its end.
                output.await;
                if *stop.borrow() >= Stop::Sidecars {
                    return;
                }
                if spec.part == Part::Sidecar && status.as_ref().is_some_and(|s| s.code() == Some(EXIT_CONFIG)) {
                    let why = "its sidecar refuses its configuration; the lines above say why".to_owned();
                    say(&lines, Line::Hopeless(spec.actor.clone(), why)).await;
                    return;
                }
                format!("the {} ended ({})", spec.part.name(), status.map_or("unknown".to_owned(), describe))
            }
        };
        if started.elapsed() > HEALTHY_AFTER {
            backoff.reset();
        }
        let Some(wait) = backoff.next() else {
            say(&lines, Line::Hopeless(spec.actor.clone(), format!("{ended}; it does not stay up"))).await;
            return;
        };
        let again = format!("{ended}; starting it again in {:.1} s", wait.as_secs_f64());
        say(&lines, Line::About(spec.actor.clone(), again)).await;
        tokio::select! {
            () = sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop >= Stop::Sidecars) => return,
        }
    }
}

/// Nobody reads any more only when everything ends.
async fn say(lines: &mpsc::Sender<Line>, line: Line) {
    drop(lines.send(line).await);
}

fn start(spec: &Spec) -> std::io::Result<Child> {
    let (program, args) = spec.command.split_first().ok_or_else(|| std::io::Error::other("no program"))?;
    let mut command = Command::new("/proc/self/exe");
    // Through this program, which arranges that the child dies with it, however it ends.
    command.arg("exec").arg(std::process::id().to_string()).arg(program).args(args);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ASYA_")) {
        command.env_remove(name);
    }
    command.envs(&spec.env).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that Ctrl-C reaches this process alone, which then drains.
    command.process_group(0).kill_on_drop(true).spawn()
}

/// Waits for its end, and brings that about when asked.
async fn watch_until_end(spec: &Spec, child: &mut Child, stop: &mut watch::Receiver<Stop>) -> Option<ExitStatus> {
    let asked = spec.part.stops_at();
    tokio::select! {
        status = child.wait() => return status.ok(),
        _ = stop.wait_for(|stop| *stop >= asked) => {}
    }
    if *stop.borrow() < Stop::Force {
        signal(child, rustix::process::Signal::TERM);
        tokio::select! {
            status = child.wait() => return status.ok(),
            _ = stop.wait_for(|stop| *stop >= Stop::Force) => {}
            () = sleep_until(Instant::now() + spec.grace) => {}
        }
    }
    signal(child, rustix::process::Signal::KILL);
    child.wait().await.ok()
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return };
    // An error means that it has just ended by itself.
    let _ = match signal {
        // The group too: a wrapper script that somebody named as Python must not hide the interpreter.
        rustix::process::Signal::KILL => rustix::process::kill_process_group(pid, signal),
        _ => rustix::process::kill_process(pid, signal),
    };
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "killed by signal 9, perhaps for want of memory".to_owned(),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// Copies what it writes, line by line; done when both streams are at their end.
fn forward(spec: &Spec, child: &mut Child, lines: &mpsc::Sender<Line>) -> impl Future<Output = ()> + use<> {
    let out = child.stdout.take().map(|s| tokio::spawn(copy(spec.actor.clone(), s, lines.clone())));
    let err = child.stderr.take().map(|s| tokio::spawn(copy(spec.actor.clone(), s, lines.clone())));
    async move {
        // A grandchild may hold the streams open for long; what it writes is still shown, but nobody waits for it.
        let both = async {
            for task in [out, err].into_iter().flatten() {
                drop(task.await);
            }
        };
        drop(tokio::time::timeout(Duration::from_millis(500), both).await);
    }
}

async fn copy(actor: String, stream: impl AsyncRead + Unpin, lines: mpsc::Sender<Line>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let mut cut = false;
    let mut tracebacks = Tracebacks::default();
    while let Ok(available) = reader.fill_buf().await {
        if available.is_empty() {
            break;
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |at| at + 1);
        let room = LINE_BYTES_MAX.saturating_sub(line.len());
        let text = available.get(..end.unwrap_or(taken)).unwrap_or_default();
        cut |= text.len() > room;
        line.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
        reader.consume(taken);
        if end.is_some() {
            let shown = tracebacks.take(whole(&mut line, &mut cut));
            if send_lines(&actor, shown, &lines).await.is_err() {
                return;
            }
        }
    }
    let mut shown = if line.is_empty() { Vec::new() } else { tracebacks.take(whole(&mut line, &mut cut)) };
    shown.append(&mut tracebacks.rest());
    // Nobody reads any more only when everything ends.
    let _ = send_lines(&actor, shown, &lines).await;
}

/// The text of a line, which begins anew.
fn whole(line: &mut Vec<u8>, cut: &mut bool) -> String {
    let mut text = String::from_utf8_lossy(line).trim_end().to_owned();
    if std::mem::take(cut) {
        text.push('…');
    }
    line.clear();
    text
}

async fn send_lines(actor: &str, texts: Vec<String>, lines: &mpsc::Sender<Line>) -> Result<(), ()> {
    for text in texts {
        let line = match unloadable(&text) {
            Some(why) => Line::Unloadable(actor.to_owned(), why),
            None => Line::From(actor.to_owned(), text),
        };
        lines.send(line).await.map_err(drop)?;
    }
    Ok(())
}
