//! ● The probe history: what was observed of every endpoint, as lines of JSON, and back.
//!
//! Equal results in a row are one line. The first of them have lines of their own, because the
//! moments at which a pool fails and comes back are what a replay is about; what follows is
//! stretched evenly between its first and its last time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failover::Cause;
use crate::failover::record::{Record, Source, Stamp};
use crate::health::{Failure, Observation};

/// Equal results in a row that have lines of their own.
const SINGLE: u64 = 10;
/// A run is written after this at the latest, so that a crash costs no more.
const LONGEST: Duration = Duration::from_secs(60);

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Run(Run),
    Moved(Moved),
}

/// One observation, or a run of equal ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub service: String,
    pub pool: String,
    pub endpoint: String,
    pub source: Source,
    /// `success`, `refused`, `timeout`, `503` …, `errors`, `void`.
    pub result: String,
    /// For people, of the first of them.
    pub detail: String,
    /// When the first and the last one were known.
    pub first: Stamp,
    pub last: Stamp,
    pub count: u64,
    /// How long the first one took, in microseconds.
    pub took: u64,
}

/// A move the process made then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub id: String,
    pub moved: String,
    pub from: String,
    pub to: String,
    pub cause: Cause,
    pub first_evidence: Stamp,
    pub at: Stamp,
}

/// One observation as control folded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub service: Arc<str>,
    pub pool: Arc<str>,
    pub endpoint: Arc<str>,
    pub source: Source,
    pub observation: Observation,
    pub detail: String,
    pub began: Stamp,
    pub at: Stamp,
}

impl Moved {
    /// None for what was no move.
    pub fn of(record: &Record) -> Option<Self> {
        record.aborted.is_none().then(|| Self {
            id: record.id.clone(),
            moved: record.service.clone(),
            from: record.from.clone(),
            to: record.to.clone(),
            cause: record.cause,
            first_evidence: record.times.first_evidence,
            at: record.times.published,
        })
    }
}

/// The runs that may go on.
#[derive(Debug, Default)]
pub struct Runs(HashMap<[Arc<str>; 3], Growing>);

#[derive(Debug)]
struct Growing {
    run: Run,
    /// Equal results before it that have lines of their own.
    before: u64,
}

impl Runs {
    /// Takes an observation; the lines that are finished by it.
    pub fn note(&mut self, seen: Seen) -> Vec<Line> {
        let key = [&seen.service, &seen.pool, &seen.endpoint].map(Arc::clone);
        let run = Run::of(seen);
        let before = match self.0.get_mut(&key) {
            Some(known) if known.run.is_continued_by(&run) => {
                if known.before >= SINGLE && run.at_most_after(&known.run, LONGEST) {
                    known.run.count += 1;
                    known.run.last = run.last;
                    return Vec::new();
                }
                known.before.saturating_add(known.run.count)
            }
            _ => 0,
        };
        let known = self.0.insert(key, Growing { run, before });
        known.map(|known| Line::Run(known.run)).into_iter().collect()
    }

    /// What is finished because nothing was added for long: of an endpoint that is gone, or is
    /// asked seldom.
    pub fn finished(&mut self, now: Stamp) -> Vec<Line> {
        let old = |known: &Growing| now.since(known.run.last) > LONGEST;
        let old = self.0.extract_if(|_, known| old(known));
        old.map(|(_, known)| Line::Run(known.run)).collect()
    }

    /// What is left at the end.
    pub fn rest(&mut self) -> Vec<Line> {
        self.0.drain().map(|(_, known)| Line::Run(known.run)).collect()
    }
}

impl Run {
    fn of(seen: Seen) -> Self {
        Self {
            result: result_of(seen.observation),
            took: u64::try_from(seen.at.since(seen.began).as_micros()).unwrap_or(u64::MAX),
            service: seen.service.to_string(),
            pool: seen.pool.to_string(),
            endpoint: seen.endpoint.to_string(),
            source: seen.source,
            detail: seen.detail,
            first: seen.at,
            last: seen.at,
            count: 1,
        }
    }

    fn is_continued_by(&self, next: &Self) -> bool {
        (self.source, &self.result) == (next.source, &next.result) && next.last >= self.last
    }

    fn at_most_after(&self, run: &Self, limit: Duration) -> bool {
        self.last.since(run.first) <= limit
    }

    /// What was observed; none for a result this version does not know.
    pub fn observation(&self) -> Option<Observation> {
        observation_of(&self.result)
    }

    /// When each of them began and was known.
    pub fn times(&self) -> impl Iterator<Item = (Stamp, Stamp)> {
        let whole = u128::from(self.last.0.saturating_sub(self.first.0));
        let (first, took, count) = (self.first.0, self.took, self.count);
        (0..count).map(move |index| {
            let gaps = u128::from(count.saturating_sub(1).max(1));
            let after = u64::try_from(whole * u128::from(index) / gaps).unwrap_or(u64::MAX);
            let at = first.saturating_add(after);
            (Stamp(at.saturating_sub(took)), Stamp(at))
        })
    }
}

/// The lines of a file; those that cannot be read are counted, for a crash may have torn one.
pub fn parse(text: &str) -> (Vec<Line>, usize) {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let (mut read, mut unreadable) = (Vec::new(), 0);
    for line in lines {
        match serde_json::from_str(line) {
            Ok(line) => read.push(line),
            Err(_) => unreadable += 1,
        }
    }
    (read, unreadable)
}

