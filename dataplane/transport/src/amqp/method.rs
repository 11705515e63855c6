//! The methods that a broker sends to this client.
//!
//! Takes the payload of a method frame; gives a [`Method`] that borrows from it. Never blocks. A method that ends
//! early is a [`WireError`]; one that this client does not know is [`Method::Other`].

use super::id;
use super::wire::{Reader, Table, WireError};

/// A method, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "names and fields are the specification's own")]
pub enum Method<'a> {
    ConnectionStart {
        server_properties: Table<'a>,
        mechanisms: &'a [u8],
    },
    ConnectionTune {
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
    },
    ConnectionOpenOk,
    ConnectionClose(Close<'a>),
    ConnectionCloseOk,
    ConnectionBlocked {
        reason: &'a [u8],
    },
    ConnectionUnblocked,
    ChannelOpenOk,
    ChannelFlow {
        active: bool,
    },
    ChannelClose(Close<'a>),
    ChannelCloseOk,
    ExchangeDeclareOk,
    QueueDeclareOk {
        queue: &'a [u8],
        messages: u32,
        consumers: u32,
    },
    QueueBindOk,
    QosOk,
    ConsumeOk {
        consumer_tag: &'a [u8],
    },
    Cancel {
        consumer_tag: &'a [u8],
        nowait: bool,
    },
    CancelOk {
        consumer_tag: &'a [u8],
    },
    Deliver {
        delivery_tag: u64,
        redelivered: bool,
    },
    Return {
        code: u16,
        text: &'a [u8],
    },
    Ack {
        delivery_tag: u64,
        multiple: bool,
    },
    Nack {
        delivery_tag: u64,
        multiple: bool,
    },
    ConfirmSelectOk,
    /// Known to the specification, not to this client.
    Other {
        id: u32,
    },
}

/// Why the peer closes a channel or the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// A reply code of the specification, such as 404.
    pub code: u16,
    /// For people.
    pub text: &'a [u8],
}

impl Close<'_> {
    /// Both in one text.
    pub fn describe(&self) -> String {
        format!("{} ({})", String::from_utf8_lossy(self.text), self.code)
    }
}

impl<'a> Method<'a> {
    /// Reads the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        let id = r.u32("a method's number")?;
        Ok(match id {
            id::BASIC_DELIVER => {
                r.short_str("basic.deliver")?;
                let delivery_tag = r.u64("basic.deliver")?;
                let redelivered = r.u8("basic.deliver")? & 1 != 0;
                r.short_str("basic.deliver")?;
                r.short_str("basic.deliver")?;
                Self::Deliver { delivery_tag, redelivered }
            }
            id::BASIC_ACK => {
                let delivery_tag = r.u64("basic.ack")?;
                Self::Ack { delivery_tag, multiple: r.u8("basic.ack")? & 1 != 0 }
            }
            id::BASIC_NACK => {
                let delivery_tag = r.u64("basic.nack")?;
                Self::Nack { delivery_tag, multiple: r.u8("basic.nack")? & 1 != 0 }
            }
            id::BASIC_RETURN => {
                let code = r.u16("basic.return")?;
                let text = r.short_str("basic.return")?;
                r.short_str("basic.return")?;
                r.short_str("basic.return")?;
                Self::Return { code, text }
            }
            _ => Self::decode_rare(id, r)?,
        })
    }

    fn decode_rare(id: u32, mut r: Reader<'a>) -> Result<Self, WireError> {
        Ok(match id {
            id::CONNECTION_START => {
                r.u16("connection.start")?;
                let server_properties = r.table("connection.start")?;
                let mechanisms = r.long_str("connection.start")?;
                r.long_str("connection.start")?;
                Self::ConnectionStart { server_properties, mechanisms }
            }
            id::CONNECTION_TUNE => Self::ConnectionTune {
                channel_max: r.u16("connection.tune")?,
                frame_max: r.u32("connection.tune")?,
                heartbeat: r.u16("connection.tune")?,
            },
            id::CONNECTION_OPEN_OK => Self::ConnectionOpenOk,
            id::CONNECTION_CLOSE => Self::ConnectionClose(close(&mut r, "connection.close")?),
            id::CONNECTION_CLOSE_OK => Self::ConnectionCloseOk,
            id::CONNECTION_BLOCKED => Self::ConnectionBlocked { reason: r.short_str("connection.blocked")? },
            id::CONNECTION_UNBLOCKED => Self::ConnectionUnblocked,
            id::CHANNEL_OPEN_OK => Self::ChannelOpenOk,
            id::CHANNEL_FLOW => Self::ChannelFlow { active: r.u8("channel.flow")? & 1 != 0 },
            id::CHANNEL_CLOSE => Self::ChannelClose(close(&mut r, "channel.close")?),
            id::CHANNEL_CLOSE_OK => Self::ChannelCloseOk,
            id::EXCHANGE_DECLARE_OK => Self::ExchangeDeclareOk,
            id::QUEUE_DECLARE_OK => Self::QueueDeclareOk {
                queue: r.short_str("queue.declare-ok")?,
                messages: r.u32("queue.declare-ok")?,
                consumers: r.u32("queue.declare-ok")?,
            },
            id::QUEUE_BIND_OK => Self::QueueBindOk,
            id::BASIC_QOS_OK => Self::QosOk,
            id::BASIC_CONSUME_OK => Self::ConsumeOk { consumer_tag: r.short_str("basic.consume-ok")? },
            id::BASIC_CANCEL => {
                Self::Cancel { consumer_tag: r.short_str("basic.cancel")?, nowait: r.u8("basic.cancel")? & 1 != 0 }
            }
            id::BASIC_CANCEL_OK => Self::CancelOk { consumer_tag: r.short_str("basic.cancel-ok")? },
            id::CONFIRM_SELECT_OK => Self::ConfirmSelectOk,
            id => Self::Other { id },
        })
    }
}

fn close<'a>(r: &mut Reader<'a>, what: &'static str) -> Result<Close<'a>, WireError> {
    let code = r.u16(what)?;
    let text = r.short_str(what)?;
    r.u32(what)?;
    Ok(Close { code, text })
}
