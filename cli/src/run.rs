//! `asya run PATHS…`: every actor of some manifests, on this machine.
//!
//! Takes manifests; starts the broker and two processes for each actor, keeps them running, shows how they do, and
//! drains them on Ctrl-C. Blocks until stopped. On failure before anything runs: what is wrong, and nothing is left.

mod child;
mod plan;
mod progress;
mod traceback;
mod watch;

use crate::args;
use crate::broker::{self, Target};
use crate::error::Error;
use crate::home::{ActorAt, BrokerAt, Home, Lock, Record};
use crate::hosted;
use crate::out;
use crate::python;
use child::{Line, Part, Spec, Stop, supervise};
use plan::ActorPlan;
pub use progress::Counts;
use progress::Screen;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;

/// Lines on their way to the screen. Who writes more waits, as with any pipe.
const LINES_MAX: usize = 1_024;
/// What a sidecar may take on top of its own grace period before it is killed.
const GRACE_MARGIN: Duration = Duration::from_secs(5);
/// A sidecar's grace period where the manifest gives none.
const GRACE_DEFAULT: Duration = Duration::from_secs(30);
/// A runtime that its sidecar has let go has nothing left to do.
const RUNTIME_GRACE: Duration = Duration::from_secs(5);

/// The zipapp of the runtime.
const RUNTIME: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runtime.pyz"));

/// Runs until stopped.
pub async fn run(args: &args::Run) -> Result<(), Error> {
    let environment: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    let found = asya_manifest::load(&args.paths)?;
    let namespace = plan::namespace(&found, args.place.namespace.as_deref())?;
    plan::missing(&found, &environment)?;
    let virtual_env = environment.get("VIRTUAL_ENV").map(Path::new);
    let mut pythons = BTreeMap::new();
    for folder in found.iter().map(|f| f.folder()) {
        if !pythons.contains_key(folder) {
            pythons.insert(folder, python::choose(args.python.as_deref(), virtual_env, folder)?);
        }
    }

    let mut home = Home::new(args.place.data.as_deref());
    let lock = home.take()?;
    let folder = Sockets(home.sockets()?);
    let sockets = folder.0.as_path();
    let runtime = home.write("runtime.pyz", RUNTIME)?;
    let at = match &args.place.transport {
        Some(url) => broker::at(url)?,
        None => BrokerAt::Embedded(sockets.join("broker.sock")),
    };
    let hosted = match &at {
        BrokerAt::Embedded(socket) => Some(hosted::Hosted::start(&home.store(), socket, !args.no_fsync)?),
        BrokerAt::RabbitMq(_) | BrokerAt::Sqs { .. } => None,
    };

    let mut plans = Vec::new();
    for found in &found {
        let socket = sockets.join("broker.sock");
        let socket = socket.to_string_lossy();
        let around = plan::Surroundings {
            namespace: &namespace,
            broker: match &at {
                BrokerAt::Embedded(_) => asya_manifest::env::Broker::Embedded { socket: &socket },
                BrokerAt::RabbitMq(url) => asya_manifest::env::Broker::RabbitMq { url: Some(url) },
                BrokerAt::Sqs { region, endpoint } => {
                    asya_manifest::env::Broker::Sqs { region: Some(region), endpoint: endpoint.as_deref() }
                }
            },
            sockets,
            environment: &environment,
        };
        let python = pythons.get(found.folder()).cloned().unwrap_or_else(|| PathBuf::from("python3"));
        plans.push(plan::actor(found, &around, python, free_address()?)?);
    }

    let names: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
    let target = Target {
        namespace,
        broker: at.clone(),
        actors: names.iter().map(|n| (*n).to_owned()).collect(),
        message_bytes_max: BTreeMap::new(),
    };
    let mut client = broker::connect(&target).await?;
    // On RabbitMQ and SQS the sidecars declare their own queues: with arguments that follow from their settings, and that must
    // be the same whoever declares first.
    let queues: Vec<&str> = match &at {
        BrokerAt::Embedded(_) => plans.iter().map(|p| p.queue.as_str()).collect(),
        BrokerAt::RabbitMq(_) | BrokerAt::Sqs { .. } => Vec::new(),
    };
    let sinks = broker::declare(&mut client, &target.namespace, &queues).await?;
    // Of somebody else's broker it is not for this command to say what it keeps.
    if let Some(hosted) = &hosted {
        hosted.keep(&sinks, args.keep)?;
    }
    let record = Record {
        pid: std::process::id(),
        namespace: target.namespace.clone(),
        broker: at.clone(),
        actors: plans
            .iter()
            .map(|p| ActorAt {
                name: p.name.clone(),
                queue: p.queue.clone(),
                metrics: p.metrics.clone(),
                message_bytes_max: p.message_bytes_max(),
                unloadable: None,
            })
            .collect(),
    };
    home.write_record(&record)?;

    let screen = Screen::new(&names);
    for note in plan::notes(&found) {
        screen.say(&note);
    }
    introduce(&screen, &plans, &at, &home);

    let mut specs = Vec::new();
    for (plan, found) in plans.iter().zip(&found) {
        std::fs::create_dir_all(&plan.socket_dir).map_err(Error::file(&plan.socket_dir))?;
        let grace = found.actor.spec.graceful_shutdown.map_or(GRACE_DEFAULT, |g| g.0) + GRACE_MARGIN;
        specs.extend(processes(plan, &runtime, grace));
    }
    let watching = watch::Watch {
        actors: plans.iter().map(|p| (p.name.clone(), p.queue.clone(), p.metrics.clone())).collect(),
        client,
        until_idle: args.until_idle,
    };
    let outcome = Running { screen, specs, home, record }.until_stopped(watching, &target).await;
    if let Some(hosted) = hosted {
        hosted.stop()?;
    }
    drop(folder);
    let _held_until_here: Lock = lock;
    outcome
}

