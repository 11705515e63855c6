//! What has happened to one client, and what must hold at all times.
//!
//! Takes every event of a client in its order; fails on the first that breaks a promise. Never blocks.

use std::collections::{BTreeMap, BTreeSet};

use crate::conformance::{Failure, HeapMemory, ensure};
use crate::{ContentType, Delivery, Event, Memory, Outcome, Part, Redelivery, Slot, Tag, Token};

/// One delivery that has not been settled.
#[derive(Clone, Debug)]
pub struct Held {
    /// To settle it by.
    pub tag: Tag,
    /// Its body; empty when it was oversize.
    pub body: Vec<u8>,
    /// Length of the body as told.
    pub len: u64,
    /// How the body is said to be encoded.
    pub content_type: ContentType,
    /// What is told of its past.
    pub redelivery: Redelivery,
    /// Where its body is; `None` when it was oversize.
    pub slot: Option<Slot>,
}

impl Held {
    pub(super) fn free(&self, memory: &mut HeapMemory) {
        if let Some(slot) = self.slot {
            memory.release(slot);
        }
    }
}

/// The past of one client.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Between a `Connected` and a `Lost`.
    pub connected: bool,
    /// Number of `Connected` so far.
    pub connects: u32,
    /// Number of `Lost` so far.
    pub losses: u32,
    /// Publishes without an answer, with the parts that they name.
    pub open: BTreeMap<u64, Vec<Part>>,
    /// Publishes with their answers.
    pub answered: BTreeMap<u64, Outcome>,
    /// Deliveries that are held now, in the order of their arrival.
    pub held: Vec<Held>,
    /// What was held when a connection was lost: its tags are void.
    pub void: Vec<Held>,
    /// `Declared` so far, with what differs.
    pub declared: Vec<(String, Option<String>)>,
    /// `DeclareFailed` so far, with why.
    pub failed: Vec<(String, String)>,
    /// Depths so far: ready and unsettled.
    pub depths: Vec<(u64, Option<u64>)>,
    /// `Canceled { asked: true }` so far.
    pub cancels: u32,
    /// `Canceled { asked: false }` so far.
    pub cancels_unasked: u32,
    /// The last `Blocked`.
    pub blocked: bool,
    epoch: u32,
    tags: BTreeSet<Tag>,
    consuming: bool,
    window: usize,
    grace: usize,
}

impl Ledger {
    /// A `Consume` was submitted. Deliveries of before it may still be on their way, so until all is settled the sum
    /// of both windows is allowed.
    pub(super) fn consuming(&mut self, window: u32) {
        self.grace = if self.consuming { self.window + self.grace } else { self.held.len() };
        self.window = window as usize;
        self.consuming = true;
    }

    pub(super) fn settle(&mut self, tag: Tag) -> Result<Held, Failure> {
        let at = self.held.iter().position(|held| held.tag == tag);
        let at = at.ok_or_else(|| Failure(format!("the case settles {tag:?}, which it does not hold")))?;
        let held = self.held.remove(at);
        if self.held.is_empty() {
            self.grace = 0;
        }
        Ok(held)
    }

    pub(super) fn slots_held(&self) -> usize {
        self.held.iter().filter(|held| held.slot.is_some()).count()
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "connected {} (epoch {}, {} losses), {} held, {} publishes open, {} answered",
            self.connected,
            self.epoch,
            self.losses,
            self.held.len(),
            self.open.len(),
            self.answered.len()
        )
    }

    pub(super) fn take(&mut self, event: Event, memory: &mut HeapMemory) -> Result<(), Failure> {
        match event {
            Event::Connected { epoch } => {
                ensure!(!self.connected, "connected twice without a loss between");
                ensure!(epoch > self.epoch, "epoch {epoch} after epoch {}", self.epoch);
                self.connected = true;
                self.connects += 1;
                self.epoch = epoch;
            }
            Event::Lost { epoch, .. } => self.lost(epoch, memory)?,
            Event::Fatal { why } => return Err(Failure(format!("the transport gave up: {why}"))),
            Event::Delivered(delivery) => self.delivered(delivery, memory)?,
            Event::Oversize { tag, len } => {
                self.arrived(Held {
                    tag,
                    body: Vec::new(),
                    len,
                    content_type: ContentType::Json,
                    redelivery: Redelivery::default(),
                    slot: None,
                })?;
            }
            Event::Canceled { asked } => {
                if asked {
                    self.cancels += 1;
                    self.consuming = false;
                } else {
                    self.cancels_unasked += 1;
                }
            }
            Event::Published { token, outcome } => self.published(token, outcome, memory)?,
            Event::SettleFailed { tag, why } => return Err(Failure(format!("settling {tag:?} failed: {why}"))),
            Event::Declared { queue, differs } => self.declared.push((queue, differs)),
            Event::DeclareFailed { queue, why } => self.failed.push((queue, why)),
            Event::Blocked(blocked) => self.blocked = blocked,
            Event::Depth { ready, unsettled, .. } => self.depths.push((ready, unsettled)),
        }
        Ok(())
    }

    fn lost(&mut self, epoch: u32, memory: &mut HeapMemory) -> Result<(), Failure> {
        let expected = if self.connected { self.epoch } else { 0 };
        ensure!(epoch == self.epoch || epoch == expected, "epoch {epoch} was lost in epoch {}", self.epoch);
        ensure!(self.open.is_empty(), "a connection was lost before {} open publishes were answered", self.open.len());
        self.connected = false;
        self.losses += 1;
        for held in std::mem::take(&mut self.held) {
            held.free(memory);
            self.void.push(held);
        }
        self.grace = 0;
        Ok(())
    }

    fn delivered(&mut self, delivery: Delivery, memory: &mut HeapMemory) -> Result<(), Failure> {
        let body = memory.slot(delivery.slot);
        let body = body.ok_or_else(|| Failure("a delivery in a slot that is not out".into()))?.to_vec();
        ensure!(body.len() as u64 == delivery.len, "{} bytes delivered in a slot of {}", delivery.len, body.len());
        self.arrived(Held {
            tag: delivery.tag,
            body,
            len: delivery.len,
            content_type: delivery.content_type,
            redelivery: delivery.redelivery,
            slot: Some(delivery.slot),
        })
    }

    fn arrived(&mut self, held: Held) -> Result<(), Failure> {
        ensure!(self.connected, "a delivery without a connection");
        ensure!(held.tag.epoch == self.epoch, "a delivery of epoch {} in epoch {}", held.tag.epoch, self.epoch);
        ensure!(self.consuming, "a delivery that nobody asked for, or after Canceled");
        ensure!(self.tags.insert(held.tag), "{:?} was given to two deliveries", held.tag);
        self.held.push(held);
        let allowed = self.window + self.grace;
        ensure!(self.held.len() <= allowed, "{} deliveries are held in a window of {allowed}", self.held.len());
        Ok(())
    }

    fn published(&mut self, token: Token, outcome: Outcome, memory: &mut HeapMemory) -> Result<(), Failure> {
        let Some(parts) = self.open.remove(&token.0) else {
            return Err(Failure(format!("{token:?} was answered twice, or never published")));
        };
        // Its parts are free now: whoever still reads them finds something else.
        parts.into_iter().for_each(|part| memory.reuse(part));
        self.answered.insert(token.0, outcome);
        Ok(())
    }
}
