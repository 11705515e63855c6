//! Makes what a process prints again and again short.
//!
//! Takes the lines of one stream; gives them, but of a traceback that it has given before only the last line, and of a
//! sidecar's word that a handler cannot be loaded the reason alone. Blocks on nothing; cannot fail: lines that are not
//! understood pass as they are.

use std::collections::VecDeque;

const BEGIN: &str = "Traceback (most recent call last):";
/// A longer traceback passes as it comes: printed lines must not wait for ever.
const LINES_MAX: usize = 200;
/// Distinct tracebacks remembered in each stream; an older one is shown in full again.
const KNOWN_MAX: usize = 16;

/// The tracebacks of one stream.
#[derive(Debug, Default)]
pub struct Tracebacks {
    open: Vec<String>,
    known: VecDeque<Vec<String>>,
}

impl Tracebacks {
    /// Takes a line; gives the lines to show now.
    pub fn take(&mut self, line: String) -> Vec<String> {
        // The runtime names its actor before each line, or before none.
        let text = line.strip_prefix('[').and_then(|l| l.split_once("] ")).map_or(line.as_str(), |(_, text)| text);
        let begins = text == BEGIN;
        let goes_on = text.is_empty() || text.starts_with(' ');
        if self.open.is_empty() {
            if !begins {
                return vec![line];
            }
            self.open.push(line);
            return Vec::new();
        }
        self.open.push(line);
        if goes_on && self.open.len() < LINES_MAX {
            return Vec::new();
        }
        let block = std::mem::take(&mut self.open);
        if self.known.contains(&block) {
            return block.last().map(|last| format!("{last} (again, as above)")).into_iter().collect();
        }
        if self.known.len() == KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(block.clone());
        block
    }

    /// What has begun and will not end any more.
    pub fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.open)
    }
}

/// Why the handler cannot be loaded, where a sidecar's line says so. The traceback in it is that which the handler's
/// process prints too.
pub fn unloadable(line: &str) -> Option<String> {
    let (_, said) = line.split_once("the handler cannot be loaded error=")?;
    let said = said.split_once(" traceback=").map_or(said, |(said, _)| said);
    Some(match said.strip_prefix('"').and_then(|said| said.split_once("\" ")) {
        Some((kind, message)) => format!("{kind}: {message}"),
        None => said.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceback_is_given_in_full_once() {
        let mut tracebacks = Tracebacks::default();
        let mut feed = |error: &str| -> Vec<String> {
            let lines = [BEGIN, "  File \"h.py\", line 1", error, "other"];
            lines.iter().flat_map(|line| tracebacks.take((*line).to_owned())).collect()
        };
        let full = |error: &str| [BEGIN, "  File \"h.py\", line 1", error, "other"].map(str::to_owned);
        assert_eq!(feed("KeyError: 'x'"), full("KeyError: 'x'"));
        assert_eq!(feed("KeyError: 'x'"), ["KeyError: 'x' (again, as above)", "other"]);
        assert_eq!(feed("KeyError: 'y'"), full("KeyError: 'y'"));
        assert!(tracebacks.take(BEGIN.to_owned()).is_empty());
        assert_eq!(tracebacks.rest(), [BEGIN]);
    }

    #[test]
    fn the_reason_is_read_from_the_sidecars_line() {
        let line = "2026 ERROR a::b: the handler cannot be loaded error=\"ModuleNotFoundError\" No module named 'x' traceback=\"T\\n\"";
        assert_eq!(unloadable(line).unwrap(), "ModuleNotFoundError: No module named 'x'");
        assert_eq!(unloadable("2026 WARN a worker died"), None);
    }
}
