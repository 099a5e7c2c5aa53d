//! ● What a service will do next, what keeps it, and who could take over: a part of the status.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;
use crate::config::{self, Failback};
use crate::failover::damping::REUSE;
use crate::failover::decide::{DWELL, RETURNS_MOST};
use crate::failover::{Cause, Next, PoolView, Settings, Waits, next};
use crate::health::Verdict;
use crate::table::ready::{Readiness, readiness};
use crate::table::{self, Mode};

/// The serving pool is lost and yet not left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stuck {
    /// `none_available`, `held`, `unproved` or `unsure`.
    pub kind: String,
    pub why: String,
}

/// A part of new requests goes to another pool first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub pool: String,
    pub percent: f64,
    /// When all of them go there; none for a drill, which ends by itself.
    pub complete: Option<String>,
    pub complete_in_seconds: Option<f64>,
}

/// What comes next by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coming {
    /// `return`, `returning`; or what keeps the service: `held`, `stands`, `manual`,
    /// `none_higher`, `stuck`.
    pub kind: String,
    /// The pool it would return to.
    pub to: Option<String>,
    /// When, if that is known.
    pub at: Option<String>,
    pub in_seconds: Option<f64>,
    /// For people, without a time.
    pub why: String,
}

/// Whether another pool could take over this moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Takeover {
    /// The pool that would; the first of the others if none could.
    pub pool: String,
    pub ready: bool,
    /// Why it could or could not.
    pub because: String,
}

fn name(service: &table::Service, pool: usize) -> &str {
    service.config.pools.get(pool).map_or("", |pool| &*pool.name)
}

fn release(service: &table::Service) -> String {
    format!("`standfast release {}`", service.config.name)
}

/// The words of the operator's order that holds, or of the one that stands.
pub(super) fn order_reason(service: &table::Service) -> Option<String> {
    let (state, history) = (&service.failover, &service.history);
    if state.held {
        return history.held_because.as_ref().map(ToString::to_string);
    }
    let last = history.last.as_ref().filter(|_| state.stands)?;
    let ours = last.cause == Cause::Manual && *last.to == *name(service, service.serving);
    ours.then(|| last.reason.to_string())
}

pub(super) fn stuck(service: &table::Service) -> Option<Stuck> {
    let trouble = service.failover.trouble?;
    let why = trouble.told(&service.config.name, service.serving, |pool| name(service, pool));
    Some(Stuck { kind: trouble.label().to_owned(), why })
}

pub(super) fn share(service: &table::Service, moment: Moment) -> Option<Share> {
    let share = service.share.filter(|share| share.permille > 0)?;
    let ramp = service.failover.ramp.filter(|ramp| ramp.to == share.pool);
    let complete = ramp.map(|ramp| ramp.began.saturating_add(ramp.length));
    Some(Share {
        pool: name(service, share.pool).to_owned(),
        percent: f64::from(share.permille) / 10.0,
        complete: complete.map(|at| moment.rfc3339(at)),
        complete_in_seconds: complete.map(|at| moment.seconds_until(at)),
    })
}

/// `None`: the first pool serves, and nothing keeps it from being left.
pub(super) fn coming(service: &table::Service, moment: Moment) -> Option<Coming> {
    let failback = service.config.failover.failback;
    let next = next(&service.failover, Settings { failback }, moment.now);
    let stable_for = match failback {
        Failback::Auto { stable_for, .. } => config::period(stable_for).to_string(),
        Failback::Manual => String::new(),
    };
    let (kind, to, at, why) = match next {
        Next::Nothing => return None,
        Next::Stuck(_) => ("stuck", None, None, stuck(service)?.why),
        Next::Held => {
            ("held", None, None, format!("nothing moves by itself until {}", release(service)))
        }
        Next::Stands => {
            let until = "an operator's order stands until health forces a move, or";
            ("stands", None, None, format!("{until} {}", release(service)))
        }
        Next::Manual => {
            let (app, first) = (&service.config.name, name(service, 0));
            let how = format!("`standfast switch {app} --to {first} --reason …`");
            ("manual", None, None, format!("failback is manual: {how}"))
        }
        Next::NoneHigher => {
            let first = name(service, 0);
            let why = format!("once {first} has been available for {stable_for}");
            ("none_higher", Some(0), None, why)
        }
        Next::Returning { to, complete } => {
            ("returning", Some(to), Some(complete), "a growing share goes there".to_owned())
        }
        Next::Return { to, at, waits } => {
            ("return", Some(to), Some(at), waits_for(waits, &stable_for, name(service, to)))
        }
    };
    Some(Coming {
        kind: kind.to_owned(),
        to: to.map(|to| name(service, to).to_owned()),
        at: at.map(|at| moment.rfc3339(at)),
        in_seconds: at.map(|at| moment.seconds_until(at)),
        why,
    })
}

