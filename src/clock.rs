//! ○ The process's monotonic origin: what deciding files call `now` is the time since then.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time since the process's origin (the first call).
pub fn now() -> Duration {
    origin().elapsed()
}

/// The instant of the origin, to turn a `now` back into a timer's deadline.
pub fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// Wall-clock time since 1970; may be set back and forth.
pub fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
