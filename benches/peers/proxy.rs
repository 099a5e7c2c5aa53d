//! Starts a proxy on its core, waits until it serves, and ends it.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::Result;
use crate::args::Args;
use crate::configs::{Peer, Site};
use crate::cpu;
use crate::engine::{After, Engine, Plan};
use crate::tls::Identity;
use crate::workload::Workload;

/// A proxy that serves nothing after this long is not going to.
const START_LIMIT: Duration = Duration::from_secs(10);
/// What a proxy of several processes gets to end them itself.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What is the same for all measurements.
pub(crate) struct Setup {
    peers: Vec<(Peer, PathBuf)>,
    identity: Identity,
    tls: Arc<ClientConfig>,
    cores: [usize; 2],
    descriptors: u64,
}

impl Setup {
    /// Finds (or installs) the proxies, takes all descriptors allowed, moves to the generator's core.
    pub(crate) fn new(args: &Args) -> Result<Self> {
        let mut peers = Vec::new();
        for &peer in &args.peers {
            peers.push((peer, find(peer, args)?));
        }
        if let Some(path) = &args.baseline
            && !args.peers.contains(&Peer::Baseline)
        {
            peers.insert(1.min(peers.len()), (Peer::Baseline, path.clone()));
        }
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
        let identity = Identity::generate()?;
        let tls = identity.client_config()?;
        pin(args.generator_core)?;
        let descriptors = limit.maximum.unwrap_or(1 << 20);
        Ok(Self { peers, identity, tls, cores: args.cores(), descriptors })
    }

    pub(crate) fn peers_for(&self, workload: Workload) -> Vec<Peer> {
        let all = self.peers.iter().map(|&(peer, _)| peer);
        all.filter(|peer| peer.takes_part(workload)).collect()
    }

    pub(crate) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }

    /// What each proxy says it is.
    pub(crate) fn versions(&self) -> Result<Vec<(Peer, String)>> {
        self.peers.iter().map(|(peer, path)| Ok((*peer, version(*peer, path)?))).collect()
    }

    fn program(&self, peer: Peer) -> Result<&Path> {
        let found = self.peers.iter().find(|(other, _)| *other == peer);
        Ok(&found.ok_or_else(|| format!("{peer} is not among the peers"))?.1)
    }
}

/// A running proxy; ended when dropped.
pub(crate) struct Proxy {
    peer: Peer,
    child: Child,
    pids: Vec<u32>,
    plain: SocketAddr,
    tls: SocketAddr,
    tls_config: Arc<ClientConfig>,
    dir: TempDir,
}

impl Proxy {
    /// Starts a peer on its core, in a directory of its own.
    pub(crate) fn start(setup: &Setup, peer: Peer, endpoints: Vec<SocketAddr>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let Identity { certificate_pem, key_pem, .. } = &setup.identity;
        fs::write(dir.path().join("cert.pem"), certificate_pem)?;
        fs::write(dir.path().join("key.pem"), key_pem)?;
        fs::write(dir.path().join("both.pem"), format!("{certificate_pem}{key_pem}"))?;
        let [plain, tls] = free_addresses()?;
        let site = Site {
            plain,
            tls,
            endpoints: &endpoints,
            dir: dir.path(),
            descriptors: setup.descriptors,
            root: rustix::process::geteuid().is_root(),
        };
        let (name, text) = site.config(peer);
        let config = dir.path().join(name);
        fs::write(&config, text)?;
        let log = File::create(dir.path().join("log"))?;
        let mut command = Command::new(setup.program(peer)?);
        match peer {
            Peer::Standfast | Peer::Baseline => command.args(["run", "-c"]).arg(&config),
            Peer::Haproxy | Peer::HaproxySplice => command.args(["-db", "-f"]).arg(&config),
            Peer::Nginx => {
                command.args(["-e", "stderr", "-p"]).arg(dir.path()).arg("-c").arg(&config)
            }
        };
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A child starts on the core of the thread that starts it.
        pin(setup.cores[0])?;
        let child = command.spawn();
        pin(setup.cores[1])?;
        let child = child.map_err(|error| format!("cannot start {peer}: {error}"))?;
        let pids = vec![child.id()];
        Ok(Self { peer, child, pids, plain, tls, tls_config: setup.tls(), dir })
    }

