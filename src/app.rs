//! ○ The composition root: builds the parts, wires them, starts and ends them.
//!
//! Everything is checked before anything is bound, and everything is bound before anything is
//! served. The command line, the demo, tests and benches all start the product here.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};

use crate::admin::ready::{Phase, Readiness};
use crate::admin::{self, Admin};
use crate::clock;
use crate::config::{AccessLog, Config, Output};
use crate::control::recorder::Recorder;
use crate::control::saved::Restored;
use crate::control::state_file::{self, StateFile};
use crate::control::{self, Control, Event, Source, World};
use crate::current::Current;
use crate::drain::Drain;
use crate::failover::record::Clock;
use crate::listen;
use crate::observe::access_log;
use crate::observe::metrics::Files;
use crate::proxy::worker::{Drained, Workers};
use crate::table::{Table, build};
use crate::tls::Certificates;

/// Endpoints that failed a request and wait to be looked at; more are forgotten, for the next
/// request to them will fail as well.
const SIGHTINGS: usize = 256;

/// The product, serving. Dropped without [`Running::stop`], its threads go on until the process
/// ends.
#[derive(Debug)]
pub struct Running {
    /// Where the table of the moment is.
    pub current: Arc<Current>,
    /// Where to send events.
    pub control: mpsc::Sender<Event>,
    pub readiness: Readiness,
    /// Asked from outside to stop; whoever holds `Running` heeds it.
    pub drain: Drain,
    listeners: Vec<(Arc<str>, SocketAddr)>,
    workers: Arc<Workers>,
    probing: Probing,
    admin: Admin,
    access_log: Option<access_log::Handle>,
}

/// Starts everything a checked configuration asks for; `source` is where reloads read. Returns when
/// the listeners accept.
///
/// # Errors
/// Everything that cannot be bound, built or started, a sentence each; nothing was accepted then.
pub fn start(config: Config, source: Source) -> Result<Running, Vec<String>> {
    let alone = |error: String| vec![error];
    let prepared = Certificates::prepare(&config).map_err(alone)?;
    let workers = workers(&config);
    let (table, restored) = first_table(config, workers);
    let sockets = bind(&table, workers)?;
    let admin = admin::bind(&table.config.admin).map_err(|error| alone(error.to_string()))?;
    let listeners = addresses(&table, &sockets).map_err(|error| alone(error.to_string()))?;
    let (sinks, access_log) =
        open_log(table.config.logging.access_log.as_ref(), workers).map_err(alone)?;

    let cannot_start = |error: io::Error| vec![format!("a thread cannot be started: {error}")];
    let ids: Vec<_> = table.listeners.iter().map(|listener| listener.id).collect();
    let current = Current::new(table);
    let certificates = Certificates::new(prepared);
    let (sightings, sighted) = mpsc::channel(SIGHTINGS);
    let workers = Workers::start(&current, &certificates, sinks, &sightings);
    let workers = Arc::new(workers.map_err(cannot_start)?);
    let world = World { certificates, workers: Arc::clone(&workers) };
    let kept = open_files(&current.load().config).map_err(cannot_start)?;
    let files = files(access_log.as_ref(), &kept);
    let control = Control::new(world, Arc::clone(&current), source, sighted)
        .resuming(restored)
        .keeping(kept.0, kept.1);
    let (events, reloads) = (control.handle(), control.reload_counters());
    let probing = Probing::start(control).map_err(cannot_start)?;
    let readiness = Readiness::default();
    let drain = Drain::default();
    let asked = drain.clone();
    let admin = admin
        .serve(admin::Deps {
            current: Arc::clone(&current),
            readiness: readiness.clone(),
            control: events.clone(),
            drain: Box::new(move || asked.ask()),
            reloads,
            files: Box::new(files),
        })
        .map_err(cannot_start)?;
    for (id, sockets) in ids.into_iter().zip(sockets) {
        workers.listen(id, sockets);
    }
    readiness.enter(Phase::Ready);
    Ok(Running {
        current,
        control: events,
        readiness,
        drain,
        admin,
        listeners,
        workers,
        probing,
        access_log,
    })
}

