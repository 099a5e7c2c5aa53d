//! Standfast and other proxies under the same faults: `cargo bench --bench failover`.
//!
//! For every fault and every proxy a rig of its own (tests/support/rig): real NGINX ingresses in
//! network namespaces, 2,000 requests a second open loop, a log of every delivery.
//! benches/README.md says how to read the result.

mod args;
mod configs;
#[path = "../install.rs"]
mod install;
mod peer;
mod plot;
#[path = "../../../tests/support/rig/mod.rs"]
mod rig;
mod run;
mod scenario;
mod table;

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use args::Args;
use clap::{Parser as _, ValueEnum as _};
use peer::Peer;
use run::Run;
use scenario::Scenario;

/// Whatever went wrong, told to the person at the terminal.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() {
    let args = Args::parse();
    if !args.bench {
        // `cargo test --benches` runs this file too, and a test run must not take minutes.
        println!("the faults are run by `cargo bench --bench failover`");
        return;
    }
    if let Err(error) = strike(&args) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn strike(args: &Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces and nftables need root: run this as root".into());
    }
    // Before half an hour of runs, not after it.
    let dir = args.out.clone().unwrap_or_else(target);
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    for program in ["ip", "nft"] {
        let found = std::process::Command::new(program).arg("-V").output();
        found.map_err(|e| format!("{program}: {e}: apt-get install iproute2 nftables"))?;
    }
    let peers = peer::peers(args)?;
    let all = Scenario::value_variants();
    let faults = if args.faults.is_empty() { all } else { &args.faults };
    let (mut runs, mut failures) = (Vec::new(), Vec::new());
    for &fault in faults {
        for peer in peers.iter().filter(|peer| fault.applies_to(peer)) {
            match rounds(fault, peer, args) {
                Ok(run) => runs.push(run),
                Err(why) => failures.push(format!("{} {peer}: {why}", fault.name())),
            }
        }
    }
    let text = table::markdown(&peers, &runs, &failures);
    println!("{text}");
    write(&dir.join("failover.md"), &text)?;
    write(&dir.join("failover.json"), &serde_json::to_string_pretty(&runs)?)?;
    write(&dir.join("failover.svg"), &plot::svg(&peers, &runs))?;
    eprintln!("failover.md, failover.json and failover.svg are in {}", dir.display());
    Ok(())
}

/// The run with the median of requests lost; an error is what made a rig give up.
fn rounds(fault: Scenario, peer: &Peer, args: &Args) -> std::result::Result<Run, String> {
    let mut runs = Vec::new();
    for _ in 0..args.rounds {
        // The rig panics where it cannot go on; the other runs are worth having all the same.
        let run = catch_unwind(AssertUnwindSafe(|| fault.run(peer, args)));
        let run = run.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
                .unwrap_or_else(|| "the rig failed".to_owned())
        })?;
        eprintln!("{}", run.line());
        runs.push(run);
    }
    runs.sort_by_key(|run| run.struck.lost_get + run.struck.lost_post);
    Ok(runs.swap_remove(runs.len() / 2))
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?)
}

fn target() -> PathBuf {
    let tmp = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().map_or_else(|| tmp.clone(), Path::to_owned)
}
