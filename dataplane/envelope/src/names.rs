//! Names that several parts must agree on: queues, system actors, headers, environment variables, reasons.
//!
//! One function makes every queue name, [`queue_name`]. Nothing here blocks; a name that cannot be is a [`NameError`].

mod env;
mod header;
pub mod reason;

pub use env::*;
pub use header::*;

use uuid::Uuid;

/// System actor that takes what succeeded or was ended on purpose.
pub const SINK: &str = "x-sink";
/// System actor that takes what failed.
pub const SUMP: &str = "x-sump";
/// Older name of [`SINK`].
pub const HAPPY_END: &str = "happy-end";
/// Older name of [`SUMP`].
pub const ERROR_END: &str = "error-end";

/// Ends the name of the queue that takes what a broker gives up.
pub const DEAD_LETTER_SUFFIX: &str = "-dlq";
/// Ends the names of queues in which messages wait for a retry.
pub const DELAY_SUFFIX: &str = "-delay";

/// Longest name that every broker takes (SQS: 80 characters).
pub const MAX_QUEUE_NAME: usize = 80;
/// Longest name that [`queue_name`] makes, so that it still fits with a suffix.
pub const MAX_BASE_NAME: usize = MAX_QUEUE_NAME - DELAY_SUFFIX.len();
/// Longest namespace or actor name (a DNS label).
pub const MAX_LABEL: usize = 63;

const PREFIX: &str = "asya";
/// Hexadecimal digits that stand for the rest of a name that is too long.
const HASH_LEN: usize = 12;
/// The namespace of those digits (UUID version 5). Fixed for ever: changing it would rename queues.
const LONG_NAMES: Uuid = Uuid::from_u128(0x6173_7961_6e61_5d65_8c6f_6e67_6e61_6d65);

/// Why a namespace or an actor cannot have a queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing.
    #[error("{what} is empty")]
    Empty {
        /// `namespace` or `actor`.
        what: &'static str,
    },
    /// Longer than [`MAX_LABEL`].
    #[error("{what} has {len} characters, more than {MAX_LABEL}")]
    TooLong {
        /// `namespace` or `actor`.
        what: &'static str,
        /// How many it has.
        len: usize,
    },
    /// Not a DNS label.
    #[error("{what} {name:?} is not made of a-z, 0-9 and inner hyphens")]
    NotALabel {
        /// `namespace` or `actor`.
        what: &'static str,
        /// What it is.
        name: String,
    },
    /// Ends like the queues that go with every actor's.
    #[error("actor {name:?} ends with the reserved {suffix:?}")]
    ReservedSuffix {
        /// What it is.
        name: String,
        /// Which suffix.
        suffix: &'static str,
    },
}

/// What the names of a namespace's queues begin with, `asya-{namespace}-`.
pub fn queue_prefix(namespace: &str) -> String {
    format!("{PREFIX}-{namespace}-")
}

/// The full name of an actor's queue, `asya-{namespace}-{actor}`. Older names of system actors stand for the newer ones.
/// A name that would be too long is cut and ends in a hash of the whole.
pub fn queue_name(namespace: &str, actor: &str) -> Result<String, NameError> {
    let actor = canonical_actor(actor);
    check_label("namespace", namespace)?;
    check_label("actor", actor)?;
    for suffix in [DEAD_LETTER_SUFFIX, DELAY_SUFFIX] {
        if actor.ends_with(suffix) {
            return Err(NameError::ReservedSuffix { name: actor.to_owned(), suffix });
        }
    }
    let name = format!("{}{actor}", queue_prefix(namespace));
    if name.len() <= MAX_BASE_NAME {
        return Ok(name);
    }
    let hash = Uuid::new_v5(&LONG_NAMES, name.as_bytes()).simple().to_string();
    let kept: String = name.chars().take(MAX_BASE_NAME - 1 - HASH_LEN).collect();
    let digits: String = hash.chars().take(HASH_LEN).collect();
    Ok(format!("{}-{digits}", kept.trim_end_matches('-')))
}

/// The queue that takes what the broker gives up of `queue`.
pub fn dead_letter(queue: &str) -> String {
    format!("{queue}{DEAD_LETTER_SUFFIX}")
}

/// The newer name of a system actor; any other name as it is.
pub fn canonical_actor(actor: &str) -> &str {
    match actor {
        HAPPY_END => SINK,
        ERROR_END => SUMP,
        other => other,
    }
}

/// Whether an actor, by its older or newer name, ends the way of messages.
pub fn is_system_actor(actor: &str) -> bool {
    matches!(canonical_actor(actor), SINK | SUMP)
}

fn check_label(what: &'static str, name: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if name.is_empty() {
        Err(NameError::Empty { what })
    } else if name.len() > MAX_LABEL {
        Err(NameError::TooLong { what, len: name.len() })
    } else if name.bytes().all(allowed) && !name.starts_with('-') && !name.ends_with('-') {
        Ok(())
    } else {
        Err(NameError::NotALabel { what, name: name.to_owned() })
    }
}
