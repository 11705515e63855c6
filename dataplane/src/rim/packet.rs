//! The packets of the control socket: section 1 of `docs/RING.md`.

use std::time::Duration;

use asya_envelope::ErrorInfo;
use asya_ring::Geometry;
use serde::{Deserialize, Serialize};

/// The longest delay that a handler can ask for: a year. More is a mistake in its unit.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(366 * 86_400);

/// The version of the ring that this side speaks.
pub(super) const VERSION: u32 = 1;

/// What a peer says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum FromPeer {
    /// First packet of the supervisor.
    Supervisor {
        version: u32,
        #[serde(default)]
        pid: u32,
        #[serde(default)]
        python: String,
        #[serde(default)]
        workers: Vec<Alive>,
    },
    /// A worker process was reaped.
    Died {
        worker: u16,
        generation: u32,
        #[serde(default)]
        exit_code: Option<i32>,
        #[serde(default)]
        signal: Option<i32>,
        #[serde(default)]
        oom: Option<bool>,
    },
    /// The supervisor was told to end.
    Drain {},
    /// First packet of a worker.
    Worker {
        version: u32,
        worker: u16,
        generation: u32,
        #[serde(default)]
        pid: u32,
    },
    /// A worker has loaded its handler.
    Ready {
        concurrency: u16,
        #[serde(default)]
        batch: u16,
        #[serde(default)]
        kind: String,
    },
    /// A worker could not.
    Failed { error: RaisedError },
}

/// A worker that a returning supervisor still runs.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Alive {
    pub(super) worker: u16,
    pub(super) pid: u32,
}

/// An exception as the runtime describes it.
#[derive(Debug, Deserialize)]
pub(super) struct RaisedError {
    #[serde(rename = "type")]
    error_type: String,
    message: String,
    #[serde(default)]
    mro: Vec<String>,
    #[serde(default)]
    traceback: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    retry_after: Option<f64>,
}

impl RaisedError {
    /// When the handler wants to be asked again, if it said so and it is a length of time.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.retry_after?).ok().map(|after| after.min(RETRY_AFTER_MAX))
    }

    /// Whether the payload was at fault rather than the handler.
    pub(super) fn is_unparsable(&self) -> bool {
        self.kind.as_deref() == Some("msg_parsing_error")
    }

    /// As an envelope has it.
    pub(super) fn into_info(self) -> ErrorInfo {
        ErrorInfo {
            message: self.message,
            error_type: self.error_type,
            mro: self.mro,
            traceback: self.traceback.filter(|t| !t.is_empty()),
        }
    }
}

/// What the sidecar says.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum ToPeer {
    /// To the supervisor: run these workers.
    Start { workers: u16, generations: Vec<u32> },
    /// To the supervisor: kill this one and start its replacement.
    Kill { worker: u16, generation: u32, next_generation: u32, reason: &'static str },
    /// To the supervisor: start a replacement for one that died by itself.
    Restart { worker: u16, generation: u32 },
    /// To the supervisor: everything is settled.
    Drained {},
    /// To a worker, with descriptors.
    Attach {
        version: u32,
        worker: u16,
        generation: u32,
        input_bytes: u64,
        output_bytes: u64,
        submit_ring: Ring,
        complete_ring: Ring,
        max_result_bytes: u64,
    },
    /// To any peer: not as it is. `retry`: later, perhaps.
    Refused { why: String, retry: bool },
}

/// Where a ring lies.
#[derive(Debug, Serialize)]
pub(super) struct Ring {
    offset: u64,
    entries: u32,
}

impl ToPeer {
    /// The packet that a link's descriptors go with.
    pub(super) fn attach(worker: u16, generation: u32, geometry: Geometry) -> Self {
        Self::Attach {
            version: VERSION,
            worker,
            generation,
            input_bytes: geometry.input_bytes,
            output_bytes: geometry.output_bytes,
            submit_ring: Ring { offset: geometry.submit_offset, entries: geometry.submit_entries },
            complete_ring: Ring { offset: geometry.complete_offset, entries: geometry.complete_entries },
            max_result_bytes: geometry.max_result_bytes,
        }
    }
}
