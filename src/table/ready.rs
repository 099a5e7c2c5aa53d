//! ● Could a pool take over this moment?

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Endpoint, Mode, Pool};
use crate::health::Verdict;

/// A probe result counts this many intervals.
const FRESH_INTERVALS: u32 = 3;

/// Whether a pool could take over, or the first thing it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// At least `min_healthy` endpoints are up and active, requests do not avoid them, they were
    /// probed well within the last three intervals and, where `upstream.warm` asks for it, have a
    /// connection that is ready or in use.
    Ready,
    /// Nothing is known of a pool without a health check.
    Unchecked,
    /// Too few endpoints are up.
    Short,
    /// Probes pass, but requests met silence or errors.
    Avoided,
    /// The last probes that passed are too old.
    Stale,
    /// Too few endpoints have a connection.
    Cold,
}

/// What the status and `standfast_pool_ready` say of a pool.
pub fn readiness(pool: &Pool, now: Duration) -> Readiness {
    let Some(check) = &pool.config.health_check else { return Readiness::Unchecked };
    let oldest = now.saturating_sub(check.interval * FRESH_INTERVALS);
    let known = pool.endpoints.iter().zip(&pool.verdicts).zip(&pool.modes);
    let up = known.filter(|((_, verdict), mode)| {
        (**verdict, **mode) == (Verdict::Up, Mode::Active) && pool.available
    });
    let mut good: Vec<&Endpoint> = up.map(|((endpoint, _), _)| &**endpoint).collect();
    let mut lacks = |is_good: &dyn Fn(&Endpoint) -> bool| {
        good.retain(|endpoint| is_good(endpoint));
        good.len() < pool.config.min_healthy as usize
    };
    if lacks(&|_| true) {
        Readiness::Short
    } else if lacks(&|endpoint| endpoint.live.is_trusted()) {
        Readiness::Avoided
    } else if lacks(&|endpoint| last_success(endpoint).is_some_and(|at| at >= oldest)) {
        Readiness::Stale
    } else if pool.config.upstream.warm > 0 && lacks(&is_connected) {
        Readiness::Cold
    } else {
        Readiness::Ready
    }
}

pub fn is_ready(pool: &Pool, now: Duration) -> bool {
    readiness(pool, now) == Readiness::Ready
}

fn last_success(endpoint: &Endpoint) -> Option<Duration> {
    let millis = endpoint.counters.probes.last_success_millis.load(Ordering::Relaxed);
    Some(Duration::from_millis(millis.checked_sub(1)?))
}

fn is_connected(endpoint: &Endpoint) -> bool {
    let idle = endpoint.counters.workers.sum(|cells| cells.idle.load(Ordering::Relaxed).into());
    idle > 0 || endpoint.in_flight() > 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::balance::Candidates;
    use crate::config;
    use crate::table::EndpointId;
    use crate::table::fixture;

    const NOW: Duration = Duration::from_secs(100);

    /// Two endpoints that are up, of which two are needed, probed well a second ago.
    fn pool(warm: u32) -> Pool {
        let mut settings =
            config::Pool::clone(&fixture::pool("p", &["10.0.0.1:80", "10.0.0.2:80"]));
        settings.min_healthy = 2;
        settings.upstream.warm = warm;
        let endpoint = |(serial, config): (u32, &Arc<config::Endpoint>)| {
            let id = EndpointId { slot: serial, serial };
            let endpoint = Endpoint::new(id, "s".into(), "p".into(), Arc::clone(config), 2);
            probed(&endpoint, NOW - Duration::from_secs(1));
            Arc::new(endpoint)
        };
        Pool {
            endpoints: (1..).zip(&settings.endpoints).map(endpoint).collect(),
            config: Arc::new(settings),
            verdicts: [Verdict::Up; 2].into(),
            details: Box::default(),
            modes: [Mode::Active; 2].into(),
            candidates: Candidates::new(Vec::new()),
            available: true,
        }
    }

    fn probed(endpoint: &Endpoint, at: Duration) {
        let cell = &endpoint.counters.probes.last_success_millis;
        cell.store(at.as_millis() as u64 + 1, Ordering::Relaxed);
    }

    #[test]
    fn a_pool_is_ready_only_with_enough_endpoints_that_are_up_active_and_probed_of_late() {
        assert!(is_ready(&pool(0), NOW));
        assert!(is_ready(&pool(0), NOW + Duration::from_secs(2)));
        assert!(!is_ready(&pool(0), NOW + Duration::from_secs(3)), "nobody probes it any more");
        assert!(!is_ready(&Pool { available: false, ..pool(0) }, NOW));
        assert!(!is_ready(&Pool { verdicts: [Verdict::Up, Verdict::Down].into(), ..pool(0) }, NOW));
        assert!(!is_ready(&Pool { modes: [Mode::Active, Mode::Drain].into(), ..pool(0) }, NOW));
        let stale = pool(0);
        probed(&stale.endpoints[1], Duration::ZERO);
        assert!(!is_ready(&stale, NOW));
    }

    #[test]
    fn where_warm_connections_are_asked_for_each_endpoint_needs_one() {
        let pool = pool(2);
        assert!(!is_ready(&pool, NOW));
        pool.endpoints[0].counters.workers.of(1).idle.store(1, Ordering::Relaxed);
        assert!(!is_ready(&pool, NOW));
        pool.endpoints[1].enter();
        assert!(is_ready(&pool, NOW), "a connection in use is one as well");
    }
}
