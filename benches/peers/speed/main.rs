//! Standfast side by side with other proxies on this machine: `cargo bench --bench speed`.
//!
//! One thread generates the load and plays the endpoints on one core; the proxy under test has the
//! other core to itself. Each figure is the median over rounds in which the proxies take turns,
//! each time as a fresh process. benches/README.md says how to read the result.

mod args;
mod client;
mod configs;
mod cpu;
mod endpoint;
mod engine;
mod growth;
mod histogram;
mod idle;
#[path = "../install.rs"]
mod install;
mod plot;
mod proxy;
mod relay;
mod report;
mod response;
mod tables;
mod tls;
mod workload;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use args::Args;
use clap::Parser as _;
use client::Requests;
use configs::Peer;
use engine::{After, Engine, Plan};
use proxy::{Proxy, Setup, Task};
use report::{Paced, Report, Sample};
use workload::Workload;

/// Whatever went wrong, told to the person at the terminal.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Requests sent before anything is measured, so that caches, idle connections and buffers are warm.
pub(crate) const WARM_UP: Duration = Duration::from_millis(400);
/// The same once the open loop begins: what the closed one left under way is to be answered.
pub(crate) const CALM_DOWN: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let args = Args::parse();
    if let [listen, endpoints @ ..] = &args.relay[..] {
        return ended(relay::run(*listen, endpoints).map(|()| true));
    }
    if !args.bench {
        // `cargo test --benches` runs this file too, and a test run must not take minutes.
        println!("the comparison with other proxies is run by `cargo bench --bench speed`");
        return ExitCode::SUCCESS;
    }
    ended(run(&args))
}

fn ended(outcome: Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True if all that was to be measured was measured.
fn run(args: &Args) -> Result<bool> {
    let mut failures = Vec::new();
    let setup = Setup::new(args, &mut failures)?;
    let mut report = Report::new(args, setup.versions());
    if args.prepare {
        println!("{}", report.head());
        failures.iter().for_each(|failure| eprintln!("{failure}"));
        return Ok(failures.is_empty());
    }
    for workload in args.load() {
        for round in 1..=args.rounds {
            for peer in setup.peers_for(workload) {
                let what = format!("{workload}, {peer}, round {round}");
                let once = || measure(&setup, peer, workload, round, args);
                report.samples.extend(tried(&what, &mut report.notes, &mut failures, once));
            }
        }
    }
    if args.wants(Workload::Idle) {
        for tls in [false, true] {
            for peer in setup.peers_for(Workload::Idle) {
                let what =
                    format!("idle connections, {}, {peer}", if tls { "TLS" } else { "plain" });
                let once = || idle::measure(&setup, peer, tls, args.idle);
                report.idle.extend(tried(&what, &mut report.notes, &mut failures, once));
            }
        }
    }
    if args.wants(Workload::Growth) {
        growth::measure(&setup, args, &mut report, &mut failures);
    }
    report.failures = failures;
    let dir = args.out.clone().unwrap_or_else(target);
    let text = report.markdown();
    println!("{text}");
    // Growth alone does not take the place of the comparison.
    let growth_alone = args.workloads == [Workload::Growth];
    let name = if growth_alone { "growth" } else { "speed" };
    write(&dir.join(format!("{name}.md")), &text)?;
    write(&dir.join(format!("{name}.json")), &report.json()?)?;
    if !report.samples.is_empty() {
        write(&dir.join("speed.svg"), &plot::svg(&report))?;
    }
    eprintln!("{name}.md and the raw data in {name}.json are in {}", dir.display());
    Ok(report.failures.is_empty())
}

/// Measures, and once more if that fails, since another process may have been the reason.
fn tried<T>(
    what: &str,
    notes: &mut Vec<String>,
    failures: &mut Vec<String>,
    mut once: impl FnMut() -> Result<T>,
) -> Option<T> {
    let first = match once() {
        Ok(sample) => return Some(sample),
        Err(error) => error,
    };
    eprintln!("FAILED, tried once more: {what}: {first}");
    match once() {
        Ok(sample) => {
            notes.push(format!("{what}: {first}"));
            Some(sample)
        }
        Err(error) => {
            eprintln!("FAILED {what}: {error}");
            failures.push(format!("{what}: {error}"));
            None
        }
    }
}

/// One proxy, one workload, one round: start, warm up, measure both loops, stop.
fn measure(
    setup: &Setup,
    peer: Peer,
    workload: Workload,
    round: u32,
    args: &Args,
) -> Result<Sample> {
    let mut engine = Engine::new(workload.body(), 2)?;
    let task = task(workload, &engine);
    let hosts: Vec<String> = task.routes.iter().map(|(host, _)| host.clone()).collect();
    let requests = match hosts.len() {
        0 => Requests::plain(workload.fresh()),
        _ => Requests::to(&hosts, workload.fresh()),
    };
    let mut proxy = Proxy::start(setup, peer, &task)?;
    proxy.wait_until_ready(&mut engine, workload.tls(), &requests)?;
    let plan = Plan {
        target: proxy.address(workload.tls()),
        tls: workload.tls().then(|| setup.tls()),
        requests: Rc::clone(&requests),
        after: if workload.fresh() { After::Reconnect } else { After::Again },
        connections: workload.connections(),
        total: workload.under_way(),
    };
    let seconds = Duration::from_secs_f64(args.seconds);
    let both = || -> Result<Sample> {
        engine.start(plan)?;
        let spent = window(&mut engine, &proxy, setup, WARM_UP, seconds)?;
        if engine.counts().requests == 0 {
            return Err("it answered nothing".into());
        }
        let memory = cpu::memory_kib(proxy.pids())?;
        let sample = Sample::new(peer, workload, round, engine.counts(), &spent, memory);
        let rate = workload.rate() * args.rate;
        engine.open_loop(rate);
        let spent = window(&mut engine, &proxy, setup, CALM_DOWN, seconds)?;
        Ok(sample.with(Paced::new(rate, engine.counts(), &spent)))
    };
    // What the proxy itself said of it is worth more than what was seen from outside.
    both().map_err(|error| format!("{error}{}", proxy.log_tail()).into())
}

/// What the proxies are to do under that load.
fn task(workload: Workload, engine: &Engine) -> Task {
    let (hosts, services) = workload.routes();
    Task {
        services: vec![engine.endpoints(); services],
        routes: (0..hosts).map(|n| (format!("app{n}.example.com"), n % services)).collect(),
        workers: workload.workers(),
        probes: true,
    }
}

/// Lets the load run, then counts and measures for so long.
pub(crate) fn window(
    engine: &mut Engine,
    proxy: &Proxy,
    setup: &Setup,
    before: Duration,
    time: Duration,
) -> Result<cpu::Spent> {
    engine.spin_for(before)?;
    engine.reset_counts();
    let start = cpu::Usage::read(proxy.pids(), &setup.cores())?;
    engine.spin_for(time)?;
    Ok(cpu::Usage::read(proxy.pids(), &setup.cores())?.since(&start))
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?)
}

fn target() -> PathBuf {
    let tmp = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().map_or_else(|| tmp.clone(), Path::to_owned)
}
