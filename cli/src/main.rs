//! The program `asya`. See the library for what it does.

use std::process::ExitCode;

// For the sidecars that this program also is.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    asya_cli::main()
}

/// Takes nothing, says what to do instead.
#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    /// `EX_UNAVAILABLE`.
    const UNAVAILABLE: u8 = 69;
    eprintln!(
        "error: asya runs on Linux: it hands messages to Python through sealed shared memory, which {} does not have\n  \
         = on Windows use WSL2; elsewhere run it in a container, from a checkout of Asya:\n  \
         docker run --rm -it -v \"$PWD\":/asya -w /asya rust:1.95-bookworm cargo run --release -p asya-cli -- run examples/hello",
        std::env::consts::OS
    );
    ExitCode::from(UNAVAILABLE)
}
