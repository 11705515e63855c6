//! The sidecar as a process: from its environment to its exit status.
//!
//! Takes the environment, gives an exit status: 0 after a drain, 64 for a wrong configuration, 1 for what a person must
//! mend. One thread turns the core; a second serves metrics and health.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use asya_envelope::names;
use asya_transport::embedded::EmbeddedTransport;
use asya_transport::rabbitmq::RabbitMq;
use asya_transport::sqs::Sqs;
use asya_transport::{Limits, Op, QueueSpec, Transport};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Sleep, sleep_until};

use crate::admin::{Admin, Health};
use crate::audience::{Levels, Watcher};
use crate::config::{self, Broker, Config, EXIT_CONFIG, EmittedEncoding, Environment, Loaded};
use crate::drive::Sidecar;
use crate::flow::{Emit, Now, Role, Settings, Time};
use crate::metrics::{Identity, Metrics};
use crate::pipeline::Pipeline;
use crate::rim::{RimSettings, SharedRim};

/// The data thread turns at least this often, so that its heartbeat is seen and lost wake-ups cannot hurt for long.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Deliveries of one message that the broker counts before it gives the message up: a backstop far above any policy.
const DELIVERY_LIMIT: u32 = 100;

/// Part of the grace period that is kept for flushing what the deadline hands back.
const FLUSH: Duration = Duration::from_secs(1);

/// Deaths alone after which a message goes to the failure sink.
const CRASH_LIMIT: u32 = 3;

/// The result of a message whose delivery was lost is kept so long for its redelivery.
const ORPHAN_TTL: Duration = Duration::from_secs(30);

/// What ends the process with status 1.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("{0}")]
    Name(#[from] names::NameError),
    #[error("cannot {what}: {error}")]
    System { what: String, error: std::io::Error },
    #[error("{0}")]
    Admin(#[from] crate::admin::AdminError),
    #[error("the broker refuses this sidecar: {0}")]
    Broker(String),
    #[error(
        "no worker was ready within {0:?}: look at the runtime's output for why (ASYA_RUNTIME_READY_TIMEOUT allows longer)"
    )]
    NotReady(Duration),
}

