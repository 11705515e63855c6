//! What became of the messages that were to be sent again.
//!
//! Takes each outcome; gives the account of all. Blocks on nothing; cannot fail.

use crate::send::plural;
use std::collections::{BTreeMap, BTreeSet};

/// Ids that are told for each reason why messages were not sent.
const EXAMPLES: usize = 3;
/// Different reasons that are told; what decoders say may name something else for each message.
const REASONS_MAX: usize = 20;

/// Messages that were not sent for one reason.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    ids: Vec<String>,
}

/// The account.
#[derive(Debug, Default)]
pub struct Tally {
    sent: BTreeMap<String, u64>,
    refused: BTreeMap<String, Refused>,
    late: u64,
    still_there: u64,
    found: BTreeSet<String>,
}

impl Tally {
    /// A message was chosen. Only those that were asked for by id are remembered.
    pub fn chosen(&mut self, id: &str, asked: &[String]) {
        if asked.iter().any(|asked| asked == id) {
            self.found.insert(id.to_owned());
        }
    }

    /// It was sent to this actor, or would be.
    pub fn sent(&mut self, actor: &str, was_late: bool) {
        *self.sent.entry(actor.to_owned()).or_default() += 1;
        self.late += u64::from(was_late);
    }

    /// It was not, and stays where it is.
    pub fn refused(&mut self, id: &str, why: String) {
        let is_new = !self.refused.contains_key(&why);
        let why = if is_new && self.refused.len() >= REASONS_MAX { "other reasons".to_owned() } else { why };
        let refused = self.refused.entry(why).or_default();
        refused.count += 1;
        if refused.ids.len() < EXAMPLES && !id.is_empty() {
            refused.ids.push(id.to_owned());
        }
    }

    /// These were sent, and the broker has not taken them out of where they were.
    pub fn still_there(&mut self, count: u64) {
        self.still_there += count;
    }

    /// How many were sent.
    pub fn count(&self) -> u64 {
        self.sent.values().sum()
    }

    /// How many were chosen and stay.
    pub fn refused_count(&self) -> u64 {
        self.refused.values().map(|refused| refused.count).sum()
    }

    /// Ids that were asked for and not found.
    pub fn missing<'a>(&self, asked: &'a [String]) -> Vec<&'a String> {
        asked.iter().filter(|id| !self.found.contains(*id)).collect()
    }

    /// The account, in lines.
    pub fn lines(&self, dry_run: bool) -> Vec<String> {
        let count = self.count();
        let what = if dry_run { "would be sent again" } else { "sent again" };
        let to: Vec<String> = self.sent.iter().map(|(actor, count)| format!("{count} to {actor}")).collect();
        let to = if to.is_empty() { String::new() } else { format!(": {}", to.join(", ")) };
        let mut lines = vec![format!("{count} {} {what}{to}", plural(count, "message"))];
        if self.late > 0 {
            lines.push(format!("  without a deadline, because it has passed: {}", self.late));
        }
        if self.still_there > 0 {
            lines.push(format!("  in both places now, because the broker did not take them out: {}", self.still_there));
        }
        let stay = self.refused_count();
        if stay > 0 {
            lines.push(format!("{stay} {} could not be sent and stay where found:", plural(stay, "message")));
        }
        lines.extend(self.refused.iter().map(|(why, refused)| {
            let more = if refused.count > EXAMPLES as u64 { ", …" } else { "" };
            let ids =
                if refused.ids.is_empty() { String::new() } else { format!(" ({}{more})", refused.ids.join(", ")) };
            format!("  {}: {why}{ids}", refused.count)
        }));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_names_every_reason_and_some_ids() {
        let mut tally = Tally::default();
        assert_eq!(tally.lines(false), ["0 messages sent again"]);
        let asked = ["a-0".to_owned(), "a-9".to_owned()];
        for number in 0..5 {
            let id = format!("a-{number}");
            tally.chosen(&id, &asked);
            tally.refused(&id, "work has no queue q".to_owned());
        }
        tally.refused("", "a body that cannot be read".to_owned());
        tally.sent("work", true);
        tally.sent("other", false);
        tally.still_there(1);
        assert_eq!(
            tally.lines(true),
            [
                "2 messages would be sent again: 1 to other, 1 to work",
                "  without a deadline, because it has passed: 1",
                "  in both places now, because the broker did not take them out: 1",
                "6 messages could not be sent and stay where found:",
                "  1: a body that cannot be read",
                "  5: work has no queue q (a-0, a-1, a-2, …)",
            ]
        );
        assert_eq!(tally.missing(&asked), ["a-9"]);
        for number in 0..REASONS_MAX {
            tally.refused("x", format!("reason {number}"));
        }
        assert_eq!((tally.refused.len(), tally.refused_count()), (REASONS_MAX + 1, 6 + REASONS_MAX as u64));
    }
}
