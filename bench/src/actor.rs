//! The two things that are measured, started on the queues between which they stand: a sidecar with its Python runtime,
//! and the raw forwarder.
//!
//! Takes paths and settings, gives processes. Never blocks. A program that is not there is an error.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::process::Process;

/// The namespace of all queues of the benchmark.
pub const NAMESPACE: &str = "bench";
/// The actor that is measured.
pub const ACTOR: &str = "hop";
/// Where its results go.
pub const NEXT: &str = "out";

/// What Python reads and writes JSON with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {
    /// The package.
    Orjson,
    /// The standard library.
    Stdlib,
}

impl Json {
    /// As the runtime's setting has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Orjson => "orjson",
            Self::Stdlib => "stdlib",
        }
    }
}

/// How a transport is told to a process.
#[derive(Clone, Debug)]
pub enum Address {
    /// `amqp://…`
    RabbitMq(String),
    /// The embedded broker's socket.
    Embedded(PathBuf),
    /// An SQS server.
    Sqs(String),
}

/// Where the programs are.
#[derive(Clone, Debug, clap::Args)]
pub struct Programs {
    /// The sidecar.
    #[arg(long, default_value = "target/release/asya-sidecar")]
    pub sidecar: PathBuf,
    /// The Python runtime.
    #[arg(long, default_value = "target/asya-runtime.pyz")]
    pub runtime: PathBuf,
    /// The Python that runs it, with orjson installed.
    #[arg(long, default_value = "target/venv/bin/python")]
    pub python: PathBuf,
    /// The folder of the handlers.
    #[arg(long, default_value = "bench/handlers")]
    pub handlers: PathBuf,
    /// The folder of the forwarders.
    #[arg(long, default_value = "target/release")]
    pub forwarders: PathBuf,
}

impl Programs {
    /// Starts a sidecar and its runtime; both write their logs to `folder`.
    pub fn actor(
        &self,
        address: &Address,
        handler: &str,
        json: Json,
        folder: &Path,
        extra: &[(&str, String)],
    ) -> Result<Vec<Process>, Error> {
        let mut sidecar = Command::new(&self.sidecar);
        match address {
            Address::RabbitMq(url) => sidecar.env("ASYA_TRANSPORT", "rabbitmq").env("ASYA_RABBITMQ_URL", url),
            Address::Embedded(socket) => sidecar.env("ASYA_TRANSPORT", "embedded").env("ASYA_EMBEDDED_SOCKET", socket),
            Address::Sqs(endpoint) => sidecar
                .env("ASYA_TRANSPORT", "sqs")
                .env("ASYA_SQS_ENDPOINT", endpoint)
                .env("AWS_ACCESS_KEY_ID", "test")
                .env("AWS_SECRET_ACCESS_KEY", "test"),
        };
        sidecar
            .env("ASYA_ACTOR_NAME", ACTOR)
            .env("ASYA_NAMESPACE", NAMESPACE)
            .env("ASYA_SOCKET_DIR", folder)
            .env("ASYA_METRICS_ADDR", "127.0.0.1:0");
        let mut runtime = self.runtime_command(handler, json, folder);
        for (name, value) in extra {
            sidecar.env(name, value);
            runtime.env(name, value);
        }
        Ok(vec![Process::start("sidecar", &sidecar, folder)?, Process::start("python", &runtime, folder)?])
    }

    /// Starts a runtime alone.
    pub fn runtime(&self, handler: &str, json: Json, folder: &Path) -> Result<Process, Error> {
        Process::start("python", &self.runtime_command(handler, json, folder), folder)
    }

    fn runtime_command(&self, handler: &str, json: Json, folder: &Path) -> Command {
        let mut runtime = Command::new(&self.python);
        runtime
            .arg(&self.runtime)
            .env("ASYA_HANDLER", handler)
            .env("ASYA_ACTOR_NAME", ACTOR)
            .env("ASYA_SOCKET_DIR", folder)
            .env("ASYA_JSON", json.as_str())
            .env("PYTHONPATH", &self.handlers);
        runtime
    }

    /// Starts the embedded broker; its socket is `broker.sock` in `folder`.
    pub fn embedded_broker(&self, folder: &Path) -> Result<Process, Error> {
        let mut command = Command::new(self.forwarders.join("embedded_broker"));
        command.arg("--folder").arg(folder.join("store")).arg("--socket").arg(folder.join("broker.sock"));
        Process::start("broker", &command, folder)
    }

    /// Starts the raw forwarder of a transport.
    pub fn forwarder(&self, address: &Address, from: &str, to: &str, folder: &Path) -> Result<Vec<Process>, Error> {
        let mut command = match address {
            Address::RabbitMq(url) => {
                let mut command = Command::new(self.forwarders.join("lapin_forwarder"));
                command.args(["--url", url]);
                command
            }
            Address::Embedded(socket) => {
                let mut command = Command::new(self.forwarders.join("embedded_forwarder"));
                command.arg("--socket").arg(socket);
                command
            }
            Address::Sqs(endpoint) => {
                let mut command = Command::new(self.forwarders.join("sqs_forwarder"));
                command.args(["--endpoint", endpoint]);
                command
            }
        };
        command.args(["--from", from, "--to", to]);
        Ok(vec![Process::start("forwarder", &command, folder)?])
    }
}