    /// All processes of the proxy.
    pub(crate) fn pids(&self) -> &[u32] {
        &self.pids
    }

    pub(crate) fn address(&self, tls: bool) -> SocketAddr {
        if tls { self.tls } else { self.plain }
    }

    /// Waits until a request through the proxy is answered.
    pub(crate) fn wait_until_ready(&mut self, engine: &mut Engine, tls: bool) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        let target = self.address(tls);
        let mut reason: Box<dyn std::error::Error> = "it does not listen".into();
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended: {status}{}", self.peer, self.log_tail()).into());
            }
            if TcpStream::connect(target).is_ok() {
                let tls = tls.then(|| Arc::clone(&self.tls_config));
                let plan = Plan { target, tls, after: After::Rest, connections: 1, total: 1 };
                let answered = engine
                    .start(plan)
                    .and_then(|()| engine.run_until_done(1, Duration::from_secs(1)));
                engine.stop();
                match answered {
                    Ok(()) => {
                        self.pids = cpu::family(self.child.id())?;
                        return Ok(());
                    }
                    Err(error) => reason = error,
                }
            }
            // The endpoints answer probes meanwhile.
            engine.run_for(Duration::from_millis(20))?;
        }
        Err(format!("{} does not serve: {reason}{}", self.peer, self.log_tail()).into())
    }

    /// The last lines the proxy wrote, on lines of their own.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].iter().map(|line| format!("\n  {line}")).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // A master told to end ends its workers; killed, it would leave them behind.
        if self.peer == Peer::Nginx
            && let Some(pid) = Pid::from_raw(self.child.id().cast_signed())
            && kill_process(pid, Signal::TERM).is_ok()
        {
            let end = Instant::now() + STOP_LIMIT;
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set).map_err(|error| format!("cannot use core {core}: {error}"))?)
}

/// Two addresses nobody listens on now.
fn free_addresses() -> Result<[SocketAddr; 2]> {
    let one = TcpListener::bind(("127.0.0.1", 0))?;
    let two = TcpListener::bind(("127.0.0.1", 0))?;
    Ok([one.local_addr()?, two.local_addr()?])
}

fn find(peer: Peer, args: &Args) -> Result<PathBuf> {
    match peer {
        Peer::Standfast => Ok(match &args.standfast {
            Some(path) => path.clone(),
            None => PathBuf::from(env!("CARGO_BIN_EXE_standfast")),
        }),
        Peer::Baseline => Ok(args.baseline.clone().ok_or("the peer baseline needs --baseline")?),
        Peer::Haproxy | Peer::HaproxySplice => installed("haproxy"),
        Peer::Nginx => installed("nginx"),
    }
}

/// A program of the distribution, installed if it is missing.
fn installed(name: &str) -> Result<PathBuf> {
    if let Some(path) = which(name) {
        return Ok(path);
    }
    eprintln!("{name} is missing; installing it");
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if root { "env" } else { "sudo" });
    // RUNLEVEL=1 keeps the package from starting its service.
    command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "install", "-y"]);
    let done = command.args(["--no-install-recommends", name]).status();
    let done = done.is_ok_and(|status| status.success());
    match which(name) {
        Some(path) if done => Ok(path),
        _ => {
            Err(format!("cannot install {name}; do it yourself, or leave it out of --peers").into())
        }
    }
}

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The first line of what a proxy says of itself.
fn version(peer: Peer, path: &Path) -> Result<String> {
    let flag = match peer {
        Peer::Standfast | Peer::Baseline => "--version",
        Peer::Haproxy | Peer::HaproxySplice | Peer::Nginx => "-v",
    };
    let output = Command::new(path).arg(flag).output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", path.display()))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned())
}
