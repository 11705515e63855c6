//! What happens to a message that cannot go on: the failure sink has it, whole, with headers and reason.
//!
//! Takes a message and why, gives its publish to the failure sink. An end actor has no sink to send to: its failures
//! stay unsettled and run again after a pause.

use std::rc::Rc;

use asya_envelope::{DecodeError, ErrorInfo, Head, names};
use asya_transport::Settlement;

use super::{Pipeline, error_info};
use crate::flow::{
    Delivery, DeliveryId, Effect, Effects, Ending, Message, MessageId, Now, Observation, Purpose, Report, Role, State,
    Store, reason,
};
use crate::intake::{Portion, Refusal};
use crate::publish::{Address, Load};
use crate::{route, settle};

/// The error of a message that no handler raised.
pub(super) fn plain(error_type: &str, message: String) -> ErrorInfo {
    error_info(error_type, message)
}

impl Pipeline {
    /// Sends a message to the failure sink, headers, route and payload as they arrived.
    pub(super) fn fail(
        &mut self,
        id: MessageId,
        why: &'static str,
        error: ErrorInfo,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        let Some(message) = self.flight.messages.get_mut(id) else { return };
        fx.observe(Observation::Failed(why));
        fx.push(Effect::Report(Report::Failed {
            id: message.head.id.clone(),
            reason: why,
            message: format!("{}: {}", error.error_type, error.message),
        }));
        if self.settings.role == Role::End {
            message.state = State::Waiting;
            self.postponed.insert((now.mono.after(self.settings.backoff_cap), id));
            return;
        }
        message.state = State::Publishing;
        message.ending = if why == reason::DEADLINE_EXCEEDED { Ending::Expired } else { Ending::Error };
        let head = route::failed(&message.head, &self.settings.actor, why, error, self.stamp.at(now.wall_ms));
        self.send_original(id, Purpose::Sump, &head, now, store, fx);
    }

    /// Charges a message that killed its worker alone: written down in the actor's own queue, or at last to the
    /// failure sink.
    pub(super) fn charge(&mut self, id: MessageId, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        let Some(message) = self.flight.messages.get_mut(id) else { return };
        message.crashes = message.crashes.saturating_add(1);
        let crashes = message.crashes;
        if crashes >= self.settings.crash_limit {
            let text = format!("the handler's process died {crashes} times while it ran this message alone");
            self.fail(id, reason::WORKER_CRASHED, plain("asya.WorkerCrashed", text), now, store, fx);
            return;
        }
        message.state = State::Publishing;
        message.ending = Ending::Retried;
        let stamp = self.stamp.at(now.wall_ms);
        let head = route::charged(&message.head, &self.settings.actor, crashes, stamp);
        self.send_original(id, Purpose::Again, &head, now, store, fx);
    }

    /// Publishes the payload as it arrived, under another head; to whoever waits for an answer, too, if it is the end.
    pub(super) fn send_original(
        &mut self,
        id: MessageId,
        purpose: Purpose,
        head: &Head,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        let queue = match purpose {
            Purpose::Sump => Rc::clone(&self.settings.sump),
            Purpose::Again => Rc::clone(&self.settings.queue),
            _ => Rc::clone(&self.settings.sink),
        };
        let to = Address { message: id, purpose, queue, delay: None };
        self.send_original_to(to, head, now, store, fx);
    }

    /// The same, to any queue and at any time.
    pub(super) fn send_original_to(
        &mut self,
        to: Address,
        head: &Head,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        let id = to.message;
        let Some(message) = self.flight.messages.get(id) else { return };
        let Some(delivery) = self.flight.deliveries.get(message.delivery) else { return };
        let Some(slot) = message.rebuilt.or(delivery.slot) else { return };
        let (payload, like) = (message.payload, message.content_type);
        let part = store.part(slot, payload.offset, payload.len);
        let load = || Load { payload, parts: vec![part], output: None };
        let is_end = matches!(to.purpose, Purpose::Sump | Purpose::Sink);
        let reply = if is_end { head.headers.get_str(names::HEADER_REPLY_TO) } else { None };
        if let Some(reply) = reply {
            let to = Address { message: id, purpose: Purpose::Reply, queue: Rc::from(reply), delay: None };
            self.publishing.send(&mut self.flight, fx, now, to, head, like, load());
        }
        self.publishing.send(&mut self.flight, fx, now, to, head, like, load());
    }

