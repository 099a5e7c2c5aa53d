//! ● `standfast explain`: one move as a short story.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::status::outlook;
use super::{Clock, Paint, counted, cut, duration, line, millis, one, thousands, wrapped};
use crate::admin::view::Service;
use crate::failover::record::{Cost, Evidence, Source, Stamp, Waiting};
use crate::failover::{Cause, Record};

/// Lines of the timeline that are failures; the rest is listed by endpoint alone.
const MOST_FAILURES: usize = 8;
/// Characters of what was seen in the timeline; below it is told in full.
const BRIEF: usize = 40;

const INDENT: &str = "              ";

/// The whole record for people. `service` is its service as it stands now, if that is known.
pub(crate) fn explain(
    record: &Record,
    service: Option<&Service>,
    clock: Clock,
    paint: Paint,
) -> String {
    let mut out = paint.bold(&one(&format!("{}: {}", record.id, headline(record))));
    let (at, ago) = (clock.local(record.times.decided), duration(clock.age(record.times.decided)));
    line(&mut out, &format!("  {at}, {ago} ago"));
    wrapped(&mut out, "    ", &format!("  because {}", because(record)));
    if let Some(aborted) = &record.aborted {
        let mut told = String::new();
        wrapped(&mut told, "    ", &format!("  ABORTED: {aborted}"));
        out.push_str(&paint.bad(&told));
    }
    head(&mut out, "what it cost", paint);
    cost(&mut out, record, clock, paint);
    head(&mut out, "how it went", paint);
    timeline(&mut out, record);
    if !record.evidence.is_empty() {
        head(&mut out, "what was seen, by endpoint", paint);
        by_endpoint(&mut out, record);
    }
    head(&mut out, "what decided", paint);
    let rules = record.rules.iter().map(|(key, value)| format!("{key} {value}"));
    let rules: Vec<_> = rules.collect();
    if !rules.is_empty() {
        wrapped(&mut out, "  ", &format!("  {}", rules.join(", ")));
    }
    let (generation, digest) = (record.config.generation, &record.config.digest);
    line(&mut out, &format!("  configuration {generation} ({digest})"));
    if let Some(service) = service {
        head(&mut out, "what comes next", paint);
        out.push_str(&next(record, service, paint));
    }
    out
}

fn head(out: &mut String, text: &str, paint: Paint) {
    out.push('\n');
    out.push_str(&paint.bold(&one(text)));
}

fn headline(record: &Record) -> String {
    let Record { service, from, to, .. } = record;
    match (record.cause, &record.aborted) {
        (Cause::Drill, _) => format!("a drill of {service}, {from} to {to}"),
        (Cause::Failback, Some(_)) => format!("the return of {service} to {to} was broken off"),
        (_, Some(_)) => format!("{service} did not move from {from} to {to}"),
        (Cause::Failback, None) => format!("{service} returned from {from} to {to}"),
        (_, None) => format!("{service} moved from {from} to {to}"),
    }
}

fn because(record: &Record) -> String {
    let Record { from, to, reason, .. } = record;
    let mut told = match record.cause {
        Cause::Health => format!("{from} failed: {reason}"),
        Cause::Manual | Cause::Drill => format!("an operator ordered it: {reason}"),
        Cause::Failback => format!("{to} was well again: {reason}"),
        Cause::Removed => format!("the configuration no longer has {from}: {reason}"),
        Cause::Start => reason.clone(),
    };
    if record.forced {
        told.push_str("; FORCED although it was worse");
    }
    if record.held {
        told.push_str("; to stay there until released");
    }
    told
}

fn cost(out: &mut String, record: &Record, clock: Clock, paint: Paint) {
    let cost = &record.cost;
    let Cost { requests, held, in_flight, .. } = cost;
    let of = counted(*requests, "request");
    let lost = match cost.lost_total() {
        0 => paint.good(&one(&format!("  lost       none of {of}"))),
        lost => {
            let why = listed(&cost.lost);
            paint.bad(&one(&format!("  lost       {} of {of}: {why}", thousands(lost))))
        }
    };
    out.push_str(&lost);
    if cost.rescued_total() > 0 {
        let (rescued, how) = (thousands(cost.rescued_total()), listed(&cost.rescued));
        wrapped(out, "             ", &format!("  rescued    {rescued}: {how}"));
        let (mean, most) = (cost.added_latency_mean_micros, cost.added_latency_most_micros);
        let (mean, most) = (millis(mean), millis(most));
        line(out, &format!("             {mean} later than usual on average, {most} at the most"));
    }
    if *held > 0 {
        line(out, &format!("  waited     {} for an endpoint", thousands(*held)));
    }
    let left = format!("  in flight  {} at {} when it moved", thousands(*in_flight), record.from);
    line(out, &left);
    if !record.complete {
        line(out, "  NOT FINAL  it may grow by what is still under way");
    }
    if let Some(waiting) = &record.waiting {
        wrapped(out, "             ", &still_there(record, *waiting, clock));
    }
}

