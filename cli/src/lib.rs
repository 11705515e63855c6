//! The `asya` command: runs pipelines on this machine, sends messages, and shows what became of them.
//!
//! A library of one function, so that the program can say on other systems why it needs Linux: there, this crate is empty.

#![cfg(target_os = "linux")]
// They panic when nobody reads: `out` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod broker;
mod client;
mod dead;
mod error;
mod failure;
mod home;
mod hosted;
mod init;
mod input;
mod memory;
mod message;
mod out;
mod python;
mod queues;
mod retry;
mod run;
mod scrape;
mod send;
mod sinks;
mod table;
mod walk;

use args::{Cli, Command};
use clap::Parser;
use error::Error;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

/// Exit status of a program that another one was to become and could not (a shell's "cannot execute").
const CANNOT_EXECUTE: u8 = 126;

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => {
            // Help that nobody reads is no failure.
            drop(told.print());
            return if told.use_stderr() { ExitCode::from(error::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Sidecar { .. } => asya_dataplane::run_from_env(),
        Command::Exec { parent, command } => exec(parent, &command),
        command => match block_on(command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                if !matches!(error, Error::Closed) {
                    out::note(&format!("error: {error}"));
                }
                error.exit_code()
            }
        },
    }
}

fn block_on(command: Command) -> Result<(), Error> {
    // One thread: what is slow here is the broker and the terminal.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::system("the runtime cannot be started"))?;
    runtime.block_on(async {
        match command {
            Command::Run(args) => run::run(&args).await,
            Command::Send(args) => send::send(&args).await,
            Command::Queues(args) => queues::queues(&args).await,
            Command::Status(args) => queues::status(&args).await,
            Command::Results(args) => sinks::results(&args).await,
            Command::Failed(args) => sinks::failed(&args).await,
            Command::Dead(args) => dead::dead(&args).await,
            Command::Init(args) => init::init(&args),
            Command::Sidecar { .. } | Command::Exec { .. } => Ok(()),
        }
    })
}

/// Becomes another program, which the kernel kills when `parent` ends.
fn exec(parent: u32, command: &[std::ffi::OsString]) -> ExitCode {
    let kill = Some(rustix::process::Signal::KILL);
    if let Err(error) = rustix::process::set_parent_process_death_signal(kill) {
        out::note(&format!("the end of the parent cannot be watched: {error}"));
        return ExitCode::from(CANNOT_EXECUTE);
    }
    // It may have ended before the kernel was told.
    if std::os::unix::process::parent_id() != parent {
        return ExitCode::from(CANNOT_EXECUTE);
    }
    let Some((program, args)) = command.split_first() else { return ExitCode::from(CANNOT_EXECUTE) };
    let error = std::process::Command::new(program).args(args).exec();
    out::note(&format!("{} cannot be started: {error}", program.to_string_lossy()));
    ExitCode::from(CANNOT_EXECUTE)
}
