//! A reference transport in memory, on a simulated clock, that can break one rule at a time.
//!
//! Takes a [`Fault`] or none; gives a [`Harness`]. Never blocks: time passes by being moved. Without a fault it passes
//! the whole suite; with any of them some case must fail, and each case must fail for some fault (see `tests`).

mod transport;
mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use super::{Capabilities, Client, Harness};
use crate::Transport;
use transport::Reference;
use world::World;

/// Lists the faults once, for the enum and for the tests.
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One broken rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Fault { $($(#[$doc])* $name,)* }

        /// Every fault.
        pub(super) const FAULTS: &[Fault] = &[$(Fault::$name,)*];
    };
}

faults! {
    /// A byte of a body above 64 KiB is wrong.
    CorruptsLargeBodies,
    /// The suffix is left out.
    DropsSuffix,
    /// Everything is JSON.
    ForgetsContentType,
    /// Parts are read after the publish was answered.
    ReadsPartsLate,
    /// A publish to nowhere is confirmed.
    ConfirmsUnroutable,
    /// A publish to nowhere is never answered.
    SwallowsUnroutable,
    /// Every hundredth publish is answered twice.
    AnswersTwice,
    /// Every five-hundredth publish is never answered.
    ForgetsAnAnswer,
    /// The limit on bodies is told, and not kept.
    TakesTooLarge,
    /// A long message id costs the message.
    DropsLongIds,
    /// Delays are cut short.
    DelaysTooLittle,
    /// A blocked broker confirms what it does not keep.
    ConfirmsWhileBlocked,
    /// A declaration is answered, and nothing else happens.
    DeclaresNothing,
    /// The dead-letter queue is not declared.
    DeclaresNoDeadLetters,
    /// Declaring what is there empties it.
    RedeclaringPurges,
    /// What is held is counted as waiting.
    DepthCountsHeld,
    /// What is not there has a depth of zero.
    MissingHasDepth,
    /// A queue that was deleted is gone for good.
    NeverDeclaresAgain,
    /// The window is ignored.
    IgnoresWindow,
    /// The first window is kept for ever.
    IgnoresWindowChange,
    /// The newest comes first.
    Reorders,
    /// Every consumer gets everything.
    DeliversToAll,
    /// A cancel is answered, and ignored.
    DeliversAfterCancel,
    /// A cancel gives back what is held.
    CancelGivesBack,
    /// A cancel is for ever.
    CancelIsForEver,
    /// A cancel is answered only once there was room for what was on its way.
    CancelWaitsForRoom,
    /// What there is no room for is skipped.
    NoRoomDrops,
    /// What there is no room for holds up everything else.
    NoRoomStallsAnswers,
    /// What is too large is skipped.
    SkipsOversize,
    /// Room for what was too large is never given back.
    LeaksRoom,
    /// An acknowledgement does nothing.
    AckDoesNothing,
    /// An acknowledgement is for all earlier deliveries too.
    AckIsMultiple,
    /// A requeued message is gone.
    RequeueLoses,
    /// A requeued message looks new.
    RequeueUnmarked,
    /// A rejected message is gone.
    RejectDrops,
    /// An extension gives the delivery back.
    ExtendGivesBack,
    /// What a lost client held is gone.
    CrashLosesHeld,
    /// What a lost client held looks new.
    CrashUnmarked,
    /// Losses are not counted.
    CountsNoLosses,
    /// There is no delivery limit.
    IgnoresLimit,
    /// A publish without a connection is never answered.
    ForgetsEarlyPublishes,
    /// A declaration without a connection is forgotten.
    ForgetsEarlyDeclares,
    /// The loss is told before the open publishes are answered.
    TellsLossFirst,
    /// Tags of an earlier epoch are honoured.
    HonoursVoidTags,
    /// The epoch never changes.
    ReusesEpochs,
    /// Consuming does not resume after a loss.
    ForgetsToConsume,
    /// After a loss even a canceled consumer consumes.
    ConsumesUnasked,
    /// There is no way back after a loss.
    NeverReconnects,
    /// What is confirmed is not safe yet.
    ConfirmsBeforeDurable,
    /// What is acknowledged is not safely gone.
    AckIsNotDurable,
    /// Nobody is woken.
    NeverWakes,
}

/// The simulated place: one broker, one clock, any number of clients.
pub(super) struct Simulated {
    world: Rc<RefCell<World>>,
    prefixes: u32,
}

impl Simulated {
    pub(super) fn new(fault: Option<Fault>) -> Self {
        Self { world: Rc::new(RefCell::new(World::new(fault))), prefixes: 0 }
    }
}

/// What a turn of the simulation costs in time, so that one that never ends runs into the watchdog.
const TURN: Duration = Duration::from_millis(1);

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Harness for Simulated {
    type T = Reference;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            keeps_order: true,
            counts_lost: true,
            limit_counts_requeues: false,
            limit_counts_lost: true,
            max_body: 512 << 10,
            can_break: true,
            can_restart: true,
            can_delete: true,
            can_block: true,
        }
    }

    fn fresh_prefix(&mut self) -> String {
        self.prefixes += 1;
        format!("case{}-", self.prefixes)
    }

    fn connect(&mut self) -> Reference {
        Reference::new(Rc::clone(&self.world))
    }

    fn step(&mut self, clients: &mut [Client<Reference>], max: Duration) {
        let deadline = self.now() + max;
        let flags: Vec<_> = clients.iter().map(|_| Arc::new(Flag(AtomicBool::new(true)))).collect();
        loop {
            for (client, flag) in clients.iter_mut().zip(&flags) {
                if flag.0.swap(false, Ordering::Relaxed) {
                    let waker = Waker::from(Arc::clone(flag));
                    client.transport.flush(&mut client.memory);
                    client.transport.poll(&mut Context::from_waker(&waker), &mut client.memory, &mut client.events);
                }
            }
            self.world.borrow_mut().now += TURN;
            self.world.borrow_mut().run();
            if clients.iter().any(|client| !client.events.is_empty()) || self.now() >= deadline {
                return;
            }
            if flags.iter().any(|flag| flag.0.load(Ordering::Relaxed)) {
                continue;
            }
            if !self.world.borrow_mut().pass_time(deadline) {
                return;
            }
        }
    }

    fn now(&self) -> Duration {
        self.world.borrow().now
    }

    fn break_connections(&mut self) {
        self.world.borrow_mut().break_connections();
    }

    fn restart_broker(&mut self) {
        self.world.borrow_mut().restart();
    }

    fn delete_queue(&mut self, queue: &str) {
        self.world.borrow_mut().delete(queue);
    }

    fn block(&mut self, blocked: bool) {
        self.world.borrow_mut().blocked = blocked;
    }
}
