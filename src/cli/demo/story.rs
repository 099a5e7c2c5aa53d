//! ○ The demo's story: all is well, hot is killed, standby serves, hot comes back.

use std::time::Duration;

use crate::clock;
use crate::table::history::Moved;

use super::clients::Clients;
use super::figures::{Figures, detection};
use super::ingress::Ingress;
use super::scene::{CELL, Cell, PoolScene, Scene, millis};
use super::setup::Stage;
use super::show::Show;
use super::tally::{Phase, Tally};

const LOOK: Duration = Duration::from_millis(20);

/// How long the acts last in which nothing happens.
const BEFORE: Duration = Duration::from_secs(3);
const ON_STANDBY: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(2);

/// How long the story waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the story went.
#[derive(Debug)]
pub(super) struct Report {
    /// What the clients saw.
    pub(super) tally: Tally,
    /// What Standfast counted.
    pub(super) figures: Figures,
    pub(super) failover: Option<Moved>,
    /// From the kill to the first answer of standby, as a client saw it.
    pub(super) first_answer: Option<Duration>,
    pub(super) back: Option<Moved>,
    /// From the restart of hot to the return.
    pub(super) return_took: Option<Duration>,
}

impl Report {
    /// The service moved, came back, and nobody noticed.
    pub(super) fn is_good(&self) -> bool {
        let nothing_lost = self.tally.lost == 0 && self.figures.lost == 0;
        self.failover.is_some() && self.back.is_some() && nothing_lost && self.tally.sent > 0
    }
}

struct Player<'a> {
    stage: &'a mut Stage,
    show: &'a mut Show,
    clients: Clients,
    /// When the load began, since the process's origin.
    begun: Duration,
    scene: Scene,
    figures: Figures,
    /// Answers by pool, and losses, when the last cell of the strip was filled.
    counted: (Vec<u64>, u64),
}

/// Plays it from the first probe to the return of hot.
///
/// # Errors
/// The stage fell apart: a thread or a port could not be had, or no probe ever succeeded.
pub(super) async fn play(stage: &mut Stage, show: &mut Show, rate: u32) -> Result<Report, String> {
    wait_until_up(stage).await?;
    let clients = Clients::start(stage.address, stage.client.clone(), rate)
        .map_err(|error| format!("the load cannot be started: {error}"))?;
    let scene = Scene { url: format!("https://{}", stage.address), rate, ..Scene::default() };
    let figures = Figures::default();
    let counted = (vec![0; 2], 0);
    let begun = clock::now();
    let mut player = Player { stage, show, clients, begun, scene, figures, counted };

    player.say("load begins, GET and some PUT; hot serves, both answer their probes");
    player.watch(BEFORE, |_| false).await;
    let (failover, killed) = player.kill().await;
    player.watch(ON_STANDBY, |_| false).await;
    let (back, return_took) = player.bring_back().await?;
    player.watch(AFTER, |_| false).await;
    Ok(player.end(failover, killed, back, return_took).await)
}