impl Running {
    /// The address a listener accepts on, with the port the kernel chose. As at the start.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|(name, _)| **name == *listener).map(|(_, address)| *address)
    }

    /// All listeners with their addresses, as at the start.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.listeners
    }

    /// Where the admin server listens for TCP.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }

    pub fn workers(&self) -> usize {
        self.workers.count()
    }

    /// After the file of the access log was moved away.
    pub fn reopen_logs(&self) {
        if let Some(log) = &self.access_log {
            log.reopen();
        }
    }

    /// Waits until a thread that should live as long as the process is gone: a defect of ours.
    /// The others go on, and what is to be done is to drain and be started anew.
    pub async fn failure(&self) -> &'static str {
        tokio::select! {
            () = self.workers.failure() => "a worker has ended",
            () = self.probing.ended() => "the thread that probes has ended",
        }
    }

    /// Stops as `process` in the configuration of the moment says: not ready at once, still
    /// accepting for `lame_duck`, then until requests in flight are finished, at most
    /// `drain_timeout`.
    pub async fn stop(self) -> Drained {
        self.readiness.enter(Phase::Draining);
        let process = self.current.load().config.process.clone();
        tokio::time::sleep(process.lame_duck).await;
        let drained = self.workers.drain(process.drain_timeout).await;
        // Control may be gone already, and a full queue is emptied by it.
        let _ = self.control.send(Event::Stop).await;
        self.probing.ended().await;
        if let Some(log) = self.access_log {
            log.close();
        }
        drained
    }
}

/// The thread control and its probes live on.
#[derive(Debug)]
struct Probing {
    /// Closed when the thread is gone, however it went.
    alive: watch::Receiver<()>,
    _thread: JoinHandle<()>,
}

impl Probing {
    fn start(control: Control<World>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (life, alive) = watch::channel(());
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let _life = life;
            runtime.block_on(control.run());
            // A reload that hangs on a resolver must not hold up the end of the process.
            runtime.shutdown_background();
        })?;
        Ok(Self { alive, _thread: thread })
    }

    async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }
}

/// The table to begin with, and what is remembered of a process before this one.
fn first_table(config: Config, workers: usize) -> (Table, Restored) {
    let clock = Clock { now: clock::now(), unix: clock::unix() };
    let file = config.process.state_file.as_deref();
    let saved = file.and_then(|file| state_file::read(file, clock));
    let restored = saved.map(|(saved, age)| saved.restore(&config, age, clock));
    let restored = restored.unwrap_or_default();
    let first = build::first(Arc::new(config), workers, clock.now);
    (control::resumed(first, &restored, clock.now), restored)
}

/// The threads that write what survives this process.
type Kept = (Option<StateFile>, Option<Recorder>);

fn open_files(config: &Config) -> io::Result<Kept> {
    let process = &config.process;
    let state = process.state_file.clone().map(StateFile::start).transpose()?;
    Ok((state, process.history_file.clone().map(Recorder::start).transpose()?))
}

/// For the metrics, which outlive no writer but are read elsewhere.
fn files(
    access_log: Option<&access_log::Handle>,
    (state, recorder): &Kept,
) -> impl Fn() -> Files + Send + Sync + use<> {
    let logged = access_log.map(access_log::Handle::dropped_counter);
    let recorded = recorder.as_ref().map(|recorder| Arc::clone(&recorder.dropped));
    let writes = state.as_ref().map(|state| Arc::clone(&state.writes));
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    move || Files {
        access_log_dropped: logged.as_ref().map(|dropped| dropped()),
        history_dropped: recorded.as_deref().map(read),
        state_writes: writes.as_ref().map(|writes| [read(&writes.done), read(&writes.failed)]),
    }
}

fn workers(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    config.process.workers.map_or_else(cores, usize::from).max(1)
}

/// Sockets for every listener, or what is wrong with each one that cannot be bound.
fn bind(table: &Table, workers: usize) -> Result<Vec<Vec<TcpListener>>, Vec<String>> {
    let mut bound = Vec::new();
    let mut errors = Vec::new();
    for listener in table.listeners.iter() {
        let config = &listener.config;
        match listen::bind(config.bind, workers) {
            Ok(sockets) => bound.push(sockets),
            Err(error) => errors.push(format!("listener {}: {error}", config.name)),
        }
    }
    if errors.is_empty() { Ok(bound) } else { Err(errors) }
}

fn addresses(
    table: &Table,
    sockets: &[Vec<TcpListener>],
) -> io::Result<Vec<(Arc<str>, SocketAddr)>> {
    let of = |(listener, sockets): (&Arc<crate::table::Listener>, &Vec<TcpListener>)| {
        let socket = sockets.first().ok_or(io::ErrorKind::NotFound)?;
        Ok((Arc::clone(&listener.config.name), socket.local_addr()?))
    };
    table.listeners.iter().zip(sockets).map(of).collect()
}

type Sinks = Vec<Option<access_log::Sink>>;

fn open_log(
    config: Option<&AccessLog>,
    workers: usize,
) -> Result<(Sinks, Option<access_log::Handle>), String> {
    let Some(config) = config else { return Ok(((0..workers).map(|_| None).collect(), None)) };
    let (sinks, handle) = access_log::open(config, workers).map_err(|error| {
        let Output::File(path) = &config.output else { return format!("access log: {error}") };
        format!("logging.access_log.output {}: {error}", path.display())
    })?;
    Ok((sinks.into_iter().map(Some).collect(), Some(handle)))
}
