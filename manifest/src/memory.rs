//! How much memory an actor's two containers may need for messages.
//!
//! Takes the bounds that the sidecar works within; gives bytes. Pure; cannot fail (sums saturate).
//!
//! Shared memory is charged to whoever touches a page first: inputs to the sidecar, which receives them, and results to
//! the runtime, which writes them. The arenas are sparse, so these are upper bounds for limits, not what is used.

/// The bounds that the sidecar works within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most deliveries held at once (`ASYA_MAX_WINDOW`).
    pub window: u32,
    /// Largest message and largest result (`ASYA_MAX_MESSAGE_BYTES`).
    pub message_bytes_max: u64,
    /// Bytes of messages in flight (`ASYA_MEMORY_BYTES`).
    pub memory_bytes_max: u64,
    /// Worker processes.
    pub workers: u32,
    /// Calls at once in one worker.
    pub concurrency: u32,
}

impl Default for Bounds {
    /// The sidecar's own defaults.
    fn default() -> Self {
        Self { window: 1024, message_bytes_max: 64 << 20, memory_bytes_max: 256 << 20, workers: 1, concurrency: 1 }
    }
}

/// Bytes that a container's memory limit must leave for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The whole limit of the sidecar's container.
    pub sidecar: u64,
    /// To add to what the handler itself needs in the runtime's container.
    pub runtime: u64,
}

/// The sidecar's program, threads, sockets and connection buffers.
const SIDECAR_BASE: u64 = 64 << 20;
/// What the sidecar keeps of one message beside its body: its head, its record, its entry in the rings.
const PER_DELIVERY: u64 = 8 << 10;
/// The runtime's supervisor, and its share of the interpreter of each worker (the handler's imports come on top).
const SUPERVISOR_BASE: u64 = 24 << 20;
/// A bare interpreter with the runtime loaded.
const WORKER_BASE: u64 = 24 << 20;

/// The limits that these bounds ask for.
pub fn limits(bounds: &Bounds) -> Limits {
    let window = u64::from(bounds.window);
    let inputs = window.saturating_mul(bounds.message_bytes_max).min(bounds.memory_bytes_max);
    // Each concurrent call holds room for one result of the largest size while it runs.
    let results = u64::from(bounds.concurrency).saturating_mul(bounds.message_bytes_max);
    Limits {
        sidecar: SIDECAR_BASE.saturating_add(inputs).saturating_add(window.saturating_mul(PER_DELIVERY)),
        runtime: SUPERVISOR_BASE
            .saturating_add(u64::from(bounds.workers).saturating_mul(WORKER_BASE.saturating_add(results))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_defaults_fit_a_small_pod() {
        let limits = limits(&Bounds::default());
        assert_eq!(limits.sidecar, (64 + 256 + 8) << 20);
        assert_eq!(limits.runtime, (24 + 24 + 64) << 20);
    }

    #[test]
    fn a_small_window_needs_no_more_than_its_messages() {
        let bounds = Bounds { window: 2, message_bytes_max: 1 << 20, ..Bounds::default() };
        assert_eq!(limits(&bounds).sidecar, (64 << 20) + (2 << 20) + (16 << 10));
    }

    proptest! {
        #[test]
        fn no_bound_makes_it_overflow_and_more_never_needs_less(
            window in any::<u32>(), message_bytes_max in any::<u64>(), memory_bytes_max in any::<u64>(),
            workers in 0..u32::MAX, concurrency in any::<u32>(),
        ) {
            let bounds = Bounds { window, message_bytes_max, memory_bytes_max, workers, concurrency };
            let one = limits(&bounds);
            let two = limits(&Bounds { workers: workers + 1, ..bounds });
            prop_assert!(two.runtime >= one.runtime && two.sidecar == one.sidecar);
            prop_assert!(one.sidecar >= memory_bytes_max.min(u64::from(window).saturating_mul(message_bytes_max)));
        }
    }
}
