//! Everything that a run breaks on purpose.

/// Everything that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Both connections cut.
    Cut,
    /// The publishing connection cut.
    CutPublisher,
    /// The consuming connection cut.
    CutConsumer,
    /// The broker ended the consumer.
    CancelByBroker,
    /// A negative confirm.
    Refused,
    /// A settlement that failed.
    SettleFailed,
    /// An extension of a lease that failed.
    ExtendFailed,
    /// A lease that ran out before its settlement.
    LeaseLost,
    /// A message that came twice.
    Duplicate,
    /// No memory for a body.
    NoRoom,
    /// No room for a result, so that its call stood still.
    Stalled,
    /// A body above the configured maximum.
    Oversize,
    /// A body that is no envelope.
    Garbage,
    /// A message for another actor.
    Misrouted,
    /// A queue that was away for a while.
    MissingQueue,
    /// A worker killed from outside.
    WorkerKilled,
    /// A handler that killed its worker.
    HandlerCrashed,
    /// A handler that was killed for its time.
    HandlerHung,
    /// A handler that could not be loaded for a while.
    HandlerBroken,
    /// A worker that spoke of calls that it was never given.
    Lie,
    /// The whole runtime away for a while.
    RuntimeGone,
    /// A sidecar killed.
    SidecarKilled,
    /// A sidecar drained and replaced.
    Drained,
}

/// All kinds, for the report.
pub const FAULTS: [Fault; 23] = [
    Fault::Cut,
    Fault::CutPublisher,
    Fault::CutConsumer,
    Fault::CancelByBroker,
    Fault::Refused,
    Fault::SettleFailed,
    Fault::ExtendFailed,
    Fault::LeaseLost,
    Fault::Duplicate,
    Fault::NoRoom,
    Fault::Stalled,
    Fault::Oversize,
    Fault::Garbage,
    Fault::Misrouted,
    Fault::MissingQueue,
    Fault::WorkerKilled,
    Fault::HandlerCrashed,
    Fault::HandlerHung,
    Fault::HandlerBroken,
    Fault::Lie,
    Fault::RuntimeGone,
    Fault::SidecarKilled,
    Fault::Drained,
];
