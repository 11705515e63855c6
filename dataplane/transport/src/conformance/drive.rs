//! [`Harness::step`](super::Harness::step) for transports that live in a current-thread tokio runtime.
//!
//! Takes the clients of a case; gives back control when one of them has an event or the time is over. Blocks for at
//! most `max`. Cannot fail.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::Client;
use crate::Transport;

/// Drives `clients` inside `runtime` until one has an event, woken by nothing but what they arranged themselves.
pub fn drive<T: Transport>(runtime: &Runtime, clients: &mut [Client<T>], max: Duration) {
    runtime.block_on(async {
        let one_has_an_event = poll_fn(|cx| {
            let mut happened = false;
            for client in clients.iter_mut() {
                client.transport.flush(&mut client.memory);
                client.transport.poll(cx, &mut client.memory, &mut client.events);
                happened |= !client.events.is_empty();
            }
            if happened { Poll::Ready(()) } else { Poll::Pending }
        });
        // Running out of time is an answer, not an error: the script looks at what it has.
        let _ = tokio::time::timeout(max, one_has_an_event).await;
    });
}
