//! From an address to an open connection.
//!
//! Takes a [`RabbitMqConfig`] and what the connection is for; gives an [`Opened`] whose channels are open. It is one
//! future, polled inside the transport's poll: it waits for the network and never blocks the thread (names are looked
//! up and certificates read on tokio's blocking pool). What only a person can mend is [`OpenError::Refused`]; anything
//! else may be tried again.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::config::RabbitMqConfig;
use super::link::{Link, LinkError, READ_MAX};
use super::stream::Stream;
use super::tls;
use super::version::Version;
use crate::amqp::frame::{Decoder, Frame};
use crate::amqp::input::Input;
use crate::amqp::method::Method;
use crate::amqp::wire::{Field, Value};
use crate::amqp::{FRAME_MIN_SIZE, PROTOCOL_HEADER, encode};

/// The channel of deliveries or of publishes.
pub(crate) const CHANNEL: u16 = 1;
/// The channel on which queues are declared, where a refusal hurts nobody. It is on the publishing connection: the
/// consuming one is not read while there is no room for a body.
pub(crate) const TOPOLOGY_CHANNEL: u16 = 2;

/// The smallest frame (bytes) that every version lets a client ask for.
const FRAME_LEAST_EVERYWHERE: u32 = 8192;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Consume,
    Publish,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) link: Link,
    pub(crate) version: Version,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Trying again is useless.
    #[error("{0}")]
    Refused(String),
    /// Trying again may help.
    #[error("cannot connect to {address}: {source}")]
    Failed { address: String, source: LinkError },
}

/// Connects, logs in and opens the channels that `role` needs.
pub(crate) async fn open(config: Arc<RabbitMqConfig>, role: Role) -> Result<Opened, OpenError> {
    let limit = config.connect_timeout;
    let opened = match tokio::time::timeout(limit, connect(&config, role)).await {
        Ok(opened) => opened,
        Err(_) => Err(LinkError::Timeout(limit)),
    };
    opened.map_err(|source| match refusal(&source) {
        Some(advice) => OpenError::Refused(format!("{}: {source}: {advice}", config.address())),
        None => OpenError::Failed { address: config.address(), source },
    })
}

/// What a person has to do, where nothing else helps.
fn refusal(error: &LinkError) -> Option<&'static str> {
    const ACCESS_REFUSED: u16 = 403;
    const NOT_ALLOWED: u16 = 530;
    match error {
        LinkError::Closed { code: ACCESS_REFUSED, .. } => Some("check the user name and the password"),
        // A limit on connections is reported under the same code, and passes.
        LinkError::Closed { code: NOT_ALLOWED, why } if !why.contains("limit") => {
            Some("check that the virtual host exists and that the user may use it")
        }
        _ => None,
    }
}

async fn connect(config: &Arc<RabbitMqConfig>, role: Role) -> Result<Opened, LinkError> {
    let tcp = TcpStream::connect((config.host.as_str(), config.port)).await?;
    // A turn's frames leave in one write; waiting for more of them would only add latency.
    tcp.set_nodelay(true)?;
    if config.tls.is_none() {
        let (tcp, rest) = shake(tcp, config, role).await?;
        return Ok(rest.into_opened(Stream::plain(tcp)));
    }
    let for_files = Arc::clone(config);
    let read = move || for_files.tls.as_ref().map(|tls| tls::connector(tls, &for_files.host));
    let connector = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?;
    let Some((name, connector)) = connector.transpose()? else {
        return Err(LinkError::Unexpected("no TLS"));
    };
    let (tls, rest) = shake(connector.connect(name, tcp).await?, config, role).await?;
    Ok(rest.into_opened(Stream::tls(tls)))
}

/// What a handshake leaves behind beside the stream.
struct Agreed {
    input: Input,
    decoder: Decoder,
    frame_max: u32,
    heartbeat: Duration,
    version: Version,
}

impl Agreed {
    fn into_opened(self, stream: Stream) -> Opened {
        let link = Link::new(stream, self.input, self.decoder, self.frame_max, self.heartbeat);
        Opened { link, version: self.version }
    }
}

