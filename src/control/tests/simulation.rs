//! Random lives, outages, pauses, reloads and orders in simulated time, replayable by seed:
//! `SIMULATION_SEED=7 cargo test --lib simulation`; `SIMULATION_SEEDS=10000` for a long run.

use super::*;
use crate::config::{Failback, Failover, HealthCheck};
use crate::failover::record::{Evidence, Stamp};
use crate::failover::{Record, Trouble};
use crate::table::history::Moved;

const POOLS: [&str; 3] = ["hot", "standby", "third"];
/// What one seed simulates.
const LENGTH: Duration = Duration::from_secs(4 * 60);
/// How often users see what their endpoints do.
const USERS: Duration = Duration::from_millis(400);

/// What a record tells in whole microseconds.
const STAMPS: Duration = Duration::from_micros(1);

struct Play {
    rig: Rig,
    random: fastrand::Rng,
    /// Names, by pool.
    endpoints: Vec<Vec<String>>,
    check: HealthCheck,
    before: Arc<Service>,
}

fn world(random: &mut fastrand::Rng) -> (Arc<Config>, Vec<Vec<String>>, HealthCheck) {
    let check = HealthCheck {
        interval: Duration::from_millis([1_000, 2_000, 5_000][random.usize(..3)]),
        unhealthy_threshold: random.u32(1..=4),
        ..crate::table::fixture::check()
    };
    let endpoints: Vec<Vec<String>> = (0..random.usize(2..=3))
        .map(|pool| (0..random.usize(1..=3)).map(|i| format!("10.0.{pool}.{i}:80")).collect())
        .collect();
    let pools = endpoints.iter().zip(POOLS).map(|(names, name)| {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let min_healthy = random.u32(1..=names.len() as u32);
        let health_check = Some(check.clone());
        Arc::new(config::Pool { min_healthy, health_check, ..(*pool(name, &names)).clone() })
    });
    let service = service_of("app", WhenNone::TryAll, pools.collect());
    let ramp = Duration::from_secs([0, 20][random.usize(..2)]);
    let failback = Failback::Auto { stable_for: Duration::from_secs(random.u64(5..120)), ramp };
    let failover = Failover { failback, ..service.failover.clone() };
    let service = Arc::new(config::Service { failover, ..(*service).clone() });
    (config(vec![listener("web", "0.0.0.0:80", &[0])], vec![service]), endpoints, check)
}

impl Play {
    fn new(seed: u64) -> Self {
        SEED.set(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let (config, endpoints, check) = world(&mut random);
        let rig = rig(config);
        let before = rig.app();
        Self { rig, random, endpoints, check, before }
    }

    /// Lets time pass, checks every table that is published, and has users see their endpoints.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut changes = self.rig.current.changes();
        loop {
            let tick = (Instant::now() + USERS).min(end);
            match tokio::time::timeout_at(tick, changes.changed()).await {
                Ok(changed) => {
                    changed.unwrap();
                    self.check();
                }
                Err(_) => self.users().await,
            }
            if Instant::now() >= end {
                return;
            }
        }
    }

    async fn users(&self) {
        let app = self.rig.app();
        let pool = &app.pools[app.serving];
        for endpoint in &pool.endpoints {
            let kind = match self.rig.sim.life(&endpoint.config.name) {
                Life::Refusing => Seen::Refused,
                Life::Silent => Seen::Silent,
                Life::Well | Life::Slow(_) | Life::OurFault => {
                    endpoint.counters.workers.of(0).responses[1].increment();
                    continue;
                }
            };
            let at = World(Arc::clone(&self.rig.sim)).now();
            let _ = self.rig.sightings.try_send(Sighting { endpoint: endpoint.id, kind, at });
        }
    }

