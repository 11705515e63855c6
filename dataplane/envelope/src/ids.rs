//! Ids of messages. A child's id is a function of where it comes from, so that a redelivered parent yields the same
//! children and readers can tell a copy.

use uuid::Uuid;

/// The namespace of child ids (version 5). Fixed for ever: changing it would turn copies into new messages.
const CHILDREN: Uuid = Uuid::from_u128(0x6173_7961_6368_5c69_9b1d_7265_6e49_6473);

/// A random id for a new message.
pub fn new_id() -> String {
    Uuid::new_v4().to_string()
}

/// The id of the child at `index` of what the actor at `hop` made of `parent`. The first child goes on under its
/// parent's id; the attempt plays no part.
pub fn child_id(parent: &str, hop: u32, index: u32) -> String {
    if index == 0 {
        return parent.to_owned();
    }
    // Digits and colons come last, so that no two triples are written alike.
    Uuid::new_v5(&CHILDREN, format!("{parent}:{hop}:{index}").as_bytes()).to_string()
}
