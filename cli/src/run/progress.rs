//! What `asya run` shows while it runs: one line for each actor.
//!
//! Takes looks at queues and metrics, once a second; gives lines, on a terminal in place, elsewhere one below the other
//! and only when something changed. Blocks on the terminal. Cannot fail: what does not answer is shown as unknown.

use crate::client::Depth;
use crate::out;
use crate::scrape::{Histogram, Sample, show_seconds, sum};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

/// One look at one actor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Its queue; `None` when the broker did not tell.
    pub depth: Option<Depth>,
    /// What its sidecar counts; `None` when it did not answer.
    pub counts: Option<Counts>,
}

/// What a sidecar counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Messages that it is done with.
    pub processed: f64,
    /// Messages that failed.
    pub failed: f64,
    /// Messages that it holds now.
    pub active: f64,
    /// How long each took, from its arrival at the sidecar until its result was safe.
    pub duration: Histogram,
}

impl Counts {
    /// Reads a metrics page.
    pub fn of(samples: &[Sample]) -> Self {
        Self {
            processed: sum(samples, "asya_actor_messages_processed_total"),
            failed: sum(samples, "asya_actor_messages_failed_total"),
            active: sum(samples, "asya_actor_active_messages"),
            duration: Histogram::of(samples, "asya_actor_processing_duration_seconds"),
        }
    }
}

/// What is shown of an actor.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    ready: Option<u64>,
    active: Option<u64>,
    rate: u64,
    p50: String,
    p99: String,
    failed: u64,
}

impl Shown {
    /// From two looks, `elapsed` apart.
    pub fn between(before: &Look, now: &Look, elapsed: Duration) -> Self {
        let (old, new) = (before.counts.clone().unwrap_or_default(), now.counts.clone().unwrap_or_default());
        let since = if new.processed < old.processed { new.processed } else { new.processed - old.processed };
        let duration = new.duration.since(&old.duration);
        Self {
            ready: now.depth.map(|d| d.ready),
            active: now.counts.as_ref().map(|c| c.active as u64),
            rate: (since / elapsed.as_secs_f64().max(1e-3)).round() as u64,
            p50: show_seconds(duration.quantile(0.5)),
            p99: show_seconds(duration.quantile(0.99)),
            failed: new.failed as u64,
        }
    }

    /// Whether something happened. What has just been started, or ends, and has done nothing is no news.
    fn is_news_after(&self, before: Option<&Self>) -> bool {
        let known = |shown: &Self| {
            let count = |n: Option<u64>| n.unwrap_or(0);
            (count(shown.ready), count(shown.active), shown.rate, shown.failed)
        };
        before.map_or((0, 0, 0, 0), known) != known(self)
    }

    fn line(&self) -> String {
        let number = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
        let failed = if self.failed > 0 { format!("  failed {}", self.failed) } else { String::new() };
        format!(
            "queue {:>6}  in flight {:>5}  {:>7} msg/s  p50 {:>7}  p99 {:>7}{failed}",
            number(self.ready),
            number(self.active),
            self.rate,
            self.p50,
            self.p99
        )
    }
}

/// Where lines go.
#[derive(Debug)]
pub struct Screen {
    /// On a terminal: a line in place for each actor.
    bars: Option<(MultiProgress, BTreeMap<String, ProgressBar>)>,
    last: BTreeMap<String, Shown>,
    width: usize,
    /// Nobody reads any more.
    closed: Cell<bool>,
}

impl Screen {
    /// For these actors.
    pub fn new(actors: &[&str]) -> Self {
        let bars = std::io::stdout().is_terminal().then(|| {
            let multi = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout());
            (multi, BTreeMap::new())
        });
        Self {
            bars,
            last: BTreeMap::new(),
            width: actors.iter().map(|a| a.len()).max().unwrap_or(0),
            closed: Cell::new(false),
        }
    }

    /// Shows an actor as it is now.
    pub fn show(&mut self, actor: &str, shown: Shown) {
        if self.last.get(actor) == Some(&shown) {
            return;
        }
        let line = format!("{actor:<width$}  {}", shown.line(), width = self.width);
        let news = shown.is_news_after(self.last.get(actor));
        self.last.insert(actor.to_owned(), shown);
        match &mut self.bars {
            Some((multi, bars)) => {
                let style = || ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
                let bar = bars
                    .entry(actor.to_owned())
                    .or_insert_with(|| multi.add(ProgressBar::new_spinner().with_style(style())));
                bar.set_message(line);
                bar.tick();
            }
            None if news => self.say(&line),
            None => {}
        }
    }

    /// Prints a line that stays.
    pub fn say(&self, text: &str) {
        match &self.bars {
            Some((multi, _)) => drop(multi.println(text)),
            None => self.closed.set(self.closed.get() || out::line(text).is_err()),
        }
    }

    /// Whether nobody reads any more. Also of an output that has long had nothing new.
    pub fn is_closed(&self) -> bool {
        self.closed.get() || out::is_closed()
    }

    /// Prints a line of an actor.
    pub fn say_of(&self, actor: &str, mark: &str, text: &str) {
        self.say(&format!("{actor:<width$} {mark} {text}", width = self.width));
    }

    /// Takes the lines in place away.
    pub fn clear(&mut self) {
        if let Some((multi, _)) = &self.bars {
            drop(multi.clear());
        }
        self.bars = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrape::parse;

    fn look(processed: u64, ready: u64) -> Look {
        let page = format!(
            "asya_actor_messages_processed_total{{queue=\"a\",status=\"success\"}} {processed}\n\
             asya_actor_active_messages 3\n\
             asya_actor_processing_duration_seconds_bucket{{queue=\"a\",le=\"0.001\"}} {processed}\n\
             asya_actor_processing_duration_seconds_bucket{{queue=\"a\",le=\"+Inf\"}} {processed}\n"
        );
        let depth = Some(Depth { ready, unsettled: None });
        Look { depth, counts: Some(Counts::of(&parse(&page))) }
    }

    #[test]
    fn what_did_nothing_is_no_news() {
        let at = |look: &Look| Shown::between(look, look, Duration::from_secs(1));
        let unknown = at(&Look::default());
        assert!(!unknown.is_news_after(None));
        let busy = at(&look(5, 2));
        assert!(busy.is_news_after(Some(&unknown)) && !busy.is_news_after(Some(&busy)));
        assert!(unknown.is_news_after(Some(&busy)));
    }

    #[test]
    fn a_line_says_what_happened_between_two_looks() {
        let shown = Shown::between(&look(100, 9), &look(300, 7), Duration::from_secs(2));
        assert_eq!(shown.line(), "queue      7  in flight     3      100 msg/s  p50  500 µs  p99  990 µs");
        let idle = Shown::between(&look(300, 0), &look(300, 0), Duration::from_secs(1));
        assert_eq!(idle.line(), "queue      0  in flight     3        0 msg/s  p50       -  p99       -");
        let unknown = Shown::between(&Look::default(), &Look::default(), Duration::from_secs(1));
        assert!(unknown.line().starts_with("queue      ?  in flight     ?"));
        // A sidecar that was started again counts from nothing.
        assert_eq!(Shown::between(&look(300, 0), &look(50, 0), Duration::from_secs(1)).rate, 50);
    }
}
