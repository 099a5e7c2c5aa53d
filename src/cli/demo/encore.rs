//! ○ `--keep`: the stage stays, and whoever watched may kill hot himself.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::clients::Clients;
use super::figures::Figures;
use super::setup::Stage;
use super::show::Show;

/// What is typed, a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Kill,
    Restart,
    Status,
    Quit,
}

impl Key {
    fn of(line: &str) -> Option<Self> {
        Some(match line.trim() {
            "k" => Self::Kill,
            "r" => Self::Restart,
            "s" => Self::Status,
            "q" => Self::Quit,
            _ => return None,
        })
    }
}

/// Goes on until it is ended by a key or a signal.
pub(super) async fn play(stage: &mut Stage, show: &Show, rate: u32) -> Result<(), String> {
    let said = |error: io::Error| error.to_string();
    let clients = Clients::start(stage.address, stage.client.clone(), rate).map_err(said)?;
    show.print(&help(stage, io::stdin().is_terminal()));
    let mut terminate = signal(SignalKind::terminate()).map_err(said)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(said)?;
    let mut keys = keys();
    let mut look = tokio::time::interval(Duration::from_millis(50));
    let mut serving = 0;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = stage.running.drain.asked() => break,
            _ = look.tick() => {
                let figures = Figures::read(&stage.running.current.load());
                if figures.serving != serving {
                    serving = figures.serving;
                    show.print(&[line(&clients, &figures)]);
                }
            }
            Some(key) = keys.recv() => match key {
                Key::Quit => break,
                Key::Kill => {
                    stage.hot.kill();
                    show.print(&["hot is killed".to_owned()]);
                }
                Key::Restart => {
                    stage.hot.restart().map_err(said)?;
                    show.print(&["hot runs".to_owned()]);
                }
                Key::Status => {
                    let figures = Figures::read(&stage.running.current.load());
                    show.print(&[line(&clients, &figures)]);
                }
            },
        }
    }
    clients.stop();
    Ok(())
}

const KEYS: &str = "or type k to kill hot, r to restart it, s for figures, q to quit, and Enter";

fn help(stage: &Stage, terminal: bool) -> Vec<String> {
    let (address, admin) = (stage.address, stage.admin);
    let mut lines = vec![
        String::new(),
        "It all stays up, and so does the load. Try:".to_owned(),
        format!("  curl -k https://{address}/"),
        format!("  curl -s http://{admin}/api/v1/status"),
        format!("  curl -s http://{admin}/metrics | grep -E 'pool_active|rescued|lost'"),
    ];
    lines.push(if terminal { KEYS } else { "until SIGTERM or SIGINT" }.to_owned());
    lines
}

fn line(clients: &Clients, figures: &Figures) -> String {
    let tally = clients.tally();
    let serving = if figures.serving == 0 { "hot" } else { "standby" };
    format!(
        "{serving} serves: {} ok, {} lost since this load began; {} rescued in all",
        tally.ok(),
        tally.lost,
        figures.rescued()
    )
}

/// Reading a terminal blocks, so a thread of its own does it; it ends with the process.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, keys) = mpsc::channel(8);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let Some(key) = Key::of(&line) else { continue };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_told_in_one_line_of_80_columns() {
        assert!(KEYS.len() <= 80, "{}", KEYS.len());
    }

    #[test]
    fn a_key_is_a_line_of_one_letter() {
        assert_eq!(Key::of(" k \n"), Some(Key::Kill));
        assert_eq!(Key::of("kill"), None);
        assert_eq!(Key::of(""), None);
    }
}
