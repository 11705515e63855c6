//! The embedded broker as a process of its own, so that it can be weighed.
//!
//! Takes a folder and a socket; serves until it is killed. Ends with an error when it cannot begin.

use std::path::PathBuf;
use std::process::ExitCode;

use asya_transport::embedded::{Broker, Options};
use clap::Parser;

/// Serves the embedded broker.
#[derive(Parser)]
struct Arguments {
    /// Where messages are kept.
    #[arg(long)]
    folder: PathBuf,
    /// Where clients connect.
    #[arg(long)]
    socket: PathBuf,
    /// Free bytes of its disk below which it takes no messages.
    #[arg(long, default_value_t = Options::default().disk_free_min)]
    disk_free_min: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options { disk_free_min: arguments.disk_free_min, ..Options::default() };
    match Broker::spawn(&arguments.folder, options, &arguments.socket) {
        Ok(_running) => std::future::pending().await,
        Err(error) => {
            eprintln!("embedded_broker: {error}");
            ExitCode::FAILURE
        }
    }
}
