//! Why a message is in its phase: values of `status.reason`.

/// The whole way is done.
pub const COMPLETED: &str = "Completed";
/// The handler raised, or its process died.
pub const RUNTIME_ERROR: &str = "RuntimeError";
/// The handler, or the whole way, took too long.
pub const TIMEOUT: &str = "Timeout";
/// The body could not be read.
pub const PARSE_ERROR: &str = "ParseError";
/// The message is meant for another actor.
pub const ROUTE_MISMATCH: &str = "RouteMismatch";
/// All attempts that the policy allows have failed.
pub const POLICY_EXHAUSTED: &str = "PolicyExhausted";
/// The policy sent it elsewhere after the last attempt.
pub const POLICY_ROUTED: &str = "PolicyRouted";
/// Canceled before the handler ran.
pub const PRE_FLIGHT_CANCELED: &str = "PreFlightCanceled";
/// Paused before the handler ran.
pub const PRE_FLIGHT_PAUSED: &str = "PreFlightPaused";
/// The next actor has no queue.
pub const UNROUTABLE: &str = "Unroutable";
/// The handler ended it with `None`.
pub const ABORTED: &str = "Aborted";
/// Too large for the memory or the broker.
pub const TOO_LARGE: &str = "TooLarge";
