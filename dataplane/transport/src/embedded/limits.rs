//! Every bound of the embedded broker and its client, with its unit and its reason.

use std::time::Duration;

/// Largest body by default: what the ring between sidecar and worker is sized for.
pub const MESSAGE_BYTES_MAX: u64 = 512 << 20;

/// Bodies above this live in files of their own, and are streamed.
pub const INLINE_BODY_BYTES_MAX: u64 = 256 << 10;

/// Most messages in a queue: each costs some hundred bytes of index in memory.
pub const QUEUE_MESSAGES_MAX: u64 = 1_000_000;

/// Most bytes of bodies in a queue: a laptop's disk should survive a night of a stuck actor.
pub const QUEUE_BYTES_MAX: u64 = 16 << 30;

/// Free disk below which publishes are refused: two journals and a flushed table of the store fit into it.
pub const DISK_FREE_MIN: u64 = 256 << 20;

/// How often free disk is looked at.
pub const DISK_CHECK_EVERY: Duration = Duration::from_millis(250);

/// Bodies kept in memory for their delivery, all queues together: what flows rarely waits, what waits is on the disk.
pub const CACHED_BYTES_MAX: u64 = 64 << 20;

/// Bytes read from one connection in a turn: a few hundred small messages share a commit, and nobody waits long.
pub const TURN_READ_BYTES_MAX: usize = 1 << 20;

/// Bytes of replies and deliveries waiting for one connection before no more are added: enough for a full socket.
pub const OUT_BYTES_HIGH: usize = 1 << 20;

/// Bytes of replies waiting for one connection before nothing more is read from it: a client that does not read its
/// answers gets no more of them.
pub const OUT_BYTES_MAX: usize = 8 << 20;

/// Bytes of one file that are copied to a socket in a turn, so that a large body does not hold up small ones.
pub const TURN_FILE_BYTES_MAX: u64 = 4 << 20;

/// Bytes of the part of a frame that is not the body: names, ids, reasons.
pub const FRAME_HEAD_BYTES_MAX: usize = 4096;

/// Bytes of a queue's name.
pub const QUEUE_NAME_BYTES_MAX: usize = 255;

/// Bytes of a message's id that are kept.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;

/// Bytes of a reason that are told.
pub const REASON_BYTES_MAX: usize = 1024;

/// Connections at a time: two an actor, and tools.
pub const CONNECTIONS_MAX: usize = 4096;

/// Queues: names come from manifests and routes, so more than this is a mistake that loops.
pub const QUEUES_MAX: usize = 10_000;

/// Size of a client's read buffer: one read takes some sixty small messages.
pub const CLIENT_BUFFER_BYTES: usize = 64 << 10;

/// Reads of one client in a poll before the others of its thread get their turn.
pub const CLIENT_READS_PER_POLL: u32 = 32;

/// Bytes of output buffer that a client keeps once all is written: a burst's hundreds of megabytes are given back.
pub const CLIENT_OUT_BYTES_KEPT: usize = 1 << 20;

/// How long a broker that owes something may show no sign of life, no byte read and none written, before it is taken
/// for dead; noticed after one to two of these. A live one is silent for as long as a disk takes for its eight largest
/// bodies of one connection: 4 GiB, which this gives 14 MB/s.
pub const BROKER_SILENCE_MAX: Duration = Duration::from_secs(300);

/// First and longest wait before connecting again: the broker is on the same machine.
pub const RECONNECT_WAITS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Longest wait for the other side's part of a handshake.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Wait before consuming again where the queue was not there.
pub const CONSUME_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How often a store that failed is opened again: what fails is a full disk, and that takes a person.
pub const STORE_REOPEN_EVERY: Duration = Duration::from_millis(500);

/// Longest wait of a tool for an answer: a commit on a slow disk, behind others.
pub const ADMIN_TIME_MAX: Duration = Duration::from_secs(60);