    /// What must hold of any table after the one before it.
    fn check(&mut self) {
        let app = self.rig.app();
        app.history.records.iter().for_each(|record| assert_in_order(record));
        let before = std::mem::replace(&mut self.before, Arc::clone(&app));
        let returns = |app: &Service| -> u64 {
            let counts = app.history.counts.iter();
            counts.filter(|count| count.cause == Cause::Failback).map(|count| count.count).sum()
        };
        assert!(returns(&app) <= 4, "too many returns in a day");
        assert!(app.share.is_none_or(|share| share.pool < app.serving), "{:?}", app.share);
        if app.serving == before.serving {
            return;
        }
        let last = app.history.last.as_ref().expect("a move is recorded");
        assert!(!last.reason.is_empty(), "{last:?}");
        assert_eq!(&*last.to, POOLS[app.serving], "{last:?}");
        let automatic = matches!(last.cause, Cause::Health | Cause::Failback);
        // An order may have ended the hold in the same table.
        let held = before.failover.held && app.failover.held;
        assert!(!automatic || !held, "moved though held: {last:?}");
        if last.cause == Cause::Health {
            let unsure = before.failover.trouble == Some(Trouble::Unsure);
            assert!(!unsure || last.decided > last.first_evidence, "{last:?}");
            let record = app.history.records.back().expect("and told in full");
            assert_told(record, last);
            let first_failure =
                last.decided - since(record.times.decided, record.times.first_failure);
            let answered = self.rig.sim.answered.lock().unwrap();
            let proofs = self.endpoints[app.serving].iter().filter(|name| {
                answered.get(*name).is_some_and(|began| *began + STAMPS > first_failure)
            });
            let needed = app.pools[app.serving].config.min_healthy as usize;
            assert!(proofs.count() >= needed, "no proof: {last:?}");
        }
    }

    fn moves(&self) -> u64 {
        self.rig.app().history.counts.iter().map(|count| count.count).sum()
    }

    fn all(&self, life: Life) {
        self.endpoints.iter().flatten().for_each(|name| self.rig.sim.let_be(name, life));
    }

    /// Everything is well, known to be so, and nothing is under way.
    async fn calm(&mut self) {
        self.all(Life::Well);
        let _ = self.rig.release().await;
        for (pool, names) in self.endpoints.clone().iter().enumerate() {
            for name in names {
                self.rig.mode(POOLS[pool], name, Mode::Active, false).await.unwrap();
            }
        }
        self.pass(self.check.interval * 6 + Duration::from_secs(2)).await;
        let app = self.rig.app();
        assert!(app.pools.iter().all(|pool| pool.available), "well, but not available");
        assert_eq!(app.failover.trouble, None);
    }

    fn a_life(&mut self) -> Life {
        let slow = Life::Slow(self.random.u64(1..1_500));
        [Life::Well, Life::Refusing, Life::Silent, slow, Life::OurFault][self.random.usize(..5)]
    }

    async fn act(&mut self) {
        match self.random.u32(..9) {
            0..3 => {
                for name in self.endpoints.concat() {
                    let life = self.a_life();
                    self.rig.sim.let_be(&name, life);
                }
                let time = Duration::from_millis(self.random.u64(10..15_000));
                self.pass(time).await;
            }
            3 => self.outage().await,
            4 => self.isolation().await,
            5 => self.pause().await,
            6 => self.reload().await,
            7 => self.order().await,
            _ => {
                self.all(Life::Well);
                let time = Duration::from_secs(self.random.u64(1..150));
                self.pass(time).await;
            }
        }
    }

    /// The pool that serves dies, and the others are well.
    async fn outage(&mut self) {
        self.calm().await;
        let (serving, life) =
            (self.rig.app().serving, [Life::Refusing, Life::Silent][self.random.usize(..2)]);
        self.endpoints[serving].iter().for_each(|name| self.rig.sim.let_be(name, life));
        let check = &self.check;
        let burst = Duration::from_millis(20) * check.unhealthy_threshold;
        let bound = check.interval.mul_f64(1.1) + check.timeout * 2 + burst;
        let begin = Instant::now();
        while self.rig.app().serving == serving {
            self.pass(Duration::from_millis(10)).await;
            assert!(begin.elapsed() <= bound, "{life:?} and not left within {bound:?}");
        }
    }

    async fn isolation(&mut self) {
        self.calm().await;
        let moves = self.forced();
        self.rig.sim.isolated.store(true, Ordering::Relaxed);
        // Long enough for everything to be dark. A shorter one is told from a failure of the serving
        // pool only where the others were found silent as well before they were heard again: not if
        // they are given more patience, or if one failure is enough for a verdict.
        let time = Duration::from_millis(self.random.u64(3_000..60_000));
        self.pass(time).await;
        self.rig.sim.isolated.store(false, Ordering::Relaxed);
        self.pass(Duration::from_secs(10)).await;
        let last = self.rig.app().history.last.clone();
        assert_eq!(self.forced(), moves, "isolated for {time:?}: {last:?}");
    }

