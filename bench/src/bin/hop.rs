//! Measures a full hop (broker, sidecar, Python, sidecar, broker) in turns with a raw forwarder, and writes what came of it.
//!
//! Takes brokers and programs from its arguments, gives `hop.json` and `hop.md` in a folder. Blocks for minutes. A lost,
//! doubled or changed message, and a process that ends or stands still, end it with an error and no figures.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use asya_bench::Error;
use asya_bench::actor::{Address, Json, Programs};
use asya_bench::broker::{Broker, Embedded, RabbitMq, Sqs};
use asya_bench::measure::Run;
use asya_bench::message::Kind;
use asya_bench::report::{self, Extra, Figure, Row};
use asya_bench::suite::{self, Between, Suite};
use clap::Parser;

/// Measures a full hop beside a raw forwarder.
#[derive(Parser)]
struct Arguments {
    /// A RabbitMQ to measure on: NAME=URL=PID, where PID is its first process.
    #[arg(long, value_parser = parse_broker)]
    rabbitmq: Vec<(String, String, u32)>,
    /// An SQS server to measure on: NAME=ENDPOINT=PID. A blob of 1 MiB does not fit in its messages.
    #[arg(long, value_parser = parse_broker)]
    sqs: Vec<(String, String, u32)>,
    /// Measure on the embedded broker, too.
    #[arg(long)]
    embedded: bool,
    /// Rounds; in each, everything runs once, in turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Kinds of payload.
    #[arg(long, value_delimiter = ',', default_values = ["json-1k", "blob-64k", "blob-1m"])]
    kinds: Vec<Kind>,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    #[command(flatten)]
    programs: Programs,
}

