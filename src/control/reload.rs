//! ○ Reload: read, check, bind what is new, swap certificates, publish; all or nothing.
//!
//! Reading and checking happens apart from the thread that probes, one reload at a time; requests
//! that come meanwhile share the one after it. Nothing is touched before everything that can fail
//! has succeeded.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::config::check::{Checked, Diagnostic};
use crate::failover::{Cause, Move, PoolView, Trouble};
use crate::health::Verdict;
use crate::table::{Listener, ListenerId, Mode, Service, Table, build};

use super::guard::{error, needs_restart, refuse_collapse};
use super::ledger::Told;
use super::log::{self, Line};
use super::{Control, Effects, Reloaded};

type Reply = oneshot::Sender<Result<Reloaded, Vec<Diagnostic>>>;

/// Askers that may wait for the same reload; more are turned away.
const WAITING: usize = 256;

/// Where configurations come from.
pub struct Source {
    /// The file's name, for the log.
    pub file: String,
    /// Reads and checks it; may block.
    pub load: Box<dyn Fn() -> Checked + Send + Sync>,
    /// What changes from one configuration to another, a line each.
    pub describe: fn(&Config, &Config) -> Vec<String>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

/// How reloads went. The start counts as the first success.
#[derive(Debug)]
pub struct ReloadCounters {
    pub applied: AtomicU64,
    pub refused: AtomicU64,
    pub last_successful: AtomicBool,
    /// Unix seconds.
    pub last_success_at: AtomicU64,
}

/// A configuration that was read, or what is wrong with it, and who waits for it.
pub(super) struct Loaded<E: Effects> {
    force: bool,
    replies: Vec<Reply>,
    result: Read<E>,
}

type Read<E> = Result<Candidate<E>, Vec<Diagnostic>>;

struct Candidate<E: Effects> {
    config: Config,
    warnings: Vec<Diagnostic>,
    prepared: E::Prepared,
}

#[derive(Debug, Default)]
struct Wanted {
    force: bool,
    replies: Vec<Reply>,
}

/// The reload that runs and the one that is wanted after it.
pub(super) struct Reloads<E: Effects> {
    effects: Arc<E>,
    source: Arc<Source>,
    pub(super) counters: Arc<ReloadCounters>,
    running: Option<(Wanted, JoinHandle<Read<E>>)>,
    wanted: Option<Wanted>,
}

impl<E: Effects> Reloads<E> {
    pub(super) fn new(effects: Arc<E>, source: Source) -> Self {
        let counters = Arc::new(ReloadCounters {
            applied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_successful: AtomicBool::new(true),
            last_success_at: AtomicU64::new(unix_now()),
        });
        Self { effects, source: Arc::new(source), counters, running: None, wanted: None }
    }

    /// Asks for a reload that begins after this moment.
    pub(super) fn ask(&mut self, force: bool, reply: Option<Reply>) {
        let wanted = self.wanted.get_or_insert_default();
        wanted.force |= force;
        if wanted.replies.len() < WAITING {
            wanted.replies.extend(reply);
        }
        self.begin();
    }

    fn begin(&mut self) {
        if self.running.is_some() {
            return;
        }
        let Some(wanted) = self.wanted.take() else { return };
        let (effects, source) = (Arc::clone(&self.effects), Arc::clone(&self.source));
        let load = move || {
            let (config, warnings) = (source.load)()?;
            match effects.prepare(&config) {
                Ok(prepared) => Ok(Candidate { config, warnings, prepared }),
                Err(message) => Err(vec![error("", message, "")]),
            }
        };
        self.running = Some((wanted, tokio::task::spawn_blocking(load)));
    }

