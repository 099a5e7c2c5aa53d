//! The failover rig: a hot and a standby pool of three endpoints each, every endpoint a real NGINX in
//! a network namespace of its own in front of an application that writes down what it is given; a
//! proxy under test; an open-loop client that numbers its requests; and faults.
//!
//! ```text
//! namespace of the proxy: client ─ 127.0.0.1:8080 ─ proxy ─ eth0 10.77.0.1 ─┐
//! six namespaces of the endpoints:  10.77.1.1 … .3 (hot), 10.77.2.1 … .3    ├─ bridge in a namespace
//!                                   NGINX on port 80 ─ application ─ eth0 ──┘
//! ```
//!
//! It needs root, `ip`, `nft` and `nginx`. Namespaces have no names and each rig has its own, so any
//! number can run side by side; all of it, processes included, vanishes with the rig however it ends.
//! Like the rest of the harness it panics when something other than the proxy fails.
//!
//! ```ignore
//! let mut rig = Rig::new();
//! let proxy = rig.start_standfast(Path::new(PROGRAM), &rig.config());    // the 12 lines
//! let load = rig.load(Plan::new(FRONT));                                 // 2,000/s, 20 % POST
//! rig.run_for(Duration::from_secs(2));
//! let fault = rig.inject(Fault::Drop, At::Hot);                          // fault.at: since origin
//! rig.run_for(Duration::from_secs(6));
//! let lifted = rig.lift(Fault::Drop, At::Hot);
//! let report = rig.finish(load);                                         // samples and deliveries
//! let figures = report.between(fault.at, fault.at + Duration::from_secs(6));
//! assert_eq!(figures.lost_get, 0, "{:?}", figures.why);
//! assert!(report.first_success(fault.at, Pool::Standby).unwrap() < Duration::from_millis(60));
//! ```
//!
//! - [`Rig::inject`] and [`Rig::lift`] say when the fault took effect: `at` is taken just before the
//!   first system call of it, `took` is how long the last one needed.
//! - [`proxy::Proxy`]: `pause`, `resume`, `signal`, `kill`, `start_again`, `control`, `status`,
//!   `watch` (the moves as `/api/v1/status` shows them), `log`.
//! - [`report::Report`]: `between` (requests, lost and duplicated by method, quantiles, by pool),
//!   `first_success`, `delivered_to`, and all samples and deliveries as they are.
//! - [`Rig::websockets`] opens WebSockets and tells how each of them ended, and when.
//! - [`Rig::start`] runs any other program in the proxy's place (the bench's peers).
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness shared by test binaries and a bench; its failures are theirs"
)]

pub mod answer;
pub mod app;
pub mod endpoint;
pub mod load;
pub mod proxy;
pub mod report;
pub mod space;
pub mod websocket;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use app::{App, Behaviour, Delivery};
use endpoint::Endpoint;
use load::{Load, Plan};
use proxy::{ADMIN, FRONT, Proxy};
use report::Report;
use space::{Lever, Nursery, Space};
use websocket::WebSockets;

/// How long a condition may take before the rig gives up; generous, for machines under load.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Endpoints of each pool.
pub const EACH: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    Hot,
    Standby,
}

impl Pool {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Standby => "standby",
        }
    }
}

/// The pool of an endpoint by its index.
pub fn pool_of(endpoint: usize) -> Pool {
    if endpoint < EACH { Pool::Hot } else { Pool::Standby }
}

/// Which endpoints a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Hot,
    Standby,
    Both,
    /// One by its index: 0 to 2 hot, 3 to 5 standby.
    One(usize),
}

impl At {
    pub fn endpoints(self) -> std::ops::Range<usize> {
        match self {
            Self::Hot => 0..EACH,
            Self::Standby => EACH..2 * EACH,
            Self::Both => 0..2 * EACH,
            Self::One(endpoint) => endpoint..endpoint + 1,
        }
    }
}

