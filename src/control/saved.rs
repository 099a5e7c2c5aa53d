//! ● What the state file says: the shape, whether it can be believed, and what it means for a
//! configuration.
//!
//! One JSON object: `{"checksum":"…","version":1,"written_at":…,"state":{…}}`. The checksum is over
//! every byte behind it, so that a file that was torn, edited or filled with zeros is none. Times
//! are ages: the monotonic clock of one process means nothing to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{self, Config};
use crate::failover::record::{Clock, Stamp};
use crate::failover::{self, Cause, Penalty, Record};
use crate::health::{self, Verdict};
use crate::table::history::{History, Moved};
use crate::table::{Detail, EndpointId, Mode, Service, Table, TakenOut};

const VERSION: u32 = 1;
/// A file older than this says nothing about now.
pub const AGE_MOST: Duration = Duration::from_secs(60 * 60);
/// Clocks may have been set back by as much since it was written.
const AHEAD_MOST: Duration = Duration::from_secs(60);

/// Everything a process leaves to the next one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Saved {
    pub services: BTreeMap<String, SavedService>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedService {
    /// Name of the pool.
    pub serving: String,
    pub cause: Cause,
    /// Ages and spans of time are in microseconds.
    pub since: u64,
    pub held: bool,
    pub stands: bool,
    /// The operator's words for a hold.
    pub held_because: Option<String>,
    /// When the service returned to a pool of higher priority.
    pub returns: Vec<u64>,
    pub next_record: u64,
    pub pools: BTreeMap<String, SavedPool>,
    /// Oldest first.
    #[serde(serialize_with = "write_records", deserialize_with = "read_records")]
    pub records: Vec<Arc<Record>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SavedPool {
    /// In thousandths.
    pub penalty: u64,
    pub suppressed: bool,
    /// Those there is something to say of: an endpoint that is well and in use is not trusted to
    /// be so after a restart.
    pub endpoints: BTreeMap<String, SavedEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SavedEndpoint {
    /// For how long it has been down, if it is.
    pub down: Option<u64>,
    pub reason: Option<String>,
    /// It comes back only after five good probes.
    pub wary: bool,
    /// How often errors of live traffic barred it, and for how long it still is.
    pub bars: u32,
    pub barred: u64,
    /// `drain` or `off`; none where it is active.
    pub mode: Option<String>,
    /// How long ago that was ordered, and why.
    pub mode_since: Option<u64>,
    pub mode_reason: Option<String>,
}

/// Why a state file is not heeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It is no state file, or was damaged.
    Damaged,
    /// Of another version of the format.
    Version(u32),
    /// Older than [`AGE_MOST`].
    Old(Duration),
    /// Written later than now.
    Future(Duration),
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged => f.write_str("it is damaged, or not a state file of ours"),
            Self::Version(version) => {
                write!(f, "it has version {version} of the format, not {VERSION}")
            }
            Self::Old(age) => write!(f, "it is {} s old", age.as_secs()),
            Self::Future(ahead) => write!(f, "it was written {} s from now", ahead.as_secs()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Sealed<S> {
    version: u32,
    written_at: Stamp,
    state: S,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// How the file begins: up to the checksum, and behind it.
const BEFORE: &[u8] = b"{\"checksum\":\"";
const BEHIND: &[u8] = b"\",";
const DIGITS: usize = 16;

/// The bytes of a state file.
///
/// # Errors
/// Never, as far as is known: everything in a `Saved` can be written as JSON.
pub fn encode(saved: &Saved, written_at: Stamp) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_vec(&Sealed { version: VERSION, written_at, state: saved })?;
    // Without its opening brace the object goes on behind the checksum.
    let rest = &body[1..];
    let mut file = Vec::with_capacity(BEFORE.len() + DIGITS + BEHIND.len() + body.len());
    file.extend_from_slice(BEFORE);
    file.extend_from_slice(format!("{:016x}", checksum(rest)).as_bytes());
    file.extend_from_slice(BEHIND);
    file.extend_from_slice(rest);
    file.push(b'\n');
    Ok(file)
}

/// What a file says, and how old it is.
///
/// # Errors
/// It cannot be believed.
pub fn decode(file: &[u8], now: Stamp) -> Result<(Saved, Duration), Unusable> {
    let file = file.trim_ascii_end();
    let sealed = file.strip_prefix(BEFORE).ok_or(Unusable::Damaged)?;
    let (sum, rest) = sealed.split_at_checked(DIGITS).ok_or(Unusable::Damaged)?;
    let rest = rest.strip_prefix(BEHIND).ok_or(Unusable::Damaged)?;
    if sum != format!("{:016x}", checksum(rest)).as_bytes() {
        return Err(Unusable::Damaged);
    }
    let body = [b"{", rest].concat();
    let damaged = |_| Unusable::Damaged;
    let Versioned { version } = serde_json::from_slice(&body).map_err(damaged)?;
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    let sealed: Sealed<Saved> = serde_json::from_slice(&body).map_err(damaged)?;
    let ahead = sealed.written_at.since(now);
    if ahead > AHEAD_MOST {
        return Err(Unusable::Future(ahead));
    }
    let age = now.since(sealed.written_at);
    if age > AGE_MOST { Err(Unusable::Old(age)) } else { Ok((sealed.state, age)) }
}

/// FNV-1a (Fowler, Noll, Vo), which no change of a single byte escapes.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// What control remembers, apart from what stands in the table.
pub struct Remembered<'a> {
    pub health: &'a dyn Fn(EndpointId) -> health::State,
    /// One for each service.
    pub failovers: &'a [failover::State],
    pub next_record: &'a dyn Fn(&Service) -> u64,
}

impl Saved {
    pub fn of(table: &Table, remembered: &Remembered<'_>, now: Duration) -> Self {
        let services = table.services.iter().zip(remembered.failovers);
        let name = |service: &Service| service.config.name.to_string();
        let saved = services.map(|(service, state)| {
            (name(service), SavedService::of(service, state, remembered, now))
        });
        Self { services: saved.collect() }
    }

    /// What it means for a configuration, `age` after it was written. Names it does not know are
    /// as at a first start, names the configuration does not know are ignored.
    pub fn restore(&self, config: &Config, age: Duration, clock: Clock) -> Restored {
        let restored = config.services.iter().map(|service| {
            let saved = self.services.get(&*service.name);
            saved.map(|saved| saved.restore(service, age, clock))
        });
        Restored { services: restored.collect() }
    }
}

/// What was remembered of the services of a configuration, by index; none where nothing was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Restored {
    pub services: Vec<Option<RestoredService>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RestoredService {
    pub failover: failover::State,
    pub history: History,
    pub next_record: u64,
    /// By pool, in the order of the configuration.
    pub endpoints: Vec<Vec<RestoredEndpoint>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct RestoredEndpoint {
    pub state: health::State,
    pub reason: Option<Arc<str>>,
    pub mode: Mode,
    pub taken_out: Option<TakenOut>,
}

impl SavedService {
    fn of(
        service: &Service,
        state: &failover::State,
        remembered: &Remembered<'_>,
        now: Duration,
    ) -> Self {
        let pools = service.pools.iter().enumerate().map(|(index, pool)| {
            let penalty = state.penalties.get(index).copied().unwrap_or_default();
            let endpoints = pool.endpoints.iter().zip(&pool.details).zip(&pool.modes);
            let endpoints = endpoints.filter_map(|((endpoint, detail), mode)| {
                let health = (remembered.health)(endpoint.id);
                let saved = SavedEndpoint::of(&health, detail, *mode, now);
                saved.map(|saved| (endpoint.config.name.to_string(), saved))
            });
            let saved = SavedPool {
                penalty: (penalty.value(now) * 1000.0) as u64,
                suppressed: penalty.is_suppressed(now),
                endpoints: endpoints.collect(),
            };
            (pool.config.name.to_string(), saved)
        });
        let age = |at: &Duration| micros(now.saturating_sub(*at));
        let serving = service.pools.get(state.serving).map(|pool| pool.config.name.to_string());
        Self {
            serving: serving.unwrap_or_default(),
            cause: state.cause,
            since: age(&state.since),
            held: state.held,
            stands: state.stands,
            held_because: service.history.held_because.as_deref().map(str::to_owned),
            returns: state.returns.iter().map(age).collect(),
            next_record: (remembered.next_record)(service),
            pools: pools.collect(),
            records: service.history.records.iter().cloned().collect(),
        }
    }

    fn restore(&self, service: &config::Service, age: Duration, clock: Clock) -> RestoredService {
        let now = clock.now;
        let nothing = SavedPool::default();
        let saved = |pool: &Arc<config::Pool>| self.pools.get(&*pool.name).unwrap_or(&nothing);
        let endpoints: Vec<Vec<_>> = service
            .pools
            .iter()
            .map(|pool| {
                let endpoints = pool.endpoints.iter();
                let saved = endpoints.map(|known| saved(pool).endpoints.get(&*known.name));
                saved.map(|saved| saved.map(|s| s.restore(age, now)).unwrap_or_default()).collect()
            })
            .collect();
        let ago =
            |micros: &u64| now.saturating_sub(Duration::from_micros(*micros).saturating_add(age));
        let mut state = failover::State::start(service.pools.len(), now);
        let serving = service.pools.iter().position(|pool| *pool.name == *self.serving);
        if let Some(serving) = serving {
            state.serving = serving;
            state.since = ago(&self.since);
            state.cause = self.cause;
            (state.held, state.stands) = (self.held, self.stands);
        }
        let penalty = |pool: &Arc<config::Pool>| {
            let SavedPool { penalty, suppressed, .. } = saved(pool);
            let before = Penalty::restored(*penalty as f64 / 1000.0, *suppressed, Duration::ZERO);
            Penalty::restored(before.value(age), before.is_suppressed(age), now)
        };
        state.penalties = service.pools.iter().map(penalty).collect();
        state.returns = self.returns.iter().map(ago).collect();
        // Where all are known to be dead, they are tried as they were before.
        let dead = |known: &RestoredEndpoint| known.state.verdict == Verdict::Down;
        state.none_available = endpoints.iter().flatten().all(dead);
        let next_record = self.next_record.max(1);
        RestoredService { failover: state, history: self.history(clock), next_record, endpoints }
    }

    fn history(&self, clock: Clock) -> History {
        let held_because = self.held_because.as_deref().map(Arc::from);
        let mut history = History { held_because, ..History::default() };
        for record in &self.records {
            let mut record = (**record).clone();
            // Who was to complete it is gone; what is known of its cost is all there will be.
            (record.waiting, record.complete) = (None, true);
            history.keep(Arc::new(record));
        }
        let at = |stamp: Stamp| {
            let unix = Stamp(micros(clock.unix));
            clock.now.saturating_sub(unix.since(stamp))
        };
        let moves = history.records.iter().rev().find(|record| record.aborted.is_none());
        history.last = moves.map(|record| Moved {
            from: record.from.as_str().into(),
            to: record.to.as_str().into(),
            cause: record.cause,
            reason: record.reason.as_str().into(),
            first_evidence: at(record.times.first_evidence),
            decided: at(record.times.decided),
            published: at(record.times.published),
        });
        history
    }
}

impl SavedEndpoint {
    fn of(state: &health::State, detail: &Detail, mode: Mode, now: Duration) -> Option<Self> {
        let Detail { reason, taken_out, .. } = detail;
        let down = state.verdict == Verdict::Down;
        let saved = Self {
            down: down.then(|| micros(now.saturating_sub(state.since))),
            reason: reason.as_deref().filter(|_| down).map(str::to_owned),
            wary: down && state.wary,
            bars: state.bars,
            barred: state.barred_until.map_or(0, |until| micros(until.saturating_sub(now))),
            mode: (mode != Mode::Active).then(|| name_of(mode).to_owned()),
            mode_since: taken_out.as_ref().map(|order| micros(now.saturating_sub(order.at))),
            mode_reason: taken_out.as_ref().map(|order| order.reason.to_string()),
        };
        (saved != Self::default()).then_some(saved)
    }

    fn restore(&self, age: Duration, now: Duration) -> RestoredEndpoint {
        let mode = [Mode::Drain, Mode::Off].into_iter();
        let mode = mode.map(|mode| (name_of(mode), mode));
        let ordered = mode.into_iter().find(|(name, _)| self.mode.as_deref() == Some(name));
        let mut state = health::State { bars: self.bars, ..health::State::default() };
        if let Some(down) = self.down {
            let since = now.saturating_sub(Duration::from_micros(down).saturating_add(age));
            let barred = Duration::from_micros(self.barred).min(health::verdict::BAR_MOST);
            let barred = barred.checked_sub(age).filter(|barred| !barred.is_zero());
            state = health::State {
                verdict: Verdict::Down,
                since,
                failing: true,
                wary: self.wary,
                first_failure: Some(since),
                barred_until: barred.map(|barred| now.saturating_add(barred)),
                ..state
            };
        }
        let taken_out = self.mode_since.zip(self.mode_reason.as_deref()).map(|(ago, reason)| {
            let ago = Duration::from_micros(ago).saturating_add(age);
            TakenOut { at: now.saturating_sub(ago), reason: reason.into() }
        });
        RestoredEndpoint {
            state,
            reason: self.reason.as_deref().map(Arc::from),
            mode: ordered.map_or(Mode::Active, |(_, mode)| mode),
            taken_out: taken_out.filter(|_| ordered.is_some()),
        }
    }
}

fn name_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Active => "active",
        Mode::Drain => "drain",
        Mode::Off => "off",
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn write_records<S: Serializer>(records: &[Arc<Record>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(records.iter().map(|record| &**record))
}

fn read_records<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<Arc<Record>>, D::Error> {
    Ok(Vec::<Record>::deserialize(from)?.into_iter().map(Arc::new).collect())
}

#[cfg(test)]
mod tests;
