//! A broker that answers what any broker would, leaves the rest to the test, and is written with another
//! implementation of the protocol.
//!
//! Takes connections on a port of its own; gives every frame that it did not answer itself to the test, which may send
//! any frame back. Each connection has a thread that ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel as ch, confirm, connection, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable, LongString};

use super::super::config::RabbitMqConfig;
use super::super::handshake::Role;

/// How long a frame is waited for before the test fails.
const WATCHDOG: Duration = Duration::from_secs(30);

type OnDeclare = dyn Fn(&queue::Declare) -> Result<u32, (u16, &'static str)> + Send + Sync;

/// What the broker says of itself, and how it answers.
#[derive(Clone)]
pub(super) struct Manners {
    pub version: &'static str,
    pub frame_max: u32,
    pub heartbeat: u16,
    /// Closes the connection with this at the start of the session.
    pub refuse: Option<(u16, &'static str)>,
    /// Answers `queue.declare`: what it holds, or a close of the channel.
    pub declare: Arc<OnDeclare>,
    /// Closes the channel of an `exchange.declare` with this.
    pub refuse_exchange: Option<(u16, &'static str)>,
    /// Whether `basic.cancel` is answered.
    pub answer_cancel: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            version: "4.3.1",
            frame_max: 131_072,
            heartbeat: 60,
            refuse: None,
            declare: Arc::new(|_| Ok(0)),
            refuse_exchange: None,
            answer_cancel: true,
        }
    }
}

pub(super) struct Server {
    port: u16,
    shared: Arc<Shared>,
    frames: Receiver<(Role, AMQPFrame)>,
}

struct Shared {
    manners: Mutex<Manners>,
    /// The newest connection of each kind.
    open: Mutex<BTreeMap<&'static str, TcpStream>>,
    accepted: Mutex<u32>,
    ended: Mutex<bool>,
    seen: Mutex<Sender<(Role, AMQPFrame)>>,
}

fn kind(role: Role) -> &'static str {
    if role == Role::Consume { "consume" } else { "publish" }
}

