//! Runs the real program.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::client::Client;
use super::lab::Lab;
use super::metrics::Metrics;
use super::{PATIENCE, free_address, until};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_standfast");

/// A running `standfast run`. Killed when dropped; the end of its log is shown if the test fails.
pub struct Proxy {
    child: Child,
    pub admin: SocketAddr,
    pub socket: PathBuf,
    pub config: PathBuf,
    log: PathBuf,
    stdout: PathBuf,
    /// What precedes the test's own part of the configuration.
    preamble: String,
}

impl Proxy {
    /// Starts with `config` (everything but `admin:`) and waits until it is ready.
    pub fn start(lab: &Lab, config: &str) -> Self {
        let mut proxy = Self::spawn(lab, config);
        proxy.wait_ready();
        proxy
    }

    /// Starts and does not wait.
    pub fn spawn(lab: &Lab, config: &str) -> Self {
        Self::spawn_at(lab, config, free_address())
    }

    /// Starts anew where an earlier process was: the same admin address, socket and file.
    pub fn restart(lab: &Lab, earlier: &Self, config: &str) -> Self {
        let mut proxy = Self::spawn_at(lab, config, earlier.admin);
        proxy.wait_ready();
        proxy
    }

    fn spawn_at(lab: &Lab, config: &str, admin: SocketAddr) -> Self {
        let name = format!("proxy-{}", admin.port());
        let socket = lab.path(&format!("{name}.sock"));
        let preamble = format!("admin: {{ listen: {admin}, socket: {} }}\n", socket.display());
        let path = lab.path(&format!("{name}.yaml"));
        fs::write(&path, format!("{preamble}{config}")).unwrap();
        let log = lab.path(&format!("{name}.stderr"));
        let stdout = lab.path(&format!("{name}.stdout"));
        let child = Command::new(PROGRAM)
            .args(["run", "-c"])
            .arg(&path)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, admin, socket, config: path, log, stdout, preamble }
    }

    pub fn wait_ready(&mut self) {
        until("/readyz answers 200", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("standfast ended at its start: {status}");
            }
            let status = Client::try_get(self.admin, "/readyz").ok()?.status();
            (status == 200).then_some(())
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Replaces the configuration file; takes effect at the next reload.
    pub fn write_config(&self, config: &str) {
        self.write_raw(&format!("{}{config}", self.preamble));
    }

    /// Replaces the file with exactly this text, at once, as editors and config maps do.
    pub fn write_raw(&self, text: &str) {
        let temporary = self.config.with_extension("new");
        fs::write(&temporary, text).unwrap();
        fs::rename(&temporary, &self.config).unwrap();
    }

    /// Runs a control command against this process.
    pub fn control(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a command");
        Command::new(PROGRAM)
            .arg(command)
            .arg("--admin")
            .arg(&self.socket)
            .args(rest)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn metrics(&self) -> Metrics {
        let answer = Client::try_get(self.admin, "/metrics").unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text());
        Metrics::parse(&answer.text())
    }

    /// `/api/v1/status`.
    pub fn status(&self) -> Value {
        let answer = Client::try_get(self.admin, "/api/v1/status").unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Waits until this pool is the one that serves.
    pub fn wait_serving(&self, service: &str, pool: &str) {
        let labels = [("service", service), ("pool", pool)];
        until(&format!("{service} is served by {pool}"), || {
            (self.metrics().sum("standfast_pool_active", &labels) == 1.0).then_some(())
        });
    }

    /// Waits until every endpoint of a service is known to be up.
    pub fn wait_all_up(&self, service: &str) {
        let labels = [("service", service)];
        until(&format!("all endpoints of {service} are up"), || {
            let metrics = self.metrics();
            let all = metrics.get("standfast_pool_endpoints", &labels)?;
            (metrics.sum("standfast_pool_endpoints_healthy", &labels) == all).then_some(())
        });
    }

    /// Waits until the verdict on an endpoint is up, or is down (unknown is neither).
    pub fn wait_endpoint(&self, service: &str, endpoint: &str, up: bool) {
        let verdict = if up { "up" } else { "down" };
        let labels = [("service", service), ("endpoint", endpoint), ("state", verdict)];
        until(&format!("{service}'s endpoint {endpoint} is {verdict}"), || {
            (self.metrics().get("standfast_endpoint_state", &labels)? == 1.0).then_some(())
        });
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// What it wrote to stdout so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap()).into_owned()
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < 2 * PATIENCE, "standfast does not end");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// TERM, and it must exit with 0.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        assert_eq!(status.code(), Some(0), "after TERM: {status}\n{}", self.log());
    }

    /// Resident memory in bytes, from `/proc`.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4000);
            let tail = String::from_utf8_lossy(&log.as_bytes()[from..]).into_owned();
            let _ = writeln!(std::io::stderr(), "--- end of the log of standfast ---\n{tail}");
        }
    }
}

/// Runs the program to its end, with a limit.
pub fn run(arguments: &[&str], dir: &Path) -> Finished {
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text).unwrap_or_default()
    });
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text).unwrap_or_default()
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > 2 * PATIENCE {
            let _ = child.kill();
            panic!("standfast {arguments:?} does not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    Finished { code: status.code(), stdout: reader.join().unwrap(), stderr: errors.join().unwrap() }
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// `None`: by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}
