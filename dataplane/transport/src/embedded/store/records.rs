//! The records of the store: bytes and back. The layout is version 1 of the stamp.

use crate::ContentType;
use crate::embedded::Keep;
use crate::embedded::wire::{Fields, Malformed, content_type_byte, content_type_of, cut};

/// Longest text in a record: names and ids are shorter.
const TEXT_BYTES_MAX: usize = 1024;

/// Everything about a message but its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct StoredHead {
    pub(in crate::embedded) queue: u32,
    pub(in crate::embedded) content_type: ContentType,
    pub(in crate::embedded) in_file: bool,
    /// Deliveries that ended with their client lost.
    pub(in crate::embedded) lost: u32,
    /// Unix time in ms before which it is not delivered; 0 = at once.
    pub(in crate::embedded) due_ms: u64,
    /// Unix time in ms.
    pub(in crate::embedded) published_ms: u64,
    pub(in crate::embedded) len: u64,
    pub(in crate::embedded) id: Box<str>,
}

/// Everything about a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct QueueRecord {
    pub(in crate::embedded) name: String,
    pub(in crate::embedded) dead_letter: Option<String>,
    pub(in crate::embedded) delivery_limit: u32,
    pub(in crate::embedded) keep: Option<Keep>,
}

impl StoredHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40 + self.id.len());
        out.extend_from_slice(&self.queue.to_le_bytes());
        out.push(content_type_byte(self.content_type));
        out.push(u8::from(self.in_file));
        out.extend_from_slice(&self.lost.to_le_bytes());
        out.extend_from_slice(&self.due_ms.to_le_bytes());
        out.extend_from_slice(&self.published_ms.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        text(&mut out, &self.id);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        Ok(Self {
            queue: fields.u32()?,
            content_type: content_type_of(fields.u8()?)?,
            in_file: fields.u8()? != 0,
            lost: fields.u32()?,
            due_ms: fields.u64()?,
            published_ms: fields.u64()?,
            len: fields.u64()?,
            id: fields.name()?.into(),
        })
    }
}

impl QueueRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.delivery_limit.to_le_bytes());
        let keep = self.keep.unwrap_or(Keep { messages: u64::MAX, bytes: u64::MAX });
        out.extend_from_slice(&keep.messages.to_le_bytes());
        out.extend_from_slice(&keep.bytes.to_le_bytes());
        text(&mut out, &self.name);
        text(&mut out, self.dead_letter.as_deref().unwrap_or_default());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let delivery_limit = fields.u32()?;
        let keep = Keep { messages: fields.u64()?, bytes: fields.u64()? };
        Ok(Self {
            name: fields.name()?.to_owned(),
            dead_letter: Some(fields.name()?).filter(|name| !name.is_empty()).map(str::to_owned),
            delivery_limit,
            keep: Some(keep).filter(|keep| keep.messages != u64::MAX || keep.bytes != u64::MAX),
        })
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    let text = cut(text, TEXT_BYTES_MAX);
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