/// Runs the sidecar that the environment describes. `--help` is answered from the same table that parses it.
pub fn run_from_env() -> ExitCode {
    if std::env::args().any(|a| a == "--help" || a == "-h") {
        print!("{}", config::help());
        return ExitCode::SUCCESS;
    }
    let Loaded { config, notes } = match Config::read(&Environment) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if let Err(error) = crate::logging::init(&config.log) {
        eprintln!("logging cannot be set up: {error}");
        return ExitCode::FAILURE;
    }
    for note in notes {
        tracing::warn!("{note}");
    }
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            tracing::error!("{fatal}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> Result<(), Fatal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fatal::System { what: "start the reactor".into(), error })?;
    runtime.block_on(async {
        match &config.broker {
            Broker::RabbitMq(broker) => {
                let mut broker = (**broker).clone();
                // One call that runs, and one before it that what is kept had to wait for.
                broker.longest_hold = config.runtime.call_timeout.saturating_mul(2);
                serve(config, RabbitMq::new(broker)).await
            }
            Broker::Sqs(sqs) => serve(config, Sqs::new((**sqs).clone())).await,
            Broker::Embedded { socket } => serve(config, EmbeddedTransport::new(socket)).await,
        }
    })
}

/// Names of the queues that this sidecar has to do with.
struct Queues {
    own: String,
    sink: String,
    sump: String,
}

fn queues(config: &Config) -> Result<Queues, Fatal> {
    let name = |actor: &str| names::queue_name(&config.actor.namespace, actor);
    Ok(Queues { own: name(&config.actor.name)?, sink: name(&config.actor.sink)?, sump: name(&config.actor.sump)? })
}

fn settings(config: &Config, queues: &Queues, limits: &Limits) -> Settings {
    Settings {
        namespace: config.actor.namespace.clone(),
        actor: config.actor.name.clone(),
        queue: Rc::from(queues.own.as_str()),
        sink: Rc::from(queues.sink.as_str()),
        sump: Rc::from(queues.sump.as_str()),
        role: match config.actor.role {
            config::Role::Regular => Role::Regular,
            config::Role::Sink | config::Role::Sump => Role::End,
        },
        emit: match config.publishing.encoding {
            EmittedEncoding::AsItArrived => Emit::AsArrived,
            EmittedEncoding::Json => Emit::Json,
            EmittedEncoding::Native => Emit::Native,
        },
        timeout: config.runtime.call_timeout,
        workers: config.runtime.workers,
        max_window: u32::from(config.flow.window_max),
        batch_bytes: config.runtime.batch.bytes,
        batch_wait: config.runtime.batch.wait,
        crash_limit: CRASH_LIMIT,
        unroutable_tries: config.publishing.attempts_max,
        backoff: config.publishing.backoff,
        backoff_cap: Duration::from_secs(30),
        ready_grace: Duration::from_secs(10),
        cancel_grace: Duration::from_secs(2),
        // Where deliveries are lent, a redelivery comes when the lease of the lost one is over.
        orphan_ttl: limits.lease.map_or(ORPHAN_TTL, |lease| lease.lasts.saturating_add(ORPHAN_TTL * 2)),
        resiliency: config.resiliency.clone(),
        delays: limits.delays,
        lease: limits.lease,
        remembered: config.remembered,
    }
}

/// Both clocks, read together.
struct Clocks {
    origin: Instant,
}

impl Clocks {
    fn now(&self) -> Now {
        let mono = Time(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono, wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }

    fn instant(&self, time: Time) -> Instant {
        self.origin + Duration::from_nanos(time.0)
    }
}

async fn serve<T: Transport>(config: &Config, mut transport: T) -> Result<(), Fatal> {
    let queues = queues(config)?;
    let identity = Identity { actor: config.actor.name.clone(), transport: transport.name() };
    let (metrics, reader) = Metrics::new(&config.observability.prefix, &identity);
    let health = Arc::new(Health::default());
    let reader = config.observability.metrics.then_some(reader);
    let admin = match &config.observability.listen {
        Some(listen) => Some(Admin::start(listen, reader, Arc::clone(&health))?),
        None => None,
    };
    if let Some(admin) = &admin {
        tracing::info!(address = %admin.address(), "metrics and health");
    }
    let socket = config.runtime.socket();
    let rim = RimSettings {
        workers: config.runtime.workers,
        concurrency: config.runtime.concurrency,
        batch: config.runtime.batch.items_max(),
        max_message_bytes: config.flow.message_bytes_max,
        memory_bytes: config.flow.memory_bytes_max,
        max_window: u32::from(config.flow.window_max),
        timeout: config.runtime.call_timeout,
    };
    let rim = SharedRim::bind(rim, &socket)
        .map_err(|error| Fatal::System { what: format!("listen for the runtime at {}", socket.display()), error })?;
    declare(&mut transport, config, &queues);
    let clocks = Clocks { origin: Instant::now() };
    let pipeline = Pipeline::new(settings(config, &queues, &transport.limits()), clocks.now());
    let watcher = Watcher::new(metrics, health, &config.actor.sink, &config.actor.sump);
    tracing::info!(actor = config.actor.name, queue = queues.own, broker = transport.name(), "the sidecar is up");
    turn_until_drained(config, Sidecar::new(pipeline, transport, rim, watcher), &clocks).await
}

/// The sinks and dead-letter queues first: a target is there before what points at it.
fn declare(transport: &mut impl Transport, config: &Config, queues: &Queues) {
    // What waits behind a running call is held as long as that call may take, and a little longer.
    let consumer_timeout = (!config.runtime.call_timeout.is_zero())
        .then(|| config.runtime.call_timeout.saturating_mul(4) + Duration::from_secs(1800));
    let ends = [&queues.sink, &queues.sump];
    let own = (!ends.contains(&&queues.own)).then_some(&queues.own);
    for queue in ends.into_iter().chain(own) {
        transport.submit(Op::Declare(QueueSpec {
            queue,
            dead_letter: Some(&names::dead_letter(queue)),
            delivery_limit: DELIVERY_LIMIT,
            consumer_timeout: if queue == &queues.own { consumer_timeout } else { None },
        }));
    }
}

async fn turn_until_drained<T: Transport>(
    config: &Config,
    mut sidecar: Sidecar<T, SharedRim, Watcher>,
    clocks: &Clocks,
) -> Result<(), Fatal> {
    let system = |error| Fatal::System { what: "listen for signals".into(), error };
    let mut signals =
        [signal(SignalKind::terminate()).map_err(system)?, signal(SignalKind::interrupt()).map_err(system)?];
    let mut sleep = pin!(sleep_until(tokio::time::Instant::now()));
    let mut ever_ready = false;
    let (mut flush_by, mut left) = (None, false);
    poll_fn(|cx| {
        let asked = signals.iter_mut().any(|s| signalled(s, cx));
        let now = clocks.now();
        if asked || sidecar.take_drain_asked() {
            tracing::info!("draining: intake stops, what runs finishes, what waits goes back");
            sidecar.audience().draining();
            let deadline = now.mono.after(config.grace_period.saturating_sub(FLUSH));
            sidecar.drain(deadline, now);
        }
        let anything = sidecar.turn(cx, now);
        let levels = levels(&mut sidecar);
        sidecar.audience().levels(&levels);
        sidecar.audience().turn(clocks.instant(now.mono));
        if let Some(why) = sidecar.fatal() {
            return Poll::Ready(Err(Fatal::Broker(why.to_owned())));
        }
        if sidecar.drained() {
            // What was settled last is on its way once the transport has written it out.
            let flush_by = *flush_by.get_or_insert(now.mono.after(FLUSH));
            if sidecar.transport().flushed() && !std::mem::replace(&mut left, true) {
                sidecar.leave();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if sidecar.transport().flushed() || now.mono >= flush_by {
                tracing::info!("drained");
                return Poll::Ready(Ok(()));
            }
        }
        ever_ready |= levels.workers_ready > 0;
        if !ever_ready && now.mono >= Time::default().after(config.runtime.ready_timeout) {
            return Poll::Ready(Err(Fatal::NotReady(config.runtime.ready_timeout)));
        }
        if anything {
            // What this turn has written may have been answered by now: look again before sleeping.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        arm(sleep.as_mut(), &sidecar, clocks, now, cx);
        Poll::Pending
    })
    .await
}

fn arm<T: Transport>(
    mut sleep: std::pin::Pin<&mut Sleep>,
    sidecar: &Sidecar<T, SharedRim, Watcher>,
    clocks: &Clocks,
    now: Now,
    cx: &mut std::task::Context<'_>,
) {
    let heartbeat = now.mono.after(HEARTBEAT);
    let due = sidecar.next_timer().map_or(heartbeat, |due| due.min(heartbeat));
    sleep.as_mut().reset(clocks.instant(due).into());
    if sleep.poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}

fn signalled(signal: &mut Signal, cx: &mut std::task::Context<'_>) -> bool {
    let mut asked = false;
    while let Poll::Ready(Some(())) = signal.poll_recv(cx) {
        asked = true;
    }
    asked
}

fn levels<T: Transport>(sidecar: &mut Sidecar<T, SharedRim, Watcher>) -> Levels {
    let stages = sidecar.pipeline().stages();
    let workers_ready = sidecar.pipeline().ready_workers();
    let memory = sidecar.rim().memory();
    Levels {
        waiting: stages.waiting as u64,
        running: stages.running as u64,
        publishing: stages.publishing as u64,
        finished: stages.finished as u64,
        arriving: 0,
        input_bytes: memory.input_bytes(),
        output_bytes: memory.output_bytes(),
        pinned_slots: memory.pinned_slots() as u64,
        workers_ready,
    }
}