fn parse_broker(text: &str) -> Result<(String, String, u32), String> {
    let (name, rest) = text.split_once('=').ok_or("write NAME=URL=PID")?;
    let (url, pid) = rest.rsplit_once('=').ok_or("write NAME=URL=PID")?;
    Ok((name.to_owned(), url.to_owned(), pid.parse().map_err(|_| "PID is not a number")?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match measure(Arguments::parse()).await {
        Ok(table) => {
            println!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("hop: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: Arguments) -> Result<String, Error> {
    let (mut rows, mut extras) = (Vec::new(), Vec::new());
    measure_handoff(&arguments, &mut extras).await?;
    for (name, url, pid) in &arguments.rabbitmq {
        let folder = tempfile::tempdir().map_err(Error::system("no temporary folder"))?;
        let suite = Suite {
            programs: arguments.programs.clone(),
            broker: Broker::RabbitMq(RabbitMq::connect(url).await?),
            address: Address::RabbitMq(url.clone()),
            broker_pid: *pid,
            folder: folder.path().to_owned(),
        };
        measure_on(&suite, "rabbitmq", &format!("RabbitMQ {name}"), &arguments, &mut rows, &mut extras).await?;
    }
    for (name, endpoint, pid) in &arguments.sqs {
        let folder = tempfile::tempdir().map_err(Error::system("no temporary folder"))?;
        let suite = Suite {
            programs: arguments.programs.clone(),
            broker: Broker::Sqs(Sqs::new(endpoint)),
            address: Address::Sqs(endpoint.clone()),
            broker_pid: *pid,
            folder: folder.path().to_owned(),
        };
        measure_on(&suite, "sqs", &format!("SQS ({name})"), &arguments, &mut rows, &mut extras).await?;
    }
    if arguments.embedded {
        measure_on_embedded(&arguments, &mut rows, &mut extras).await?;
    }
    let lines = rows.iter().map(serde_json::to_value).chain(extras.iter().map(serde_json::to_value));
    let lines: Vec<_> = lines.filter_map(Result::ok).collect();
    let table = report::markdown(&machine(arguments.rounds), &rows, &extras);
    fs::create_dir_all(&arguments.out).map_err(Error::system("cannot make the report's folder"))?;
    let json = serde_json::to_string_pretty(&lines).unwrap_or_default();
    fs::write(arguments.out.join("hop.json"), json).map_err(Error::system("cannot write hop.json"))?;
    fs::write(arguments.out.join("hop.md"), &table).map_err(Error::system("cannot write hop.md"))?;
    Ok(table)
}

async fn measure_on_embedded(arguments: &Arguments, rows: &mut Vec<Row>, extras: &mut Vec<Extra>) -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(Error::system("no temporary folder"))?;
    let process = arguments.programs.embedded_broker(folder.path())?;
    let socket = folder.path().join("broker.sock");
    let suite = Suite {
        programs: arguments.programs.clone(),
        broker: Broker::Embedded(Embedded::connect(&socket).await?),
        address: Address::Embedded(socket),
        broker_pid: process.pid(),
        folder: folder.path().to_owned(),
    };
    measure_on(&suite, "embedded", "embedded", arguments, rows, extras).await
}

async fn measure_handoff(arguments: &Arguments, extras: &mut Vec<Extra>) -> Result<(), Error> {
    for &kind in &arguments.kinds {
        for &json in libraries(kind) {
            let (mut alone, mut deep) = (Vec::new(), Vec::new());
            for _ in 0..arguments.rounds {
                let (microseconds, per_second) = suite::handoff(&arguments.programs, kind, json).await?;
                alone.push(microseconds);
                deep.push(per_second);
            }
            let of = format!("{} KiB {}, {}", kind.payload_bytes() / 1024, kind.payload_kind(), json.as_str());
            for (name, unit, rounds) in
                [("handoff round trip alone", "µs", alone), ("handoff, 64 calls open", "calls/s", deep)]
            {
                let value = Figure::of(rounds);
                let name = format!("{name}, {of}");
                eprintln!("hop: {name}: {} {unit}", value.median);
                extras.push(Extra { name, transport: "none".to_owned(), unit, value });
            }
        }
    }
    Ok(())
}

/// Only where JSON is the payload does the library that reads it matter.
fn libraries(kind: Kind) -> &'static [Json] {
    if kind == Kind::Json1K { &[Json::Orjson, Json::Stdlib] } else { &[Json::Orjson] }
}

async fn measure_on(
    suite: &Suite,
    transport: &str,
    broker: &str,
    arguments: &Arguments,
    rows: &mut Vec<Row>,
    extras: &mut Vec<Extra>,
) -> Result<(), Error> {
    let fits = |kind: &&Kind| transport != "sqs" || **kind != Kind::Blob1M;
    for &kind in arguments.kinds.iter().filter(fits) {
        let libraries = libraries(kind);
        let turns: Vec<Between> =
            std::iter::once(Between::Forwarder).chain(libraries.iter().map(|json| Between::Actor(*json))).collect();
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); turns.len()];
        for round in 1..=arguments.rounds {
            for (turn, of_turn) in turns.iter().zip(&mut runs) {
                let run = suite.run(kind, kind.messages(), *turn).await?;
                eprintln!(
                    "hop: {broker}, {} KiB {}, round {round}, {turn:?}: {:.0} msg/s, CPU µs {:.1?}",
                    kind.payload_bytes() / 1024,
                    kind.payload_kind(),
                    run.per_second,
                    run.cpu_us
                );
                of_turn.push(run);
            }
        }
        let Some((forwarder, hops)) = runs.split_first() else { continue };
        for (json, hop) in libraries.iter().zip(hops) {
            rows.push(row(transport, broker, kind, *json, hop, forwarder));
        }
    }
    let (mut busy, mut first, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        busy.push(suite.busy_share().await? * 100.0);
        let (milliseconds, (kib, _)) = suite.first_message().await?;
        first.push(milliseconds);
        idle.push(kib as f64);
    }
    for (name, unit, rounds) in [
        ("handler busy at 5 ms a call", "%", busy),
        ("start of the processes to the first message handled", "ms", first),
        ("sidecar memory, idle", "KiB", idle),
    ] {
        let value = Figure::of(rounds);
        eprintln!("hop: {broker}, {name}: {} {unit}", value.median);
        extras.push(Extra { name: name.to_owned(), transport: broker.to_owned(), unit, value });
    }
    Ok(())
}

fn row(transport: &str, broker: &str, kind: Kind, json: Json, hop: &[Run], forwarder: &[Run]) -> Row {
    let size = kind.payload_bytes() / 1024;
    Row {
        name: format!("{broker}, {size} KiB {}, {}", kind.payload_kind(), json.as_str()),
        transport: transport.to_owned(),
        broker: broker.to_owned(),
        payload_bytes: kind.payload_bytes(),
        payload_kind: kind.payload_kind(),
        json_library: json.as_str(),
        messages: kind.messages(),
        hop_per_s: Figure::of(hop.iter().map(|run| run.per_second)),
        forwarder_per_s: Figure::of(forwarder.iter().map(|run| run.per_second)),
        ratio: Figure::of(hop.iter().zip(forwarder).map(|(hop, forwarder)| hop.per_second / forwarder.per_second)),
        cpu_us: report::cpu(hop),
        forwarder_cpu_us: report::cpu(forwarder),
        sidecar_rss_kib: Figure::of(hop.iter().map(|run| run.sidecar_kib.0 as f64)),
    }
}

/// What machine this is, and how often everything was run.
fn machine(rounds: usize) -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    format!("{rounds} interleaved rounds on {cores} cores of {model}: median (smallest–largest).")
}
