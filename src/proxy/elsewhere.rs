//! ○ Has a request that waits for a silent endpoint anywhere better to go?

use super::exchange::Call;
use super::local::Local;
use crate::health::Verdict;
use crate::table::{Endpoint, Mode, Pool};
use crate::upstream::lease::Chosen;

/// There is an endpoint nobody doubts that the request was not tried on, and it may be sent once
/// more. If not, it had better wait where it is: silence is no proof of death, and to take the
/// request away would lose what may still be answered.
pub fn may_be_tried(local: &Local, chosen: &Chosen, call: &Call) -> bool {
    if call.resent >= chosen.service().config.retries.attempts {
        return false;
    }
    let table = local.table();
    let Some(index) = table.service_index(&chosen.service().config.name) else { return false };
    let service = &table.services[index];
    let here = chosen.endpoint().id;
    let is_left = |pool: &Pool, endpoint: &Endpoint| {
        endpoint.id != here
            && !call.tried.contains(endpoint.id)
            && endpoint.in_flight() < pool.config.upstream.max_requests
    };
    let mut trusted = false;
    let mut stays = false;
    for pool in service.order.iter().map(|index| &service.pools[*index]) {
        let takers = pool
            .endpoints()
            .zip(&pool.modes)
            .filter(|((_, verdict), mode)| **mode == Mode::Active && *verdict != Verdict::Down);
        for ((endpoint, _), _) in takers.filter(|((endpoint, _), _)| is_left(pool, endpoint)) {
            trusted |= endpoint.live.is_trusted();
            stays |= pool.config.name == chosen.pool().config.name;
        }
    }
    // Within its pool a retry must be paid for.
    trusted && (!stays || local.with_budget(&table, index, |budget| budget.can_spend()))
}
