//! One mistake in a manifest, told so that it can be mended without reading the documentation.
//!
//! Takes places and names; gives text. Blocks on nothing; cannot fail.

use crate::yaml::Mark;
use std::fmt;
use std::sync::Arc;

/// A name at most this many edits away from what was written is offered as what was meant.
const EDITS_MAX: usize = 3;

/// One file, as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The name that people know it by.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The file.
    pub source: Arc<Source>,
    /// The place in it; `None` when it concerns the file as a whole.
    pub mark: Option<Mark>,
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub meant: Option<String>,
    /// What is allowed here, or how to write it.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(mark) = self.mark else {
            write!(f, "{}: {}", self.source.name, self.message)?;
            return self.advice(f, "  ");
        };
        write!(f, "{}:{}:{}: {}", self.source.name, mark.line, mark.column, self.message)?;
        let line = self.source.text.lines().nth(mark.line - 1).unwrap_or_default();
        let number = mark.line.to_string();
        let gutter = " ".repeat(number.len());
        // A tab keeps its width above and below, so that the marker stands under the word.
        let lead: String = line.chars().take(mark.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let room = line.chars().count().saturating_sub(mark.column - 1).max(1);
        write!(f, "\n  {number} | {}", line.trim_end())?;
        write!(f, "\n  {gutter} | {lead}{}", "^".repeat(mark.width.min(room)))?;
        self.advice(f, &format!("  {gutter} "))
    }
}

impl Problem {
    fn advice(&self, f: &mut fmt::Formatter<'_>, indent: &str) -> fmt::Result {
        if let Some(meant) = &self.meant {
            write!(f, "\n{indent}= did you mean: {meant}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{indent}= {help}")?;
        }
        Ok(())
    }
}

/// Every mistake of every file, in the order of the files and lines.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", self.report())]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    fn report(&self) -> String {
        let mut text = self.0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n\n");
        if self.0.len() > 1 {
            text.push_str(&format!("\n\n{} mistakes", self.0.len()));
        }
        text
    }
}

/// The allowed name that is nearest to what was written, when it is near enough to have been meant.
pub fn nearest<'a>(written: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = fold(written);
    allowed
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written, &fold(name)), name))
        // Three edits turn any three letters into any others: a short name must be nearly right.
        .filter(|(edits, name)| *edits <= EDITS_MAX && *edits * 2 <= name.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, name)| name)
}

/// `max_replicas`, `max-replicas` and `MaxReplicas` are the same slip of the finger.
fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let allowed = ["handler", "image", "env", "replicas", "scaling"];
        assert_eq!(nearest("hanlder", allowed), Some("handler"));
        assert_eq!(nearest("Handler", allowed), Some("handler"));
        assert_eq!(nearest("replica", allowed), Some("replicas"));
        assert_eq!(nearest("evn", allowed), Some("env"));
        assert_eq!(nearest("gpu", allowed), None);
        assert_eq!(nearest("max_replica_count", ["maxReplicaCount"]), Some("maxReplicaCount"));
    }

    #[test]
    fn the_marker_stands_under_the_word() {
        let source = Arc::new(Source { name: "a.yaml".into(), text: "spec:\n\thanlder: x\n".into() });
        let mark = Some(Mark { line: 2, column: 2, width: 7 });
        let problem = Problem { source, mark, message: "unknown".into(), meant: Some("handler".into()), help: None };
        assert_eq!(
            problem.to_string(),
            "a.yaml:2:2: unknown\n  2 | \thanlder: x\n    | \t^^^^^^^\n    = did you mean: handler"
        );
    }
}