fn waits_for(waits: Waits, stable_for: &str, to: &str) -> String {
    match waits {
        Waits::Stable => format!("if {to} stays available, {stable_for} in all"),
        Waits::Dwell => {
            format!("if {to} stays available; no return within {} of a move", config::period(DWELL))
        }
        Waits::Damped => {
            format!("{to} failed too often lately; damped until its penalty is below {REUSE}")
        }
        Waits::Capped => format!("it returned {RETURNS_MOST} times within 24h, which is the most"),
    }
}

/// `None` where the service has one pool alone.
pub(super) fn takeover(service: &table::Service, now: Duration) -> Option<Takeover> {
    let others = || service.pools.iter().enumerate().filter(|(pool, _)| *pool != service.serving);
    let told = |pool: usize, ready: bool, because: String| {
        Some(Takeover { pool: name(service, pool).to_owned(), ready, because })
    };
    let (first, _) = others().next()?;
    if service.failover.held {
        let because = format!("an operator holds the service: {}", release(service));
        return told(first, false, because);
    }
    let is_ready = |pool: &table::Pool| readiness(pool, now) == Readiness::Ready;
    let best = others().find(|(_, pool)| is_ready(pool));
    let best = best.or_else(|| others().find(|(_, pool)| pool.available));
    let (best, pool) = best.unwrap_or((first, &service.pools[first]));
    let state = readiness(pool, now);
    told(best, state == Readiness::Ready, readiness_told(pool, state))
}

fn readiness_told(pool: &table::Pool, state: Readiness) -> String {
    let (short, enough) = shortage(pool);
    match state {
        Readiness::Ready => enough,
        Readiness::Short => short,
        Readiness::Unchecked => "it has no health check".to_owned(),
        Readiness::Avoided => "its probes pass, but requests to it fail or meet silence".to_owned(),
        Readiness::Stale => "no probe has passed for three intervals".to_owned(),
        Readiness::Cold => "no warm connection to it is open yet".to_owned(),
    }
}

