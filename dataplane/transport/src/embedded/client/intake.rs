//! Deliveries: from the consumer's connection into slots of the caller's memory.
//!
//! Takes frames, gives events. What of a body is in the read buffer already is copied into its slot; the rest is read
//! straight into it. Without room it stops reading, and asks again at the next poll; once consuming is being canceled
//! it gives back what there is no room for instead, since room may depend on the cancel's answer.

use std::task::Context;

use super::End;
use super::pipe::Pipe;
use crate::embedded::wire::{self, Fields, HEADER, Header, Malformed};
use crate::{Delivery, Event, Memory, Redelivery, Room, Slot, Tag};

#[derive(Default)]
enum State {
    #[default]
    Frames,
    /// A body on its way into its slot.
    Filling { delivery: Delivery, filled: usize },
    /// A body that nobody wants.
    Skipping { left: u64, then: Skipped },
}

/// What follows a skipped body.
enum Skipped {
    Oversize { tag: Tag, len: u64 },
    Requeue { number: u64 },
}

/// The state of reading deliveries.
#[derive(Default)]
pub(super) struct Intake {
    state: State,
}

impl Intake {
    /// Reads until there is nothing to read, or no room. Whether the broker has stopped consuming by itself.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        epoch: u32,
        canceling: &mut bool,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Result<bool, End> {
        let mut stopped = false;
        loop {
            match std::mem::take(&mut self.state) {
                State::Frames => match pipe.peek()? {
                    Some((header, head)) if header.kind == wire::DELIVER => {
                        let offer = Offer::read(header, head, epoch)?;
                        match offer.place(*canceling, memory) {
                            Some(state) => {
                                self.state = state;
                                pipe.take(HEADER + header.head);
                            }
                            None => return Ok(stopped),
                        }
                    }
                    Some(_) => {
                        if let Some((kind, head)) = pipe.frame()? {
                            stopped |= serve(kind, head, canceling, events)?;
                        }
                    }
                    None => {
                        if !pipe.fill(cx)? {
                            return Ok(stopped);
                        }
                    }
                },
                State::Filling { delivery, filled } => {
                    let filled = fill(cx, pipe, memory.slot_mut(delivery.slot), filled);
                    match filled {
                        Ok(filled) if filled as u64 == delivery.len => events.push(Event::Delivered(delivery)),
                        Ok(filled) => {
                            self.state = State::Filling { delivery, filled };
                            return Ok(stopped);
                        }
                        Err(error) => {
                            memory.release(delivery.slot);
                            return Err(error.into());
                        }
                    }
                }
                State::Skipping { left, then } => {
                    let count = left.min(pipe.available().len() as u64);
                    pipe.take(count as usize);
                    let left = left - count;
                    if left > 0 {
                        self.state = State::Skipping { left, then };
                        if !pipe.fill(cx)? {
                            return Ok(stopped);
                        }
                    } else {
                        match then {
                            Skipped::Oversize { tag, len } => events.push(Event::Oversize { tag, len }),
                            Skipped::Requeue { number } => pipe.settle(wire::settle::REQUEUE, number),
                        }
                    }
                }
            }
        }
    }

    /// Gives back the slot of a body that will not be whole.
    pub(super) fn abandon(&mut self, memory: &mut dyn Memory) {
        if let State::Filling { delivery, .. } = std::mem::take(&mut self.state) {
            memory.release(delivery.slot);
        }
    }
}

/// A delivery whose body has no place yet.
struct Offer {
    delivery: Delivery,
}

impl Offer {
    fn read(header: Header, head: &[u8], epoch: u32) -> Result<Self, Malformed> {
        let mut fields = Fields(head);
        Ok(Self {
            delivery: Delivery {
                tag: Tag { epoch, number: fields.u64()? },
                slot: Slot(0),
                len: header.body,
                content_type: fields.content_type()?,
                redelivery: Redelivery { redelivered: fields.u8()? != 0, lost: Some(fields.u32()?) },
            },
        })
    }

    /// Where the body goes. `None`: nowhere now.
    fn place(self, canceling: bool, memory: &mut dyn Memory) -> Option<State> {
        let Delivery { tag, len, .. } = self.delivery;
        match memory.reserve(len) {
            Room::Granted(slot) => Some(State::Filling { delivery: Delivery { slot, ..self.delivery }, filled: 0 }),
            Room::TooLarge => Some(State::Skipping { left: len, then: Skipped::Oversize { tag, len } }),
            Room::Later if canceling => {
                Some(State::Skipping { left: len, then: Skipped::Requeue { number: tag.number } })
            }
            Room::Later => None,
        }
    }
}

/// Fills a slot as far as there is something. Gives how much of it is full.
fn fill(cx: &mut Context<'_>, pipe: &mut Pipe, slot: &mut [u8], mut filled: usize) -> std::io::Result<usize> {
    while let Some(rest) = slot.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let buffered = pipe.available();
        let count = if buffered.is_empty() {
            pipe.read_into(cx, rest)?
        } else {
            let count = buffered.len().min(rest.len());
            if let (Some(to), Some(from)) = (rest.get_mut(..count), buffered.get(..count)) {
                to.copy_from_slice(from);
            }
            pipe.take(count);
            count
        };
        if count == 0 {
            break;
        }
        filled += count;
    }
    Ok(filled)
}

/// Takes what is no delivery. Whether the broker has stopped consuming by itself.
fn serve(kind: u8, head: &[u8], canceling: &mut bool, events: &mut Vec<Event>) -> Result<bool, Malformed> {
    match kind {
        wire::CANCELED => {
            let asked = Fields(head).u8()? != 0;
            *canceling &= !asked;
            events.push(Event::Canceled { asked });
            Ok(!asked)
        }
        // Told by the other connection too.
        wire::BLOCKED => Ok(false),
        _ => Err(Malformed("an answer that nobody asked for")),
    }
}
