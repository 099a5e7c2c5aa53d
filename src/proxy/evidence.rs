//! ○ What answers and failures say of the endpoints they came from: doubts, sightings, counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::exchange::Call;
use super::hold::Turns;
use super::local::Local;
use crate::clock;
use crate::health::Verdict;
use crate::table::Endpoint;
use crate::table::counters::UpstreamError;
use crate::table::live::{Doubt, ErrorsInRow, Origin, Seen};
use crate::upstream::connect::ConnectError;
use crate::upstream::lease::Chosen;

/// The statuses by which a gateway says that it could not answer (RFC 9110 sections 15.6.3 to
/// 15.6.5). 500 is none: the endpoint itself answered, if only to say that it failed.
pub fn is_gateway_error(status: u16) -> bool {
    matches!(status, 502..=504)
}

/// The endpoint is silent, fails all, or is down: who waits for it may well wait in vain. A single
/// gateway error says no such thing.
pub fn is_in_doubt(local: &Local, chosen: &Chosen) -> bool {
    let endpoint = chosen.endpoint();
    let is_down = |(other, verdict): (&Arc<Endpoint>, Verdict)| {
        other.id == endpoint.id && verdict == Verdict::Down
    };
    let doubts = [Doubt::Silent, Doubt::Errors];
    doubts.iter().any(|doubt| endpoint.live.is(*doubt)) || local.table().endpoints().any(is_down)
}