    /// Waits for the reload that runs, for ever if none does. Nothing is lost if it is dropped.
    pub(super) async fn loaded(&mut self) -> Box<Loaded<E>> {
        let Some((wanted, task)) = &mut self.running else { return std::future::pending().await };
        let result = task.await.unwrap_or_else(|_| {
            let message = "the configuration could not be read: a defect of ours".to_owned();
            Err(vec![error("", message, "please report it; the running configuration goes on")])
        });
        let Wanted { force, replies } = std::mem::take(wanted);
        self.running = None;
        Box::new(Loaded { force, replies, result })
    }
}

impl<E: Effects> Control<E> {
    pub(super) fn loaded(&mut self, loaded: Loaded<E>) {
        let Loaded { force, replies, result } = loaded;
        let result = result.and_then(|candidate| self.apply(candidate, force));
        let counters = &self.reloads.counters;
        counters.last_successful.store(result.is_ok(), Ordering::Relaxed);
        match &result {
            Ok(_) => {
                counters.applied.fetch_add(1, Ordering::Relaxed);
                counters.last_success_at.store(unix_now(), Ordering::Relaxed);
            }
            Err(_) => {
                counters.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        log::reload(&self.reloads.source.file, &result);
        for reply in replies {
            // An asker that has gone needs no answer.
            let _ = reply.send(result.clone());
        }
        self.reloads.begin();
    }

    fn apply(&mut self, new: Candidate<E>, force: bool) -> Result<Reloaded, Vec<Diagnostic>> {
        let Candidate { config, mut warnings, prepared } = new;
        let table = self.current.load();
        let old = &table.config;
        if !force {
            refuse_collapse(old, &config).map_err(|refusal| vec![refusal])?;
        }
        warnings.extend(needs_restart(old, &config));
        let changes = (self.reloads.source.describe)(old, &config);

        let now = self.effects.now();
        let (endpoints, identities) = build::endpoints(&config, &table);
        let (memory, removed) = self.memory.carried(&table, &config, &endpoints, now);
        let standing = |id| memory.standing(id);
        let states = memory.failovers();
        let mut next =
            build::reload(config.into(), &table, endpoints, identities, &states, now, &standing);
        let bound = self.bind_new(&table, &next)?;

        // From here on nothing can fail.
        let mut lines = Vec::new();
        for (index, from) in removed {
            self.hand_over(&table, &mut next, (index, from), &mut lines);
        }
        lines.extend(next.services.iter().filter_map(|service| turned(&table, service)));
        let generation = next.generation;
        self.effects.replace(prepared);
        self.memory = memory;
        self.probes.follow(&next, &mut self.random);
        self.keeping.ledger.follow(&next);
        self.current.publish(next);
        for (id, sockets) in bound {
            self.effects.listen(id, sockets);
        }
        let next = self.current.load();
        for gone in table.listeners.iter().filter(|listener| next.listener(listener.id).is_none()) {
            self.effects.unlisten(gone.id);
        }
        lines.iter().for_each(Line::write);
        Ok(Reloaded { generation, changes, warnings })
    }

    /// Binds every listener that has no sockets yet, or none of them.
    fn bind_new(
        &self,
        table: &Table,
        next: &Table,
    ) -> Result<Vec<(ListenerId, E::Sockets)>, Vec<Diagnostic>> {
        let mut bound = Vec::new();
        let mut errors = Vec::new();
        for (index, listener) in next.listeners.iter().enumerate() {
            if table.listener(listener.id).is_some() {
                continue;
            }
            match self.effects.bind(listener.config.bind) {
                Ok(sockets) => bound.push((listener.id, sockets)),
                Err(problem) => errors.push(cannot_bind(index, listener, &problem)),
            }
        }
        if errors.is_empty() { Ok(bound) } else { Err(errors) }
    }

    /// Records that a service's pool vanished with the old configuration.
    fn hand_over(
        &mut self,
        table: &Table,
        next: &mut Table,
        (index, from): (usize, Arc<str>),
        lines: &mut Vec<Line>,
    ) {
        let service = Arc::clone(&next.services[index]);
        let name = Arc::clone(&service.config.name);
        let pools = table.service(&name).map(|before| &before.pools);
        let from = pools.and_then(|pools| pools.iter().find(|pool| pool.config.name == from));
        let Some(from) = from else { return };
        let moved = Move {
            from: service.serving,
            to: service.serving,
            cause: Cause::Removed,
            first_evidence: service.since,
            first_failure: service.since,
            decided: service.since,
        };
        let reason = format!("the configuration no longer has pool {}", from.config.name);
        let told = Told::moved(index, &service, &moved, &reason);
        let told = Told { from: Arc::clone(from), ..told };
        let mut history = Arc::clone(&service.history);
        self.moved(next, told, &mut history, lines);
        drop(service);
        if let Some(service) = next.services.get_mut(index).and_then(Arc::get_mut) {
            service.history = history;
        }
    }
}

/// Says so where a service has no available pool any more, or has one again.
fn turned(before: &Table, service: &Service) -> Option<Line> {
    let was = before.service(&service.config.name).is_some_and(|before| before.none_available);
    let pool = &service.pools[service.serving];
    let (name, serving) = (Arc::clone(&service.config.name), Arc::clone(&pool.config.name));
    match (was, service.none_available) {
        (false, true) => {
            let active = |mode: &Mode| *mode == Mode::Active;
            let known = || pool.verdicts.iter().zip(&pool.modes);
            let count = |verdict| {
                known().filter(|(known, mode)| **known == verdict && active(mode)).count() as u32
            };
            let why = (PoolView {
                up: count(Verdict::Up),
                unknown: count(Verdict::Unknown),
                down: count(Verdict::Down),
                off: known().filter(|(_, mode)| !active(mode)).count() as u32,
                min_healthy: pool.config.min_healthy,
                ..PoolView::default()
            })
            .shortage();
            let trouble = Trouble::NoneAvailable;
            Some(Line::Stuck { service: name, serving, trouble, why })
        }
        (true, false) => Some(Line::AvailableAgain { service: name, serving }),
        (true, true) | (false, false) => None,
    }
}

fn cannot_bind(index: usize, listener: &Listener, problem: &std::io::Error) -> Diagnostic {
    let message = format!("cannot bind {}: {problem}", listener.config.bind);
    error(&format!("listeners[{index}].bind"), message, "free the address, or choose another one")
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