/// What the cost may yet grow by.
fn still_there(record: &Record, waiting: Waiting, clock: Clock) -> String {
    let Waiting { requests, until } = waiting;
    let (requests, from, until) = (thousands(requests), &record.from, clock.local(until));
    let until = until.split_once(' ').map_or(&*until, |(_, time)| time);
    let why = match record.cause {
        Cause::Health => "they may have been read, so they are not sent again",
        _ => "they are being answered",
    };
    format!("  waiting    {requests} at {from} still: {why}; final by {until} at the latest")
}

/// `40 idempotent, 895 not_sent`.
fn listed(counts: &BTreeMap<String, u64>) -> String {
    let counts = counts.iter().filter(|(_, count)| **count > 0);
    let counts = counts.map(|(what, count)| format!("{} {what}", thousands(*count)));
    counts.collect::<Vec<_>>().join(", ")
}

fn timeline(out: &mut String, record: &Record) {
    let times = &record.times;
    let mut events: Vec<(Stamp, u8, String)> = Vec::new();
    let failures = record.evidence.iter().filter(|seen| !seen.success && seen.pool == record.from);
    let proof = record
        .evidence
        .iter()
        .find(|seen| seen.success && seen.pool == record.to && seen.at >= times.first_evidence);
    let mut failures: Vec<&Evidence> = failures.collect();
    failures.sort_by_key(|seen| seen.at);
    let more = failures.len().saturating_sub(MOST_FAILURES);
    for seen in failures.into_iter().take(MOST_FAILURES).chain(proof) {
        events.push((seen.at, 1, format!("{}: {}", seen.endpoint, what(seen, BRIEF))));
    }
    if times.first_evidence < times.decided {
        events.push((times.first_evidence, 0, format!("first evidence against {}", record.from)));
    }
    events.push((times.decided, 2, "decided".to_owned()));
    if record.aborted.is_none() || times.published >= times.decided {
        let to = &record.to;
        events.push((times.published, 3, format!("published: new requests go to {to}")));
    }
    if let Some(first) = times.first_success {
        events.push((first, 4, format!("first request answered by {}", record.to)));
    }
    if let Some(completed) = times.completed {
        events.push((completed, 5, "over: the cost is final".to_owned()));
    }
    events.sort();
    for (at, _, text) in events {
        wrapped(out, INDENT, &format!("{:>12}  {text}", offset(at, times.first_evidence)));
    }
    if more > 0 {
        line(
            out,
            &format!("{INDENT}and {} are listed below", counted(more as u64, "more failure")),
        );
    }
}

/// From the first evidence on, or before it.
fn offset(at: Stamp, first: Stamp) -> String {
    let micros = |from: Stamp, to: Stamp| u64::try_from(to.since(from).as_micros());
    match micros(first, at).unwrap_or(u64::MAX) {
        0 if at == first => "+0 ms".to_owned(),
        0 => format!("-{}", millis(micros(at, first).unwrap_or(u64::MAX))),
        after => format!("+{}", millis(after)),
    }
}

/// What one observation saw, in so many characters and how often.
fn what(seen: &Evidence, most: usize) -> String {
    let source = match seen.source {
        Source::Probe => "probe",
        Source::Confirm => "confirm probe",
        Source::Live => "live traffic",
    };
    let mut told = format!("{source}: {}", cut(&seen.result, most));
    if seen.count > 1 {
        let _ = write!(told, ", {} times, the last then", thousands(seen.count));
    }
    told
}

fn by_endpoint(out: &mut String, record: &Record) {
    let mut seen: Vec<&Evidence> = record.evidence.iter().collect();
    // The pool that was left comes first.
    seen.sort_by_key(|seen| (seen.pool != record.from, &seen.pool, &seen.endpoint, seen.at));
    let mut shown = None;
    for seen in seen {
        let endpoint = (&seen.pool, &seen.endpoint);
        if shown != Some(endpoint) {
            line(out, &format!("  {} {}", seen.pool, seen.endpoint));
            shown = Some(endpoint);
        }
        let at = offset(seen.at, record.times.first_evidence);
        wrapped(out, INDENT, &format!("{at:>12}  {}{}", what(seen, usize::MAX), phases(seen)));
    }
}

/// ` in 1.4 ms (connect 0.2 ms, first byte 1.1 ms)`.
fn phases(seen: &Evidence) -> String {
    let Some(phases) = seen.phases else { return String::new() };
    let parts =
        [("connect", phases.connect), ("TLS", phases.tls), ("first byte", phases.first_byte)];
    let parts =
        parts.iter().filter_map(|(name, took)| Some(format!("{name} {}", millis((*took)?))));
    let parts: Vec<_> = parts.collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    format!(" in {}{parts}", millis(phases.total))
}

