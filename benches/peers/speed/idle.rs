//! Memory of idle connections.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::Requests;
use crate::configs::Peer;
use crate::cpu;
use crate::engine::{After, Engine, Plan};
use crate::proxy::{Proxy, Setup, Task};
use crate::report::IdleSample;

/// Connections being opened at once.
const AT_ONCE: usize = 64;
/// Requests made beforehand, so that what a proxy takes once for all is not counted per connection.
const BEFOREHAND: usize = 256;
/// Opening takes a handshake each; even a slow proxy does a thousand a second.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// Memory is settled when it changed by less than 1/400 in a second.
const SETTLE_STEP: Duration = Duration::from_secs(1);
const SETTLE_LIMIT: Duration = Duration::from_secs(15);

/// Opens `connections`, sends one request on each, and weighs the proxy before and after.
pub(crate) fn measure(
    setup: &Setup,
    peer: Peer,
    tls: bool,
    connections: usize,
) -> Result<IdleSample> {
    let mut engine = Engine::new(128, 2)?;
    let mut proxy = Proxy::start(setup, peer, &Task::simple(engine.endpoints()))?;
    let requests = Requests::plain(false);
    proxy.wait_until_ready(&mut engine, tls, &requests)?;
    let plan = |total: usize| Plan {
        target: proxy.address(tls),
        tls: tls.then(|| setup.tls()),
        requests: Rc::clone(&requests),
        after: After::Rest,
        connections: AT_ONCE.min(total),
        total,
    };
    engine.start(plan(BEFOREHAND.min(connections)))?;
    engine.run_until_done(BEFOREHAND.min(connections) as u64, OPEN_LIMIT)?;
    engine.stop();
    let before = settled(&mut engine, &proxy)?;
    engine.start(plan(connections))?;
    engine.run_until_done(connections as u64, OPEN_LIMIT)?;
    let after = settled(&mut engine, &proxy)?;
    let closed = engine.counts().closed;
    if closed > 0 {
        return Err(format!("{peer} closed {closed} of {connections} idle connections").into());
    }
    Ok(IdleSample::new(peer, tls, connections, before, after))
}

/// The proxy's memory in KiB once it no longer changes.
fn settled(engine: &mut Engine, proxy: &Proxy) -> Result<u64> {
    let end = Instant::now() + SETTLE_LIMIT;
    let mut last = cpu::memory_kib(proxy.pids())?;
    loop {
        engine.run_for(SETTLE_STEP)?;
        let now = cpu::memory_kib(proxy.pids())?;
        if now.abs_diff(last) * 400 < now || Instant::now() > end {
            return Ok(now);
        }
        last = now;
    }
}
