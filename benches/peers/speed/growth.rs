//! Standfast alone: what more routes and endpoints cost, how soon an order is seen by the workers,
//! and what a reload does to those it serves.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::args::Args;
use crate::client::Requests;
use crate::configs::Peer;
use crate::engine::{After, Engine, Plan};
use crate::proxy::{Proxy, Setup, Task};
use crate::report::{Report, median};
use crate::workload::Workload;
use crate::{CALM_DOWN, Result, WARM_UP, cpu, tried, window};

const CONNECTIONS: usize = 64;
/// Hosts asked for in turn, at most; more would be a test of the generator's caches.
const HOSTS: usize = 4096;
/// Endpoints of each service.
const EACH: usize = 10;
/// Orders given in a measurement.
const ORDERS: usize = 20;
/// Requests that an endpoint must have got before it is taken out.
const IN_USE: u64 = 10;
/// Requests a second while the configuration is reloaded.
const RATE: f64 = 5_000.0;
/// Routes reloaded.
const RELOADED: usize = 10_000;
/// How often memory is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);
/// Above a few, the case was disturbed.
const OTHERS: &str = "taken by others, % of a core";
const ORDER_LIMIT: Duration = Duration::from_secs(10);

/// One figure over all rounds.
#[derive(Serialize)]
pub(crate) struct Grown {
    peer: &'static str,
    case: String,
    figure: &'static str,
    values: Vec<f64>,
}

impl Grown {
    /// A line of the table.
    pub(crate) fn row(&self) -> String {
        let least = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.values.iter().copied().fold(0.0, f64::max);
        let peer = if self.peer == Peer::Standfast.name() { "" } else { " (baseline)" };
        let (case, figure, middle) = (&self.case, self.figure, median(self.values.clone()));
        format!("| {case}{peer} | {figure} | {middle:.2} | {least:.2}–{most:.2} |")
    }
}