/// The folder of sockets, removed however a run ends. What a killed one leaves is used again by the next.
struct Sockets(PathBuf);

impl Drop for Sockets {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            out::note(&format!("the sockets in {} could not be removed: {error}", self.0.display()));
        }
    }
}

/// An address on the loopback that nobody has at this moment. Another program may take it before the sidecar does; the
/// sidecar then says so and is started again.
fn free_address() -> Result<String, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(Error::system("no free port"))?;
    Ok(listener.local_addr().map_err(Error::system("no free port"))?.to_string())
}

fn introduce(screen: &Screen, plans: &[ActorPlan], at: &BrokerAt, home: &Home) {
    screen.say(&format!(
        "broker: {}",
        match at {
            BrokerAt::Embedded(_) => format!("embedded, messages in {}", home.store().display()),
            BrokerAt::RabbitMq(_) | BrokerAt::Sqs { .. } => at.to_string(),
        }
    ));
    for plan in plans {
        screen.say_of(&plan.name, "|", &format!("queue {}, metrics http://{}/metrics", plan.queue, plan.metrics));
    }
    let route: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
    let here = std::env::current_dir().map(|d| d.join(".asya"));
    let data = if here.is_ok_and(|here| here == home.dir()) {
        String::new()
    } else {
        format!(" --data {}", home.dir().display())
    };
    screen.say(&format!("send to them: asya send {}{data} '{{\"name\": \"Ada\"}}' --wait", route.join(",")));
}

fn processes(plan: &ActorPlan, runtime: &Path, grace: Duration) -> [Spec; 2] {
    let spec = |part, command: Vec<OsString>, env: &BTreeMap<String, String>, grace| Spec {
        actor: plan.name.clone(),
        part,
        command,
        env: env.clone(),
        grace,
    };
    // By way of /proc: the program may be rebuilt while it runs.
    let sidecar = vec!["/proc/self/exe".into(), "sidecar".into()];
    let python = vec![plan.python.clone().into_os_string(), runtime.as_os_str().to_owned()];
    [spec(Part::Sidecar, sidecar, &plan.sidecar, grace), spec(Part::Runtime, python, &plan.runtime, RUNTIME_GRACE)]
}

struct Running {
    screen: Screen,
    specs: Vec<Spec>,
    home: Home,
    record: Record,
}