/// What befalls endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the ingress; lifted: it is started again.
    Kill,
    /// Packets vanish on the way, in both directions.
    Drop,
    /// The link is down; seen from the proxy, as if a cable beyond its switch had been pulled.
    LinkDown,
    /// SIGSTOP of ingress and application: the kernel accepts, nobody answers.
    Stop,
    /// A firewall answers every packet with ICMP port unreachable, as often as a Linux host does by
    /// default: a burst of six to each peer, then one a second; the rest vanish.
    Reject,
    /// A firewall answers every packet with a TCP reset.
    Reset,
    /// 503 to everybody, probes too.
    Refuse,
    /// 503 to users; probes are answered well.
    RefuseUsers,
    /// 503 to probes; users are answered well.
    RefuseProbes,
    /// Everything is answered well, but by another cluster (`x-cluster-id`).
    Foreign,
    /// Everything is answered this much later.
    Slow(Duration),
}

/// When a fault took effect, or ended.
#[derive(Debug, Clone, Copy)]
pub struct Struck {
    /// Since the rig's origin, just before the first change.
    pub at: Duration,
    /// Until the last change was done.
    pub took: Duration,
}

/// The whole rig. Drop order matters: what the processes are before their namespace.
pub struct Rig {
    origin: Instant,
    endpoints: Vec<Endpoint>,
    app: App,
    switch: Space,
    front: Space,
    nursery: Arc<Nursery>,
    dir: TempDir,
}