/// What one measurement told: figures by name.
type Figures = Vec<(&'static str, Vec<f64>)>;

#[derive(Clone, Copy)]
enum Case {
    Routes(usize),
    Endpoints(usize),
    Publish(usize),
    Reload(bool),
}

const CASES: [Case; 9] = [
    Case::Routes(1),
    Case::Routes(1_000),
    Case::Routes(100_000),
    Case::Endpoints(10),
    Case::Endpoints(10_000),
    Case::Publish(10),
    Case::Publish(10_000),
    Case::Reload(false),
    Case::Reload(true),
];

impl Case {
    fn name(self) -> String {
        match self {
            Self::Routes(count) => format!("{count} routes"),
            Self::Endpoints(count) => format!("{count} endpoints, {EACH} a service"),
            Self::Publish(count) => format!("an endpoint of {count} is taken out, under full load"),
            Self::Reload(false) => format!("{RELOADED} routes, {RATE} requests/s"),
            Self::Reload(true) => format!("{RELOADED} routes reloaded, {RATE} requests/s"),
        }
    }

    fn measure(self, setup: &Setup, peer: Peer, seconds: f64) -> Result<Figures> {
        match self {
            Self::Routes(count) => {
                let engine = Engine::new(128, EACH)?;
                let task = routes(&engine, count);
                cost(setup, peer, engine, &task, seconds)
            }
            Self::Endpoints(count) => {
                let engine = Engine::new(128, EACH)?;
                let task = services(&engine, count);
                cost(setup, peer, engine, &task, seconds)
            }
            Self::Publish(count) => publish(setup, peer, count),
            Self::Reload(reloading) => reload(setup, peer, reloading),
        }
    }
}

/// All cases, in rounds; what fails is told and the rest goes on.
pub(crate) fn measure(setup: &Setup, args: &Args, report: &mut Report, failures: &mut Vec<String>) {
    let mut peers = setup.peers_for(Workload::Growth);
    peers.retain(|peer| matches!(peer, Peer::Standfast | Peer::Baseline));
    for round in 1..=args.rounds {
        for case in CASES {
            for &peer in &peers {
                let name = case.name();
                let what = format!("{name}, {peer}, round {round}");
                let once = || case.measure(setup, peer, args.seconds);
                let figures = tried(&what, &mut report.notes, failures, once);
                for (figure, values) in figures.unwrap_or_default() {
                    let middle = median(values.clone());
                    eprintln!("{name:<52} round {round} {peer} {figure} {middle:.2}");
                    add(report, peer, &name, figure, &values);
                }
            }
        }
    }
}

fn add(report: &mut Report, peer: Peer, case: &str, figure: &'static str, values: &[f64]) {
    let peer = peer.name();
    let same = |g: &&mut Grown| g.peer == peer && g.case == case && g.figure == figure;
    match report.growth.iter_mut().find(same) {
        Some(grown) => grown.values.extend_from_slice(values),
        None => {
            let (case, values) = (case.to_owned(), values.to_vec());
            report.growth.push(Grown { peer, case, figure, values });
        }
    }
}

/// So many hosts that lead to one service.
fn routes(engine: &Engine, count: usize) -> Task {
    let routes = (0..count).map(|n| (host(n), 0)).collect();
    Task { services: vec![engine.endpoints()], routes, workers: 1, probes: false }
}

/// So many endpoints in services of ten, each with a host; those of the first service are there.
fn services(engine: &Engine, endpoints: usize) -> Task {
    let count = endpoints.div_ceil(EACH);
    let mut services = vec![engine.endpoints()];
    for service in 1..count {
        let [_, _, high, low] = (service as u32).to_be_bytes();
        let endpoint = |n: usize| SocketAddr::from(([127, 1 + n as u8, high, low], 9));
        services.push((0..EACH).map(endpoint).collect());
    }
    let routes = (0..count).map(|n| (host(n), n)).collect();
    Task { services, routes, workers: 1, probes: false }
}

fn host(n: usize) -> String {
    format!("app{n}.example.com")
}

/// The hosts that lead to the first service, whose endpoints are there.
fn requests(task: &Task) -> Rc<Requests> {
    let first = task.routes.iter().filter(|(_, service)| *service == 0);
    let hosts: Vec<String> = first.take(HOSTS).map(|(host, _)| host.clone()).collect();
    Requests::to(&hosts, false)
}

/// Starts the proxy and a closed loop.
fn start(setup: &Setup, peer: Peer, engine: &mut Engine, task: &Task) -> Result<Proxy> {
    let requests = requests(task);
    let mut proxy = Proxy::start(setup, peer, task)?;
    proxy.wait_until_ready(engine, false, &requests)?;
    let (target, total) = (proxy.address(false), CONNECTIONS);
    let (after, connections) = (After::Again, CONNECTIONS);
    engine.start(Plan { target, tls: None, requests, after, connections, total })?;
    Ok(proxy)
}

fn cost(
    setup: &Setup,
    peer: Peer,
    mut engine: Engine,
    task: &Task,
    seconds: f64,
) -> Result<Figures> {
    let proxy = start(setup, peer, &mut engine, task)?;
    let time = Duration::from_secs_f64(seconds);
    let spent = window(&mut engine, &proxy, setup, WARM_UP, time)?;
    let requests = engine.counts().requests;
    if requests == 0 {
        return Err(format!("it answered nothing{}", proxy.log_tail()).into());
    }
    let memory = cpu::memory_kib(proxy.pids())? as f64 / 1024.0;
    let cpu = spent.proxy as f64 / 1e3 / requests as f64;
    Ok(vec![
        ("CPU µs/request", vec![cpu]),
        ("memory MiB", vec![memory]),
        (OTHERS, vec![spent.others() * 100.0]),
    ])
}

/// Takes endpoints out and puts them back; how long until the order is answered, and until the last
/// request came to the endpoint all the same.
fn publish(setup: &Setup, peer: Peer, endpoints: usize) -> Result<Figures> {
    let mut engine = Engine::new(128, EACH)?;
    let task = services(&engine, endpoints);
    let proxy = start(setup, peer, &mut engine, &task)?;
    engine.spin_for(WARM_UP)?;
    let began = cpu::Usage::read(proxy.pids(), &setup.cores())?;
    let (mut answered, mut seen) = (Vec::new(), Vec::new());
    for n in 0..ORDERS {
        let index = n % EACH;
        let path =
            format!("/api/v1/services/s0/pools/hot/endpoints/{}/mode", engine.endpoints()[index]);
        engine.watch(index);
        let end = Instant::now() + ORDER_LIMIT;
        while engine.watched().is_none_or(|deliveries| deliveries.count < IN_USE) {
            if Instant::now() > end {
                return Err(format!("endpoint {index} gets no requests before the order").into());
            }
            engine.spin_for(Duration::from_millis(1))?;
        }
        let off = r#"{"mode":"off","reason":"measured"}"#;
        let ordered = Instant::now();
        let took = order(&mut engine, &proxy.admin(), "PUT", &path, off, |_| Ok(()))?;
        engine.spin_for(Duration::from_millis(30))?;
        let last = engine.watched().and_then(|deliveries| deliveries.last);
        let until = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(ordered));
        answered.push(took.as_secs_f64() * 1e6);
        seen.push(until.as_secs_f64() * 1e6);
        let active = r#"{"mode":"active","reason":"measured"}"#;
        order(&mut engine, &proxy.admin(), "PUT", &path, active, |_| Ok(()))?;
    }
    let others = cpu::Usage::read(proxy.pids(), &setup.cores())?.since(&began).others();
    Ok(vec![
        ("µs from the order to its answer", answered),
        ("µs from the order to the last request", seen),
        (OTHERS, vec![others * 100.0]),
    ])
}

