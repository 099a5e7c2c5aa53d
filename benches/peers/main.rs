//! Standfast side by side with other proxies on this machine: `cargo bench --bench peers`.
//!
//! One thread generates the load and plays the endpoints on one core; the proxy under test has the
//! other core to itself, with one worker. Each figure is the median over rounds in which the
//! proxies take turns, each time as a fresh process. benches/README.md says how to read the result.

mod args;
mod client;
mod configs;
mod cpu;
mod endpoint;
mod engine;
mod histogram;
mod idle;
mod proxy;
mod report;
mod response;
mod tls;
mod workload;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use args::Args;
use clap::Parser as _;
use configs::Peer;
use engine::{After, Engine, Plan};
use proxy::{Proxy, Setup};
use report::{Report, Sample};
use workload::Workload;

/// Whatever went wrong, told to the person at the terminal.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Requests sent before anything is measured, so that caches, idle connections and buffers are warm.
const WARM_UP: Duration = Duration::from_millis(500);

fn main() {
    let args = Args::parse();
    if !args.bench {
        // `cargo test --benches` runs this file too, and a test run must not take minutes.
        println!("the comparison with other proxies is run by `cargo bench --bench peers`");
        return;
    }
    if let Err(error) = run(&args) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> Result<()> {
    let setup = Setup::new(args)?;
    let mut report = Report::new(args, setup.versions()?);
    for &workload in &args.load() {
        for round in 1..=args.rounds {
            for &peer in &setup.peers_for(workload) {
                let sample = measure(&setup, peer, workload, round, args)?;
                eprintln!("{}", sample.line());
                report.add(sample);
            }
        }
    }
    if args.wants_idle() {
        for tls in [false, true] {
            for &peer in &setup.peers_for(Workload::Idle) {
                let sample = idle::measure(&setup, peer, tls, args.idle)?;
                eprintln!("{}", sample.line());
                report.add_idle(sample);
            }
        }
    }
    println!("{}", report.markdown());
    let path = args.json.clone().unwrap_or_else(json_path);
    std::fs::write(&path, report.json()?)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    eprintln!("raw data: {}", path.display());
    Ok(())
}

/// One proxy, one workload, one round: start, warm up, measure, stop.
fn measure(
    setup: &Setup,
    peer: Peer,
    workload: Workload,
    round: u32,
    args: &Args,
) -> Result<Sample> {
    let mut engine = Engine::new(workload.body())?;
    let mut proxy = Proxy::start(setup, peer, engine.endpoints())?;
    proxy.wait_until_ready(&mut engine, workload.tls())?;
    engine.start(Plan {
        target: proxy.address(workload.tls()),
        tls: workload.tls().then(|| setup.tls()),
        after: if workload.fresh() { After::Reconnect } else { After::Again },
        connections: workload.connections(),
        total: workload.connections(),
    })?;
    engine.spin_for(WARM_UP)?;
    engine.reset_counts();
    let before = cpu::Usage::read(proxy.pids(), args.cores())?;
    engine.spin_for(Duration::from_secs_f64(args.seconds))?;
    let spent = cpu::Usage::read(proxy.pids(), args.cores())?.since(&before);
    let counts = engine.counts();
    if counts.requests == 0 {
        return Err(format!("{peer} answered nothing in {workload}{}", proxy.log_tail()).into());
    }
    Ok(Sample::new(peer, workload, round, counts, &spent))
}

/// `peers.json` in the target directory.
fn json_path() -> PathBuf {
    let tmp = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().map_or_else(|| tmp.join("peers.json"), |target| target.join("peers.json"))
}
