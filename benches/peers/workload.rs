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
    /// memory of idle connections, plain and TLS
    #[value(name = "idle")]
    Idle,
}

impl Workload {
    /// Bytes in the body of a response.
    pub(crate) fn body(self) -> usize {
        match self {
            Self::W1 | Self::W4a | Self::W5 | Self::Idle => 128,
            Self::W2 | Self::W4b => 16 << 10,
            Self::W3 | Self::W4c => 1 << 20,
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

    /// Connections, each with one request under way.
    pub(crate) fn connections(self) -> usize {
        if self.body() >= 1 << 20 { 16 } else { 64 }
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
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}
