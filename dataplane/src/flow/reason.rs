//! The reasons in `status.reason`.

/// The route ended well, or the handler ended it.
pub const COMPLETED: &str = "Completed";
/// The handler raised.
pub const RUNTIME_ERROR: &str = "RuntimeError";
/// The handler ran past its time.
pub const TIMEOUT: &str = "Timeout";
/// The body is no envelope.
pub const PARSE_ERROR: &str = "ParseError";
/// The message is for another actor or namespace.
pub const ROUTE_MISMATCH: &str = "RouteMismatch";
/// Its next queue does not exist.
pub const UNROUTABLE: &str = "Unroutable";
/// Its result is larger than the broker takes.
pub const TOO_LARGE: &str = "MessageTooLarge";
/// It ran beside others when their worker died, and has not run alone since: wherever it goes on, it is to.
pub const SUSPECTED: &str = "Suspected";
/// It was of no use any more before it had run.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// It has had all the attempts, or all the time, that its retry policy gives.
pub const POLICY_EXHAUSTED: &str = "PolicyExhausted";
/// As [`POLICY_EXHAUSTED`], and its policy names where it goes on.
pub const POLICY_ROUTED: &str = "PolicyRouted";
/// It kills its worker even when it runs alone.
pub const WORKER_CRASHED: &str = "WorkerCrashed";
