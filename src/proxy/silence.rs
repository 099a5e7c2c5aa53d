//! ● Is an endpoint silent? Judged by the requests of one worker that wait for it.
//!
//! Two signs: its kernel acknowledges nothing (the machine or the way to it is gone), or several
//! requests wait for much longer than usual and nobody was answered meanwhile (the process hangs).
//! Slowness alone is neither.

use std::time::Duration;

/// How often a worker looks at its waiting requests.
pub const LOOK: Duration = Duration::from_millis(10);

/// Nothing is overdue earlier. Linux may delay an acknowledgement by 40 ms.
pub const PATIENCE: Duration = Duration::from_millis(50);

/// Patience with a request whose body is still on its way: the endpoint may be busy storing it.
const UPLOAD_PATIENCE: Duration = Duration::from_millis(200);

/// Patience while it is not known what is usual.
const PATIENCE_AT_FIRST: Duration = Duration::from_millis(250);

/// The kernel tells times in its ticks, of which the longest is this.
const KERNEL_TICK: Duration = Duration::from_millis(10);

/// As many overdue requests say that an endpoint nobody doubts is silent.
const OVERDUE: usize = 3;

/// A request that waits for the head of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Since it was sent.
    pub age: Duration,
    /// The endpoint answered nobody since then.
    pub unheard: bool,
    /// [`is_unacknowledged`].
    pub unacknowledged: bool,
}

/// What a worker makes of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    Fine,
    /// Something is overdue, which may be that request's own nature.
    LookCloser,
    Silent,
}

/// What the kernel knows of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    /// Segments on their way.
    pub unacknowledged: u32,
    pub since_last_ack: Duration,
    /// The shortest measured.
    pub round_trip: Duration,
}

/// Judges an endpoint that everybody waits for longer than `overdue`.
///
/// `doubted`: somebody else found it silent already, so that one request is witness enough.
pub fn judge(waits: impl IntoIterator<Item = Wait>, overdue: Duration, doubted: bool) -> Finding {
    let enough = if doubted { 1 } else { OVERDUE };
    let mut late = 0;
    for wait in waits {
        late += usize::from(wait.unheard && wait.age >= overdue);
        if wait.unacknowledged || late >= enough {
            return Finding::Silent;
        }
    }
    if late > 0 { Finding::LookCloser } else { Finding::Fine }
}

/// After how long a request is overdue, by the 99th percentile of recent answers.
pub fn overdue_after(p99: Option<Duration>) -> Duration {
    p99.map_or(PATIENCE_AT_FIRST, |p99| (p99 * 5).max(PATIENCE))
}

/// Nobody takes what was sent: not because the endpoint is slow to answer, for its kernel
/// acknowledges without it.
///
/// `quiet`: since the request was sent and the endpoint last answered anybody, for one lost segment
/// says nothing of an endpoint that goes on answering. `uploading`: the body is still on its way.
pub fn is_unacknowledged(flight: Flight, quiet: Duration, uploading: bool) -> bool {
    // An acknowledgement takes its round trip, and one more is for the variance of it.
    let patience = unacknowledged_after(uploading) + 2 * flight.round_trip;
    flight.unacknowledged > 0
        && quiet >= patience
        && flight.since_last_ack + KERNEL_TICK >= patience
}

/// [`is_unacknowledged`] needs not be asked earlier.
pub fn unacknowledged_after(uploading: bool) -> Duration {
    if uploading { UPLOAD_PATIENCE } else { PATIENCE }
}

