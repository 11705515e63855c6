//! Names of headers that mean something to the data plane.

/// W3C trace context.
pub const HEADER_TRACEPARENT: &str = "traceparent";
/// W3C trace context, what vendors add.
pub const HEADER_TRACESTATE: &str = "tracestate";
/// Where a copy of the last result goes, best effort.
pub const HEADER_REPLY_TO: &str = "x-asya-reply-to";
/// RFC 3339: when the first attempt began; written once.
pub const HEADER_FIRST_ATTEMPT: &str = "x-asya-first-attempt";
/// When a message that waits to be tried again is due, RFC 3339 with milliseconds; for its own actor alone.
pub const HEADER_NOT_BEFORE: &str = "x-asya-not-before";
/// How often a message has killed its worker alone at its actor, where its attempts also had other reasons.
pub const HEADER_CRASHES: &str = "x-asya-crashes";
/// The gateway to report to.
pub const HEADER_GATEWAY_URL: &str = "x-asya-gateway-url";
/// `off` = report nothing.
pub const HEADER_MESH_STATUS: &str = "x-asya-mesh-status";
/// An object: which actor to take instead of which.
pub const HEADER_ROUTE_OVERRIDE: &str = "x-asya-route-override";
/// An object: what an override did.
pub const HEADER_ROUTE_RESOLVED: &str = "x-asya-route-resolved";
/// Pause here; what to ask a person.
pub const HEADER_PAUSE: &str = "x-asya-pause";
/// The task that this message resumes.
pub const HEADER_RESUME_TASK: &str = "x-asya-resume-task";
/// How long to wait for that.
pub const HEADER_RESUME_TIMEOUT: &str = "x-asya-resume-timeout";
/// Which slice of a fan-in this is.
pub const HEADER_FAN_IN: &str = "x-asya-fan-in";
/// The message that a fan-in was made from.
pub const HEADER_ORIGIN_ID: &str = "x-asya-origin-id";
/// The flow that it belongs to, for traces.
pub const HEADER_FLOW: &str = "x-asya-flow";
/// Where errors go, in the older way of routing them.
pub const HEADER_ON_ERROR: &str = "_on_error";