impl Running {
    /// Starts everything, shows it, and ends it.
    async fn until_stopped(mut self, mut watching: watch::Watch, target: &Target) -> Result<(), Error> {
        let (stop, stopping) = channel::channel(Stop::Run);
        let (lines, mut printed) = mpsc::channel(LINES_MAX);
        let (looks, mut seen) = mpsc::channel(LINES_MAX);
        let (mut sidecars, mut runtimes) = (JoinSet::new(), JoinSet::new());
        for spec in std::mem::take(&mut self.specs) {
            let set = if spec.part == Part::Sidecar { &mut sidecars } else { &mut runtimes };
            set.spawn(supervise(spec, stopping.clone(), lines.clone()));
        }
        drop(lines);
        let mut signals = Signals::new()?;
        let mut outcome = Ok(());
        let mut watched = Some(Box::pin(watching.run(looks)));
        loop {
            // Whoever started this with `| head` has seen enough: the same as Ctrl-C. Looks come once a second.
            if self.screen.is_closed() && *stop.borrow() == Stop::Run {
                outcome = Err(Error::Closed);
                advance(&stop, Stop::Sidecars);
            }
            tokio::select! {
                line = printed.recv() => match line {
                    Some(line) => if let Some(why) = self.print(line) {
                        outcome = Err(Error::Failed(why));
                        advance(&stop, Stop::Sidecars);
                    },
                    // Every process has ended and said its last words.
                    None => break,
                },
                Some((actor, shown)) = seen.recv() => self.screen.show(&actor, shown),
                idle = async { match &mut watched { Some(w) => w.await, None => std::future::pending().await } } => {
                    watched = None;
                    match idle {
                        Ok(()) => self.screen.say("every queue is empty"),
                        Err(error) => outcome = Err(error),
                    }
                    advance(&stop, Stop::Sidecars);
                }
                () = signals.next() => {
                    let now = *stop.borrow();
                    let next = if now == Stop::Run { Stop::Sidecars } else { Stop::Force };
                    self.say_stopping(now, target).await;
                    advance(&stop, next);
                }
                Some(_) = sidecars.join_next() => {
                    let stopping = *stop.borrow() >= Stop::Sidecars;
                    if sidecars.is_empty() && stopping {
                        advance(&stop, Stop::Runtimes);
                    }
                }
                Some(_) = runtimes.join_next() => {}
            }
        }
        self.screen.clear();
        self.screen.say("stopped");
        outcome
    }

    /// Prints a line; gives why everything must stop, where it says so.
    fn print(&mut self, line: Line) -> Option<String> {
        match line {
            Line::From(actor, text) => {
                // The runtime names its actor itself, for logs of a cluster.
                let text = text.strip_prefix(&format!("[{actor}] ")).unwrap_or(&text);
                self.screen.say_of(&actor, "|", text);
            }
            Line::About(actor, text) => self.screen.say_of(&actor, ":", &text),
            Line::Unloadable(actor, why) => self.note_unloadable(&actor, why),
            Line::Hopeless(actor, why) => return Some(format!("{actor}: {why}")),
        }
        None
    }

    /// Says it once, and keeps it for `asya status`.
    fn note_unloadable(&mut self, actor: &str, why: String) {
        let Some(at) = self.record.actors.iter_mut().find(|at| at.name == actor) else { return };
        if at.unloadable.as_ref() == Some(&why) {
            return;
        }
        let text = format!("the handler cannot be loaded: {why}");
        at.unloadable = Some(why);
        self.screen.say_of(actor, ":", &text);
        if let Err(error) = self.home.write_record(&self.record) {
            self.screen.say(&format!("`asya status` will not know why: {error}"));
        }
    }

    /// Says what an interrupt does now.
    async fn say_stopping(&self, now: Stop, target: &Target) {
        match now {
            Stop::Run => {
                self.screen
                    .say("stopping: running calls finish, the rest goes back to its queue (Ctrl-C again to force)");
            }
            Stop::Sidecars | Stop::Runtimes => {
                let held = broker::unsettled(target).await;
                let back: Vec<String> = held
                    .iter()
                    .filter(|(_, count)| *count > 0)
                    .map(|(actor, count)| format!("{count} of {actor}"))
                    .collect();
                self.screen.say(&if back.is_empty() {
                    "forced: nothing was being worked on".to_owned()
                } else {
                    format!("forced: these go back to their queues and run again next time: {}", back.join(", "))
                });
            }
            Stop::Force => {}
        }
    }
}

/// Stopping only ever goes further.
fn advance(stop: &channel::Sender<Stop>, to: Stop) {
    stop.send_modify(|now| *now = (*now).max(to));
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::system("signals cannot be listened for"));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