/// A worker that looks again only after `gap` was itself not running: answers may lie unread in its
/// sockets. It blames nobody, and all waits begin anew.
pub fn was_late(gap: Duration) -> bool {
    gap > 3 * LOOK
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn unheard(age: u64) -> Wait {
        Wait { age: millis(age), unheard: true, unacknowledged: false }
    }

    #[test]
    fn three_overdue_requests_are_silence_and_fewer_a_reason_to_look() {
        let judge = |waits: &[Wait]| judge(waits.iter().copied(), millis(50), false);
        assert_eq!(judge(&[unheard(49), unheard(49), unheard(49)]), Finding::Fine);
        assert_eq!(judge(&[unheard(50), unheard(49), unheard(49)]), Finding::LookCloser);
        assert_eq!(judge(&[unheard(900), unheard(900)]), Finding::LookCloser);
        assert_eq!(judge(&[unheard(50), unheard(51), unheard(52)]), Finding::Silent);
    }

    #[test]
    fn requests_that_wait_while_others_are_answered_are_slow_by_nature() {
        let slow = Wait { unheard: false, ..unheard(60_000) };
        assert_eq!(judge([slow; 100], millis(50), true), Finding::Fine);
        let waits = [slow, slow, unheard(60)];
        assert_eq!(judge(waits, millis(50), false), Finding::LookCloser);
    }

    #[test]
    fn one_overdue_request_condemns_an_endpoint_that_is_doubted_already() {
        assert_eq!(judge([unheard(60)], millis(50), true), Finding::Silent);
        assert_eq!(judge([unheard(40)], millis(50), true), Finding::Fine);
    }

    #[test]
    fn what_is_overdue_follows_what_is_usual() {
        assert_eq!(overdue_after(None), millis(250));
        assert_eq!(overdue_after(Some(millis(8))), millis(50));
        assert_eq!(overdue_after(Some(millis(100))), millis(500));
    }

    fn flight(unacknowledged: u32, since_last_ack: u64, round_trip: u64) -> Flight {
        let (since_last_ack, round_trip) = (millis(since_last_ack), millis(round_trip));
        Flight { unacknowledged, since_last_ack, round_trip }
    }

    #[test]
    fn bytes_nobody_acknowledges_are_silence_after_a_delayed_acknowledgement() {
        let after = |flight, quiet| is_unacknowledged(flight, millis(quiet), false);
        assert!(after(flight(1, 50, 0), 50));
        assert!(!after(flight(1, 49, 0), 49));
        assert!(!after(flight(0, 50, 0), 50), "all is acknowledged");
        assert!(!after(flight(1, 5, 0), 50), "bytes are on their way, one after the other");
        assert!(!after(flight(1, 9_000, 0), 3), "idle before, and sent just now");
        assert!(!after(flight(1, 140, 50), 140), "far away");
        assert!(after(flight(1, 150, 50), 150));
    }

    #[test]
    fn a_body_on_its_way_has_more_time() {
        assert!(!is_unacknowledged(flight(9, 190, 0), millis(190), true));
        assert!(is_unacknowledged(flight(9, 200, 0), millis(200), true));
    }

    #[test]
    fn a_worker_that_missed_its_looks_is_late() {
        assert!(!was_late(millis(30)));
        assert!(was_late(millis(31)));
    }

    fn wait() -> impl Strategy<Value = Wait> {
        (0..200u64, any::<bool>(), prop::bool::weighted(0.05)).prop_map(
            |(age, unheard, unacknowledged)| Wait { age: millis(age), unheard, unacknowledged },
        )
    }

    proptest! {
        #[test]
        fn silence_has_its_witnesses(
            waits in prop::collection::vec(wait(), 0..12),
            overdue in 50..150u64,
            doubted: bool,
        ) {
            let overdue = millis(overdue);
            let late = waits.iter().filter(|wait| wait.unheard && wait.age >= overdue).count();
            let dead = waits.iter().any(|wait| wait.unacknowledged);
            let expected = match late {
                _ if dead => Finding::Silent,
                0 => Finding::Fine,
                1 | 2 if !doubted => Finding::LookCloser,
                _ => Finding::Silent,
            };
            prop_assert_eq!(judge(waits, overdue, doubted), expected);
        }

        #[test]
        fn one_more_wait_or_a_doubt_never_makes_an_endpoint_look_better(
            mut waits in prop::collection::vec(wait(), 0..12),
            more in wait(),
            overdue in 50..150u64,
        ) {
            let overdue = millis(overdue);
            let before = judge(waits.iter().copied(), overdue, false);
            prop_assert!(judge(waits.iter().copied(), overdue, true) >= before);
            waits.push(more);
            prop_assert!(judge(waits, overdue, false) >= before);
        }

        #[test]
        fn nothing_is_silent_within_the_delay_of_an_acknowledgement(
            waits in prop::collection::vec((0..50u64).prop_map(unheard), 0..50),
            p99 in prop::option::of(0..10_000u64),
            doubted: bool,
        ) {
            let overdue = overdue_after(p99.map(millis));
            prop_assert_eq!(judge(waits, overdue, doubted), Finding::Fine);
        }
    }
}
