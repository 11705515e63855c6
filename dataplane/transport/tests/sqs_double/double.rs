//! A server that answers SQS's JSON protocol as a test wants, entry by entry: what no real server can be told to do.
//!
//! Takes calls on a loopback port and keeps them; gives the answer of the test's own function, or of a service with every
//! queue and one list of messages. Blocks only its own threads, which end with it.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use asya_transport::sqs::{Keys, SqsConfig};
use serde_json::{Value, json};

/// One call: what is asked, and with what.
#[derive(Clone, Debug)]
pub struct Call {
    pub op: String,
    pub body: Value,
}

impl Call {
    /// The entries of a batch.
    pub fn entries(&self) -> &[Value] {
        self.body["Entries"].as_array().unwrap()
    }

    /// The last part of the queue's address.
    pub fn queue(&self) -> &str {
        self.body["QueueUrl"].as_str().unwrap().rsplit('/').next().unwrap()
    }
}

/// What is answered.
pub enum Answer {
    Ok(Value),
    /// Status and code.
    Error(u16, &'static str),
    /// The connection is closed instead.
    Close,
    /// No answer, for as long as the server lives.
    Hang,
}

type Handler = dyn Fn(&Call) -> Option<Answer> + Send + Sync;

pub struct Double {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    handler: Box<Handler>,
    calls: Mutex<Vec<Call>>,
    /// What receiving calls take.
    messages: Mutex<VecDeque<Value>>,
    open: Mutex<Vec<TcpStream>>,
    changed: Condvar,
    /// Receiving calls that are open.
    receiving: AtomicUsize,
    ended: AtomicBool,
}

impl Double {
    /// Answers as `handler` says, and as a service would where it says nothing.
    pub fn new(handler: impl Fn(&Call) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self::on(0, handler)
    }

