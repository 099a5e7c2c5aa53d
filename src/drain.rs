//! ○ One signal to stop, whoever gives it: SIGTERM, SIGINT, `standfast drain`.

use tokio::sync::watch;

/// Shared by those who may end the process and the one who does it.
#[derive(Debug, Clone)]
pub struct Drain(watch::Sender<u32>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Drain {
    /// Asks the process to finish what it has and end. Asked a second time, it ends at once.
    pub fn ask(&self) {
        self.0.send_modify(|asked| *asked = asked.saturating_add(1));
    }

    /// Waits until somebody has asked.
    pub async fn asked(&self) {
        self.asked_times(1).await;
    }

    /// Waits until somebody has asked again.
    pub async fn asked_again(&self) {
        self.asked_times(2).await;
    }

    async fn asked_times(&self, times: u32) {
        // The sender is ours, so it outlives the wait.
        let _ = self.0.subscribe().wait_for(|asked| *asked >= times).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_ask_drains_and_the_second_one_forces() {
        let drain = Drain::default();
        drain.clone().ask();
        drain.asked().await;
        let again = drain.clone();
        let waiting = tokio::spawn(async move { again.asked_again().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drain.ask();
        waiting.await.unwrap();
    }
}
