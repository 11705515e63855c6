//! Reads variables one by one and remembers everything that is wrong with them.
//!
//! Takes a [`Source`], gives values; a mistake gives a stand-in value and is kept, so that reading goes on to the end
//! and all mistakes are told together. Blocks on nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::amqp_url::{self, AmqpUrl};
use super::near::nearest;
use super::settings::{Listen, LogFilter, Named};
use super::source::Source;
use super::value::{self, Value};
use super::vars::{self, Absent, Kind, TABLE, Var};
use super::{Mistake, Note};
use crate::retry::{Policies, Rule};

/// Reads variables of one source.
pub(super) struct Reader<'a> {
    source: &'a dyn Source,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) notes: Vec<Note>,
    /// Names in the table of what was asked for.
    pub(super) asked: BTreeSet<&'static str>,
}

/// A variable that is set.
struct Setting {
    /// The name that it is set under: the variable's own, or an older one.
    name: &'static str,
    /// Its text, not empty.
    text: String,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a dyn Source) -> Self {
        Self { source, mistakes: Vec::new(), notes: Vec::new(), asked: BTreeSet::new() }
    }

    /// Whether the variable is set, to anything but nothing.
    pub(super) fn is_set(&self, var: &Var) -> bool {
        self.source.get(var.name).is_some_and(|text| !text.is_empty())
    }

    /// Whether a mistake was found in the variable, under any of its names.
    pub(super) fn is_mistaken(&self, var: &Var) -> bool {
        self.mistakes.iter().any(|mistake| var.is_named(mistake.variable))
    }

    /// Reports a mistake that only several variables together make.
    pub(super) fn mistake(&mut self, var: &'static Var, problem: String, allowed: String) {
        let text = self.source.get(var.name).map(|text| text.to_string_lossy().into_owned());
        self.mistakes.push(Mistake {
            variable: var.name,
            value: text.filter(|t| !t.is_empty()).map(|t| shown(var, &t)),
            problem,
            allowed,
        });
    }

    /// Tells something that is not a mistake.
    pub(super) fn note(&mut self, variable: &str, text: impl Into<String>) {
        self.notes.push(Note { variable: variable.to_owned(), text: text.into() });
    }

    pub(super) fn text(&mut self, var: &'static Var) -> String {
        match self.value(var) {
            Some(Value::Text(text)) => text,
            _ => String::new(),
        }
    }

    pub(super) fn path(&mut self, var: &'static Var) -> Option<PathBuf> {
        match self.value(var) {
            Some(Value::Text(text)) => Some(text.into()),
            _ => None,
        }
    }

    pub(super) fn amqp_url(&mut self, var: &'static Var) -> Option<AmqpUrl> {
        match self.value(var) {
            Some(Value::AmqpUrl(url)) => Some(*url),
            _ => None,
        }
    }

    pub(super) fn flag(&mut self, var: &'static Var) -> Option<bool> {
        match self.value(var) {
            Some(Value::Flag(flag)) => Some(flag),
            _ => None,
        }
    }

    pub(super) fn choice<T: Named>(&mut self, var: &'static Var) -> Option<T> {
        match self.value(var) {
            Some(Value::Choice(index)) => T::VALUES.get(index).copied(),
            _ => None,
        }
    }

    pub(super) fn number(&mut self, var: &'static Var) -> Option<u64> {
        match self.value(var) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// A count whose bounds in the table fit `T`.
    pub(super) fn count<T: TryFrom<u64> + Default>(&mut self, var: &'static Var) -> T {
        self.number(var).and_then(|number| T::try_from(number).ok()).unwrap_or_default()
    }

    pub(super) fn duration(&mut self, var: &'static Var) -> Duration {
        match self.value(var) {
            Some(Value::Duration(duration)) => duration,
            _ => Duration::ZERO,
        }
    }

    pub(super) fn listen(&mut self, var: &'static Var) -> Option<Listen> {
        match self.value(var) {
            Some(Value::Listen(listen)) => listen,
            _ => None,
        }
    }

    pub(super) fn log_filter(&mut self, var: &'static Var) -> LogFilter {
        match self.value(var) {
            Some(Value::LogFilter(filter)) => filter,
            _ => LogFilter { level: tracing::level_filters::LevelFilter::INFO, targets: Vec::new() },
        }
    }

    pub(super) fn policies(&mut self, var: &'static Var) -> Policies {
        match self.value(var) {
            Some(Value::Policies(policies)) => policies,
            _ => Policies::new(),
        }
    }

    pub(super) fn rules(&mut self, var: &'static Var) -> Vec<Rule> {
        match self.value(var) {
            Some(Value::Rules(rules)) => rules,
            _ => Vec::new(),
        }
    }

    /// Notes a variable that nothing comes of here.
    pub(super) fn unused(&mut self, var: &'static Var, why: &str) {
        if self.setting(var).is_some() {
            self.note(var.name, format!("has no effect here: {why}"));
        }
    }

    /// Notes every `ASYA_` variable that nothing knows.
    pub(super) fn unknown(&mut self) {
        let known = || TABLE.iter().flat_map(|var| var.names()).chain(vars::FOREIGN.iter().copied());
        let mut names = self.source.names();
        names.sort();
        for name in names {
            if !name.starts_with("ASYA_") || known().any(|k| k == name) || is_service_link(&name) {
                continue;
            }
            let text = match nearest(&name, known()) {
                Some(near) => format!("is unknown and has no effect; did you mean {near}?"),
                None => "is unknown and has no effect".to_owned(),
            };
            self.note(&name, text);
        }
    }

    /// The value of a variable, or of its default; `None` when it has neither, or when it is mistaken.
    fn value(&mut self, var: &'static Var) -> Option<Value> {
        let (name, text) = match (self.setting(var), var.default) {
            (Some(setting), _) => (setting.name, setting.text),
            (None, Absent::Value(default)) => (var.name, default.to_owned()),
            (None, Absent::Means(_)) => return None,
            (None, Absent::Required) => {
                // A value that is not text has been reported already.
                if !self.is_mistaken(var) {
                    self.mistake(var, "is required".to_owned(), value::allowed(var.kind));
                }
                return None;
            }
        };
        match value::parse(var.kind, &text) {
            Ok(value) => Some(value),
            Err(problem) => {
                let value = Some(shown(var, &text));
                self.mistakes.push(Mistake { variable: name, value, problem, allowed: value::allowed(var.kind) });
                None
            }
        }
    }

    /// What a variable is set to, under its own name or an older one. An empty value counts as none: manifests
    /// write one where a template had nothing to say.
    fn setting(&mut self, var: &'static Var) -> Option<Setting> {
        self.asked.insert(var.name);
        let mut found: Option<Setting> = None;
        for name in var.names() {
            let Some(text) = self.source.get(name).filter(|text| !text.is_empty()) else { continue };
            let Ok(text) = text.into_string() else {
                let problem = "is not UTF-8".to_owned();
                self.mistakes.push(Mistake { variable: name, value: None, problem, allowed: value::allowed(var.kind) });
                continue;
            };
            if matches!(var.kind, Kind::Count { .. }) && text.starts_with("tcp://") {
                self.note(name, "is passed over: Kubernetes set it for a Service of that name");
                continue;
            }
            match &found {
                None => found = Some(Setting { name, text }),
                Some(newer) if newer.text != text => {
                    let newer = newer.name;
                    self.note(name, format!("has no effect: {newer} is set too, and is the newer name"));
                }
                Some(_) => {}
            }
        }
        if let Some(setting) = found.as_ref().filter(|setting| setting.name != var.name) {
            let older = setting.name;
            self.note(older, format!("is the older name of {}", var.name));
        }
        found
    }
}

/// A value as it may be shown: no secret, no password, no more than people read.
fn shown(var: &Var, text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 120;
    let text = match var.kind {
        Kind::Secret => "***".to_owned(),
        Kind::AmqpUrl => amqp_url::redacted(text),
        _ => text.to_owned(),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether Kubernetes set this name for a Service: `{SERVICE}_SERVICE_HOST`, `{SERVICE}_PORT_8080_TCP_ADDR` and kin.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.contains("_TCP") || rest.contains("_UDP"))
}