    /// The same, on this port.
    pub fn on(port: u16, handler: impl Fn(&Call) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            calls: Mutex::default(),
            messages: Mutex::default(),
            open: Mutex::default(),
            changed: Condvar::new(),
            receiving: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let double = Self { port: listener.local_addr().unwrap().port(), shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                shared.open.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                // Its end is the client's or the server's.
                std::thread::spawn(move || shared.serve(stream).unwrap_or_default());
            }
        });
        double
    }

    /// For a client of this server.
    pub fn config(&self) -> SqsConfig {
        SqsConfig {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            wait: Duration::from_secs(1),
            keys: Some(Keys { id: "test".to_owned(), secret: "test".to_owned() }),
            ..SqsConfig::default()
        }
    }

    /// Has messages received, each with this name, receipt and body.
    pub fn put(&self, names: impl IntoIterator<Item = impl std::fmt::Display>) {
        let message = |name: String| {
            json!({"MessageId": name, "ReceiptHandle": format!("receipt of {name}"), "Body": format!("body of {name}"),
                   "Attributes": {"ApproximateReceiveCount": "1"}})
        };
        self.put_messages(names.into_iter().map(|name| message(name.to_string())));
    }

    pub fn put_messages(&self, messages: impl IntoIterator<Item = Value>) {
        self.shared.messages.lock().unwrap().extend(messages);
        self.shared.changed.notify_all();
    }

    /// Receiving calls that are open now.
    pub fn receiving(&self) -> usize {
        self.shared.receiving.load(Ordering::SeqCst)
    }

    /// The calls of one kind, so far.
    pub fn calls(&self, op: &str) -> Vec<Call> {
        self.shared.calls.lock().unwrap().iter().filter(|call| call.op == op).cloned().collect()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        for stream in self.shared.open.lock().unwrap().drain(..) {
            // Already closed will do as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // The listener is woken to see that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        loop {
            let (mut op, mut len, mut line) = (String::new(), 0, String::new());
            reader.read_line(&mut line)?;
            if line.is_empty() {
                return Ok(());
            }
            loop {
                line.clear();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.trim_end().split_once(": ") else { break };
                match name.to_ascii_lowercase().as_str() {
                    "x-amz-target" => op = value.rsplit('.').next().unwrap_or_default().to_owned(),
                    "content-length" => len = value.parse().unwrap_or(0),
                    _ => {}
                }
            }
            let mut body = vec![0; len];
            reader.read_exact(&mut body)?;
            let call = Call { op, body: serde_json::from_slice(&body).unwrap_or_default() };
            self.calls.lock().unwrap().push(call.clone());
            let (status, body) = match (self.handler)(&call).unwrap_or_else(|| self.answer(&call)) {
                Answer::Ok(body) => (200, body),
                Answer::Error(status, code) => {
                    (status, json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": code}))
                }
                Answer::Close => return stream.shutdown(Shutdown::Both),
                Answer::Hang => return self.hang(),
            };
            let body = body.to_string();
            write!(
                stream,
                "HTTP/1.1 {status} Whatever\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
    }

    fn hang(&self) -> std::io::Result<()> {
        let messages = self.messages.lock().unwrap();
        drop(self.changed.wait_while(messages, |_| !self.ended.load(Ordering::SeqCst)).unwrap());
        Ok(())
    }

    /// As a service with every queue would.
    fn answer(&self, call: &Call) -> Answer {
        let url = |name: &Value| format!("http://127.0.0.1/000000000000/{}", name.as_str().unwrap());
        Answer::Ok(match call.op.as_str() {
            "GetQueueUrl" => json!({"QueueUrl": url(&call.body["QueueName"])}),
            "GetQueueAttributes" => {
                let dead_letter = format!("arn:aws:sqs:us-east-1:000000000000:{}-dlq", call.queue());
                let policy = format!(r#"{{"deadLetterTargetArn":"{dead_letter}","maxReceiveCount":100}}"#);
                let arn = format!("arn:aws:sqs:us-east-1:000000000000:{}", call.queue());
                json!({"Attributes": {"QueueArn": arn, "RedrivePolicy": policy}})
            }
            "ReceiveMessage" => {
                let most = call.body["MaxNumberOfMessages"].as_u64().unwrap_or(1) as usize;
                json!({"Messages": self.receive(most, Duration::from_secs(call.body["WaitTimeSeconds"].as_u64().unwrap()))})
            }
            "SendMessageBatch" | "DeleteMessageBatch" | "ChangeMessageVisibilityBatch" => succeed(call),
            other => panic!("{other} was not expected"),
        })
    }

    fn receive(&self, most: usize, wait: Duration) -> Vec<Value> {
        let (messages, until) = (self.messages.lock().unwrap(), Instant::now() + wait);
        let none = |messages: &mut VecDeque<Value>| {
            messages.is_empty() && !self.ended.load(Ordering::SeqCst) && Instant::now() < until
        };
        self.receiving.fetch_add(1, Ordering::SeqCst);
        let (mut messages, _) = self.changed.wait_timeout_while(messages, wait, none).unwrap();
        self.receiving.fetch_sub(1, Ordering::SeqCst);
        let most = most.min(messages.len());
        messages.drain(..most).collect()
    }
}

/// The answer to a batch all of whose entries succeed.
pub fn succeed(call: &Call) -> Value {
    fail(call, |_| None)
}

/// The answer to a batch some of whose entries fail: with a code, a message, and whether the sender is to blame.
pub fn fail(call: &Call, why: impl Fn(usize) -> Option<(&'static str, &'static str, bool)>) -> Value {
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for (at, entry) in call.entries().iter().enumerate() {
        match why(at) {
            None => successful.push(json!({"Id": entry["Id"], "MessageId": "an-id", "MD5OfMessageBody": "unchecked"})),
            Some((code, message, sender)) => {
                failed.push(json!({"Id": entry["Id"], "Code": code, "Message": message, "SenderFault": sender}));
            }
        }
    }
    json!({"Successful": successful, "Failed": failed})
}
