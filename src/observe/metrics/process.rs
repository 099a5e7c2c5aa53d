//! ○ This process as the kernel sees it (proc(5)). What cannot be read is left out.

use std::fs;

/// Ticks a second in `/proc/*/stat`: USER_HZ, 100 on every architecture Rust's Linux targets have.
const TICKS: f64 = 100.0;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    pub(super) open_fds: Option<f64>,
    pub(super) max_fds: Option<f64>,
    /// Unix time.
    pub(super) start_time: Option<f64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        // The listing itself is open while it is read.
        let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64 - 1.0);
        Self {
            cpu_seconds: (|| Some((field(&stat, 14)? + field(&stat, 15)?) / TICKS))(),
            resident_bytes: after(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024.0),
            open_fds: open,
            max_fds: after(&limits, "Max open files"),
            start_time: (|| Some(after(&machine, "btime")? + field(&stat, 22)? / TICKS))(),
        }
    }
}

/// A field of `stat`, from 1. The second one is a name in parentheses that may hold anything.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

/// The first number behind `key` at the start of a line.
fn after(text: &str, key: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_found_on_a_linux_machine() {
        let process = Process::read();
        assert!(process.cpu_seconds.is_some());
        assert!(process.resident_bytes > Some(65_536.0));
        assert!(process.open_fds >= Some(3.0) && process.open_fds <= process.max_fds);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = now - process.start_time.unwrap();
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }

    #[test]
    fn a_process_name_with_spaces_and_parentheses_shifts_nothing() {
        let stat = "1 (a) b (c) S 4 5 6 7 8 9 10 11 12 13 1400 1500 16";
        assert_eq!((field(stat, 14), field(stat, 15)), (Some(1400.0), Some(1500.0)));
    }
}
