//! ○ Panics: defects, each counted and told in one line of the log like anything else.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// From now on a panic anywhere in the process is counted and logged. A panic in a connection's
/// task ends that connection alone.
pub fn watch() {
    std::panic::set_hook(Box::new(|info| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::error!(place, thread, what = what(info), "panic: a defect, please report it");
    }));
}

pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

fn what<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