impl Server {
    pub(super) fn new(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, frames) = channel();
        let shared = Arc::new(Shared {
            manners: Mutex::new(manners),
            open: Mutex::default(),
            accepted: Mutex::default(),
            ended: Mutex::default(),
            seen: Mutex::new(seen),
        });
        let server = Self { port, shared: Arc::clone(&shared), frames };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if *shared.ended.lock().unwrap() {
                    return;
                }
                *shared.accepted.lock().unwrap() += 1;
                let (shared, stream) = (Arc::clone(&shared), stream.unwrap());
                std::thread::spawn(move || Connection::new(stream).serve(&shared));
            }
        });
        server
    }

    pub(super) fn config(&self) -> RabbitMqConfig {
        RabbitMqConfig { host: "127.0.0.1".into(), port: self.port, ..RabbitMqConfig::default() }
    }

    /// From now on (connections that are open keep theirs).
    pub(super) fn set_manners(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.shared.manners.lock().unwrap());
    }

    /// Connections so far.
    pub(super) fn accepted(&self) -> u32 {
        *self.shared.accepted.lock().unwrap()
    }

    /// The next frame that was not answered by itself.
    pub(super) fn next(&self) -> (Role, AMQPFrame) {
        self.frames.recv_timeout(WATCHDOG).expect("the client sends a frame")
    }

    /// The next one, if it is here.
    pub(super) fn try_next(&self) -> Option<(Role, AMQPFrame)> {
        self.frames.try_recv().ok()
    }

    /// The next one but heartbeats, of one connection; those of the other are dropped.
    pub(super) fn next_of(&self, role: Role) -> AMQPFrame {
        loop {
            match self.next() {
                (of, frame) if of == role && frame != AMQPFrame::Heartbeat => return frame,
                _ => {}
            }
        }
    }

    /// The next one of class `basic` on the consuming connection.
    pub(super) fn next_basic(&self) -> basic::AMQPMethod {
        match self.next_of(Role::Consume) {
            AMQPFrame::Method(1, AMQPClass::Basic(method)) => method,
            other => panic!("{other:?}"),
        }
    }

    /// The queue, the sequence and the bodies' lengths of the next `count` publishes.
    pub(super) fn next_publishes(&self, count: usize) -> Vec<(String, i64, Vec<usize>)> {
        let mut publishes = Vec::new();
        let mut left = None;
        while publishes.len() < count || left != Some(0) {
            match self.next_of(Role::Publish) {
                AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))) => {
                    publishes.push((publish.routing_key.to_string(), 0, Vec::new()));
                    left = None;
                }
                AMQPFrame::Header(1, header) => {
                    left = Some(header.body_size as usize);
                    let headers = header.properties.headers().as_ref().unwrap().inner();
                    let Some(AMQPValue::LongLongInt(sequence)) = headers.get("x-asya-seq") else { panic!() };
                    publishes.last_mut().unwrap().1 = *sequence;
                }
                AMQPFrame::Body(1, bytes) => {
                    left = left.map(|left| left - bytes.len());
                    publishes.last_mut().unwrap().2.push(bytes.len());
                }
                other => panic!("{other:?}"),
            }
        }
        publishes
    }

    pub(super) fn send(&self, role: Role, frame: &AMQPFrame) {
        self.send_bytes(role, &written(frame));
    }

    pub(super) fn send_bytes(&self, role: Role, bytes: &[u8]) {
        let open = self.shared.open.lock().unwrap();
        (&open[kind(role)]).write_all(bytes).unwrap();
    }

    pub(super) fn send_basic(&self, role: Role, method: basic::AMQPMethod) {
        self.send(role, &AMQPFrame::Method(1, AMQPClass::Basic(method)));
    }

    /// A delivery, whole.
    pub(super) fn deliver(&self, number: u64, body: &[u8]) {
        self.deliver_with(number, body, false, FieldTable::default());
    }

    pub(super) fn deliver_with(&self, number: u64, body: &[u8], redelivered: bool, headers: FieldTable) {
        let mut bytes = written(&deliver(number, redelivered));
        bytes.extend(written(&header(body.len() as u64, headers)));
        for piece in body.chunks(4000) {
            bytes.extend(written(&AMQPFrame::Body(1, piece.to_vec())));
        }
        self.send_bytes(Role::Consume, &bytes);
    }

    /// Says that nobody takes the publish numbered `sequence`.
    pub(super) fn give_back(&self, sequence: i64, body: &[u8]) {
        let method = basic::AMQPMethod::Return(basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "".into(),
            routing_key: "q".into(),
        });
        let mut headers = FieldTable::default();
        headers.insert("x-asya-seq".into(), AMQPValue::LongLongInt(sequence));
        let mut bytes = written(&AMQPFrame::Method(1, AMQPClass::Basic(method)));
        bytes.extend(written(&header(body.len() as u64, headers)));
        bytes.extend(written(&AMQPFrame::Body(1, body.to_vec())));
        self.send_bytes(Role::Publish, &bytes);
    }

    pub(super) fn confirm(&self, number: u64, multiple: bool) {
        self.send_basic(Role::Publish, basic::AMQPMethod::Ack(basic::Ack { delivery_tag: number, multiple }));
    }

    pub(super) fn refuse(&self, number: u64, multiple: bool) {
        let nack = basic::Nack { delivery_tag: number, multiple, requeue: false };
        self.send_basic(Role::Publish, basic::AMQPMethod::Nack(nack));
    }

    /// Closes channel 1.
    pub(super) fn close_channel(&self, role: Role, code: u16, text: &str) {
        self.send(role, &channel_close(1, code, text));
    }

    /// Breaks a connection.
    pub(super) fn cut(&self, role: Role) {
        // Broken already will do as well.
        let _ = self.shared.open.lock().unwrap()[kind(role)].shutdown(Shutdown::Both);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        *self.shared.ended.lock().unwrap() = true;
        for stream in self.shared.open.lock().unwrap().values() {
            // Broken already will do as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // The listener is woken to see that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

pub(super) fn channel_close(channel: u16, code: u16, text: &str) -> AMQPFrame {
    let close = ch::Close { reply_code: code, reply_text: text.into(), class_id: 0, method_id: 0 };
    AMQPFrame::Method(channel, AMQPClass::Channel(ch::AMQPMethod::Close(close)))
}

pub(super) fn connection_close(code: u16, text: &str) -> AMQPFrame {
    let close = connection::Close { reply_code: code, reply_text: text.into(), class_id: 0, method_id: 0 };
    AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)))
}

pub(super) fn deliver(number: u64, redelivered: bool) -> AMQPFrame {
    let deliver = basic::Deliver {
        consumer_tag: "asya-1".into(),
        delivery_tag: number,
        redelivered,
        exchange: "".into(),
        routing_key: "q".into(),
    };
    AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)))
}

pub(super) fn header(len: u64, headers: FieldTable) -> AMQPFrame {
    let properties =
        basic::AMQPProperties::default().with_content_type("application/json".into()).with_headers(headers);
    AMQPFrame::Header(1, AMQPContentHeader { class_id: 60, body_size: len, properties })
}