fn result_of(observation: Observation) -> String {
    let failure = match observation {
        Observation::Success => return "success".to_owned(),
        Observation::Errors => return "errors".to_owned(),
        Observation::SelfFault => return "void".to_owned(),
        Observation::Failure(failure) => failure,
    };
    match failure {
        Failure::Status(status) => status.to_string(),
        Failure::Refused => "refused".to_owned(),
        Failure::Reset => "reset".to_owned(),
        Failure::Unreachable => "unreachable".to_owned(),
        Failure::Timeout => "timeout".to_owned(),
        Failure::Tls => "tls".to_owned(),
        Failure::Content => "content".to_owned(),
        Failure::Malformed => "malformed".to_owned(),
    }
}

fn observation_of(result: &str) -> Option<Observation> {
    Some(Observation::Failure(match result {
        "success" => return Some(Observation::Success),
        "errors" => return Some(Observation::Errors),
        "void" => return Some(Observation::SelfFault),
        "refused" => Failure::Refused,
        "reset" => Failure::Reset,
        "unreachable" => Failure::Unreachable,
        "timeout" => Failure::Timeout,
        "tls" => Failure::Tls,
        "content" => Failure::Content,
        "malformed" => Failure::Malformed,
        status => Failure::Status(status.parse().ok()?),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Observation; 10] = [
        Observation::Success,
        Observation::Errors,
        Observation::SelfFault,
        Observation::Failure(Failure::Refused),
        Observation::Failure(Failure::Reset),
        Observation::Failure(Failure::Unreachable),
        Observation::Failure(Failure::Timeout),
        Observation::Failure(Failure::Tls),
        Observation::Failure(Failure::Content),
        Observation::Failure(Failure::Status(503)),
    ];

    fn seen(endpoint: &str, observation: Observation, at_millis: u64) -> Seen {
        Seen {
            service: "app".into(),
            pool: "hot".into(),
            endpoint: endpoint.into(),
            source: Source::Probe,
            observation,
            detail: "as seen".to_owned(),
            began: Stamp(at_millis * 1000 - 500),
            at: Stamp(at_millis * 1000),
        }
    }

    fn written(all: impl IntoIterator<Item = Seen>) -> Vec<Line> {
        let mut runs = Runs::default();
        let mut lines: Vec<_> = all.into_iter().flat_map(|seen| runs.note(seen)).collect();
        lines.extend(runs.rest());
        lines
    }

    #[test]
    fn a_quiet_hour_is_a_line_a_minute_and_a_failure_is_to_the_microsecond() {
        let quiet = (1..=3600).map(|second| seen("a", Observation::Success, second * 1000));
        let failed = seen("a", Observation::Failure(Failure::Timeout), 3_600_123);
        let lines = written(quiet.chain([failed.clone()]));
        assert!((65..80).contains(&lines.len()), "{} lines", lines.len());
        let Some(Line::Run(last)) = lines.last() else { panic!("no run") };
        assert_eq!(last.times().collect::<Vec<_>>(), [(failed.began, failed.at)]);
        assert_eq!(last.observation(), Some(failed.observation));
    }

    #[test]
    fn a_run_nothing_is_added_to_is_finished_after_a_minute() {
        let mut runs = Runs::default();
        assert_eq!(runs.note(seen("a", Observation::Success, 1000)), []);
        assert_eq!(runs.finished(Stamp(61_000_000)), []);
        assert_eq!(runs.finished(Stamp(61_000_001)).len(), 1);
        assert_eq!(runs.rest(), []);
    }

    #[test]
    fn torn_and_strange_lines_are_counted_and_passed_over() {
        let lines = written([seen("a", Observation::Success, 1000)]);
        let good = serde_json::to_string(&lines[0]).unwrap();
        let text = format!("{}\n\n{good}\n{{\"service\":1}}\n{good}", &good[..20]);
        let (read, unreadable) = parse(&text);
        assert_eq!((read.len(), unreadable), (2, 2));
    }

    proptest! {
        #[test]
        fn every_observation_comes_back_in_its_order(
            all in proptest::collection::vec((0usize..10, 0usize..3, 1u64..2000), 1..400),
        ) {
            let mut at = 1000;
            let all: Vec<_> = all
                .into_iter()
                .map(|(kind, endpoint, gap)| {
                    at += gap;
                    // Mostly successes, as in life.
                    let kind = if gap % 4 == 0 { KINDS[kind] } else { Observation::Success };
                    seen(["a", "b", "c"][endpoint], kind, at)
                })
                .collect();
            let text: Vec<_> = written(all.clone())
                .iter()
                .map(|line| serde_json::to_string(line).unwrap())
                .collect();
            let (lines, unreadable) = parse(&text.join("\n"));
            prop_assert_eq!(unreadable, 0);
            for endpoint in ["a", "b", "c"] {
                let mut read: Vec<_> = lines
                    .iter()
                    .filter_map(|line| match line {
                        Line::Run(run) if run.endpoint == endpoint => Some(run),
                        _ => None,
                    })
                    .flat_map(|run| run.times().map(|times| (times.1, run.observation())))
                    .collect();
                read.sort_by_key(|(at, _)| *at);
                let of = all.iter().filter(|seen| &*seen.endpoint == endpoint);
                let sent: Vec<_> = of.clone().map(|seen| Some(seen.observation)).collect();
                let kinds: Vec<_> = read.iter().map(|(_, observation)| *observation).collect();
                prop_assert_eq!(kinds, sent);
                for ((at, _), seen) in read.iter().zip(of) {
                    let off = at.since(seen.at).max(seen.at.since(*at));
                    prop_assert!(off < LONGEST, "{:?}", off);
                }
            }
        }
    }
}