/// `0 of 2 endpoints up, needs 1`, and the same of a pool that lacks nothing.
fn shortage(pool: &table::Pool) -> (String, String) {
    let mut view = PoolView { min_healthy: pool.config.min_healthy, ..PoolView::default() };
    for (mode, verdict) in pool.modes.iter().zip(&pool.verdicts) {
        match verdict {
            _ if *mode != Mode::Active => view.off += 1,
            Verdict::Up => view.up += 1,
            Verdict::Unknown => view.unknown += 1,
            Verdict::Down => view.down += 1,
        }
    }
    let unknown = match view.unknown {
        0 => String::new(),
        unknown => format!(" ({unknown} not known yet)"),
    };
    let enough = format!("{} of {} endpoints up", view.up, view.total() + view.off);
    (format!("{}{unknown}", view.shortage()), enough)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::failover::{Ramp, State, Trouble};
    use crate::observe::fixture;
    use crate::table::Service;
    use crate::table::build::{self, Standing};
    use crate::table::history::{History, Moved};
    use crate::table::live::Doubt;
    use crate::table::ready;

    const MOMENT: Moment =
        Moment { now: Duration::from_secs(1030), unix: Duration::from_secs(1_700_000_000) };

    /// Served by standby since 1000 s, all endpoints with this verdict, as the machine has it.
    fn service(verdict: Verdict, change: impl FnOnce(&mut State)) -> Service {
        let table = fixture::table();
        let mut state = State::start(2, Duration::ZERO);
        (state.serving, state.since, state.cause) = (1, Duration::from_secs(1000), Cause::Manual);
        state.available_since = vec![Some(Duration::from_secs(1020)); 2];
        change(&mut state);
        let mut history = History::default();
        history.record(Moved {
            from: "hot".into(),
            to: "standby".into(),
            cause: Cause::Manual,
            reason: "upgrade of hot".into(),
            first_evidence: Duration::from_secs(1000),
            decided: Duration::from_secs(1000),
            published: Duration::from_secs(1000),
        });
        history.held_because = Some("the disks of hot".into());
        let standing = |_| Standing { verdict, ..Standing::default() };
        build::service(&table.services[0], &state, None, Arc::new(history), &standing)
    }

    #[test]
    fn it_says_what_keeps_a_service_and_how_to_end_that() {
        let held = service(Verdict::Up, |state| state.held = true);
        let coming = coming(&held, MOMENT).unwrap();
        assert_eq!(coming.kind, "held");
        assert_eq!(coming.why, "nothing moves by itself until `standfast release app`");
        assert_eq!(order_reason(&held).as_deref(), Some("the disks of hot"));
        let stands = service(Verdict::Up, |state| state.stands = true);
        assert_eq!(order_reason(&stands).as_deref(), Some("upgrade of hot"));
        assert_eq!(order_reason(&service(Verdict::Up, |_| {})), None);
        let told = takeover(&held, MOMENT.now).unwrap();
        assert_eq!((&*told.pool, told.ready), ("hot", false));
        assert_eq!(told.because, "an operator holds the service: `standfast release app`");
    }

    #[test]
    fn it_says_when_a_return_is_due_and_how_far_it_is() {
        let due = coming(&service(Verdict::Up, |_| {}), MOMENT).unwrap();
        assert_eq!((&*due.kind, due.to.as_deref()), ("return", Some("hot")));
        assert_eq!((due.in_seconds, &*due.why), (Some(290.0), "if hot stays available, 5m in all"));
        assert_eq!(due.at.as_deref(), Some("2023-11-14T22:18:10.000Z"));
        let mut ramping = service(Verdict::Up, |state| {
            let length = Duration::from_secs(60);
            state.ramp = Some(Ramp { to: 0, began: Duration::from_secs(1010), length });
        });
        ramping.share = Some(table::Share { pool: 0, permille: 50 });
        let share = share(&ramping, MOMENT).unwrap();
        assert_eq!((&*share.pool, share.percent), ("hot", 5.0));
        assert_eq!(share.complete_in_seconds, Some(40.0));
        assert_eq!(coming(&ramping, MOMENT).unwrap().kind, "returning");
        let first = service(Verdict::Up, |state| state.serving = 0);
        assert_eq!(coming(&first, MOMENT), None);
    }

    #[test]
    fn it_says_why_a_lost_pool_is_not_left() {
        for (trouble, part) in [
            (Trouble::Held, "standby is lost, but an operator holds"),
            (Trouble::Unproved { to: 0 }, "hot must first answer a probe"),
            (Trouble::Unsure, "standby must fail anew"),
            (Trouble::NoneAvailable, "no pool is available"),
        ] {
            let lost = service(Verdict::Down, |state| state.trouble = Some(trouble));
            let told = stuck(&lost).unwrap();
            assert!(told.why.contains(part), "{}", told.why);
            assert!(Trouble::LABELS.contains(&&*told.kind));
            assert_eq!(coming(&lost, MOMENT).unwrap().kind, "stuck");
        }
    }

    #[test]
    fn a_pool_could_take_over_if_probes_and_requests_both_say_so() {
        let told = |service: &Service| {
            let told = takeover(service, MOMENT.now).unwrap();
            (told.ready, told.because)
        };
        let up = service(Verdict::Up, |_| {});
        let stale = "no probe has passed for three intervals".to_owned();
        assert_eq!(told(&up), (false, stale), "up by what it was long ago");
        for endpoint in &up.pools[0].endpoints {
            let cells = &endpoint.counters.probes;
            cells.last_success_millis.store(1_029_000, Ordering::Relaxed);
        }
        assert_eq!(told(&up), (true, "2 of 2 endpoints up".to_owned()));
        assert!(ready::is_ready(&up.pools[0], MOMENT.now), "what the metric says");
        for endpoint in &up.pools[0].endpoints {
            endpoint.live.doubt(Doubt::Silent, Duration::from_secs(1));
        }
        assert!(!told(&up).0);
        assert!(!ready::is_ready(&up.pools[0], MOMENT.now), "and no more");
        let unknown = "0 of 2 endpoints up, needs 1 (2 not known yet)".to_owned();
        assert_eq!(told(&service(Verdict::Unknown, |_| {})), (false, unknown));
        let down = "0 of 2 endpoints up, needs 1".to_owned();
        assert_eq!(told(&service(Verdict::Down, |_| {})), (false, down));
    }
}
