//! Writes a head as JSON around a payload that stays where it is. Appends to the buffers it is given; infallible.

use crate::scan::plain_end;
use crate::{ErrorInfo, Head, Route, RouteShape, Status};

/// Appends what comes before and after the payload of a JSON envelope: body = `prefix` + document + `suffix`. Only
/// for payloads without blobs. Everything goes before the payload, so that a reader has the head first.
pub fn encode_json(head: &Head, prefix: &mut Vec<u8>, suffix: &mut Vec<u8>) {
    push_head(head, prefix);
    prefix.extend_from_slice(b",\"payload\":");
    suffix.push(b'}');
}

/// The envelope up to its payload, open.
pub(crate) fn push_head(head: &Head, out: &mut Vec<u8>) {
    let extensions: usize = head.extensions.iter().map(|(name, raw)| name.len() + raw.len() + 4).sum();
    out.reserve(512 + head.headers.as_json().len() + extensions);
    push_text(out, b"{\"id\":", &head.id);
    if let Some(parent) = &head.parent_id {
        push_text(out, b",\"parent_id\":", parent);
    }
    if let Some(namespace) = &head.namespace {
        push_text(out, b",\"namespace\":", namespace);
    }
    out.extend_from_slice(b",\"route\":{");
    match head.shape {
        RouteShape::Curr => push_route(out, &head.route),
        RouteShape::Actors => push_actors(out, &head.route),
    }
    push_inner(out, head, Head::ROUTE_PREFIX);
    out.push(b'}');
    if head.headers.as_json() != "{}" {
        out.extend_from_slice(b",\"headers\":");
        out.extend_from_slice(head.headers.as_json().as_bytes());
    }
    if let Some(status) = &head.status {
        out.extend_from_slice(b",\"status\":{");
        push_status(out, status);
        push_inner(out, head, Head::STATUS_PREFIX);
        out.push(b'}');
    }
    for (name, raw) in &head.extensions {
        if !name.starts_with(Head::ROUTE_PREFIX) && !name.starts_with(Head::STATUS_PREFIX) {
            push_field(out, name, raw);
        }
    }
}

/// The unknown fields of an inner object.
fn push_inner(out: &mut Vec<u8>, head: &Head, prefix: &str) {
    for (name, raw) in &head.extensions {
        if let Some(inner) = name.strip_prefix(prefix) {
            push_field(out, inner, raw);
        }
    }
}

fn push_field(out: &mut Vec<u8>, name: &str, raw: &str) {
    push_text(out, b",", name);
    out.push(b':');
    out.extend_from_slice(raw.as_bytes());
}

/// `"prev":[…],"curr":"…","next":[…]`
pub(crate) fn push_route(out: &mut Vec<u8>, route: &Route) {
    out.extend_from_slice(b"\"prev\":");
    push_list(out, route.prev.iter());
    push_text(out, b",\"curr\":", &route.curr);
    out.extend_from_slice(b",\"next\":");
    push_list(out, route.next.iter());
}

fn push_actors(out: &mut Vec<u8>, route: &Route) {
    let curr = Some(&route.curr).filter(|curr| !curr.is_empty());
    out.extend_from_slice(b"\"actors\":");
    push_list(out, route.prev.iter().chain(curr).chain(&route.next));
    push_number(out, b",\"current\":", route.prev.len() as u64);
}

/// The fields of a status, without its braces.
pub(crate) fn push_status(out: &mut Vec<u8>, status: &Status) {
    push_text(out, b"\"phase\":", status.phase.as_str());
    if let Some(reason) = &status.reason {
        push_text(out, b",\"reason\":", reason);
    }
    push_text(out, b",\"actor\":", &status.actor);
    push_number(out, b",\"attempt\":", status.attempt.into());
    push_number(out, b",\"max_attempts\":", status.max_attempts.into());
    push_text(out, b",\"created_at\":", &status.created_at);
    push_text(out, b",\"updated_at\":", &status.updated_at);
    if let Some(deadline) = &status.deadline_at {
        push_text(out, b",\"deadline_at\":", deadline);
    }
    if let Some(error) = &status.error {
        push_error(out, error);
    }
}

fn push_error(out: &mut Vec<u8>, error: &ErrorInfo) {
    push_text(out, b",\"error\":{\"message\":", &error.message);
    push_text(out, b",\"type\":", &error.error_type);
    out.extend_from_slice(b",\"mro\":");
    push_list(out, error.mro.iter());
    if let Some(traceback) = &error.traceback {
        push_text(out, b",\"traceback\":", traceback);
    }
    out.push(b'}');
}

fn push_list<'a>(out: &mut Vec<u8>, list: impl Iterator<Item = &'a String>) {
    out.push(b'[');
    for (index, item) in list.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        escape_json(item, out);
    }
    out.push(b']');
}

/// `label`, then `text` as a JSON string.
#[inline]
pub(crate) fn push_text(out: &mut Vec<u8>, label: &[u8], text: &str) {
    out.extend_from_slice(label);
    escape_json(text, out);
}

/// `label`, then a number.
pub(crate) fn push_number(out: &mut Vec<u8>, label: &[u8], mut number: u64) {
    out.extend_from_slice(label);
    let mut digits = [0_u8; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

/// Appends `text` as a JSON string, quotes included. Escapes what JSON demands and nothing else.
pub fn escape_json(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut start = 0;
    loop {
        let end = plain_end(bytes, start);
        out.extend_from_slice(bytes.get(start..end).unwrap_or_default());
        match bytes.get(end) {
            Some(&byte) => push_escape(out, byte),
            None => break,
        }
        start = end + 1;
    }
    out.push(b'"');
}

#[cold]
fn push_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let digit = |shift: u8| HEX[usize::from(byte >> shift & 15)];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(4), digit(0)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
