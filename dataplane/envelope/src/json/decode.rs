//! Reads a JSON envelope in one pass. Takes a body, gives the head and the range of the payload; the first thing that
//! is wrong is the error.

use std::borrow::Cow;
use std::ops::Range;

use super::blobs::{self, InlineBlobs};
use crate::error::excerpt;
use crate::scan::{Scanner, Text};
use crate::{
    DecodeError, Decoded, ErrorInfo, Head, Headers, MAX_EXTENSIONS, Payload, PayloadIn, Phase, Route, RouteShape,
    Status,
};

/// Decodes a JSON body.
pub(crate) fn decode(body: &[u8]) -> Result<Decoded, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::Empty);
    }
    let mut scanner = Scanner::new(body)?;
    if scanner.peek() != Some(b'{') {
        // Anything that is not even JSON is told so.
        scanner.value(0)?;
        scanner.finish()?;
        return Err(DecodeError::NotAnObject);
    }
    let mut fields = Fields::default();
    fields.read(&mut scanner)?;
    scanner.finish()?;
    fields.into_decoded()
}

/// The headers of a body that is otherwise wrong, if the scan gets as far as them.
pub(crate) fn salvage_headers(body: &[u8]) -> Option<Headers> {
    let mut scanner = Scanner::new(body).ok()?;
    if scanner.peek() != Some(b'{') {
        return None;
    }
    let mut fields = Fields::default();
    // Whatever stops the scan is why the body is being salvaged.
    let _ = fields.read(&mut scanner);
    fields.headers
}

/// Reads the text of a status on its own. Fields that a status does not have are left out.
pub fn parse_status(text: &str) -> Result<Status, DecodeError> {
    let mut scanner = Scanner::from_text(text);
    let mut extensions = Vec::new();
    let read = status(&mut scanner, &mut extensions)?;
    scanner.finish()?;
    read.ok_or(DecodeError::WrongType { field: "status", expected: "an object" })
}

/// What has been seen of the envelope so far.
#[derive(Default)]
struct Fields {
    seen: Seen,
    head: Head,
    headers: Option<Headers>,
    payload: Range<usize>,
    blobs: Option<Vec<blobs::Inline>>,
}

impl Fields {
    const ID: u16 = 1;
    const PARENT_ID: u16 = 1 << 1;
    const NAMESPACE: u16 = 1 << 2;
    const ROUTE: u16 = 1 << 3;
    const HEADERS: u16 = 1 << 4;
    const PAYLOAD: u16 = 1 << 5;
    const STATUS: u16 = 1 << 6;
    const BLOBS: u16 = 1 << 7;

    fn read(&mut self, scanner: &mut Scanner<'_>) -> Result<(), DecodeError> {
        let mut first = true;
        scanner.enter();
        while let Some(key) = scanner.next_key(&mut first)? {
            match name_of(key)?.as_ref() {
                "id" => {
                    self.seen.once(Self::ID, key)?;
                    self.head.id = string(scanner, "id")?;
                }
                "parent_id" => {
                    self.seen.once(Self::PARENT_ID, key)?;
                    self.head.parent_id = optional_string(scanner, "parent_id")?;
                }
                "namespace" => {
                    self.seen.once(Self::NAMESPACE, key)?;
                    self.head.namespace = optional_string(scanner, "namespace")?;
                }
                "route" => {
                    self.seen.once(Self::ROUTE, key)?;
                    (self.head.route, self.head.shape) = route(scanner, &mut self.head.extensions)?;
                }
                "headers" => {
                    self.seen.once(Self::HEADERS, key)?;
                    let range = scanner.value(1)?;
                    self.headers = Some(Headers::from_checked(scanner.text(range))?);
                }
                "payload" => {
                    self.seen.once(Self::PAYLOAD, key)?;
                    self.payload = scanner.value(1)?;
                }
                "status" => {
                    self.seen.once(Self::STATUS, key)?;
                    self.head.status = status(scanner, &mut self.head.extensions)?;
                }
                "blobs" => {
                    self.seen.once(Self::BLOBS, key)?;
                    self.blobs = Some(blobs::read(scanner)?);
                }
                name => extension(scanner, 1, "", name, &mut self.head.extensions)?,
            }
        }
        Ok(())
    }

