//! ● A rehearsed failover, step by step: prove the other pool, send it requests, watch, go back.
//!
//! It decides; control carries out, and asks again. Whatever moves the service meanwhile wins.

use std::time::Duration;

use super::orders::{DrillKind, DrillOrder};
use crate::failover::PoolView;
use crate::failover::ramp::Tally;

/// After the last request was sent to the other pool, its answers are waited for this long.
const SETTLE: Duration = Duration::from_secs(1);

/// A drill that is under way. Pools are indexed by priority.
#[derive(Debug)]
pub(super) struct Drill {
    pub(super) order: DrillOrder,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) began: Duration,
    /// From the order until the other pool had proved itself.
    pub(super) proof: Option<Duration>,
    pub(super) aborted: Option<String>,
    /// What both pools did since the watch began.
    pub(super) target: Tally,
    pub(super) serving: Tally,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the other pool to prove itself, until then.
    Proving { until: Duration },
    /// The other pool gets requests, until then.
    Watching { until: Duration },
    /// Requests end, until then.
    Settling { until: Duration },
}

/// What a drill sees of its service.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    pub(super) now: Duration,
    /// Index of the pool that serves.
    pub(super) serves: usize,
    pub(super) from: PoolView,
    pub(super) to: PoolView,
    /// Requests and errors of both pools, since the other one had proved itself.
    pub(super) target: Tally,
    pub(super) serving: Tally,
}

/// What control is to do for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask again, at that time at the latest.
    Wait(Duration),
    /// Send the other pool this part of new requests, in thousandths; 0: no more.
    Share(u16),
    /// Move there.
    Go,
    /// Move back.
    Back,
    /// Report.
    Over,
}

/// How often a drill looks at its errors.
const LOOK: Duration = Duration::from_millis(20);

impl Drill {
    /// A drill of a service with these pools.
    ///
    /// # Errors
    /// Why it is not begun.
    pub(super) fn begin(
        order: DrillOrder,
        serves: usize,
        views: &[PoolView],
        (held, ramping): (bool, bool),
        now: Duration,
    ) -> Result<Self, String> {
        let others = || (0..views.len()).filter(|pool| *pool != serves);
        let available = others().find(|pool| views[*pool].available());
        let to = available.or_else(|| others().next());
        let to = to.ok_or("it has no other pool to rehearse with")?;
        if order.kind != DrillKind::Decision {
            if held {
                return Err("an operator holds it: release it first".to_owned());
            }
            if ramping {
                return Err("a return is under way: wait until it is over".to_owned());
            }
            if available.is_none() {
                let why = views[to].shortage();
                return Err(format!("no other pool is available: {why}"));
            }
        }
        Ok(Self {
            order,
            from: serves,
            to,
            began: now,
            proof: None,
            aborted: None,
            target: Tally::default(),
            serving: Tally::default(),
            phase: Phase::Proving { until: now },
        })
    }

    /// Until when the other pool may take to prove itself.
    pub(super) fn wait_for_proof(&mut self, until: Duration) {
        self.phase = Phase::Proving { until };
    }

    /// The part of new requests the other pool gets.
    pub(super) fn share(&self) -> Option<u16> {
        match (self.phase, self.order.kind) {
            (Phase::Watching { .. }, DrillKind::Share(permille)) => Some(permille.min(1000)),
            _ => None,
        }
    }

    pub(super) fn step(&mut self, sight: &Sight) -> Next {
        match self.phase {
            Phase::Proving { until } => self.prove(sight, until),
            Phase::Watching { until } => self.watch(sight, until),
            Phase::Settling { until } => {
                self.count(sight);
                if sight.now >= until { Next::Over } else { Next::Wait(until) }
            }
        }
    }

    /// It cannot go on, for a reason control knows.
    pub(super) fn abort(&mut self, why: String) {
        self.aborted.get_or_insert(why);
        self.phase = Phase::Settling { until: Duration::ZERO };
    }

