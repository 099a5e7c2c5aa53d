//! The harness of the end-to-end tests: the real program, real NGINX ingresses, scripted endpoints,
//! clients that count. Nothing in here sleeps for luck: every wait has a condition and a limit, and
//! nothing leaves loopback. Each test file uses the part it needs.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness shared by test binaries; its failures are the tests' failures"
)]

pub mod certs;
pub mod client;
pub mod endpoint;
pub mod http2;
pub mod lab;
pub mod load;
pub mod metrics;
pub mod nginx;
pub mod passing;
pub mod proxy;
pub mod websocket;
pub mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long a condition may take before a test gives up; generous, for machines under load.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer; panics with `what` after [`PATIENCE`].
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An address on loopback that nobody listens on. Below the ephemeral range, so that no outgoing
/// connection takes it between now and its use.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = std::process::id() as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + base.wrapping_mul(61).wrapping_add(step) % 22_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
