//! The message that says that another could not be read. Infallible, and loses nothing: the whole body is inside, and can be
//! taken out again.

use base64_simd::STANDARD;

use crate::json::{push_text, salvage_headers};
use crate::names::{self, reason};
use crate::scan::plain_end;
use crate::{DecodeError, Encoding, ErrorInfo, Head, Phase, Route, RouteShape, Status};

/// A failure message about `body`, which was declared to be in `encoding` and reached `actor`: its head, and its payload as
/// JSON. `now` is RFC 3339.
///
/// The id is empty and the route is at the failure sink only, because a body that cannot be read has neither. Headers are
/// kept if they could be found. The payload is `{"error":"msg_parsing_error","details":{"message","type"},
/// "original_body":"…","original_body_encoding":"utf-8" or "base64","original_content_type":"…"}`, at most a third longer
/// than the body and some hundreds of bytes. Where even that is too long for the broker, the body can be forwarded untouched.
pub fn failure_of_unparsable(
    body: &[u8],
    encoding: Encoding,
    actor: &str,
    error: &DecodeError,
    now: &str,
) -> (Head, Vec<u8>) {
    let message = error.to_string();
    let error_type = error.name().to_owned();
    let mut payload = Vec::with_capacity(STANDARD.encoded_length(body.len()) + 512);
    push_text(&mut payload, b"{\"error\":\"msg_parsing_error\",\"details\":{\"message\":", &message);
    push_text(&mut payload, b",\"type\":", &error_type);
    match readable(body) {
        Some(text) => {
            push_text(&mut payload, b"},\"original_body\":", text);
            payload.extend_from_slice(b",\"original_body_encoding\":\"utf-8\"");
        }
        None => {
            payload.extend_from_slice(b"},\"original_body\":\"");
            STANDARD.encode_append(body, &mut payload);
            payload.extend_from_slice(b"\",\"original_body_encoding\":\"base64\"");
        }
    }
    push_text(&mut payload, b",\"original_content_type\":", encoding.content_type());
    payload.push(b'}');

    let head = Head {
        route: Route { curr: names::SUMP.to_owned(), ..Route::default() },
        shape: RouteShape::Curr,
        headers: match encoding {
            Encoding::Json => salvage_headers(body).unwrap_or_default(),
            Encoding::Native => Default::default(),
        },
        status: Some(Status {
            phase: Phase::Failed,
            reason: Some(reason::PARSE_ERROR.to_owned()),
            actor: actor.to_owned(),
            attempt: 1,
            max_attempts: 0,
            created_at: now.to_owned(),
            updated_at: now.to_owned(),
            deadline_at: None,
            error: Some(ErrorInfo { message, error_type, mro: Vec::new(), traceback: None }),
        }),
        ..Head::default()
    };
    (head, payload)
}

/// The body that a failure message of [`failure_of_unparsable`] is about, byte for byte, and the encoding that it was
/// declared to be in. `None` when the payload is none of such a message.
pub fn original_of_unparsable(payload: &[u8]) -> Option<(Vec<u8>, Encoding)> {
    let fields: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let text = |name: &str| fields.get(name)?.as_str();
    let encodings = [Encoding::Json, Encoding::Native];
    let encoding = encodings.into_iter().find(|e| Some(e.content_type()) == text("original_content_type"))?;
    let body = text("original_body")?;
    match text("original_body_encoding")? {
        "utf-8" => Some((body.as_bytes().to_vec(), encoding)),
        "base64" => Some((STANDARD.decode_to_vec(body).ok()?, encoding)),
        _ => None,
    }
}

/// The body as text, when it is text and not longer with its escapes than base64 would be.
fn readable(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let mut escapes = 0;
    let mut at = plain_end(body, 0);
    while let Some(byte) = body.get(at) {
        escapes += if *byte < 0x20 { 5 } else { 1 };
        at = plain_end(body, at + 1);
    }
    (escapes <= body.len() / 3).then_some(text)
}