pub(super) fn written(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame::<Vec<u8>>(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0
}

/// One connection, in its thread.
struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// Channels whose close is not confirmed.
    closing: BTreeSet<u16>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, bytes: Vec::new(), closing: BTreeSet::new() }
    }

    /// The next frame; `None` at the end.
    fn read(&mut self) -> Option<AMQPFrame> {
        loop {
            if let Ok((rest, frame)) = parse_frame(&self.bytes[..]) {
                let used = self.bytes.len() - rest.len();
                self.bytes.drain(..used);
                return Some(frame);
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(read @ 1..) => self.bytes.extend_from_slice(&chunk[..read]),
                _ => return None,
            }
        }
    }

    fn method(&mut self, channel: u16, class: AMQPClass) -> Option<()> {
        self.stream.write_all(&written(&AMQPFrame::Method(channel, class))).ok()
    }

    fn serve(mut self, shared: &Shared) {
        // The peer may go away at any time.
        let _ = self.serve_while_open(shared);
    }

    fn serve_while_open(&mut self, shared: &Shared) -> Option<()> {
        let manners = shared.manners.lock().unwrap().clone();
        assert!(matches!(self.read()?, AMQPFrame::ProtocolHeader(_)));
        let mut properties = FieldTable::default();
        properties.insert("version".into(), AMQPValue::LongString(LongString::from(manners.version)));
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: properties,
            mechanisms: "PLAIN AMQPLAIN".into(),
            locales: "en_US".into(),
        };
        self.method(0, AMQPClass::Connection(connection::AMQPMethod::Start(start)))?;
        let role = self.role()?;
        if let Some((code, text)) = manners.refuse {
            self.stream.write_all(&written(&connection_close(code, text))).ok()?;
            return Some(());
        }
        let tune = connection::Tune { channel_max: 2047, frame_max: manners.frame_max, heartbeat: manners.heartbeat };
        self.method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)))?;
        let tuned = self.read()?;
        assert!(matches!(tuned, AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(_)))));
        shared.open.lock().unwrap().insert(kind(role), self.stream.try_clone().unwrap());
        loop {
            let frame = self.read()?;
            if !self.is_too_late(&frame) && !self.answer(&frame, shared)? {
                // The test may be over.
                let _ = shared.seen.lock().unwrap().send((role, frame));
            }
        }
    }

    fn role(&mut self) -> Option<Role> {
        let AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::StartOk(start_ok))) = self.read()?
        else {
            panic!("no start-ok")
        };
        let name = start_ok.client_properties.inner().get("connection_name").cloned();
        match name {
            Some(AMQPValue::LongString(name)) if name.to_string().ends_with("(consume)") => Some(Role::Consume),
            Some(AMQPValue::LongString(name)) if name.to_string().ends_with("(publish)") => Some(Role::Publish),
            other => panic!("{other:?}"),
        }
    }

    fn close_channel(&mut self, channel: u16, code: u16, text: &str) -> Option<bool> {
        self.closing.insert(channel);
        self.stream.write_all(&written(&channel_close(channel, code, text))).ok()?;
        Some(true)
    }

    /// Whether the frame was on its way to a channel that is being closed.
    fn is_too_late(&mut self, frame: &AMQPFrame) -> bool {
        let AMQPFrame::Method(channel, class) = frame else { return false };
        let closed = matches!(class, AMQPClass::Channel(ch::AMQPMethod::CloseOk(_)));
        if closed { self.closing.remove(channel) } else { self.closing.contains(channel) }
    }

    /// Whether the frame was one that any broker answers in one way.
    fn answer(&mut self, frame: &AMQPFrame, shared: &Shared) -> Option<bool> {
        let manners = shared.manners.lock().unwrap().clone();
        let AMQPFrame::Method(channel, class) = frame else { return Some(false) };
        if let (AMQPClass::Exchange(_), Some((code, text))) = (class, manners.refuse_exchange) {
            return self.close_channel(*channel, code, text);
        }
        let answer = match class {
            AMQPClass::Connection(connection::AMQPMethod::Open(_)) => {
                AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {}))
            }
            AMQPClass::Channel(ch::AMQPMethod::Open(_)) => AMQPClass::Channel(ch::AMQPMethod::OpenOk(ch::OpenOk {})),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => {
                AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
            }
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(_)) => {
                AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
            }
            AMQPClass::Queue(queue::AMQPMethod::Bind(_)) => {
                AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {}))
            }
            AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => match (manners.declare)(declare) {
                Ok(messages) => AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
                    queue: declare.queue.clone(),
                    message_count: messages,
                    consumer_count: 0,
                })),
                Err((code, text)) => return self.close_channel(*channel, code, text),
            },
            AMQPClass::Basic(basic::AMQPMethod::Qos(_)) => AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})),
            AMQPClass::Basic(basic::AMQPMethod::Consume(consume)) => {
                let ok = basic::ConsumeOk { consumer_tag: consume.consumer_tag.clone() };
                AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok))
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) if manners.answer_cancel => {
                let ok = basic::CancelOk { consumer_tag: cancel.consumer_tag.clone() };
                AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok))
            }
            _ => return Some(false),
        };
        self.method(*channel, answer)?;
        // The test sees what shapes a consumer or a queue, though it need not answer.
        let shows = matches!(
            class,
            AMQPClass::Queue(_)
                | AMQPClass::Exchange(_)
                | AMQPClass::Basic(
                    basic::AMQPMethod::Qos(_) | basic::AMQPMethod::Consume(_) | basic::AMQPMethod::Cancel(_)
                )
        );
        Some(!shows)
    }
}
