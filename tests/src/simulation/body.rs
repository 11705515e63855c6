//! What a body says, read without the core's help: all that the rules go by.

use std::rc::Rc;

use asya_envelope::{Encoding, Head, Payload, PayloadIn};
use asya_transport::ContentType;

/// A body that is an envelope.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its head.
    pub head: Head,
    /// Its payload section.
    pub section: Vec<u8>,
    /// The layout of the section, which starts at 0.
    pub payload: Payload,
}

impl Opened {
    /// The payload's document.
    pub fn document(&self) -> &[u8] {
        &self.section[..self.payload.document_len as usize]
    }
}

/// The bodies in a body: one, or those of a bundle.
pub fn portions(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let members = asya_envelope::bundle::split(body).and_then(Result::ok);
    let whole = members.is_none().then_some(body);
    let of = |m: asya_envelope::bundle::Member| &body[m.offset as usize..(m.offset + m.len) as usize];
    members.unwrap_or_default().into_iter().map(of).chain(whole)
}

/// The heads of the messages in a body.
pub fn heads(body: &[u8]) -> Vec<Head> {
    portions(body).filter_map(|body| Some(open_any(body)?.head)).collect()
}

/// Opens a body in whichever encoding it is.
pub fn open_any(body: &[u8]) -> Option<Opened> {
    open(body, ContentType::Json).or_else(|| open(body, ContentType::Native))
}

/// Opens a body; `None` when it is no envelope.
pub fn open(body: &[u8], content_type: ContentType) -> Option<Opened> {
    let encoding = if content_type == ContentType::Native { Encoding::Native } else { Encoding::Json };
    let decoded = asya_envelope::decode(body, encoding).ok()?;
    let (section, payload) = match decoded.payload {
        PayloadIn::InPlace(payload) => {
            let range = payload.offset as usize..(payload.offset + payload.len) as usize;
            (body[range].to_vec(), Payload { offset: 0, ..payload })
        }
        PayloadIn::Inline(inline) => {
            let mut section = vec![0; inline.section_len() as usize];
            let payload = inline.write_section(body, &mut section).ok()?;
            (section, payload)
        }
    };
    Some(Opened { head: decoded.head, section, payload })
}

/// For the story: which messages a body holds.
pub fn name_of(body: &Rc<[u8]>) -> String {
    let name = |body: &[u8]| match open_any(body) {
        Some(Opened { head, .. }) => format!("{} hop {} at {:?}", head.id, head.route.hop(), head.route.curr),
        None => format!("garbage of {} bytes", body.len()),
    };
    portions(body).map(name).collect::<Vec<_>>().join(" + ")
}