    fn into_decoded(self) -> Result<Decoded, DecodeError> {
        let Self { seen, mut head, headers, payload, blobs } = self;
        for (bit, field) in [(Self::ID, "id"), (Self::ROUTE, "route"), (Self::PAYLOAD, "payload")] {
            if seen.0 & bit == 0 {
                return Err(DecodeError::MissingField { field });
            }
        }
        if let Some(headers) = headers {
            head.headers = headers;
        }
        head.check()?;
        let payload = match blobs {
            Some(blobs) if !blobs.is_empty() => PayloadIn::Inline(InlineBlobs::new(payload, blobs)?),
            _ => {
                let len = payload.len() as u64;
                PayloadIn::InPlace(Payload { offset: payload.start as u64, document_len: len, len, blobs: 0 })
            }
        };
        Ok(Decoded { head, payload })
    }
}

/// Which fields of one object have been seen.
#[derive(Default)]
struct Seen(u16);

impl Seen {
    #[inline]
    fn once(&mut self, bit: u16, key: Text<'_>) -> Result<(), DecodeError> {
        if self.0 & bit != 0 {
            return Err(DecodeError::DuplicateField { field: excerpt(key.raw) });
        }
        self.0 |= bit;
        Ok(())
    }
}

#[inline]
fn name_of(key: Text<'_>) -> Result<Cow<'_, str>, DecodeError> {
    key.decode().ok_or(DecodeError::BadEscape { field: "(a field's name)" })
}

/// Keeps an unknown field. The scanner is at its value, `depth` levels deep.
fn extension(
    scanner: &mut Scanner<'_>,
    depth: usize,
    prefix: &str,
    name: &str,
    extensions: &mut Vec<(String, String)>,
) -> Result<(), DecodeError> {
    let range = scanner.value(depth)?;
    if extensions.len() == MAX_EXTENSIONS {
        return Err(DecodeError::TooManyExtensions);
    }
    // At the top a name with such a prefix would be taken for an inner field from then on.
    if prefix.is_empty() && (name.starts_with(Head::ROUTE_PREFIX) || name.starts_with(Head::STATUS_PREFIX)) {
        return Err(DecodeError::ReservedField { field: excerpt(name) });
    }
    extensions.push((format!("{prefix}{name}"), scanner.text(range).to_owned()));
    Ok(())
}

#[inline]
fn text<'a>(scanner: &mut Scanner<'a>, field: &'static str) -> Result<Cow<'a, str>, DecodeError> {
    if scanner.peek() != Some(b'"') {
        return Err(wrong_type(scanner, field, "a string"));
    }
    scanner.string()?.decode().ok_or(DecodeError::BadEscape { field })
}

#[inline]
fn string(scanner: &mut Scanner<'_>, field: &'static str) -> Result<String, DecodeError> {
    text(scanner, field).map(Cow::into_owned)
}

fn optional_string(scanner: &mut Scanner<'_>, field: &'static str) -> Result<Option<String>, DecodeError> {
    if null(scanner)? { Ok(None) } else { string(scanner, field).map(Some) }
}

/// Passes over a `null`, if there is one.
fn null(scanner: &mut Scanner<'_>) -> Result<bool, DecodeError> {
    let there = scanner.peek() == Some(b'n');
    if there {
        scanner.value(MAX_FIELD_DEPTH)?;
    }
    Ok(there)
}

/// The known fields lie at most so deep (`status.error.mro`).
const MAX_FIELD_DEPTH: usize = 4;

/// The error for a value of the wrong type, or for what is not even a value.
fn wrong_type(scanner: &mut Scanner<'_>, field: &'static str, expected: &'static str) -> DecodeError {
    match scanner.value(MAX_FIELD_DEPTH) {
        Ok(_) => DecodeError::WrongType { field, expected },
        Err(error) => error,
    }
}

fn enter(scanner: &mut Scanner<'_>, open: u8, field: &'static str) -> Result<(), DecodeError> {
    if scanner.peek() != Some(open) {
        let expected = if open == b'{' { "an object" } else { "an array" };
        return Err(wrong_type(scanner, field, expected));
    }
    scanner.enter();
    Ok(())
}

fn strings(scanner: &mut Scanner<'_>, field: &'static str) -> Result<Vec<String>, DecodeError> {
    let mut list = Vec::new();
    let mut first = true;
    enter(scanner, b'[', field)?;
    while scanner.next_item(&mut first, b']')? {
        if scanner.peek() != Some(b'"') {
            return Err(wrong_type(scanner, field, "an array of strings"));
        }
        list.push(string(scanner, field)?);
    }
    Ok(list)
}

fn number(scanner: &mut Scanner<'_>, field: &'static str) -> Result<u32, DecodeError> {
    let range = scanner.value(MAX_FIELD_DEPTH)?;
    scanner
        .text(range)
        .parse()
        .map_err(|_| DecodeError::WrongType { field, expected: "a whole number from 0 to 2^32-1" })
}

fn route(
    scanner: &mut Scanner<'_>,
    extensions: &mut Vec<(String, String)>,
) -> Result<(Route, RouteShape), DecodeError> {
    const PREV: u16 = 1;
    const CURR: u16 = 1 << 1;
    const NEXT: u16 = 1 << 2;
    const ACTORS: u16 = 1 << 3;
    const CURRENT: u16 = 1 << 4;
    let mut seen = Seen::default();
    let mut route = Route::default();
    let mut actors = Vec::new();
    let mut current = 0..0;
    let mut first = true;
    enter(scanner, b'{', "route")?;
    while let Some(key) = scanner.next_key(&mut first)? {
        match name_of(key)?.as_ref() {
            "prev" => {
                seen.once(PREV, key)?;
                route.prev = strings(scanner, "route.prev")?;
            }
            "curr" => {
                seen.once(CURR, key)?;
                route.curr = string(scanner, "route.curr")?;
            }
            "next" => {
                seen.once(NEXT, key)?;
                route.next = strings(scanner, "route.next")?;
            }
            "actors" => {
                seen.once(ACTORS, key)?;
                actors = strings(scanner, "route.actors")?;
            }
            "current" => {
                seen.once(CURRENT, key)?;
                current = scanner.value(2)?;
            }
            name => extension(scanner, 2, Head::ROUTE_PREFIX, name, extensions)?,
        }
    }
    match (seen.0 & (PREV | CURR | NEXT) != 0, seen.0 & (ACTORS | CURRENT) != 0) {
        (true, true) => Err(DecodeError::MixedRoute),
        (false, true) if seen.0 & ACTORS == 0 => Err(DecodeError::MissingField { field: "route.actors" }),
        (false, true) => {
            let current = if seen.0 & CURRENT == 0 { "0" } else { scanner.text(current) };
            split(actors, current).map(|route| (route, RouteShape::Actors))
        }
        _ if seen.0 & CURR == 0 => Err(DecodeError::MissingField { field: "route.curr" }),
        _ => Ok((route, RouteShape::Curr)),
    }
}

/// The older shape of a route, read as the newer one.
fn split(mut actors: Vec<String>, current: &str) -> Result<Route, DecodeError> {
    let digits = current.strip_prefix('-').unwrap_or(current);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DecodeError::WrongType { field: "route.current", expected: "a whole number" });
    }
    if actors.is_empty() {
        return Err(DecodeError::EmptyRoute);
    }
    let index = match current.parse::<usize>() {
        Ok(index) if index <= actors.len() => index,
        _ if current == "-0" => 0,
        _ => return Err(DecodeError::CurrentOutOfBounds { current: excerpt(current), actors: actors.len() }),
    };
    let mut rest = actors.split_off(index).into_iter();
    let curr = rest.next();
    if curr.as_ref().is_some_and(String::is_empty) {
        return Err(DecodeError::EmptyActor { field: "route.actors" });
    }
    Ok(Route { prev: actors, curr: curr.unwrap_or_default(), next: rest.collect() })
}