/// The endpoint gave this request an answer at `now` that is no gateway error.
pub fn answered(local: &Local, call: &mut Call, chosen: &Chosen, now: Duration) {
    let endpoint = chosen.endpoint();
    if endpoint.live.answered(now) {
        local.relieve();
    }
    if call.hold_until.is_some() {
        local.turns.answered();
        // One for each turn that this brings; with nobody there, the next hold would begin with it.
        if local.turns.are_waited_for() {
            (0..Turns::EACH).for_each(|_| local.relief.notify_one());
        }
    }
    let service = chosen.service();
    if chosen.pool != service.serving {
        let first = &service.counters.first_elsewhere;
        if first.load(Ordering::Relaxed) == 0 {
            let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX - 1) + 1;
            let _ = first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
    for (blamed, status) in std::mem::take(&mut call.blamed) {
        if blamed.endpoint().id != endpoint.id {
            judge(local, &blamed, status, blamed.endpoint().live.twin_answered(now), false);
        }
    }
}

/// The endpoint answered this request with a gateway error, `answer`: the status and when it came.
pub fn gateway_error(
    local: &Local,
    call: &mut Call,
    chosen: &Chosen,
    answer: (u16, Duration),
    origin: impl FnOnce() -> Origin,
) {
    if chosen.service().config.outlier_errors.is_none() {
        return;
    }
    let (status, now) = answer;
    let row = chosen.endpoint().live.gateway_error(origin(), now);
    judge(local, chosen, status, row, true);
    call.blamed.push((chosen.clone(), status));
}

/// Requests avoid an endpoint whose errors its twins do not share, and control is told of it: only
/// where neither one connection nor one address can be behind them, and where they lasted longer
/// than others would have been without a good answer. Else whoever is refused with 503 (for asking
/// too often, say) would drive all others away with him.
fn judge(local: &Local, chosen: &Chosen, status: u16, row: ErrorsInRow, is_another: bool) {
    let limit = chosen.service().config.outlier_errors.unwrap_or(u32::MAX).max(1);
    if row.count < limit || !row.twin_answers || !row.widespread || !row.lasted {
        return;
    }
    let endpoint = chosen.endpoint();
    let is_new = endpoint.live.doubt(Doubt::Errors, clock::now());
    // Told again after as many more: what was told first may have been lost, or forgiven since.
    if is_new || is_another && row.count.is_multiple_of(limit) {
        local.sight(endpoint.id, Seen::Errors { count: row.count, status });
    }
}

/// No connection to the endpoint came about, through no fault of ours.
pub fn connect_failed(local: &Local, chosen: &Chosen, error: &ConnectError) {
    if error.self_fault {
        return;
    }
    let (endpoint, now) = (chosen.endpoint(), clock::now());
    endpoint.live.doubt(Doubt::Silent, now);
    endpoint.counters.workers.of(local.worker).failed_at(error.reason, now);
    if let Some(kind) = sighted(error.reason) {
        local.sight(endpoint.id, kind);
    }
}

/// A new connection to the endpoint is silent for longer than it usually is. True where that is the
/// first to be held against it.
pub fn connect_silent(local: &Local, chosen: &Chosen) -> bool {
    let endpoint = chosen.endpoint();
    let is_new = endpoint.live.doubt(Doubt::Silent, clock::now());
    if is_new {
        local.sight(endpoint.id, Seen::Silent);
    }
    is_new
}

/// A connection whose silence had brought a doubt came about after all.
pub fn connected_late(local: &Local, chosen: &Chosen) {
    chosen.endpoint().live.clear(Doubt::Silent);
    local.relieve();
}

/// What control is told of a failure.
pub fn sighted(error: UpstreamError) -> Option<Seen> {
    Some(match error {
        UpstreamError::Refused => Seen::Refused,
        UpstreamError::Unreachable => Seen::Unreachable,
        UpstreamError::Tls => Seen::Tls,
        UpstreamError::ConnectTimeout | UpstreamError::Timeout => Seen::Silent,
        UpstreamError::Reset => Seen::Reset,
        UpstreamError::Malformed => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Worker;
    use super::super::local::Snapshot;
    use super::*;
    use crate::http1::Method;
    use crate::table::live::Live;

    /// A request that the first endpoint answers with 503 and, if that one `helps`, the second
    /// pool's well.
    fn request(worker: &Worker, target: u32, connection: u32, helps: bool) {
        let table = Snapshot::clone(&worker.table);
        let mut call = Call::new(table, 0, Method::Get, Duration::ZERO);
        let origin = || Origin { target, connection };
        let answer = (503, clock::now());
        gateway_error(&worker.local, &mut call, &worker.chosen(0, 0), answer, origin);
        if helps {
            answered(&worker.local, &mut call, &worker.chosen(1, 0), clock::now());
        }
    }

    fn errors(count: u32) -> Seen {
        Seen::Errors { count, status: 503 }
    }

    #[test]
    fn errors_in_a_row_that_a_twin_does_not_share_are_told_after_five_and_after_ten() {
        let mut worker = Worker::new();
        (0..4).for_each(|n| request(&worker, n, n, true));
        std::thread::sleep(Live::LASTS_LEAST);
        assert!(worker.seen().is_empty());
        assert!(!worker.endpoint(0, 0).live.is(Doubt::Errors));
        request(&worker, 4, 4, false);
        assert_eq!(worker.seen(), [errors(5)]);
        assert!(worker.endpoint(0, 0).live.is(Doubt::Errors));
        (5..9).for_each(|n| request(&worker, n, n, true));
        assert!(worker.seen().is_empty());
        request(&worker, 9, 9, true);
        assert_eq!(worker.seen(), [errors(10)]);
        assert!(worker.endpoint(1, 0).live.is_trusted());
    }

    #[test]
    fn a_good_answer_begins_the_row_anew() {
        let mut worker = Worker::new();
        (0..4).for_each(|n| request(&worker, n, n, true));
        std::thread::sleep(Live::LASTS_LEAST);
        let table = Snapshot::clone(&worker.table);
        let mut call = Call::new(table, 0, Method::Get, Duration::ZERO);
        answered(&worker.local, &mut call, &worker.chosen(0, 0), clock::now());
        (0..4).for_each(|n| request(&worker, n, n, true));
        assert!(worker.seen().is_empty());
    }

    #[test]
    fn one_client_or_one_target_or_an_error_all_share_is_held_against_nobody() {
        for (targets, connections, helps) in [(1, 9, true), (9, 1, true), (9, 9, false)] {
            let mut worker = Worker::new();
            let ask = |n: u32| request(&worker, n % targets, n % connections, helps);
            (0..29).for_each(ask);
            std::thread::sleep(Live::LASTS_LEAST);
            (29..31).for_each(ask);
            assert!(worker.seen().is_empty());
            assert!(!worker.endpoint(0, 0).live.is(Doubt::Errors));
        }
    }

    #[test]
    fn our_own_faults_are_held_against_nobody() {
        let mut worker = Worker::new();
        let error = |self_fault| ConnectError {
            reason: UpstreamError::Unreachable,
            self_fault,
            tls_fault: None,
            detail: String::new(),
        };
        connect_failed(&worker.local, &worker.chosen(0, 0), &error(true));
        assert!(worker.endpoint(0, 0).live.is_trusted() && worker.seen().is_empty());
        connect_failed(&worker.local, &worker.chosen(0, 0), &error(false));
        assert!(worker.endpoint(0, 0).live.is(Doubt::Silent));
        assert_eq!(worker.seen(), [Seen::Unreachable]);
    }

    #[test]
    fn the_first_good_answer_of_another_pool_is_noted_once() {
        let worker = Worker::new();
        let first = || worker.table.services[0].counters.first_elsewhere.load(Ordering::Relaxed);
        let table = Snapshot::clone(&worker.table);
        let mut call = Call::new(table, 0, Method::Get, Duration::ZERO);
        answered(&worker.local, &mut call, &worker.chosen(0, 1), clock::now());
        assert_eq!(first(), 0);
        answered(&worker.local, &mut call, &worker.chosen(1, 1), clock::now());
        let noted = first();
        assert!(noted > 0);
        answered(&worker.local, &mut call, &worker.chosen(1, 1), clock::now());
        assert_eq!(first(), noted);
    }
}
