//! What the kernel says of this process. Read at each scrape, by the thread that serves it.

use rustix::time::{ClockId, clock_gettime};

/// Processor time, in seconds.
pub(super) fn cpu_seconds() -> Option<f64> {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Some(spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9)
}

/// Resident memory, in bytes; `None` where the kernel does not say.
pub(super) fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib as f64 * 1_024.0)
}

/// Open file descriptors; `None` where the kernel does not say.
pub(super) fn open_fds() -> Option<f64> {
    // The listing itself holds one.
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as f64)
}
