//! From the text of a variable to its value.
//!
//! Takes the text and the [`Kind`], gives a [`Value`] or what is wrong with it, in words. Pure.

use std::time::Duration;

use asya_envelope::names;
use tracing::level_filters::LevelFilter;

use super::amqp_url::{self, AmqpUrl};
use super::resiliency;
use super::settings::{Listen, LogFilter};
use super::vars::Kind;
use crate::retry::{Policies, Rule};

/// A value that was read.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    AmqpUrl(Box<AmqpUrl>),
    Flag(bool),
    /// Index into the words.
    Choice(usize),
    /// A count or a number of bytes.
    Number(u64),
    Duration(Duration),
    Listen(Option<Listen>),
    LogFilter(LogFilter),
    Policies(Policies),
    Rules(Vec<Rule>),
}

/// Reads `text`, which is not empty, as what `kind` asks for.
pub(super) fn parse(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Label => label(text).map(Value::Text),
        Kind::Text | Kind::Secret | Kind::Path | Kind::Unused(_) => Ok(Value::Text(text.to_owned())),
        Kind::AmqpUrl => amqp_url::parse(text).map(|url| Value::AmqpUrl(Box::new(url))),
        Kind::Flag => flag(text).map(Value::Flag),
        Kind::Choice(words) => choice(words, text).map(Value::Choice),
        Kind::Count { min, max } => {
            let number = text.parse().map_err(|_| "not a whole number".to_owned())?;
            within(number, min, max).map(Value::Number)
        }
        Kind::Bytes { min, max } => within(bytes(text)?, min, max).map(Value::Number),
        Kind::Duration { min_ms, max_ms } => {
            let value = duration(text)?;
            if value < Duration::from_millis(min_ms) {
                return Err("too short".to_owned());
            }
            if value > Duration::from_millis(max_ms) {
                return Err("too long".to_owned());
            }
            Ok(Value::Duration(value))
        }
        Kind::Listen => listen(text).map(Value::Listen),
        Kind::MetricPrefix => metric_prefix(text).map(Value::Text),
        Kind::LogFilter => log_filter(text).map(Value::LogFilter),
        Kind::PolicyMap => resiliency::policies(text).map(Value::Policies),
        Kind::RuleList => resiliency::rules(text).map(Value::Rules),
    }
}

/// What values a kind takes, in words.
pub(super) fn allowed(kind: Kind) -> String {
    match kind {
        Kind::Label => "a DNS label (a-z, 0-9, -; at most 63), not ending in -dlq or -delay".to_owned(),
        Kind::Text | Kind::Secret => "text".to_owned(),
        Kind::Path => "a path".to_owned(),
        Kind::AmqpUrl => "amqp:// or amqps://user:password@host:port/vhost".to_owned(),
        Kind::Flag => "true, 1, yes, on; false, 0, no, off".to_owned(),
        Kind::Choice(words) => words.join(", "),
        Kind::Count { min, max } => format!("{min} to {max}"),
        Kind::Bytes { min, max } => format!("{} to {}, such as 64MiB", show_bytes(min), show_bytes(max)),
        Kind::Duration { min_ms, max_ms } => format!(
            "{} to {}, such as 5m, 1h30m, 250ms, or seconds",
            show_duration(Duration::from_millis(min_ms)),
            show_duration(Duration::from_millis(max_ms))
        ),
        Kind::Listen => "host:port, :port, or off".to_owned(),
        Kind::MetricPrefix => "a letter or _, then letters, digits and _".to_owned(),
        Kind::LogFilter => "off, error, warn, info, debug, trace; then target=level, by commas".to_owned(),
        Kind::PolicyMap => "a JSON object of policies".to_owned(),
        Kind::RuleList => "a JSON list of rules".to_owned(),
        Kind::Unused(_) => "anything".to_owned(),
    }
}

fn within(number: u64, min: u64, max: u64) -> Result<u64, String> {
    match number {
        n if n < min => Err("too small".to_owned()),
        n if n > max => Err("too large".to_owned()),
        n => Ok(n),
    }
}

pub(super) fn label(text: &str) -> Result<String, String> {
    if text.len() > names::MAX_LABEL {
        return Err(format!("{} characters long", text.len()));
    }
    if let Some(c) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(format!("contains {c:?}"));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("begins or ends with -".to_owned());
    }
    if let Some(suffix) = [names::DEAD_LETTER_SUFFIX, names::DELAY_SUFFIX].iter().find(|s| text.ends_with(*s)) {
        return Err(format!("ends with {suffix}, which names queues of the system's own"));
    }
    Ok(text.to_owned())
}

fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("neither yes nor no".to_owned()),
    }
}

fn choice(words: &[&str], text: &str) -> Result<usize, String> {
    words.iter().position(|word| word.eq_ignore_ascii_case(text)).ok_or_else(|| {
        match super::near::nearest(&text.to_ascii_lowercase(), words.iter().copied()) {
            Some(near) => format!("unknown; did you mean {near}?"),
            None => "unknown".to_owned(),
        }
    })
}

/// Units of bytes; upper and lower case are told apart only where they must be, so `mib` is a mistake to report.
const BYTE_UNITS: [(&str, u64); 17] = [
    ("", 1),
    ("B", 1),
    ("k", 1_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("Ki", 1 << 10),
    ("KiB", 1 << 10),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("Mi", 1 << 20),
    ("MiB", 1 << 20),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("Gi", 1 << 30),
    ("GiB", 1 << 30),
    ("Ti", 1 << 40),
    ("TiB", 1 << 40),
];

/// Reads a number of bytes: `1048576`, `64MiB`, `64Mi` (as Kubernetes writes it), `64MB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "not a whole number of bytes, KiB, MiB or GiB".to_owned())?;
    let unit = unit.trim_start();
    let (_, scale) =
        BYTE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| format!("unknown unit {unit:?}"))?;
    number.checked_mul(*scale).ok_or_else(|| "too large".to_owned())
}

/// Writes a number of bytes so that [`bytes`] reads the same.
pub(super) fn show_bytes(number: u64) -> String {
    match number {
        n if n > 0 && n % (1 << 30) == 0 => format!("{}GiB", n >> 30),
        n if n > 0 && n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
        n if n > 0 && n % (1 << 10) == 0 => format!("{}KiB", n >> 10),
        n => format!("{n}B"),
    }
}

/// Reads a length of time: numbers with units (`1h30m`, `1.5s`, `250ms`), or a bare number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const NOT: &str = "not a length of time";
    if text.starts_with('-') {
        return Err("negative".to_owned());
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let seconds = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            // Only a number that stands alone may leave its unit out.
            "" if number_len == text.len() => 1.0,
            "" => return Err("a number without a unit".to_owned()),
            other => return Err(format!("unknown unit {other:?}")),
        };
        let number: f64 = number.parse().map_err(|_| NOT.to_owned())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| "too long".to_owned())?;
        total = total.checked_add(part).ok_or_else(|| "too long".to_owned())?;
        rest = tail;
    }
    Ok(total)
}

/// Writes a length of time so that [`duration`] reads the same.
pub(super) fn show_duration(value: Duration) -> String {
    match value.as_millis() {
        0 => "0s".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

fn listen(text: &str) -> Result<Option<Listen>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| "no port".to_owned())?;
    let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(ipv6) => ipv6,
        None if host.contains(':') => return Err("an IPv6 address needs brackets".to_owned()),
        None => host,
    };
    Ok(Some(Listen { host: host.to_owned(), port }))
}

fn metric_prefix(text: &str) -> Result<String, String> {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '_') {
        Some(c) => Err(format!("contains {c:?}")),
        None if !starts_well => Err("begins with a digit".to_owned()),
        None => Ok(text.to_owned()),
    }
}

fn log_filter(text: &str) -> Result<LogFilter, String> {
    let mut filter = LogFilter { level: LevelFilter::INFO, targets: Vec::new() };
    for (index, directive) in text.split(',').map(str::trim).enumerate() {
        match directive.split_once('=') {
            Some((target, level)) if !target.is_empty() => filter.targets.push((target.to_owned(), log_level(level)?)),
            None if index == 0 => filter.level = log_level(directive)?,
            _ => return Err(format!("{directive:?} is not target=level")),
        }
    }
    Ok(filter)
}

fn log_level(word: &str) -> Result<LevelFilter, String> {
    match word.to_ascii_lowercase().as_str() {
        "off" => Ok(LevelFilter::OFF),
        // The variable is shared with Python, which knows two more words.
        "error" | "critical" => Ok(LevelFilter::ERROR),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err(format!("{word:?} is not a level")),
    }
}