    fn prove(&mut self, sight: &Sight, until: Duration) -> Next {
        if sight.serves != self.from {
            return self.overtaken();
        }
        if !sight.to.available() || !sight.to.proved_since(Some(self.began)) {
            if sight.now < until {
                return Next::Wait((sight.now + LOOK).min(until));
            }
            let why = match sight.to.available() {
                true => "no probe of it answered in time".to_owned(),
                false => sight.to.shortage(),
            };
            self.abort(format!("the other pool did not prove itself: {why}"));
            return Next::Over;
        }
        self.proof = Some(sight.now.saturating_sub(self.began));
        let watched = Phase::Watching { until: sight.now.saturating_add(self.order.watch) };
        match self.order.kind {
            DrillKind::Decision => Next::Over,
            DrillKind::Share(_) => {
                self.phase = watched;
                self.share().map_or(Next::Over, Next::Share)
            }
            DrillKind::Full => {
                self.phase = watched;
                Next::Go
            }
        }
    }

    fn watch(&mut self, sight: &Sight, until: Duration) -> Next {
        self.count(sight);
        let full = self.order.kind == DrillKind::Full;
        if sight.serves != if full { self.to } else { self.from } {
            return self.overtaken();
        }
        let abort = if !sight.to.available() {
            Some(format!("the other pool became unavailable: {}", sight.to.shortage()))
        } else if self.target.exceeds(self.order.max_errors) {
            let Tally { requests, errors } = self.target;
            Some(format!("{errors} of {requests} requests erred at the other pool"))
        } else {
            None
        };
        if abort.is_none() && sight.now < until {
            return Next::Wait((sight.now + LOOK).min(until));
        }
        self.phase = Phase::Settling { until: sight.now.saturating_add(SETTLE) };
        self.aborted = abort;
        if full && sight.from.available() {
            return Next::Back;
        }
        if full {
            let why = format!("it cannot go back: {}", sight.from.shortage());
            self.aborted.get_or_insert(why);
            return Next::Wait(sight.now);
        }
        Next::Share(0)
    }

    /// Something else moved the service: health, or an operator.
    fn overtaken(&mut self) -> Next {
        self.abort("the service was moved meanwhile".to_owned());
        Next::Share(0)
    }

