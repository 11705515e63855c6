//! Tells a broker that is slow from one that is dead.
//!
//! Takes, at each poll, how many bytes have moved and whether the broker owes anything; gives whether it has been silent
//! for too long. Never blocks, and wakes the poll's task when there is something to decide. The timer is not touched
//! when bytes move, only looked at when it rings, so that life costs nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use tokio::time::{Instant, Sleep};

use crate::embedded::limits::BROKER_SILENCE_MAX;

/// The silence of a broker.
#[derive(Default)]
pub(super) struct Silence {
    /// Rings a while after the broker was last looked at; `None` while it owes nothing.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes that had moved then.
    moved: u64,
}

impl Silence {
    pub(super) fn is_too_long(&mut self, cx: &mut Context<'_>, owes: bool, moved: u64) -> bool {
        if self.timer.is_none() && !owes {
            return false;
        }
        let timer = self.timer.get_or_insert_with(|| {
            self.moved = moved;
            Box::pin(tokio::time::sleep(BROKER_SILENCE_MAX))
        });
        while timer.as_mut().poll(cx).is_ready() {
            if !owes {
                self.timer = None;
                return false;
            }
            if self.moved == moved {
                return true;
            }
            self.moved = moved;
            timer.as_mut().reset(Instant::now() + BROKER_SILENCE_MAX);
        }
        false
    }
}
