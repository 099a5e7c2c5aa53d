//! ○ The process's monotonic origin: what deciding files call `now` is the time since then.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Monotonic time since the process's origin (the first call).
pub fn now() -> Duration {
    origin().elapsed()
}

/// The instant of the origin, to turn a `now` back into a timer's deadline.
pub fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}
