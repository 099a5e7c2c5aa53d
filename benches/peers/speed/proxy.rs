//! Starts a proxy on its core, waits until it serves, and ends it.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::Result;
use crate::args::Args;
use crate::client::Requests;
use crate::configs::{Peer, Site};
use crate::cpu;
use crate::engine::{After, Engine, Plan};
use crate::install;
use crate::tls::Identity;
use crate::workload::Workload;

/// A proxy that serves nothing after this long is not going to.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What a proxy of several processes gets to end them itself.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What is the same for all measurements.
pub(crate) struct Setup {
    peers: Vec<(Peer, PathBuf)>,
    versions: Vec<(Peer, String)>,
    identity: Identity,
    tls: Arc<ClientConfig>,
    proxy_cores: Vec<usize>,
    generator_core: usize,
    descriptors: u64,
}

impl Setup {
    /// Finds (or installs, or builds) the proxies, takes all descriptors allowed, moves to the
    /// generator's core. Peers that cannot be had are told of in `failures`.
    pub(crate) fn new(args: &Args, failures: &mut Vec<String>) -> Result<Self> {
        let mut wanted = args.peers.clone();
        if args.baseline.is_some() && !wanted.contains(&Peer::Baseline) {
            wanted.insert(1.min(wanted.len()), Peer::Baseline);
        }
        let (mut peers, mut versions) = (Vec::new(), Vec::new());
        for peer in wanted {
            let found = find(peer, args).and_then(|path| Ok((version(peer, &path)?, path)));
            match found {
                Ok((version, path)) => {
                    peers.push((peer, path));
                    versions.push((peer, version));
                }
                Err(error) => failures.push(format!("{peer} was not measured: {error}")),
            }
        }
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
        let identity = Identity::generate()?;
        let tls = identity.client_config()?;
        pin(&[args.generator_core])?;
        let descriptors = limit.maximum.unwrap_or(1 << 20);
        let (proxy_cores, generator_core) = (args.proxy_core.clone(), args.generator_core);
        Ok(Self { peers, versions, identity, tls, proxy_cores, generator_core, descriptors })
    }

    pub(crate) fn peers_for(&self, workload: Workload) -> Vec<Peer> {
        let all = self.peers.iter().map(|&(peer, _)| peer);
        all.filter(|peer| peer.takes_part(workload)).collect()
    }

    pub(crate) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }

    /// What each proxy says it is.
    pub(crate) fn versions(&self) -> &[(Peer, String)] {
        &self.versions
    }

    /// The cores in use.
    pub(crate) fn cores(&self) -> Vec<usize> {
        [&self.proxy_cores[..], &[self.generator_core]].concat()
    }

    /// Those of a proxy with so many workers.
    fn proxy_cores(&self, workers: usize) -> &[usize] {
        &self.proxy_cores[..workers.min(self.proxy_cores.len())]
    }

    fn program(&self, peer: Peer) -> Result<&Path> {
        let found = self.peers.iter().find(|(other, _)| *other == peer);
        Ok(&found.ok_or_else(|| format!("{peer} is not among the peers"))?.1)
    }
}

/// What a proxy is to do.
pub(crate) struct Task {
    pub(crate) services: Vec<Vec<SocketAddr>>,
    pub(crate) routes: Vec<(String, usize)>,
    pub(crate) workers: usize,
    pub(crate) probes: bool,
}

impl Task {
    /// One service with these endpoints, one worker, probed now and then.
    pub(crate) fn simple(endpoints: Vec<SocketAddr>) -> Self {
        Self { services: vec![endpoints], routes: Vec::new(), workers: 1, probes: true }
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
    descriptors: u64,
    dir: TempDir,
}

impl Proxy {
    /// Starts a peer on its core, in a directory of its own.
    pub(crate) fn start(setup: &Setup, peer: Peer, task: &Task) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let Identity { certificate_pem, key_pem, .. } = &setup.identity;
        fs::write(dir.path().join("cert.pem"), certificate_pem)?;
        fs::write(dir.path().join("key.pem"), key_pem)?;
        fs::write(dir.path().join("both.pem"), format!("{certificate_pem}{key_pem}"))?;
        let [plain, tls] = free_addresses()?;
        let descriptors = setup.descriptors;
        let config = write_config(peer, task, dir.path(), [plain, tls], descriptors)?;
        let log = File::create(dir.path().join("log"))?;
        let mut command = Command::new(setup.program(peer)?);
        match peer {
            Peer::Standfast | Peer::Baseline | Peer::StandfastLog => {
                command.args(["run", "-c"]).arg(&config)
            }
            Peer::Haproxy | Peer::HaproxySplice => command.args(["-db", "-f"]).arg(&config),
            Peer::Nginx => {
                command.args(["-e", "stderr", "-p"]).arg(dir.path()).arg("-c").arg(&config)
            }
            Peer::Envoy => command
                .args(["-l", "error", "--disable-hot-restart", "--concurrency"])
                .arg(task.workers.to_string())
                .arg("-c")
                .arg(&config),
            Peer::Pingora => command.arg(&config),
            Peer::Relay => command
                .arg("--relay")
                .arg(plain.to_string())
                .args(task.services.concat().iter().map(ToString::to_string)),
        };
        // An access log would fill the disk; what it costs to write one is paid all the same.
        let stdout = match peer {
            Peer::StandfastLog => Stdio::null(),
            _ => log.try_clone()?.into(),
        };
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        // A child starts on the cores of the thread that starts it.
        pin(setup.proxy_cores(task.workers))?;
        let child = command.spawn();
        pin(&[setup.generator_core])?;
        let child = child.map_err(|error| format!("cannot start {peer}: {error}"))?;
        let pids = vec![child.id()];
        Ok(Self { peer, child, pids, plain, tls, tls_config: setup.tls(), descriptors, dir })
    }

