//! The proxy under test: any program, in the proxy's namespace; and Standfast with its admin server.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use super::space::{Nursery, Space};
use super::wait;

/// Where clients find the proxy, in its namespace.
pub const FRONT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Where Standfast's admin server listens, in the same namespace.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// A running proxy; killed with all its processes when dropped.
pub struct Proxy {
    /// Its own directory: configuration, logs, sockets.
    pub dir: PathBuf,
    space: Space,
    nursery: Arc<Nursery>,
    child: Child,
}

impl Proxy {
    pub(super) fn spawn(
        space: &Space,
        nursery: &Arc<Nursery>,
        dir: &Path,
        command: &mut Command,
    ) -> Self {
        fs::create_dir_all(dir).unwrap();
        let log = |name| File::options().append(true).create(true).open(dir.join(name)).unwrap();
        command.stdin(Stdio::null()).stdout(log("stdout")).stderr(log("stderr"));
        let child = space.spawn(nursery, command);
        let child = child
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        let (dir, nursery) = (dir.to_owned(), Arc::clone(nursery));
        Self { dir, space: space.again(), nursery, child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// To the process that was started alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops all its processes.
    pub fn pause(&self) {
        kill_process_group(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    pub fn resume(&self) {
        kill_process_group(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// SIGKILL to all of it.
    pub fn kill(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }

    /// Starts another process in its place (after its end), which writes to the same logs.
    pub fn start_again(&mut self, command: &mut Command) {
        let again = Self::spawn(&self.space, &self.nursery, &self.dir, command);
        *self = again;
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait("the proxy ends", || self.child.try_wait().unwrap())
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until a GET through it is answered with 200.
    pub fn wait_serving(&mut self) {
        let start = Instant::now();
        while !self.get(FRONT, "/ready").is_ok_and(|(status, _)| status == 200) {
            let ended = self.ended();
            let hopeless = ended.is_some() || start.elapsed() > super::PATIENCE;
            assert!(!hopeless, "the proxy does not serve ({ended:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// GET from its namespace: status and body.
    pub fn get(&self, address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
        self.space.within(|| get(address, path))
    }

    /// Runs a program to its end in the proxy's namespace.
    pub fn run(&self, command: &mut Command) -> Output {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.space.spawn(&self.nursery, command).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs a control command of Standfast, `program`, against this process.
    pub fn control(&self, program: &Path, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a command");
        let mut line = Command::new(program);
        line.arg(command).arg("--admin").arg(self.dir.join("admin.sock")).args(rest);
        self.run(line.env("NO_COLOR", "1"))
    }

    /// `/api/v1/status` of Standfast.
    pub fn status(&self) -> Value {
        let (status, body) = self.get(ADMIN, "/api/v1/status").unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Follows which pool serves, by asking every 5 ms; for Standfast alone.
    pub fn watch(&self, origin: Instant) -> Watch {
        Watch::start(self.space.again(), origin)
    }

    /// What it wrote to stderr so far; its last part if that is long.
    pub fn log(&self) -> String {
        let text = fs::read(self.dir.join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(8000)..]).into_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let _ = writeln!(io::stderr(), "--- end of the proxy's log ---\n{}", self.log());
        }
    }
}

/// A change of the pool that serves, as `/api/v1/status` showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Since the rig's origin; seen, so late by up to the interval of asking.
    pub at: Duration,
    pub to: String,
}

/// Follows the moves of the first service.
pub struct Watch {
    stop: Arc<AtomicBool>,
    moves: Arc<Mutex<Vec<Move>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(space: Space, origin: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let moves: Arc<Mutex<Vec<Move>>> = Arc::default();
        let thread = std::thread::spawn({
            let (stop, moves) = (Arc::clone(&stop), Arc::clone(&moves));
            move || {
                space.enter();
                while !stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                    let Some(serving) = serving() else { continue };
                    let mut moves = moves.lock().unwrap_or_else(PoisonError::into_inner);
                    if moves.last().is_none_or(|last| last.to != serving) {
                        moves.push(Move { at: origin.elapsed(), to: serving });
                    }
                }
            }
        });
        Self { stop, moves, thread: Some(thread) }
    }

    /// The first entry is the pool that served at the beginning.
    pub fn moves(&self) -> Vec<Move> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serving() -> Option<String> {
    let (_, body) = get(ADMIN, "/api/v1/status").ok()?;
    let status: Value = serde_json::from_str(&body).ok()?;
    Some(status["services"][0]["serving"].as_str()?.to_owned())
}

/// One GET on a connection of its own, from the namespace of the calling thread.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "not an answer");
    let status = text.get(9..12).and_then(|text| text.parse().ok()).ok_or_else(broken)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    // Chunks of a length each on a line of its own; a single one is all the admin server sends.
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => body.lines().skip(1).take_while(|line| *line != "0").collect(),
        false => body.to_owned(),
    };
    Ok((status, body))
}