fn next(record: &Record, service: &Service, paint: Paint) -> String {
    let Service { name, serving, .. } = service;
    let after = if record.aborted.is_some() { &record.from } else { &record.to };
    let mut out = one(&format!("  {serving} serves now"));
    if serving != after {
        out = one(&format!("  {serving} serves again: `standfast history {name}`"));
    }
    out.push_str(&outlook(service, paint));
    out
}

#[cfg(test)]
mod tests {
    use super::super::Clock;
    use super::*;
    use crate::admin::view::{Moment, Status};
    use crate::observe::fixture::{self, FIRST, record};

    const CLOCK: Clock = Clock { now: Stamp(FIRST + 12_000_000_000), offset: |_| 0 };

    fn service() -> Service {
        let now = std::time::Duration::from_secs(100);
        let moment = Moment { now, unix: std::time::Duration::from_secs(1_795_222_081) };
        Status::of(&fixture::table_with_record(), "ready", moment).services.remove(0)
    }

    #[test]
    fn a_failover_is_a_story_in_80_columns() {
        let told = explain(&record(3), Some(&service()), CLOCK, Paint(false));
        let expected = "\
app-3: app moved from hot to standby
  2026-11-20 21:28:01, 3 h 19 m ago
  because hot failed: connection refused; 0 of 2 endpoints up, needs 1

what it cost
  lost       3 of 3,210 requests: 3 not_idempotent
  rescued    935: 40 idempotent, 895 not_sent
             1.2 ms later than usual on average, 8.3 ms at the most
  waited     12 for an endpoint
  in flight  6 at hot when it moved

how it went
       +0 ms  first evidence against hot
     +0.8 ms  10.0.1.10:80: confirm probe: connection refused
     +2.1 ms  10.0.2.10:80: confirm probe: 200
     +3.4 ms  first request answered by standby
      +21 ms  10.0.1.10:80: confirm probe: connection refused
      +41 ms  10.0.1.11:80: confirm probe: connection refused
      +42 ms  10.0.1.10:80: live traffic: connection refused, 37 times, the last
              then
      +42 ms  decided
      +42 ms  published: new requests go to standby
      +1.2 s  over: the cost is final

what was seen, by endpoint
  hot 10.0.1.10:80
     -412 ms  probe: 200 in 1.4 ms (connect 0.2 ms, first byte 1.1 ms)
     +0.8 ms  confirm probe: connection refused
      +21 ms  confirm probe: connection refused
      +42 ms  live traffic: connection refused, 37 times, the last then
  hot 10.0.1.11:80
      +41 ms  confirm probe: connection refused
  standby 10.0.2.10:80
     +2.1 ms  confirm probe: 200 in 1.2 ms (connect 0.2 ms, first byte 0.9 ms)

what decided
  min_healthy 1, unhealthy_threshold 3, when_none try_all
  configuration 4 (0123456789abcdef)

what comes next
  standby serves now
  next: back to hot once hot has been available for 5m
  hot could take over now: NO, 0 of 2 endpoints up, needs 1 (2 not known yet)
";
        assert_eq!(told, expected);
        assert!(told.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn an_order_names_the_operators_words_and_what_it_overrode() {
        let mut ordered = record(4);
        (ordered.cause, ordered.reason) = (Cause::Manual, "upgrade".to_owned());
        (ordered.forced, ordered.held, ordered.complete) = (true, true, false);
        (ordered.from, ordered.to) = ("standby".to_owned(), "hot".to_owned());
        ordered.evidence.clear();
        ordered.waiting = Some(Waiting { requests: 12, until: Stamp(FIRST + 36_000_000) });
        ordered.cost = Cost::default();
        ordered.times.first_evidence = ordered.times.decided;
        let told = explain(&ordered, Some(&service()), CLOCK, Paint(false));
        for part in [
            "app moved from standby to hot",
            "ordered it: upgrade; FORCED although it was worse; to stay\n    there until released",
            "  lost       none of 0 requests\n",
            "NOT FINAL  it may grow by",
            "waiting    12 at standby still: they are being answered; final by 21:28:37 at\n",
            "standby serves again: `standfast history app`",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains("first evidence") && !told.contains("by endpoint"), "{told}");
    }

    #[test]
    fn a_return_that_was_broken_off_says_why() {
        let mut broken = record(5);
        (broken.cause, broken.to, broken.from) =
            (Cause::Failback, "hot".to_owned(), "standby".to_owned());
        broken.aborted = Some("hot errs more: 5 of 100 against 0 of 900".to_owned());
        let told = explain(&broken, None, CLOCK, Paint(true));
        assert!(told.contains("the return of app to hot was broken off"), "{told}");
        assert!(told.contains("\x1b[1;31m  ABORTED: hot errs more"), "{told}");
        assert!(!told.contains("what comes next"), "{told}");
    }
}