    /// Writes another configuration in place of the one it runs with, to be read by a reload.
    pub(crate) fn rewrite(&self, task: &Task) -> Result<()> {
        let addresses = [self.plain, self.tls];
        write_config(self.peer, task, self.dir.path(), addresses, self.descriptors).map(|_| ())
    }

    /// Standfast's admin socket.
    pub(crate) fn admin(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    /// Where its pages, private and shared, are told of.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// All processes of the proxy.
    pub(crate) fn pids(&self) -> &[u32] {
        &self.pids
    }

    pub(crate) fn address(&self, tls: bool) -> SocketAddr {
        if tls { self.tls } else { self.plain }
    }

    /// Waits until a request through the proxy is answered.
    pub(crate) fn wait_until_ready(
        &mut self,
        engine: &mut Engine,
        tls: bool,
        requests: &Rc<Requests>,
    ) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        let target = self.address(tls);
        let mut reason: Box<dyn std::error::Error> = "it does not listen".into();
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended: {status}{}", self.peer, self.log_tail()).into());
            }
            if TcpStream::connect(target).is_ok() {
                let tls = tls.then(|| Arc::clone(&self.tls_config));
                let requests = Rc::clone(requests);
                let after = After::Rest;
                let plan = Plan { target, tls, requests, after, connections: 1, total: 1 };
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

/// Writes a proxy's configuration; gives the file to name to it.
fn write_config(
    peer: Peer,
    task: &Task,
    dir: &Path,
    [plain, tls]: [SocketAddr; 2],
    descriptors: u64,
) -> Result<PathBuf> {
    let root = rustix::process::geteuid().is_root();
    let Task { services, routes, workers, probes } = task;
    let (workers, probes) = (*workers, *probes);
    let site = Site { plain, tls, services, routes, workers, probes, dir, descriptors, root };
    let files = site.config(peer);
    for (name, text) in &files {
        fs::write(dir.join(name), text)?;
    }
    Ok(dir.join(files[0].0))
}

fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    let pinned = sched_setaffinity(None, &set);
    Ok(pinned.map_err(|error| format!("cannot use the cores {cores:?}: {error}"))?)
}

/// Two addresses nobody listens on now.
fn free_addresses() -> Result<[SocketAddr; 2]> {
    let one = TcpListener::bind(("127.0.0.1", 0))?;
    let two = TcpListener::bind(("127.0.0.1", 0))?;
    Ok([one.local_addr()?, two.local_addr()?])
}

fn find(peer: Peer, args: &Args) -> Result<PathBuf> {
    match peer {
        Peer::Standfast | Peer::StandfastLog => Ok(match &args.standfast {
            Some(path) => path.clone(),
            None => PathBuf::from(env!("CARGO_BIN_EXE_standfast")),
        }),
        Peer::Baseline => Ok(args.baseline.clone().ok_or("the peer baseline needs --baseline")?),
        Peer::Haproxy | Peer::HaproxySplice => install::packaged("haproxy"),
        Peer::Nginx => install::packaged("nginx"),
        Peer::Envoy => install::envoy(args.envoy.as_deref()),
        Peer::Pingora => pingora(),
        Peer::Relay => Ok(std::env::current_exe()?),
    }
}

/// Builds benches/peers/pingora into the target directory; a second time costs nothing.
fn pingora() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pingora");
    let program = target.join("release/pingora-peer");
    if !program.is_file() {
        // Its compression is built with cmake, wanted or not.
        install::packaged("cmake")?;
        eprintln!("building Pingora into {}, once; that takes minutes", target.display());
    }
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/pingora/Cargo.toml");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--locked", "--quiet", "--manifest-path", manifest]);
    let output = command.arg("--target-dir").arg(&target).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(program);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n  ");
    let how = "it needs a C++ compiler, cmake, pkg-config and the headers of OpenSSL (libssl-dev)";
    Err(format!("cannot build it ({how}):\n  {tail}").into())
}

fn version(peer: Peer, path: &Path) -> Result<String> {
    match peer {
        Peer::Haproxy | Peer::HaproxySplice | Peer::Nginx => install::version(path, "-v"),
        Peer::Relay => Ok("benches/peers/speed/relay.rs".to_owned()),
        _ => install::version(path, "--version"),
    }
}
