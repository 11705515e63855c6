//! The command line.
//!
//! Takes arguments; gives what they mean. Blocks on nothing. On failure: clap's own message, with the help to read.

use asya_manifest::units::GoDuration;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

mod dead;

pub use dead::{Choice, Dead, DeadCommand, DeadList, DeadRequeue};

const EXAMPLES: &str = "\
Begin here:
  asya init hello                          write a working actor: hello.py and hello.yaml
  asya run hello.yaml                      run it on this machine; nothing to install
  asya send hello '{\"name\": \"Ada\"}' --wait   (in another terminal) send a message, print the result

More:
  asya run pipeline/                       every actor of every manifest in a directory
  asya run . --transport amqp://guest:guest@localhost
                                           the same over RabbitMQ
  asya send prepare,classify,report digits/
                                           one message for each file of a directory, through three actors
  asya queues                              what is waiting where
  asya failed                              what failed, where and why
  asya failed --show ID                    one of them, with its traceback
  asya dead                                the same and what the broker gave up, counted by actor and reason
  asya dead requeue --actor classify       send it again where it failed";

/// Runs pipelines of async actors: each is a queue and a Python function, and every message names its own route.
#[derive(Debug, Parser)]
#[command(name = "asya", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run every actor of these manifests on this machine
    Run(Run),
    /// Send messages along a route
    Send(Send),
    /// Show what is waiting in each queue
    Queues(Queues),
    /// Show what each running actor is doing
    Status(Status),
    /// Show the messages that reached the end of their route
    Results(Results),
    /// Show what failed, where and why
    Failed(Failed),
    /// List what failed and what the broker gave up, show it, send it again
    Dead(Dead),
    /// Write a working actor to begin with
    Init(Init),
    /// Be the sidecar of one actor; configured by environment variables (`asya sidecar --help` lists them)
    #[command(disable_help_flag = true)]
    Sidecar {
        /// Passed on to the sidecar.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a program that ends when its parent does
    #[command(hide = true)]
    Exec {
        /// Process id of the parent.
        parent: u32,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
}

/// Where the broker is.
#[derive(Clone, Debug, Default, Args)]
pub struct Place {
    /// Folder of `asya run`: messages, sockets, and the record of what runs [default: .asya]
    #[arg(long, value_name = "DIR", global = false)]
    pub data: Option<PathBuf>,
    /// Another broker than the embedded one: amqp://user:password@host:5672/vhost, sqs://REGION, or sqs+http://host:port
    #[arg(long, value_name = "URL")]
    pub transport: Option<String>,
    /// Namespace, part of each queue's name [default: that of what runs, or of the manifests, else `default`]
    #[arg(long, value_name = "NS")]
    pub namespace: Option<String>,
}

/// `asya run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Stops on Ctrl-C: running calls finish, everything else goes back to its queue. A second Ctrl-C stops at once.

Examples:
  asya run hello.yaml
  asya run pipeline/ --python .venv/bin/python
  asya run pipeline/ --transport amqp://guest:guest@localhost:5672")]
pub struct Run {
    /// Manifests, or directories of them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Where the broker is.
    #[command(flatten)]
    pub place: Place,
    /// Python of the handlers [default: $VIRTUAL_ENV, else .venv beside the manifest, else python3]
    #[arg(long, value_name = "PYTHON")]
    pub python: Option<PathBuf>,
    /// Messages to keep in each sink (x-sink, x-sump) of the embedded broker; the oldest go first
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub keep: u64,
    /// Stop once every queue has been empty and nothing was running for two seconds (for scripts)
    #[arg(long)]
    pub until_idle: bool,
    /// Do not wait for the disk before a message counts as safe: faster, and a power failure may lose the last ones
    #[arg(long)]
    pub no_fsync: bool,
}

/// `asya send`.
#[derive(Debug, Args)]
#[command(after_help = "\
An input is a JSON document, a file, a directory of files, or - for JSON on standard input. A .json file is one
message, each line of a .jsonl file is one; any other file becomes {\"name\": …, \"data\": its bytes}.

Examples:
  asya send hello '{\"name\": \"Ada\"}' --wait
  asya send prepare,classify,report digits/ --journal sent.jsonl
  generate | asya send classify - --header tenant=a")]
pub struct Send {
    /// Actors that the message goes through, in order: a,b,c
    #[arg(value_name = "ROUTE")]
    pub route: String,
    /// What to send
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<String>,
    /// Where the broker is.
    #[command(flatten)]
    pub place: Place,
    /// Wait for the results and print the payload of each, one a line; one result for each message, where a route
    /// fans out the first of each: name the number with --expect
    #[arg(long)]
    pub wait: bool,
    /// With --wait: this many results in all, for routes that fan out [default: one for each message]
    #[arg(long, value_name = "N", requires = "wait")]
    pub expect: Option<u64>,
    /// With --wait: print whole envelopes instead of payloads
    #[arg(long, requires = "wait")]
    pub envelopes: bool,
    /// With --wait: give up when nothing has come for this long
    #[arg(long, value_name = "DURATION", default_value = "5m", requires = "wait")]
    pub timeout: GoDuration,
    /// Id of the message; of several, the first part of each id [default: random]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// A header; the value may be JSON, else it is text
    #[arg(long = "header", value_name = "K=V")]
    pub headers: Vec<String>,
    /// Write a line of JSON with id and input for each message, once the broker has it
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Do not look first whether every actor of the route has a queue
    #[arg(long)]
    pub unchecked: bool,
}

/// `asya queues`.
#[derive(Debug, Args)]
pub struct Queues {
    /// More actors to show, beside those that run here
    #[arg(value_name = "ACTOR")]
    pub actors: Vec<String>,
    /// Where the broker is.
    #[command(flatten)]
    pub place: Place,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `asya status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Folder of `asya run` [default: .asya]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `asya results`.
#[derive(Debug, Args)]
pub struct Results {
    /// Where the broker is.
    #[command(flatten)]
    pub place: Place,
    /// At most this many, the oldest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Print whole envelopes, one a line, binary parts in base64
    #[arg(long)]
    pub envelopes: bool,
    /// Take them out of the sink
    #[arg(long)]
    pub take: bool,
}

/// `asya failed`.
#[derive(Debug, Args)]
pub struct Failed {
    /// Where the broker is.
    #[command(flatten)]
    pub place: Place,
    /// What the broker itself gave up of this actor's messages, instead of what failed
    #[arg(long, value_name = "ACTOR")]
    pub dead: Option<String>,
    /// Show the one with this id (its first characters are enough), with its traceback and payload; also of what the
    /// broker gave up
    #[arg(long, value_name = "ID")]
    pub show: Option<String>,
    /// At most this many, the oldest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Print whole envelopes, one a line
    #[arg(long)]
    pub envelopes: bool,
    /// Take them out of the sink
    #[arg(long)]
    pub take: bool,
}

/// `asya init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Name of the actor: a-z, 0-9 and -
    pub name: String,
    /// Where to write it
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}