async fn shake<S>(stream: S, config: &RabbitMqConfig, role: Role) -> Result<(S, Agreed), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let wish = config.frame_max.max(FRAME_LEAST_EVERYWHERE);
    // A whole frame and the start of what comes behind it always fit.
    let input = Input::new(wish as usize + READ_MAX);
    let mut talk = Talk { stream, input, decoder: Decoder::new(wish) };
    talk.send(|out| out.extend_from_slice(PROTOCOL_HEADER)).await?;
    let version = talk
        .answer("connection.start", |method| match method {
            Method::ConnectionStart { server_properties, .. } => Some(match server_properties.get("version") {
                Some(Value::Text(version)) => Version::parse(version),
                _ => Version::default(),
            }),
            _ => None,
        })
        .await?;
    talk.send(|out| start_ok(out, config, role)).await?;
    let (channel_max, frame_max, heartbeat) = talk
        .answer("connection.tune", |method| match *method {
            Method::ConnectionTune { channel_max, frame_max, heartbeat } => Some((channel_max, frame_max, heartbeat)),
            _ => None,
        })
        .await?;
    // 0 is the broker's way to say that it does not care.
    let wish = config.frame_max.max(version.least_frame_max());
    let frame_max = if frame_max == 0 { wish } else { wish.min(frame_max) };
    if frame_max < FRAME_MIN_SIZE {
        return Err(LinkError::Unexpected("frames of less than 4096 bytes"));
    }
    let own = config.heartbeat.as_secs().min(u64::from(u16::MAX)) as u16;
    let heartbeat = if own == 0 || heartbeat == 0 { own } else { own.min(heartbeat) };
    talk.decoder.set_frame_max(frame_max);
    talk.send(|out| {
        encode::tune_ok(out, channel_max, frame_max, heartbeat);
        encode::open(out, &config.vhost);
    })
    .await?;
    talk.answer("connection.open-ok", |method| matches!(method, Method::ConnectionOpenOk).then_some(())).await?;
    talk.open_channels(role).await?;
    let heartbeat = Duration::from_secs(u64::from(heartbeat));
    Ok((talk.stream, Agreed { input: talk.input, decoder: talk.decoder, frame_max, heartbeat, version }))
}

fn start_ok(out: &mut Vec<u8>, config: &RabbitMqConfig, role: Role) {
    let suffix = match role {
        Role::Consume => "consume",
        Role::Publish => "publish",
    };
    let name = format!("{} ({suffix})", config.connection_name);
    let properties = [
        ("product", Field::Text("asya")),
        ("version", Field::Text(env!("CARGO_PKG_VERSION"))),
        ("platform", Field::Text("Rust")),
        ("connection_name", Field::Text(&name)),
        (
            "capabilities",
            Field::Table(&[
                ("publisher_confirms", Field::Bool(true)),
                ("consumer_cancel_notify", Field::Bool(true)),
                ("basic.nack", Field::Bool(true)),
                ("connection.blocked", Field::Bool(true)),
                ("authentication_failure_close", Field::Bool(true)),
            ]),
        ),
    ];
    encode::start_ok(out, &properties, &config.user, config.password.reveal());
}

/// A conversation in which every message has one answer.
struct Talk<S> {
    stream: S,
    input: Input,
    decoder: Decoder,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    async fn open_channels(&mut self, role: Role) -> Result<(), LinkError> {
        let channels = if role == Role::Publish { &[CHANNEL, TOPOLOGY_CHANNEL][..] } else { &[CHANNEL][..] };
        for &channel in channels {
            self.send(|out| encode::channel_open(out, channel)).await?;
            self.answer("channel.open-ok", |method| matches!(method, Method::ChannelOpenOk).then_some(())).await?;
        }
        if role == Role::Publish {
            self.send(|out| encode::confirm_select(out, CHANNEL)).await?;
            self.answer("confirm.select-ok", |method| matches!(method, Method::ConfirmSelectOk).then_some(())).await?;
        }
        Ok(())
    }

    async fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), LinkError> {
        let mut out = Vec::new();
        write(&mut out);
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Waits for the one method that `take` takes.
    async fn answer<R>(&mut self, what: &'static str, take: impl Fn(&Method<'_>) -> Option<R>) -> Result<R, LinkError> {
        loop {
            let (used, frame) = self.decoder.next(self.input.unread())?;
            let (found, taken) = match frame {
                None => (false, None),
                Some(Frame::Heartbeat) => (true, None),
                Some(Frame::Method { method: Method::ConnectionClose(close), .. }) => {
                    return Err(LinkError::Closed { code: close.code, why: close.describe() });
                }
                Some(Frame::Method { method: Method::ConnectionBlocked { .. }, .. }) => (true, None),
                Some(Frame::Method { method, .. }) => {
                    let taken = take(&method);
                    if taken.is_none() {
                        return Err(LinkError::Unexpected(what));
                    }
                    (true, taken)
                }
                Some(_) => return Err(LinkError::Unexpected(what)),
            };
            self.input.consume(used);
            if let Some(taken) = taken {
                return Ok(taken);
            }
            if !found {
                self.read().await?;
            }
        }
    }

    async fn read(&mut self) -> Result<(), LinkError> {
        let read = poll_fn(|cx| {
            let mut space = tokio::io::ReadBuf::new(self.input.space(READ_MAX));
            std::pin::Pin::new(&mut self.stream).poll_read(cx, &mut space).map_ok(|()| space.filled().len())
        })
        .await?;
        if read == 0 {
            return Err(LinkError::Eof);
        }
        self.input.filled(read);
        Ok(())
    }
}
