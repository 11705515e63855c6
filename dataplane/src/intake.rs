//! Intake: from a delivery to messages.
//!
//! Takes a delivered body, gives the messages in it (one, or those of a bundle), each decoded as far as its head. Never blocks. A body that cannot
//! be decoded becomes a [`Refusal`], which the pipeline sends to the failure sink whole.

pub mod window;

use asya_envelope::bundle::{self, Member};
use asya_envelope::{DecodeError, Decoded, Encoding, Head, Payload, PayloadIn, Phase, names};
use asya_transport::{ContentType, Room, Slot};

use crate::flow::{Settings, Store, reason};
use crate::stamp;

/// A message as it was decoded.
#[derive(Debug)]
pub struct Intaken {
    /// Its head.
    pub head: Head,
    /// Its payload, in the body or in `rebuilt`.
    pub payload: Payload,
    /// A slot of its own, when base64 had to be rebuilt into bytes.
    pub rebuilt: Option<Slot>,
    /// It is known to have crashed its worker before, or its last consumer was lost.
    pub suspect: bool,
    /// Charges for crashes that its head tells of.
    pub crashes: u32,
    /// It may not run here: why.
    pub misrouted: Option<String>,
    /// It is not to run before this, in milliseconds since the Unix epoch.
    pub not_before_ms: Option<u64>,
}

/// Why a body is no message.
#[derive(Debug)]
pub enum Refusal {
    /// It is malformed.
    Malformed(DecodeError),
    /// There is no room to rebuild its blobs now: it goes back.
    NoRoom,
    /// It is larger than the configured maximum once its blobs are rebuilt.
    TooLarge,
}

/// The body of one message, in a slot that may hold several.
#[derive(Clone, Copy, Debug)]
pub struct Portion {
    /// The slot.
    pub slot: Slot,
    /// Bytes from the start of the slot.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// How it is encoded.
    pub content_type: ContentType,
}

impl Portion {
    /// Its bytes.
    pub fn of(self, store: &dyn Store) -> &[u8] {
        let end = self.offset.saturating_add(self.len) as usize;
        store.slot(self.slot).get(self.offset as usize..end).unwrap_or_default()
    }
}

/// The messages of a delivery: one, or those of a bundle. A bundle whose index is wrong is one message, which then
/// cannot be decoded.
pub fn portions(store: &dyn Store, whole: Portion) -> Vec<Portion> {
    let bundle = match whole.content_type {
        ContentType::Native => bundle::split(whole.of(store)),
        ContentType::Json => None,
    };
    match bundle {
        Some(Ok(members)) => members
            .into_iter()
            .map(|Member { offset, len, encoding }| Portion {
                slot: whole.slot,
                offset,
                len,
                content_type: match encoding {
                    Encoding::Json => ContentType::Json,
                    Encoding::Native => ContentType::Native,
                },
            })
            .collect(),
        Some(Err(_)) | None => vec![whole],
    }
}

/// Decodes one message.
pub fn decode(
    settings: &Settings,
    store: &mut dyn Store,
    portion: Portion,
    lost_before: bool,
) -> Result<Intaken, Refusal> {
    let Decoded { head, payload } =
        asya_envelope::decode(portion.of(store), encoding_of(portion.content_type)).map_err(Refusal::Malformed)?;
    let (payload, rebuilt) = match payload {
        PayloadIn::InPlace(payload) => (Payload { offset: portion.offset + payload.offset, ..payload }, None),
        PayloadIn::Inline(inline) => {
            let target = match store.reserve(inline.section_len()) {
                Room::Granted(target) => target,
                Room::Later => return Err(Refusal::NoRoom),
                Room::TooLarge => return Err(Refusal::TooLarge),
            };
            // The body is copied out first: source and target are two slots of one store.
            let body = portion.of(store).to_vec();
            match inline.write_section(&body, store.slot_mut(target)) {
                Ok(payload) => (payload, Some(target)),
                Err(error) => {
                    store.release(target);
                    return Err(Refusal::Malformed(error));
                }
            }
        }
    };
    let crashes = crashes_told(settings, &head);
    let misrouted = misrouted(settings, &head);
    let suspected = head
        .status
        .as_ref()
        .is_some_and(|status| status.actor == settings.actor && status.reason.as_deref() == Some(reason::SUSPECTED));
    let suspect = lost_before || suspected || crashes > 0;
    let not_before_ms = not_before(settings, &head);
    Ok(Intaken { suspect, crashes, misrouted, not_before_ms, head, payload, rebuilt })
}

/// The encoding that a content type names.
pub fn encoding_of(content_type: ContentType) -> Encoding {
    match content_type {
        ContentType::Json => Encoding::Json,
        ContentType::Native => Encoding::Native,
    }
}

/// Whether an earlier run of this actor has sent a message here again.
fn comes_again(settings: &Settings, head: &Head) -> bool {
    head.status.as_ref().is_some_and(|status| status.phase == Phase::Retrying && status.actor == settings.actor)
}

/// Charges for crashes that a head tells of.
fn crashes_told(settings: &Settings, head: &Head) -> u32 {
    if !comes_again(settings, head) {
        return 0;
    }
    head.headers.get(names::HEADER_CRASHES).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// When a message is due that waits for another attempt.
fn not_before(settings: &Settings, head: &Head) -> Option<u64> {
    if !comes_again(settings, head) {
        return None;
    }
    stamp::parse(&head.headers.get_str(names::HEADER_NOT_BEFORE)?)
}

/// Why a message may not run here. An end actor takes everything.
fn misrouted(settings: &Settings, head: &Head) -> Option<String> {
    if settings.role == crate::flow::Role::End {
        return None;
    }
    if head.route.curr != settings.actor {
        return Some(format!(
            "route mismatch: message is for actor {:?}, this is {:?}",
            head.route.curr, settings.actor
        ));
    }
    match &head.namespace {
        Some(namespace) if *namespace != settings.namespace => {
            Some(format!("route mismatch: message is for namespace {namespace:?}, this is {:?}", settings.namespace))
        }
        _ => None,
    }
}
