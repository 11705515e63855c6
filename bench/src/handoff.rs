//! The handoff alone: the sidecar's rim and a Python worker, with neither broker nor core.
//!
//! Takes a rim with one worker, gives round trips. Blocks for the length of the measurement; a worker that dies or fails
//! ends it with an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use asya_dataplane::drive::{Call, Rim};
use asya_dataplane::flow::{Ending, Message, State, Time, WorkerEvent, WorkerId};
use asya_dataplane::rim::{RimSettings, SharedRim};
use asya_dataplane::slab::{Key, Slab};
use asya_envelope::{Encoding, PayloadIn, Route, decode};
use asya_transport::{ContentType, Memory, Room, Slot};

use crate::Error;
use crate::message::Kind;

/// Starting Python and importing the handler takes no longer.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A rim with one ready worker.
pub struct Handoff {
    rim: SharedRim,
    worker: WorkerId,
    calls: Slab<Message>,
    open: BTreeMap<u64, Slot>,
    events: Vec<WorkerEvent>,
}

/// What was measured.
pub struct Trips {
    /// How many.
    pub count: u64,
    /// How long all of them took.
    pub took: Duration,
}

impl Handoff {
    /// Listens in `folder`; [`Self::ready`] waits for the runtime.
    pub fn listen(folder: &Path, depth: u16) -> Result<Self, Error> {
        let settings = RimSettings {
            workers: 1,
            concurrency: depth,
            batch: 0,
            max_message_bytes: 2 << 20,
            memory_bytes: 256 << 20,
            max_window: u32::from(depth),
            timeout: Duration::ZERO,
        };
        let rim = SharedRim::bind(settings, &folder.join("asya-sidecar.sock")).map_err(Error::system("no rim"))?;
        let worker = WorkerId { index: 0, generation: 0 };
        Ok(Self { rim, worker, calls: Slab::default(), open: BTreeMap::new(), events: Vec::new() })
    }

    /// Waits for the worker.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let ready = async {
            loop {
                self.wait().await?;
                match self.events.pop() {
                    Some(WorkerEvent::Ready { worker, .. }) => {
                        self.worker = worker;
                        return Ok(());
                    }
                    Some(other) => return Err(unexpected(&other)),
                    None => {}
                }
            }
        };
        tokio::time::timeout(READY_WITHIN, ready).await.unwrap_or_else(|_| Err(unexpected("no worker became ready")))
    }

    /// Sends `count` calls with at most `depth` of them open.
    pub async fn trips(&mut self, kind: Kind, count: u64, depth: usize) -> Result<Trips, Error> {
        let route = Route { prev: Vec::new(), curr: "hop".to_owned(), next: vec!["out".to_owned()] };
        let bodies: Vec<Vec<u8>> = (0..64).map(|number| kind.body(number, &route)).collect();
        let (mut sent, mut ended) = (0, 0);
        let started = Instant::now();
        while ended < count {
            while sent < count && self.open.len() < depth {
                let body = bodies.get(sent as usize % bodies.len()).map(Vec::as_slice).unwrap_or_default();
                self.submit(kind, body)?;
                sent += 1;
            }
            self.rim.ring();
            self.wait().await?;
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                ended += self.take(event)?;
            }
            self.events = events;
        }
        Ok(Trips { count, took: started.elapsed() })
    }

    /// What a sidecar does with a body up to the handoff, without the core.
    fn submit(&mut self, kind: Kind, body: &[u8]) -> Result<(), Error> {
        let Room::Granted(slot) = self.rim.reserve(body.len() as u64) else {
            return Err(unexpected("the arena is full"));
        };
        self.rim.slot_mut(slot).copy_from_slice(body);
        let decoded = decode(body, kind.encoding()).map_err(|error| unexpected(&error))?;
        let PayloadIn::InPlace(payload) = decoded.payload else { return Err(unexpected("inline blobs")) };
        let content_type = match kind.encoding() {
            Encoding::Json => ContentType::Json,
            Encoding::Native => ContentType::Native,
        };
        let id = self.calls.insert(Message {
            delivery: Key::from_u64(0),
            state: State::Waiting,
            head: decoded.head,
            payload,
            rebuilt: None,
            content_type,
            suspect: false,
            crashes: 0,
            children: 0,
            unconfirmed: 0,
            doomed: None,
            ending: Ending::Open,
            arrived: Time::default(),
            deadline: None,
        });
        if let Some(message) = self.calls.get(id) {
            self.rim.submit(self.worker, Call { id, message, slot, more: false, alone: false });
        }
        self.open.insert(id.as_u64(), slot);
        Ok(())
    }

    /// Gives 1 when a call has ended.
    fn take(&mut self, event: WorkerEvent) -> Result<u64, Error> {
        match event {
            WorkerEvent::Result { output, .. } => {
                self.rim.release_output(output.id);
                Ok(0)
            }
            WorkerEvent::Ended { call, end: asya_dataplane::flow::CallEnd::Done, .. } => {
                self.calls.remove(call);
                if let Some(slot) = self.open.remove(&call.as_u64()) {
                    self.rim.release(slot);
                }
                Ok(1)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Sleeps until a worker has said something.
    async fn wait(&mut self) -> Result<(), Error> {
        let (rim, events) = (&mut self.rim, &mut self.events);
        std::future::poll_fn(|cx| {
            rim.poll_workers(cx, events);
            if events.is_empty() { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
        })
        .await;
        Ok(())
    }
}

fn unexpected(what: impl std::fmt::Debug) -> Error {
    Error::Stuck { what: format!("the handoff: {what:?}"), log: String::new() }
}