/// Latencies and memory at a fixed rate, with a reload in the middle or without.
fn reload(setup: &Setup, peer: Peer, reloading: bool) -> Result<Figures> {
    let mut engine = Engine::new(128, EACH)?;
    let task = routes(&engine, RELOADED);
    let proxy = start(setup, peer, &mut engine, &task)?;
    // The same routes but for one.
    let mut changed = routes(&engine, RELOADED);
    changed.routes[RELOADED - 1].0 = "new.example.com".to_owned();
    proxy.rewrite(&changed)?;
    engine.spin_for(WARM_UP)?;
    engine.open_loop(RATE);
    engine.spin_for(CALM_DOWN)?;
    engine.reset_counts();
    let began = cpu::Usage::read(proxy.pids(), &setup.cores())?;
    let before = cpu::resident_kib(proxy.id())?;
    let mut most = before;
    let mut figures = Vec::new();
    let mut look = |engine: &mut Engine| {
        engine.spin_for(LOOK)?;
        most = most.max(cpu::resident_kib(proxy.id())?);
        Ok(())
    };
    let end = Instant::now() + Duration::from_secs(2);
    look(&mut engine)?;
    if reloading {
        let took = order(&mut engine, &proxy.admin(), "POST", "/api/v1/reload", "", &mut look)?;
        figures.push(("reload ms", vec![took.as_secs_f64() * 1e3]));
    }
    while Instant::now() < end {
        look(&mut engine)?;
    }
    let others = cpu::Usage::read(proxy.pids(), &setup.cores())?.since(&began).others();
    let latency = &engine.counts().latency;
    let (p99, p999) = (latency.quantile(0.99) as f64 / 1e3, latency.quantile(0.999) as f64 / 1e3);
    let mib = |kib: u64| vec![kib as f64 / 1024.0];
    figures.push(("p99 µs", vec![p99]));
    figures.push(("p99.9 µs", vec![p999]));
    figures.push(("longest µs", vec![latency.quantile(1.0) as f64 / 1e3]));
    figures.push(("failed requests", vec![engine.counts().errors as f64]));
    figures.push(("resident MiB before", mib(before)));
    figures.push(("resident MiB at most", mib(most)));
    figures.push(("resident MiB two seconds later", mib(cpu::resident_kib(proxy.id())?)));
    figures.push((OTHERS, vec![others * 100.0]));
    Ok(figures)
}

/// Gives an order on the admin socket while the load goes on; how long it took to be answered.
fn order(
    engine: &mut Engine,
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
    mut meanwhile: impl FnMut(&mut Engine) -> Result<()>,
) -> Result<Duration> {
    let ordered = Instant::now();
    let mut stream = UnixStream::connect(socket)?;
    let length = body.len();
    stream.write_all(
        format!(
            "{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .as_bytes(),
    )?;
    stream.set_nonblocking(true)?;
    let mut answer = [0; 4096];
    while ordered.elapsed() < ORDER_LIMIT {
        engine.spin_for(Duration::from_micros(20))?;
        meanwhile(engine)?;
        match stream.read(&mut answer) {
            Ok(count) if answer.starts_with(b"HTTP/1.1 200") && count > 0 => {
                return Ok(ordered.elapsed());
            }
            Ok(count) => {
                let text = String::from_utf8_lossy(&answer[..count]).into_owned();
                return Err(format!("{method} {path}: {text}").into());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(format!("{method} {path} was not answered within {ORDER_LIMIT:?}").into())
}
