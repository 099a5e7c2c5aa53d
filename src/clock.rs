//! ○ The process's monotonic origin: what deciding files call `now` is the time since then.
//!
//! It lies before the process's start, so that what a process before this one did has a time, too.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// When the process started, since its origin. Long enough for all that a state file remembers.
pub const STARTED: Duration = Duration::from_secs(48 * 60 * 60);

/// Monotonic time since the process's origin.
pub fn now() -> Duration {
    origin().elapsed()
}

/// The instant of the origin, to turn a `now` back into a timer's deadline.
pub fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(|| {
        let now = Instant::now();
        // The system's monotonic clock reaches back before its boot.
        now.checked_sub(STARTED).unwrap_or(now)
    })
}

/// Wall-clock time since 1970; may be set back and forth.
pub fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
