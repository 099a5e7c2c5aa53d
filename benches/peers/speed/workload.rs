//! What is asked of a proxy. The names are those of the targets in the benchmark's README.

use std::fmt;

use clap::ValueEnum;

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Workload {
    /// HTTP/1.1, bodies of 128 bytes
    #[value(name = "W1")]
    W1,
    /// HTTP/1.1, bodies of 16 KiB
    #[value(name = "W2")]
    W2,
    /// HTTP/1.1, bodies of 1 MiB
    #[value(name = "W3")]
    W3,
    /// TLS, bodies of 128 bytes
    #[value(name = "W4a")]
    W4a,
    /// TLS, bodies of 16 KiB
    #[value(name = "W4b")]
    W4b,
    /// TLS, bodies of 1 MiB
    #[value(name = "W4c")]
    W4c,
    /// a new TLS connection for every request, never resumed
    #[value(name = "W5")]
    W5,
    /// W1 through 1,000 routes to 100 services
    #[value(name = "routes")]
    Routes,
    /// W1 on 100 connections
    #[value(name = "C100")]
    C100,
    /// W1 on 10,000 connections of which 100 have a request under way
    #[value(name = "C10k")]
    C10k,
    /// W1 with two workers
    #[value(name = "2workers")]
    TwoWorkers,
    /// memory of idle connections, plain and TLS
    #[value(name = "idle")]
    Idle,
    /// Standfast alone as its configuration grows, changes and is reloaded
    #[value(name = "growth")]
    Growth,
}

impl Workload {
    /// Bytes in the body of a response.
    pub(crate) fn body(self) -> usize {
        match self {
            Self::W2 | Self::W4b => 16 << 10,
            Self::W3 | Self::W4c => 1 << 20,
            _ => 128,
        }
    }

    /// Do clients speak TLS?
    pub(crate) fn tls(self) -> bool {
        matches!(self, Self::W4a | Self::W4b | Self::W4c | Self::W5)
    }

    /// Is every request sent on a connection of its own?
    pub(crate) fn fresh(self) -> bool {
        self == Self::W5
    }

    /// Connections open.
    pub(crate) fn connections(self) -> usize {
        match self {
            Self::W3 | Self::W4c => 16,
            Self::C100 => 100,
            Self::C10k => 10_000,
            _ => 64,
        }
    }

    /// Requests under way in the closed loop.
    pub(crate) fn under_way(self) -> usize {
        self.connections().min(100)
    }

    /// Requests a second in the open loop, the same for every proxy: near half of what the slowest
    /// carries on one core of a small cloud machine.
    pub(crate) fn rate(self) -> f64 {
        match self {
            Self::W2 | Self::W4a => 8_000.0,
            Self::W3 => 600.0,
            Self::W4b => 6_000.0,
            Self::W4c => 400.0,
            Self::W5 => 1_000.0,
            _ => 10_000.0,
        }
    }

    /// How many hosts lead to how many services; none where one service has all requests.
    pub(crate) fn routes(self) -> (usize, usize) {
        if self == Self::Routes { (1_000, 100) } else { (0, 1) }
    }

    pub(crate) fn workers(self) -> usize {
        if self == Self::TwoWorkers { 2 } else { 1 }
    }

    /// The workload in words, for the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::W1 => "W1 HTTP/1.1 128 B",
            Self::W2 => "W2 HTTP/1.1 16 KiB",
            Self::W3 => "W3 HTTP/1.1 1 MiB",
            Self::W4a => "W4a TLS 128 B",
            Self::W4b => "W4b TLS 16 KiB",
            Self::W4c => "W4c TLS 1 MiB",
            Self::W5 => "W5 new TLS connection",
            Self::Routes => "1,000 routes, 100 services",
            Self::C100 => "100 connections",
            Self::C10k => "10,000 connections",
            Self::TwoWorkers => "two workers",
            Self::Idle => "idle",
            Self::Growth => "growth",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}
