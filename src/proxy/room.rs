//! ○ What a worker does where descriptors run short: it takes no more clients for the moment,
//! closes those who have asked for nothing for longest, and goes on serving all others.

use std::os::fd::AsFd;
use std::time::Duration;

use super::local::Local;
use crate::clock;

/// A client that has been silent for less is not sent away: it may well be about to ask.
const SILENT: Duration = Duration::from_secs(1);

/// Clients sent away at a time.
const AT_ONCE: usize = 16;

/// Between two looks, longer from time to time.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_millis(80);

/// Makes room, and returns when there is some. `any`: any open descriptor.
pub async fn make(local: &Local, any: &impl AsFd) {
    let mut pause = PAUSE;
    loop {
        let now = clock::now();
        if local.registry.send_away(AT_ONCE, now.saturating_sub(SILENT)) == 0 {
            local.idle.borrow_mut().shed(now.as_millis() as u64);
        }
        // Whoever was sent away leaves in this time, and what else we lack may come free.
        tokio::time::sleep(pause).await;
        local.descriptors.refresh();
        if local.descriptors.has_one_for_clients(any) {
            return;
        }
        pause = (pause * 2).min(PAUSE_MOST);
    }
}
