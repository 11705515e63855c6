//! A failed message into the one that is sent again.
//!
//! Takes a message as it lies there; gives the body to publish, and where. Blocks on nothing. On failure: why this message
//! cannot be sent again, and what would help.

use super::Source;
use crate::client::Message;
use crate::message::{payload_document, read_head, rewrite};
use asya_dataplane::stamp::{self, Stamp};
use asya_envelope::names::{is_system_actor, queue_name};
use asya_envelope::{Encoding, Head, Phase, Route, Status, original_of_unparsable};
use asya_transport::ContentType;

/// What is the same for all messages.
#[derive(Clone, Debug)]
pub struct Way {
    /// In the names of queues.
    pub namespace: String,
    /// The route to take instead of what is left of each message's own.
    pub to: Vec<String>,
    /// Whether bodies that cannot be read are sent as they are.
    pub raw: bool,
    /// The time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// To this actor.
    pub actor: String,
    /// To its queue.
    pub queue: String,
    /// How the body is encoded.
    pub content_type: ContentType,
    /// The body.
    pub body: Vec<u8>,
    /// Whether it had a deadline that has passed.
    pub was_late: bool,
}

impl Way {
    /// The message to send for this one.
    pub fn again(&self, source: &Source, message: &Message) -> Result<Again, String> {
        let head = read_head(&message.body, message.content_type);
        match (&head, &source.owner) {
            (Ok(head), _) if source.is_sump() && head.id.is_empty() => self.original(head, message),
            (Ok(head), _) if source.is_sump() => self.anew(head, message),
            (Ok(head), _) if !self.to.is_empty() => self.anew(head, message),
            (Err(why), _) if !self.raw => Err(format!("a body that cannot be read ({why}); --raw sends it as it is")),
            (_, Some((actor, queue))) if self.to.is_empty() && !source.is_sump() => {
                Ok(as_it_is(actor.clone(), queue.clone(), message.content_type, message.body.clone()))
            }
            _ => self.raw_to(None, message.content_type, message.body.clone()),
        }
    }

    /// What could not be read at an actor.
    fn original(&self, head: &Head, message: &Message) -> Result<Again, String> {
        if !self.raw {
            let actor = head.status.as_ref().map_or("its actor", |status| &status.actor);
            return Err(format!("{actor} could not read its body; --raw sends that body there again"));
        }
        let document = payload_document(&message.body, message.content_type).map_err(|why| why.to_string())?;
        let Some((body, encoding)) = original_of_unparsable(&document) else {
            return Err("a message without an id".to_owned());
        };
        let content_type = match encoding {
            Encoding::Json => ContentType::Json,
            Encoding::Native => ContentType::Native,
        };
        self.raw_to(head.status.as_ref().map(|status| status.actor.as_str()), content_type, body)
    }

    fn raw_to(&self, actor: Option<&str>, content_type: ContentType, body: Vec<u8>) -> Result<Again, String> {
        let Some(actor) = self.to.first().map(String::as_str).or(actor) else {
            return Err("a body that does not say where it failed; --raw --to ACTOR sends it there".to_owned());
        };
        Ok(as_it_is(actor.to_owned(), self.queue(actor)?, content_type, body))
    }

    /// The same message as if it had just come to its actor.
    fn anew(&self, head: &Head, message: &Message) -> Result<Again, String> {
        let route = self.route(head)?;
        let (actor, queue) = (route.curr.clone(), self.queue(&route.curr)?);
        let deadline = head.status.as_ref().and_then(|status| status.deadline_at.as_deref());
        // One that is no time stamp is not for this command to judge: the sidecar reports it.
        let was_late = deadline.and_then(stamp::parse).is_some_and(|deadline| deadline <= self.now_ms);
        let change = |head: &mut Head| {
            head.route = route;
            head.status = Some(self.fresh(head.status.take(), was_late));
            head.status.iter_mut().for_each(|status| status.actor.clone_from(&head.route.curr));
        };
        let body = rewrite(&message.body, message.content_type, change).map_err(|why| why.to_string())?;
        Ok(Again { actor, queue, content_type: message.content_type, body, was_late })
    }

    fn route(&self, head: &Head) -> Result<Route, String> {
        if let Some((first, rest)) = self.to.split_first() {
            return Ok(Route { prev: head.route.prev.clone(), curr: first.clone(), next: rest.to_vec() });
        }
        if !head.route.curr.is_empty() && !is_system_actor(&head.route.curr) {
            return Ok(head.route.clone());
        }
        Err("its route has ended, so that it does not say where to go on; --to ACTOR names that".to_owned())
    }

    fn queue(&self, actor: &str) -> Result<String, String> {
        queue_name(&self.namespace, actor).map_err(|why| why.to_string())
    }

    fn fresh(&self, old: Option<Status>, was_late: bool) -> Status {
        let now = Stamp::default().at(self.now_ms).to_owned();
        let (created_at, deadline_at) = old.map_or((now.clone(), None), |old| (old.created_at, old.deadline_at));
        Status {
            phase: Phase::Pending,
            reason: None,
            actor: String::new(),
            attempt: 1,
            max_attempts: 0,
            created_at,
            updated_at: now,
            deadline_at: deadline_at.filter(|_| !was_late),
            error: None,
        }
    }
}

fn as_it_is(actor: String, queue: String, content_type: ContentType, body: Vec<u8>) -> Again {
    Again { actor, queue, content_type, body, was_late: false }
}

#[cfg(test)]
mod tests;
