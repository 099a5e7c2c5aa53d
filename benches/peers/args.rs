//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::configs::Peer;
use crate::workload::Workload;

/// Compare Standfast with other proxies on this machine, side by side in one run.
#[derive(Parser, Debug)]
#[command(name = "peers")]
pub(crate) struct Args {
    /// Rounds per workload; every proxy is measured once in each, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Seconds measured per proxy, workload and round
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// What to measure
    #[arg(long, value_delimiter = ',', ignore_case = true,
          default_values = ["W1", "W2", "W3", "W4a", "W4b", "W4c", "W5", "idle"])]
    pub(crate) workloads: Vec<Workload>,
    /// Whom to measure; haproxy-splice takes part in W3 alone, baseline needs --baseline
    #[arg(long, value_delimiter = ',',
          default_values = ["standfast", "haproxy", "haproxy-splice", "nginx"])]
    pub(crate) peers: Vec<Peer>,
    /// Idle connections opened by the workload "idle"
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(crate) idle: usize,
    /// The Standfast binary to measure instead of the one just built
    #[arg(long, value_name = "PATH")]
    pub(crate) standfast: Option<PathBuf>,
    /// A second Standfast binary, measured in turn with the first: what did a change cost?
    #[arg(long, value_name = "PATH")]
    pub(crate) baseline: Option<PathBuf>,
    /// The core the proxy is pinned to
    #[arg(long, default_value_t = 0)]
    pub(crate) proxy_core: usize,
    /// The core the generator and its endpoints are pinned to; best not a sibling of the other
    #[arg(long, default_value_t = 1)]
    pub(crate) generator_core: usize,
    /// Where the raw data go [default: peers.json in the target directory]
    #[arg(long, value_name = "PATH")]
    pub(crate) json: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Args {
    /// The workloads that consist of requests.
    pub(crate) fn load(&self) -> Vec<Workload> {
        self.workloads.iter().copied().filter(|&workload| workload != Workload::Idle).collect()
    }

    pub(crate) fn wants_idle(&self) -> bool {
        self.workloads.contains(&Workload::Idle)
    }

    /// The two cores in use, the proxy's first.
    pub(crate) fn cores(&self) -> [usize; 2] {
        [self.proxy_core, self.generator_core]
    }
}
