//! Which of what failed is meant.
//!
//! Takes ids and filters; gives whether a failure is among them. Blocks on nothing; cannot fail.

use crate::args::Choice;
use crate::failure::{DEAD_LETTERED, Failure};
use asya_dataplane::retry::is_named;

/// Those that have one of the ids, one of the actors, one of the reasons and one of the errors; what is empty chooses
/// nothing out.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    ids: Vec<String>,
    by: Choice,
}

impl Chosen {
    /// By filters.
    pub fn by(choice: &Choice) -> Self {
        Self { ids: Vec::new(), by: choice.clone() }
    }

    /// Of those, the ones with these ids.
    pub fn with_ids(self, ids: &[String]) -> Self {
        Self { ids: ids.to_vec(), ..self }
    }

    /// Actors that are asked for.
    pub fn actors(&self) -> &[String] {
        &self.by.actors
    }

    /// Whether nothing is chosen out.
    pub fn is_all(&self) -> bool {
        self.ids.is_empty() && self.by.actors.is_empty() && self.by.reasons.is_empty() && self.by.errors.is_empty()
    }

    /// Whether this failure is meant.
    pub fn is(&self, failure: &Failure) -> bool {
        fn any(wanted: &[String], is: impl Fn(&String) -> bool) -> bool {
            wanted.is_empty() || wanted.iter().any(is)
        }
        let types = || failure.error.iter().flat_map(|error| std::iter::once(&error.error_type).chain(&error.mro));
        any(&self.ids, |id| *id == failure.id)
            && any(&self.by.actors, |actor| *actor == failure.actor)
            && any(&self.by.reasons, |reason| *reason == failure.reason)
            && any(&self.by.errors, |named| types().any(|error_type| is_named(error_type, named)))
    }

    /// Whether what the broker gave up of this actor's messages can be meant.
    pub fn may_be_dead_letter_of(&self, actor: &str) -> bool {
        let reasons = &self.by.reasons;
        (self.by.actors.is_empty() || self.by.actors.iter().any(|asked| asked == actor))
            && (reasons.is_empty() || reasons.iter().any(|reason| reason == DEAD_LETTERED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use asya_envelope::ErrorInfo;

    fn failure() -> Failure {
        let error = ErrorInfo {
            error_type: "hub.Refused".into(),
            mro: vec!["ConnectionError".into(), "OSError".into()],
            ..ErrorInfo::default()
        };
        let (id, actor, reason) = ("id-1".into(), "work".into(), "RuntimeError".into());
        Failure { id, actor, reason, error: Some(error), ..Failure::default() }
    }

    fn chosen(actors: &[&str], reasons: &[&str], errors: &[&str]) -> Chosen {
        let [actors, reasons, errors] =
            [actors, reasons, errors].map(|names| names.iter().map(|&name| name.to_owned()).collect());
        Chosen::by(&Choice { actors, reasons, errors })
    }

    #[test]
    fn every_kind_of_filter_must_hold_and_one_of_its_values_is_enough() {
        assert!(chosen(&[], &[], &[]).is(&failure()) && chosen(&[], &[], &[]).is_all());
        assert!(chosen(&["other", "work"], &["RuntimeError"], &["OSError"]).is(&failure()));
        assert!(chosen(&[], &[], &["Refused"]).is(&failure()), "short name");
        assert!(chosen(&[], &[], &["hub.Refused"]).is(&failure()), "whole name");
        assert!(!chosen(&[], &[], &["lub.Refused"]).is(&failure()));
        assert!(!chosen(&["other"], &["RuntimeError"], &[]).is(&failure()));
        assert!(!chosen(&["work"], &["Timeout"], &[]).is(&failure()));
        let by_id = |id: &str| chosen(&[], &[], &[]).with_ids(&[id.to_owned()]);
        assert!(by_id("id-1").is(&failure()) && !by_id("id").is(&failure()), "ids are whole");
    }

    #[test]
    fn dead_letters_are_looked_for_only_where_they_can_be_meant() {
        assert!(chosen(&[], &[], &[]).may_be_dead_letter_of("work"));
        assert!(chosen(&["work"], &[DEAD_LETTERED], &[]).may_be_dead_letter_of("work"));
        assert!(!chosen(&["work"], &[], &[]).may_be_dead_letter_of("other"));
        assert!(!chosen(&[], &["Timeout"], &[]).may_be_dead_letter_of("work"));
        assert!(!chosen(&[], &[], &["OSError"]).is(&Failure { error: None, ..failure() }));
    }
}
