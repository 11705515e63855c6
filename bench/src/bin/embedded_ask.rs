//! The embedded broker's tools by lines of JSON, for suites that are written in another language.
//!
//! Takes one question a line, `{"do": "declare|delete|put|get|depth", "queue": …, "content_type": …, "body": base64}`, and prints one
//! answer: `{"found": false}` where there is no such queue or no message, or `{"found": true, …}`; `get` takes the oldest message that
//! waits out of its queue. Blocks on its input and on the broker; ends with an error when the broker does not do what it was asked.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use asya_bench::Error;
use asya_transport::embedded::{AdminError, EmbeddedAdmin, Standing};
use asya_transport::{ContentType, Outcome};
use clap::Parser;
use serde::Deserialize;
use serde_json::{Value, json};

/// As sidecars declare their queues.
const DELIVERY_LIMIT: u32 = 100;
/// Messages looked through at once for one that waits.
const LOOKED_THROUGH: u32 = 100;

/// Asks the embedded broker what the lines of standard input say.
#[derive(Parser)]
struct Arguments {
    /// The broker's socket.
    #[arg(long)]
    socket: PathBuf,
}

/// One line.
#[derive(Deserialize)]
struct Question {
    r#do: String,
    queue: String,
    #[serde(default)]
    content_type: String,
    #[serde(default)]
    body: String,
}

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedded_ask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), Error> {
    let mut admin = EmbeddedAdmin::connect(&arguments.socket).map_err(refused)?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(Error::system("cannot read"))?;
        let question: Question = serde_json::from_str(&line).map_err(|error| stuck(error.to_string()))?;
        let answer = answer(&mut admin, &question)?;
        let mut output = std::io::stdout().lock();
        writeln!(output, "{answer}").and_then(|()| output.flush()).map_err(Error::system("cannot write"))?;
    }
    Ok(())
}

fn answer(admin: &mut EmbeddedAdmin, question: &Question) -> Result<Value, Error> {
    let queue = question.queue.as_str();
    match question.r#do.as_str() {
        "declare" => admin.declare(queue, None, DELIVERY_LIMIT).map(|_| json!({"found": true})).map_err(refused),
        "delete" => admin.delete(queue).map(|count| json!({"found": true, "count": count})).map_err(refused),
        "put" => put(admin, question),
        "get" => get(admin, queue),
        "depth" => {
            let found = admin.queues().map_err(refused)?.into_iter().find(|info| info.name == queue);
            Ok(found
                .map_or(json!({"found": false}), |info| json!({"found": true, "ready": info.ready, "held": info.held})))
        }
        other => Err(stuck(format!("nothing is called {other}"))),
    }
}

fn put(admin: &mut EmbeddedAdmin, question: &Question) -> Result<Value, Error> {
    let body = base64_simd::STANDARD.decode_to_vec(&question.body).map_err(|error| stuck(error.to_string()))?;
    let content_type = ContentType::from_wire(question.content_type.as_bytes());
    match admin.publish(&question.queue, content_type, "", &body).map_err(refused)? {
        Outcome::Confirmed => Ok(json!({"found": true})),
        Outcome::Unroutable => Ok(json!({"found": false})),
        other => Err(stuck(format!("{other:?}"))),
    }
}

fn get(admin: &mut EmbeddedAdmin, queue: &str) -> Result<Value, Error> {
    let waiting = match admin.browse(queue, 0, LOOKED_THROUGH, u64::MAX) {
        // There is no such queue.
        Err(AdminError::Broker(_)) => return Ok(json!({"found": false})),
        other => other.map_err(refused)?,
    };
    for message in waiting {
        if message.standing == Standing::Ready && admin.remove(queue, message.id).map_err(refused)? {
            return Ok(json!({
                "found": true,
                "content_type": message.content_type.as_str(),
                "redelivered": message.redelivered,
                "body": base64_simd::STANDARD.encode_to_string(message.body.unwrap_or_default()),
            }));
        }
    }
    Ok(json!({"found": false}))
}

fn refused(error: AdminError) -> Error {
    stuck(error.to_string())
}

fn stuck(what: String) -> Error {
    Error::Stuck { what: format!("the broker's tools: {what}"), log: String::new() }
}