/// Both pools must be known to be good, or there is nothing to show.
async fn wait_until_up(stage: &Stage) -> Result<(), String> {
    let up = || Figures::read(&stage.running.current.load()).all_up();
    let wait = async {
        while !up() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .map_err(|_| format!("the ingresses did not pass a probe within {PATIENCE:?}"))
}

impl Player<'_> {
    async fn kill(&mut self) -> (Option<Moved>, Duration) {
        self.clients.tally().phase = Phase::During;
        let killed = clock::now();
        self.stage.hot.kill();
        self.say("hot is KILLED: its listener is gone, every connection was reset");
        self.watch(PATIENCE, |figures| figures.serving == 1).await;
        let moved = self.figures.moved.clone().filter(|_| self.figures.serving == 1);
        self.clients.tally().phase = Phase::OnStandby;
        match &moved {
            Some(moved) => {
                let took = millis(detection(moved));
                self.say(&format!("SWITCHED to standby, {took} after the first evidence"));
            }
            None => self.say(&format!("no failover within {PATIENCE:?}")),
        }
        (moved, killed)
    }

    async fn bring_back(&mut self) -> Result<(Option<Moved>, Option<Duration>), String> {
        let restarted = clock::now();
        self.stage.hot.restart().map_err(|error| format!("hot cannot be restarted: {error}"))?;
        self.say("hot is back; it must be up for 3 s before it serves again");
        self.watch(PATIENCE, |figures| figures.serving == 0).await;
        let moved = self.figures.moved.clone().filter(|_| self.figures.serving == 0);
        self.clients.tally().phase = Phase::After;
        let took = moved.as_ref().map(|moved| moved.published.saturating_sub(restarted));
        match took {
            Some(took) => {
                let took = took.as_secs_f64();
                self.say(&format!("RETURNED to hot, {took:.1} s after it came back"));
            }
            None => self.say(&format!("no return within {PATIENCE:?}")),
        }
        Ok((moved, took))
    }

    async fn end(
        mut self,
        failover: Option<Moved>,
        killed: Duration,
        back: Option<Moved>,
        return_took: Option<Duration>,
    ) -> Report {
        self.say("load ends");
        let tally = tokio::task::spawn_blocking(|| self.clients.stop()).await.unwrap_or_default();
        // A request is counted a moment after its last byte has left.
        let table = &self.stage.running.current;
        for _ in 0..50 {
            self.figures = Figures::read(&table.load());
            if self.figures.requests >= tally.sent {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.scene.ok = tally.ok();
        self.scene.lost = tally.lost.max(self.figures.lost);
        self.scene.rescued = self.figures.rescued();
        self.scene.set_latencies(&tally);
        self.show.finish(&self.scene);
        let first = tally.first_by_pool.get("standby");
        let first_answer = first.map(|at| at.saturating_sub(killed));
        Report { tally, figures: self.figures, failover, first_answer, back, return_took }
    }

    fn say(&mut self, text: &str) {
        self.scene.events.push((clock::now().saturating_sub(self.begun), text.to_owned()));
        self.look();
    }

    /// Shows what happens until `done`, or for this long.
    async fn watch(&mut self, limit: Duration, done: impl Fn(&Figures) -> bool) {
        let end = clock::now() + limit;
        loop {
            self.look();
            if done(&self.figures) || clock::now() >= end {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(&mut self) {
        self.figures = Figures::read(&self.stage.running.current.load());
        let scene = &mut self.scene;
        scene.elapsed = clock::now().saturating_sub(self.begun);
        scene.pools = pools(self.stage, &self.figures);
        scene.rescued = self.figures.rescued();
        {
            let tally = self.clients.tally();
            scene.ok = tally.ok();
            scene.lost = tally.lost.max(self.figures.lost);
            if fill_strip(scene, &mut self.counted, &tally) {
                scene.set_latencies(&tally);
            }
        }
        self.show.update(scene);
    }
}

fn pools(stage: &Stage, figures: &Figures) -> Vec<PoolScene> {
    let pool = |(index, ingress): (usize, &Ingress)| PoolScene {
        name: ingress.name.to_owned(),
        address: ingress.address.to_string(),
        alive: ingress.is_running(),
        verdict: figures.verdicts.get(index).copied().unwrap_or_default().to_string(),
        serving: figures.serving == index,
    };
    [&stage.hot, &stage.standby].into_iter().enumerate().map(pool).collect()
}

/// Adds the cells whose time is over; true if there were any.
fn fill_strip(scene: &mut Scene, counted: &mut (Vec<u64>, u64), tally: &Tally) -> bool {
    let due = usize::try_from(scene.elapsed.as_millis() / CELL.as_millis()).unwrap_or(0);
    if scene.strip.len() >= due {
        return false;
    }
    let answers: Vec<_> = scene.pools.iter().map(|pool| tally.answered_by(&pool.name)).collect();
    let new = || answers.iter().zip(&counted.0).map(|(now, before)| now - before);
    let most = new().enumerate().max_by_key(|(index, count)| (*count, std::cmp::Reverse(*index)));
    let cell = match most {
        _ if tally.lost > counted.1 => Cell::Lost,
        Some((index, count)) if count > 0 => Cell::Pool(index),
        _ => Cell::Nobody,
    };
    scene.strip.resize(due, cell);
    *counted = (answers, tally.lost);
    true
}
