//! The arguments of `asya dead`.

use super::Place;
use clap::{Args, Subcommand};

/// `asya dead`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Two places hold what failed: the failure sink (x-sump), where sidecars write down why, and for each actor the broker's
own dead-letter queue, with what the broker itself gave up (reason DeadLettered). `asya failed` shows one of them.

Examples:
  asya dead                                what failed, counted by actor and reason
  asya dead --actor classify --json        a line of JSON for each failure of one actor
  asya dead show ID                        one of them, with its traceback
  asya dead requeue --all --dry-run        what would be sent again, and where
  asya dead requeue --actor classify       send it again where it failed"
)]
pub struct Dead {
    /// What to do; without it, list.
    #[command(subcommand)]
    pub command: Option<DeadCommand>,
    /// How to list.
    #[command(flatten)]
    pub list: DeadList,
}

/// What to do with it.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List what failed, with a count by actor and reason (this is also `asya dead` alone)
    List(DeadList),
    /// Show some of it whole: route, error, traceback, headers and payload
    Show(DeadShow),
    /// Send it again
    Requeue(DeadRequeue),
}

/// Which of what failed.
#[derive(Clone, Debug, Default, Args)]
pub struct Choice {
    /// What failed at this actor; over RabbitMQ also where to look for what the broker gave up. May be repeated
    #[arg(long = "actor", value_name = "ACTOR")]
    pub actors: Vec<String>,
    /// What failed for this reason: RuntimeError, Timeout, PolicyExhausted, …, or DeadLettered. May be repeated
    #[arg(long = "reason", value_name = "REASON")]
    pub reasons: Vec<String>,
    /// What failed with an error of this class or of one that is derived from it. May be repeated
    #[arg(long = "error", value_name = "TYPE")]
    pub errors: Vec<String>,
}

/// `asya dead list`.
#[derive(Debug, Args)]
pub struct DeadList {
    /// Which.
    #[command(flatten)]
    pub choice: Choice,
    /// Where the broker is.
    #[command(flatten)]
    pub place: Place,
    /// Rows to print; all are counted [default: 20, with --json all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Print an object of JSON a line
    #[arg(long)]
    pub json: bool,
}

/// `asya dead show`.
#[derive(Debug, Args)]
pub struct DeadShow {
    /// Ids; the first characters are enough
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// More actors of whose messages the broker may have given some up
    #[arg(long = "actor", value_name = "ACTOR")]
    pub actors: Vec<String>,
    /// Where the broker is.
    #[command(flatten)]
    pub place: Place,
}

/// `asya dead requeue`.
#[derive(Debug, Args)]
#[command(after_help = "\
A failure goes again to the actor where it failed: same id, headers and payload, first attempt, and without a deadline
that has passed. What the broker gave up goes back as it is. A message is taken from where it is only when the broker
has the new one safely: whatever happens, none is lost, though one that is interrupted may be in both places. What was
not chosen, or cannot be sent, stays. Exit status 1 when one that was chosen could not be sent.

Examples:
  asya dead requeue 0199c2f4-6d5e-7a31-8c08-5f7c4d7f1f0a
  asya dead requeue --actor classify --error TimeoutError --dry-run
  asya dead requeue --reason DeadLettered
  asya dead requeue --all --to classify-v2,report")]
pub struct DeadRequeue {
    /// Whole ids
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Which.
    #[command(flatten)]
    pub choice: Choice,
    /// Everything that failed, and everything that the broker gave up
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// Send it along this route instead: a,b,c
    #[arg(long, value_name = "ROUTE")]
    pub to: Option<String>,
    /// Also bodies that cannot be read, byte for byte
    #[arg(long)]
    pub raw: bool,
    /// At most this many, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Only print what would be sent, and where
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before all is sent
    #[arg(long)]
    pub yes: bool,
    /// Where the broker is.
    #[command(flatten)]
    pub place: Place,
}
