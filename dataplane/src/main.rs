//! The program `asya-sidecar`: configured by its environment alone.

use std::process::ExitCode;

/// Fewer cycles and less memory for the many small buffers of heads and frames.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    asya_dataplane::run_from_env()
}