    /// We do not run for a while.
    async fn pause(&mut self) {
        self.calm().await;
        let moves = self.forced();
        tokio::time::advance(Duration::from_millis(self.random.u64(100..5_000))).await;
        self.pass(Duration::from_secs(5)).await;
        assert_eq!(self.forced(), moves);
    }

    fn forced(&self) -> u64 {
        let counts = self.rig.app().history.counts.clone();
        counts.iter().filter(|count| count.cause == Cause::Health).map(|count| count.count).sum()
    }

    async fn reload(&mut self) {
        // Whatever is on its way is published before.
        tokio::task::yield_now().await;
        let (before, moves) = (self.rig.app(), self.moves());
        self.rig.reload(false).await.unwrap();
        let after = self.rig.app();
        assert!(after.serving == before.serving || self.moves() > moves);
        assert_eq!(after.failover.held, before.failover.held);
        let modes = |app: &Service| -> Vec<Mode> {
            app.pools.iter().flat_map(|pool| pool.modes.iter().copied()).collect()
        };
        assert_eq!(modes(&after), modes(&before));
        self.check();
    }

    async fn order(&mut self) {
        let pool = self.random.usize(..self.endpoints.len());
        let (hold, force) = (self.random.bool(), self.random.u32(..4) == 0);
        match self.random.u32(..3) {
            0 => {
                let was = self.rig.app().serving;
                let answer = self.rig.switch_with(POOLS[pool], hold, force).await;
                let moved = answer.is_ok() && was != pool && !force;
                let alive =
                    |name: &String| matches!(self.rig.sim.life(name), Life::Well | Life::Slow(_));
                assert!(!moved || self.endpoints[pool].iter().any(alive), "{answer:?}");
            }
            1 => drop(self.rig.release().await),
            _ => {
                let name = self.random.choice(self.endpoints[pool].clone()).unwrap();
                let mode = [Mode::Active, Mode::Drain, Mode::Off][self.random.usize(..3)];
                let available = |app: &Service| app.pools.iter().any(|pool| pool.available);
                let before = self.rig.app();
                let answer = self.rig.mode(POOLS[pool], &name, mode, force).await;
                let kept = !available(&before) || available(&self.rig.app());
                assert!(answer.is_err() || force || kept, "{answer:?}");
            }
        }
        self.check();
    }
}

/// From the later time back to the earlier, which is there.
fn since(late: Stamp, early: Option<Stamp>) -> Duration {
    late.since(early.expect("a move that health forced was evident"))
}

/// The times of a record follow each other.
fn assert_in_order(record: &Record) {
    let times = &record.times;
    let order = [
        Some(times.first_evidence),
        times.first_failure,
        Some(times.decided),
        Some(times.published),
        times.completed,
    ];
    assert!(order.iter().flatten().is_sorted(), "{record:#?}");
    assert!(times.first_success.is_none_or(|at| at >= times.first_evidence), "{record:#?}");
    assert_eq!(record.complete, times.completed.is_some());
}

/// A move that health forced tells against whom, by what, and as the metric does.
fn assert_told(record: &Record, last: &Moved) {
    let evidence = since(record.times.decided, Some(record.times.first_evidence));
    let off = evidence.abs_diff(last.decided - last.first_evidence);
    assert!(off <= STAMPS, "{record:#?}");
    let named = |seen: &Evidence| !seen.success && record.reason.contains(&*seen.result);
    assert!(record.evidence.iter().any(named), "{record:#?}");
}

async fn play(seed: u64) {
    let mut play = Play::new(seed);
    let begin = Instant::now();
    while begin.elapsed() < LENGTH {
        play.act().await;
    }
    // After all of that it still does what it is for.
    play.outage().await;
}

fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let played = std::panic::catch_unwind(|| runtime.block_on(play(seed)));
    assert!(played.is_ok(), "replay with SIMULATION_SEED={seed}");
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_moves_are_proved_bounded_and_explained() {
    if let Some(seed) = setting("SIMULATION_SEED") {
        return run(seed);
    }
    let seeds = setting("SIMULATION_SEEDS").unwrap_or(200);
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let seeds = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed))
                    .take_while(|seed| *seed < seeds);
                seeds.for_each(run);
            });
        }
    });
}