impl Rig {
    /// All namespaces and links, all endpoints answering.
    pub fn new() -> Self {
        let origin = Instant::now();
        let dir = tempfile::Builder::new().prefix("standfast-rig-").tempdir().unwrap();
        let nursery = Arc::new(Nursery::new(dir.path()));
        let (switch, front) = (Space::new(), Space::new());
        switch.run("ip", "link add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
        plug(&switch, &front, "proxy", Ipv4Addr::new(10, 77, 0, 1));
        let (mut endpoints, mut listeners) = (Vec::new(), Vec::new());
        for index in 0..2 * EACH {
            let space = Space::new();
            let address = address(index);
            plug(&switch, &space, &format!("e{index}"), address);
            let listener = space.within(|| TcpListener::bind(endpoint::APP).unwrap());
            listener.set_nonblocking(true).unwrap();
            listeners.push(listener);
            let dir = dir.path().join(format!("endpoint-{index}"));
            let address = SocketAddr::from((address, 80));
            endpoints.push(Endpoint::new(&dir, space, address, Arc::clone(&nursery)));
        }
        let app = App::start(origin, listeners);
        let mut rig = Self { origin, endpoints, app, switch, front, nursery, dir };
        for endpoint in &mut rig.endpoints {
            endpoint.start();
        }
        rig.wait_answering(At::Both);
        rig
    }

    /// What all times are counted from.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// Since the origin.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// A directory that goes with the rig.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `10.77.1.1:80` and so on.
    pub fn addresses(&self, pool: Pool) -> Vec<SocketAddr> {
        let all = self.endpoints.iter().enumerate();
        all.filter(|(index, _)| pool_of(*index) == pool).map(|(_, e)| e.address).collect()
    }

    /// The least configuration of Standfast, without anything tuned (12 lines without `admin:`).
    pub fn config(&self) -> String {
        let urls = |pool| {
            let urls: Vec<String> =
                self.addresses(pool).iter().map(|address| format!("http://{address}")).collect();
            urls.join(", ")
        };
        format!(
            "\
listeners:
  - bind: \"{FRONT}\"
    service: app
services:
  app:
    health_check: {{ path: /healthz }}
    pools:
      - name: hot
        endpoints: [{}]
      - name: standby
        endpoints: [{}]
",
            urls(Pool::Hot),
            urls(Pool::Standby)
        )
    }

    /// Runs Standfast with `config` (everything but `admin:`) and waits until all endpoints are up.
    pub fn start_standfast(&self, program: &Path, config: &str) -> Proxy {
        let (dir, mut command) = self.standfast(program, config);
        let mut proxy = self.start(&dir, &mut command);
        proxy.wait_serving();
        wait("all endpoints are up", || {
            let status = proxy.status();
            let pools = status["services"][0]["pools"].as_array()?.clone();
            let up = |pool: &serde_json::Value| pool["up"].as_u64() == Some(EACH as u64);
            pools.iter().all(up).then_some(())
        });
        proxy
    }

    /// Writes the configuration; returns the directory and the command that runs Standfast with it.
    pub fn standfast(&self, program: &Path, config: &str) -> (std::path::PathBuf, Command) {
        let dir = self.dir.path().join("standfast");
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("standfast.yaml");
        let socket = dir.join("admin.sock");
        let admin = format!("admin: {{ listen: {ADMIN}, socket: {} }}\n", socket.display());
        std::fs::write(&file, admin + config).unwrap();
        let mut command = Command::new(program);
        command.args(["run", "-c"]).arg(file).env("NO_COLOR", "1");
        (dir, command)
    }

    /// Runs any program as the proxy, with a directory of its own; it should listen on [`FRONT`].
    pub fn start(&self, dir: &Path, command: &mut Command) -> Proxy {
        Proxy::spawn(&self.front, &self.nursery, dir, command)
    }

    /// Starts a client beside the proxy.
    pub fn load(&self, plan: Plan) -> Load {
        Load::start(&self.front, self.origin, plan)
    }

    /// Ends a load: sends no more, waits for what is due; with the deliveries of its requests.
    pub fn finish(&self, load: Load) -> Report {
        let samples = load.end();
        Report::new(samples, self.app.deliveries())
    }

    /// GET from the proxy's namespace, on a connection of its own: status and body.
    pub fn get(&self, address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
        self.front.within(|| proxy::get(address, path))
    }

    /// Opens WebSockets through the proxy; returns once all are open.
    pub fn websockets(&self, count: usize) -> WebSockets {
        WebSockets::open(&self.front, self.origin, FRONT, count)
    }

    /// Lets time pass.
    pub fn run_for(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// All requests that reached an application so far.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.app.deliveries()
    }

    /// Probes that reached an endpoint's application so far.
    pub fn probes(&self, endpoint: usize) -> u64 {
        self.app.behaviour(endpoint).probes.load(Ordering::Relaxed)
    }

    /// Strikes. Several faults may be in effect, also at the same endpoints.
    pub fn inject(&mut self, fault: Fault, at: At) -> Struck {
        match fault {
            Fault::Kill => {
                let struck = self.timed(|rig| rig.signal(at, Signal::KILL));
                at.endpoints().for_each(|index| self.endpoints[index].reap());
                struck
            }
            Fault::Stop => self.timed(|rig| {
                rig.signal(at, Signal::STOP);
                rig.behaviours(at, Behaviour::pause);
            }),
            _ => self.change(fault, at, true),
        }
    }

    /// Ends a fault injected at the same endpoints. After `Kill`, returns once they answer again.
    pub fn lift(&mut self, fault: Fault, at: At) -> Struck {
        match fault {
            Fault::Kill => self.timed(|rig| {
                at.endpoints().for_each(|index| rig.endpoints[index].start());
                rig.wait_answering(at);
            }),
            Fault::Stop => self.timed(|rig| {
                rig.behaviours(at, Behaviour::resume);
                rig.signal(at, Signal::CONT);
            }),
            _ => self.change(fault, at, false),
        }
    }

    /// Cuts the proxy off from both pools, or ends that.
    pub fn isolate(&mut self, isolated: bool) -> Struck {
        let ports = vec!["proxy".to_owned()];
        self.pull(&self.switch, "nft", &[dropping("isolated", &ports, isolated)])
    }

    fn change(&mut self, fault: Fault, at: At, on: bool) -> Struck {
        let ports: Vec<String> = at.endpoints().map(|index| format!("e{index}")).collect();
        match fault {
            Fault::Drop => {
                let name = format!("drop_{}", ports.join("_"));
                self.pull(&self.switch, "nft", &[dropping(&name, &ports, on)])
            }
            Fault::LinkDown => {
                let state = if on { "down" } else { "up" };
                let lines = ports.iter().map(|port| format!("link set {port} {state}\n"));
                self.pull(&self.switch, "ip", &[lines.collect()])
            }
            Fault::Reject => self.rejecting(at, "icmp type port-unreachable", on),
            Fault::Reset => self.rejecting(at, "tcp reset", on),
            Fault::Refuse => self.timed(|rig| {
                rig.behaviours(at, |app| {
                    app.refuse_users.store(on, Ordering::SeqCst);
                    app.refuse_probes.store(on, Ordering::SeqCst);
                });
            }),
            Fault::RefuseUsers => self.timed(|rig| {
                rig.behaviours(at, |app| app.refuse_users.store(on, Ordering::SeqCst));
            }),
            Fault::RefuseProbes => self.timed(|rig| {
                rig.behaviours(at, |app| app.refuse_probes.store(on, Ordering::SeqCst));
            }),
            Fault::Foreign => self.timed(|rig| {
                rig.behaviours(at, |app| app.foreign.store(on, Ordering::SeqCst));
            }),
            Fault::Slow(by) => self.timed(|rig| {
                let delay = if on { by.as_millis() as u32 } else { 0 };
                rig.behaviours(at, |app| app.delay.store(delay, Ordering::SeqCst));
            }),
            Fault::Kill | Fault::Stop => unreachable!("done by signals"),
        }
    }

    fn timed(&mut self, change: impl FnOnce(&mut Self)) -> Struck {
        let at = self.now();
        change(self);
        Struck { at, took: self.now() - at }
    }

    fn signal(&self, at: At, signal: Signal) {
        at.endpoints().for_each(|index| self.endpoints[index].signal(signal));
    }

    fn behaviours(&self, at: At, change: impl Fn(&Behaviour)) {
        at.endpoints().for_each(|index| change(self.app.behaviour(index)));
    }

    /// Packets that come in at the endpoints are refused by their own firewall.
    fn rejecting(&self, at: At, with: &str, on: bool) -> Struck {
        let rules = if !on {
            "delete table ip rig\n".to_owned()
        } else if with == "tcp reset" {
            firewall("iifname eth0 meta l4proto tcp reject with tcp reset")
        } else {
            firewall(&format!("iifname eth0 reject with {with}"))
        };
        let spaces: Vec<&Space> = at.endpoints().map(|i| &self.endpoints[i].space).collect();
        let levers = spaces.iter().map(|space| space.lever("nft")).collect();
        self.pull_all(levers, &rules)
    }

    fn pull(&self, space: &Space, program: &str, commands: &[String]) -> Struck {
        self.pull_all(vec![space.lever(program)], &commands.concat())
    }

    /// The programs are given a moment to load, so that the fault is where its time says it is.
    fn pull_all(&self, mut levers: Vec<Lever>, commands: &str) -> Struck {
        std::thread::sleep(Duration::from_millis(30));
        let at = self.now();
        for lever in &mut levers {
            lever.send(commands);
        }
        levers.into_iter().for_each(Lever::wait);
        Struck { at, took: self.now() - at }
    }

    /// Makes these endpoints answer TLS on port 443 too, with this chain and key from now on; returns
    /// once new connections get it. Connections that stand are ended as any reload ends them: idle
    /// ones at once, others after their request.
    pub fn certify(&mut self, at: At, cert_file: &Path, key_file: &Path) -> Struck {
        self.timed(|rig| {
            for index in at.endpoints() {
                rig.endpoints[index].certify(cert_file, key_file);
            }
        })
    }

    /// Waits until these endpoints answer the proxy's namespace.
    fn wait_answering(&self, at: At) {
        for index in at.endpoints() {
            let endpoint = &self.endpoints[index];
            let start = Instant::now();
            let answers =
                || proxy::get(endpoint.address, "/ready").is_ok_and(|(status, _)| status < 600);
            self.front.within(|| {
                while !answers() {
                    let log = endpoint.log();
                    assert!(start.elapsed() < PATIENCE, "endpoint {index} is silent: {log}");
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

/// Asks until there is an answer; panics with `what` after [`PATIENCE`].
pub fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn address(endpoint: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1 + (endpoint / EACH) as u8, 1 + (endpoint % EACH) as u8)
}

/// Connects a namespace to the switch: `eth0` there, `port` here.
fn plug(switch: &Space, space: &Space, port: &str, address: Ipv4Addr) {
    switch.run(
        "ip",
        &format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0 up\n",
            space.path()
        ),
    );
    space.run("ip", &format!("addr add {address}/16 dev eth0\nlink set eth0 up\n"));
}

/// What makes the switch lose IP packets from and to some of its ports (ARP passes, as it does where
/// a router or a firewall is what drops).
fn dropping(table: &str, ports: &[String], on: bool) -> String {
    if !on {
        return format!("delete table bridge {table}\n");
    }
    let ports = ports.join(", ");
    format!(
        "table bridge {table} {{ chain forward {{ type filter hook forward priority 0; \
         ether type ip iifname {{ {ports} }} drop; ether type ip oifname {{ {ports} }} drop; }}; }}\n"
    )
}

fn firewall(rule: &str) -> String {
    format!("table ip rig {{ chain input {{ type filter hook input priority 0; {rule}; }}; }}\n")
}