fn status(scanner: &mut Scanner<'_>, extensions: &mut Vec<(String, String)>) -> Result<Option<Status>, DecodeError> {
    if null(scanner)? {
        return Ok(None);
    }
    let mut seen = Seen::default();
    let mut phase = None;
    let mut status = Status {
        phase: Phase::Pending,
        reason: None,
        actor: String::new(),
        attempt: 1,
        max_attempts: 0,
        created_at: String::new(),
        updated_at: String::new(),
        deadline_at: None,
        error: None,
    };
    let mut first = true;
    enter(scanner, b'{', "status")?;
    while let Some(key) = scanner.next_key(&mut first)? {
        match name_of(key)?.as_ref() {
            "phase" => {
                seen.once(1, key)?;
                let name = text(scanner, "status.phase")?;
                phase = Some(Phase::from_name(&name).ok_or(DecodeError::UnknownPhase)?);
            }
            "reason" => {
                seen.once(1 << 1, key)?;
                status.reason = optional_string(scanner, "status.reason")?;
            }
            "actor" => {
                seen.once(1 << 2, key)?;
                status.actor = string(scanner, "status.actor")?;
            }
            "attempt" => {
                seen.once(1 << 3, key)?;
                status.attempt = number(scanner, "status.attempt")?;
            }
            "max_attempts" => {
                seen.once(1 << 4, key)?;
                status.max_attempts = number(scanner, "status.max_attempts")?;
            }
            "created_at" => {
                seen.once(1 << 5, key)?;
                status.created_at = string(scanner, "status.created_at")?;
            }
            "updated_at" => {
                seen.once(1 << 6, key)?;
                status.updated_at = string(scanner, "status.updated_at")?;
            }
            "deadline_at" => {
                seen.once(1 << 7, key)?;
                status.deadline_at = optional_string(scanner, "status.deadline_at")?;
            }
            "error" => {
                seen.once(1 << 8, key)?;
                status.error = error(scanner)?;
            }
            name => extension(scanner, 2, Head::STATUS_PREFIX, name, extensions)?,
        }
    }
    status.phase = phase.ok_or(DecodeError::MissingField { field: "status.phase" })?;
    Ok(Some(status))
}

/// `status.error`. It describes one run and is cleared at the next, so fields that it should not have are not kept.
fn error(scanner: &mut Scanner<'_>) -> Result<Option<ErrorInfo>, DecodeError> {
    if null(scanner)? {
        return Ok(None);
    }
    let mut seen = Seen::default();
    let mut error = ErrorInfo::default();
    let mut first = true;
    enter(scanner, b'{', "status.error")?;
    while let Some(key) = scanner.next_key(&mut first)? {
        match name_of(key)?.as_ref() {
            "message" => {
                seen.once(1, key)?;
                error.message = string(scanner, "status.error.message")?;
            }
            "type" => {
                seen.once(1 << 1, key)?;
                error.error_type = string(scanner, "status.error.type")?;
            }
            "mro" => {
                seen.once(1 << 2, key)?;
                error.mro = strings(scanner, "status.error.mro")?;
            }
            "traceback" => {
                seen.once(1 << 3, key)?;
                error.traceback = optional_string(scanner, "status.error.traceback")?;
            }
            _ => {
                scanner.value(3)?;
            }
        }
    }
    Ok(Some(error))
}