    /// A message that cannot be taken in: the failure sink has it whole.
    pub(super) fn refuse(
        &mut self,
        delivery: DeliveryId,
        portion: Portion,
        refusal: Refusal,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        let members = self.flight.deliveries.get(delivery).map_or(1, |d| d.members);
        let (why, text, purpose) = match &refusal {
            Refusal::Malformed(error) => (reason::PARSE_ERROR, error.to_string(), Purpose::Sump),
            Refusal::TooLarge => {
                (reason::TOO_LARGE, "larger than allowed once its blobs are bytes".into(), Purpose::Sump)
            }
            Refusal::NoRoom => (reason::TOO_LARGE, "no room for its blobs now".into(), Purpose::Again),
        };
        if members == 1 && purpose == Purpose::Again {
            // Its body goes at once, since room is what is wanted. The delivery goes back after a pause: the broker
            // would send it again this very moment.
            if let Some(Delivery { tag, slot, .. }) = self.flight.deliveries.remove(delivery) {
                fx.effects.extend(slot.map(Effect::ReleaseSlot));
                self.returning.extend(tag.map(|tag| (now.mono.after(self.settings.backoff), tag)));
            }
            return;
        }
        // The failure sink cannot send to itself: no message is made of it.
        if members == 1 && self.settings.queue == self.settings.sump {
            fx.push(Effect::Report(Report::Failed { id: String::new(), reason: why, message: text }));
            settle::close(&mut self.flight, fx, delivery, Settlement::Reject);
            return;
        }
        let Portion { slot, offset, len, content_type } = portion;
        let id = self.flight.messages.insert(Message {
            delivery,
            state: State::Publishing,
            head: Head::default(),
            payload: asya_envelope::Payload { offset, document_len: len, len, blobs: 0 },
            rebuilt: None,
            content_type,
            suspect: false,
            crashes: 0,
            children: 0,
            unconfirmed: 0,
            doomed: None,
            ending: if purpose == Purpose::Again { Ending::Retried } else { Ending::Error },
            arrived: now.mono,
            deadline: None,
        });
        let queue = if purpose == Purpose::Again { &self.settings.queue } else { &self.settings.sump };
        let to = Address { message: id, purpose, queue: Rc::clone(queue), delay: None };
        match refusal {
            Refusal::Malformed(error) if !matches!(error, DecodeError::UnknownVersion { .. }) => {
                let stamp = self.stamp.at(now.wall_ms);
                let encoding = crate::intake::encoding_of(content_type);
                let actor = &self.settings.actor;
                let (head, document) =
                    asya_envelope::failure_of_unparsable(portion.of(store), encoding, actor, &error, stamp);
                self.publishing.send_document(&mut self.flight, fx, now, to, &head, &document);
            }
            _ => {
                let body = store.part(slot, offset, len);
                self.publishing.send_untouched(&mut self.flight, fx, now, to, content_type, body);
            }
        }
        if purpose == Purpose::Sump {
            fx.observe(Observation::Failed(why));
            fx.push(Effect::Report(Report::Failed { id: String::new(), reason: why, message: text }));
        }
    }

    /// A publish that will never succeed: its message failed, unless even the failure sink cannot take it.
    pub(super) fn give_up(
        &mut self,
        id: MessageId,
        purpose: Purpose,
        why: &'static str,
        text: String,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        let decided = self.is_decided(id);
        let Some(message) = self.flight.messages.get_mut(id) else { return };
        let error = plain(if why == reason::TOO_LARGE { "asya.MessageTooLarge" } else { "asya.Unroutable" }, text);
        if purpose == Purpose::Sump {
            // With its error the message is larger than the broker takes: the body as it is goes to the broker's own
            // dead-letter queue.
            fx.push(Effect::Report(Report::Failed {
                id: message.head.id.clone(),
                reason: why,
                message: error.message,
            }));
            if let Some(delivery) = self.flight.deliveries.get_mut(message.delivery) {
                delivery.need(Settlement::Reject);
            }
            self.finish_if_confirmed(id, now, fx);
            return;
        }
        match message.state {
            State::Running(_) | State::Waiting => message.doomed = Some((why, error)),
            // It has failed, is to be tried again or goes back: its one outcome is on its way already.
            _ if matches!(purpose, Purpose::Next | Purpose::Sink) && decided => {
                self.finish_if_confirmed(id, now, fx);
            }
            _ if matches!(message.ending, Ending::Error | Ending::Expired) => self.finish_if_confirmed(id, now, fx),
            _ => self.fail(id, why, error, now, store, fx),
        }
    }

    /// Whether a message has an outcome other than its results.
    fn is_decided(&self, id: MessageId) -> bool {
        let Some(message) = self.flight.messages.get(id) else { return false };
        let goes_back = self.flight.deliveries.get(message.delivery).is_some_and(|d| d.how == Settlement::Requeue);
        let ending = message.ending;
        goes_back
            || matches!(ending, Ending::Error | Ending::Expired | Ending::Retried | Ending::Delayed | Ending::Routed)
    }
}