    fn count(&mut self, sight: &Sight) {
        (self.target, self.serving) = (sight.target, sight.serving);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn order(kind: DrillKind) -> DrillOrder {
        let (max_errors, watch) = (0.01, Duration::from_secs(30));
        DrillOrder { kind, max_errors, watch, reason: "rehearsal".to_owned() }
    }

    fn up(proved: u64) -> PoolView {
        let proved = Some(millis(proved));
        PoolView { up: 2, min_healthy: 1, proved, ..PoolView::default() }
    }

    fn gone() -> PoolView {
        PoolView { down: 2, min_healthy: 1, ..PoolView::default() }
    }

    fn begun(kind: DrillKind) -> Drill {
        let views = [up(900), up(900)];
        let mut drill = Drill::begin(order(kind), 0, &views, (false, false), millis(1000)).unwrap();
        drill.wait_for_proof(millis(2000));
        drill
    }

    /// The drill's pool has proved itself at 1005 ms; its order is under way.
    fn watched(kind: DrillKind) -> (Drill, Sight) {
        let mut drill = begun(kind);
        let mut sight = sight(1010);
        sight.to = up(1005);
        let first = match kind {
            DrillKind::Share(permille) => Next::Share(permille),
            DrillKind::Full => Next::Go,
            DrillKind::Decision => Next::Over,
        };
        assert_eq!(drill.step(&sight), first);
        sight.serves = usize::from(kind == DrillKind::Full);
        (drill, sight)
    }

    fn sight(now: u64) -> Sight {
        let tally = Tally::default();
        Sight {
            now: millis(now),
            serves: 0,
            from: up(now),
            to: up(now),
            target: tally,
            serving: tally,
        }
    }

    fn with(mut sight: Sight, now: u64, requests: u64, errors: u64) -> Sight {
        sight.now = millis(now);
        sight.target = Tally { requests, errors };
        sight
    }

    #[test]
    fn a_decision_moves_nothing_and_says_how_long_the_proof_took() {
        let mut drill = begun(DrillKind::Decision);
        let mut sight = sight(1005);
        sight.to = up(999);
        assert_eq!(drill.step(&sight), Next::Wait(millis(1025)), "proved before the order");
        (sight.to, sight.now) = (up(1001), millis(1012));
        assert_eq!(drill.step(&sight), Next::Over);
        assert_eq!((drill.proof, drill.aborted), (Some(millis(12)), None));
    }

    #[test]
    fn a_pool_that_does_not_prove_itself_in_time_fails_the_drill() {
        let mut drill = begun(DrillKind::Full);
        let mut sight = sight(1999);
        sight.to = up(999);
        assert_eq!(drill.step(&sight), Next::Wait(millis(2000)));
        sight.now = millis(2000);
        assert_eq!(drill.step(&sight), Next::Over);
        assert!(drill.aborted.unwrap().contains("no probe of it answered"));
    }

    #[test]
    fn a_share_is_watched_and_ends_by_itself() {
        let (mut drill, sight) = watched(DrillKind::Share(50));
        assert_eq!(drill.share(), Some(50));
        assert_eq!(drill.step(&with(sight.clone(), 2000, 100, 1)), Next::Wait(millis(2020)));
        assert_eq!(drill.step(&with(sight.clone(), 31_010, 3000, 3)), Next::Share(0));
        assert_eq!(drill.share(), None);
        assert_eq!(drill.step(&with(sight.clone(), 31_500, 3000, 3)), Next::Wait(millis(32_010)));
        assert_eq!(drill.step(&with(sight, 32_010, 3001, 3)), Next::Over);
        assert_eq!((drill.aborted, drill.target.requests), (None, 3001));
    }

    #[test]
    fn three_errors_over_the_budget_end_it_at_once_and_two_do_not() {
        for kind in [DrillKind::Share(50), DrillKind::Full] {
            let (mut drill, sight) = watched(kind);
            assert!(matches!(drill.step(&with(sight.clone(), 1100, 2, 2)), Next::Wait(_)));
            let end = if kind == DrillKind::Full { Next::Back } else { Next::Share(0) };
            assert_eq!(drill.step(&with(sight, 1120, 100, 3)), end);
            assert_eq!(drill.aborted.unwrap(), "3 of 100 requests erred at the other pool");
        }
    }

    #[test]
    fn a_full_drill_goes_there_and_back() {
        let (mut drill, sight) = watched(DrillKind::Full);
        assert!(matches!(drill.step(&with(sight.clone(), 5000, 10, 0)), Next::Wait(_)));
        assert_eq!(drill.step(&with(sight.clone(), 31_010, 900, 0)), Next::Back);
        let home = Sight { serves: 0, ..with(sight, 32_010, 900, 0) };
        assert_eq!(drill.step(&home), Next::Over);
        assert_eq!(drill.aborted, None);
    }

    #[test]
    fn a_forced_move_wins_and_ends_it() {
        let (mut drill, sight) = watched(DrillKind::Full);
        let forced = Sight { serves: 0, ..with(sight, 3000, 5, 0) };
        assert_eq!(drill.step(&forced), Next::Share(0));
        assert_eq!(drill.step(&forced), Next::Over);
        assert!(drill.aborted.unwrap().contains("moved meanwhile"));
    }

    #[test]
    fn it_stays_where_it_is_if_there_is_no_way_back() {
        let (mut drill, sight) = watched(DrillKind::Full);
        let lost = Sight { from: gone(), ..with(sight, 31_010, 5, 0) };
        assert!(matches!(drill.step(&lost), Next::Wait(_)));
        assert!(drill.aborted.unwrap().starts_with("it cannot go back: 0 of 2"));
    }

    #[test]
    fn a_drill_is_refused_where_it_could_do_harm_and_a_decision_never_is() {
        let begin = |kind, views: &[PoolView], busy| {
            Drill::begin(order(kind), 0, views, busy, millis(0)).map(|drill| drill.to)
        };
        let both = [up(0), up(0)];
        assert!(begin(DrillKind::Full, &both, (true, false)).is_err());
        assert!(begin(DrillKind::Share(1), &both, (false, true)).is_err());
        assert!(begin(DrillKind::Full, &[up(0), gone()], (false, false)).is_err());
        assert_eq!(begin(DrillKind::Decision, &[up(0), gone()], (true, true)), Ok(1));
        assert_eq!(begin(DrillKind::Full, &[up(0), gone(), up(0)], (false, false)), Ok(2));
        assert!(begin(DrillKind::Decision, &[up(0)], (false, false)).is_err());
    }
}
