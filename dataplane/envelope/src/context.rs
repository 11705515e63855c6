//! What a handler may ask about its message, as the JSON of the ring's context (docs/RING.md, section 5). Infallible.

use crate::Head;
use crate::json::{push_route, push_status, push_text};

/// Appends the context of a call: id, parent, route (always in the newer shape), headers, status.
pub fn context_json(head: &Head, out: &mut Vec<u8>) {
    out.reserve(256 + head.headers.as_json().len());
    push_text(out, b"{\"id\":", &head.id);
    if let Some(parent) = &head.parent_id {
        push_text(out, b",\"parent_id\":", parent);
    }
    out.extend_from_slice(b",\"route\":{");
    push_route(out, &head.route);
    out.extend_from_slice(b"},\"headers\":");
    out.extend_from_slice(head.headers.as_json().as_bytes());
    if let Some(status) = &head.status {
        out.extend_from_slice(b",\"status\":{");
        push_status(out, status);
        out.push(b'}');
    }
    out.push(b'}');
}
