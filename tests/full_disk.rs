//! A disk that is full under all files the program writes: serving goes on, what was whole stays
//! whole, and once there is room everything is written again. Needs root, for a disk of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use support::client::Client;
use support::endpoint::Endpoint;
use support::lab::{Lab, two_pools};
use support::proxy::Proxy;
use support::{free_address, until};

/// A tmpfs of 256 KiB that only the thread in [`Disk::within`] and what it starts can see.
struct Disk(PathBuf);

impl Disk {
    /// Runs `test` on a thread with mounts of its own, which end with it.
    fn within(lab: &Lab, test: impl FnOnce(&Self) + Send) {
        let disk = Self(lab.path("disk"));
        fs::create_dir(&disk.0).unwrap();
        let inside = || {
            #[expect(deprecated, reason = "the other form is unsafe for the sake of FILES")]
            rustix::thread::unshare(UnshareFlags::NEWNS).expect("this test needs root");
            let mount = |words: &[&str], place: &Path| {
                let status = Command::new("mount").args(words).arg(place).status().unwrap();
                assert!(status.success(), "mount {words:?}: {status}");
            };
            // Or the machine would see the new one.
            mount(&["--make-rprivate"], Path::new("/"));
            mount(&["-t", "tmpfs", "-o", "size=256k", "tmpfs"], &disk.0);
            test(&disk);
        };
        let ended = thread::scope(|scope| scope.spawn(inside).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Takes all room there is.
    fn fill(&self) {
        let mut options = OpenOptions::new();
        let mut ballast =
            options.append(true).create(true).open(self.path("ballast")).expect("an inode is left");
        while ballast.write(&[0; 512]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }

    fn state(&self) -> String {
        fs::read_to_string(self.path("state.json")).unwrap_or_default()
    }
}

/// Everything that can be written goes to the disk. Hot answers every second probe with an error, so
/// that there always is something for the history.
fn config(disk: &Disk, bind: SocketAddr, hot: &Endpoint, standby: &Endpoint) -> String {
    let path = |name| disk.path(name).display().to_string();
    let quick =
        "health_check: { path: /probe, interval: 100ms, timeout: 90ms, fast_interval: 20ms }";
    format!(
        "process: {{ state_file: {}, history_file: {} }}
logging: {{ access_log: {{ output: {} }} }}
{}",
        path("state.json"),
        path("history.jsonl"),
        path("access.log"),
        two_pools(&format!("bind: {bind}"), quick, &[hot.url()], &[standby.url()]),
    )
}

fn flapping() -> Endpoint {
    let probes = Arc::new(AtomicUsize::new(0));
    Endpoint::start(move |conn| {
        while conn.head_only().is_some() {
            let well = probes.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            conn.answer(if well { 200 } else { 500 }, "hot");
        }
    })
}

fn steady() -> Endpoint {
    Endpoint::start(|conn| while conn.head_only().is_some() && conn.answer(200, "standby") {})
}

fn failures(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("standfast_state_file_writes_total", &[("result", "failure")])
}

fn order(proxy: &Proxy, words: &[&str]) {
    let done = proxy.control(words);
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Fills the disk until each of the files could not be written; requests go on meanwhile.
fn wait_full(disk: &Disk, proxy: &Proxy, bind: SocketAddr) {
    until("every file fails", || {
        disk.fill();
        let answer = Client::try_get(bind, "/user").unwrap();
        assert_eq!((answer.status(), &*answer.text()), (200, "standby"));
        let metrics = proxy.metrics();
        let dropped = |name| metrics.sum(name, &[]) > 0.0;
        (failures(proxy) > 0.0
            && dropped("standfast_history_dropped_total")
            && dropped("standfast_access_log_dropped_total"))
        .then_some(())
    });
}

#[test]
fn a_full_disk_stops_nobody_spoils_nothing_and_is_said_once() {
    let lab = Lab::new();
    Disk::within(&lab, |disk| {
        let (hot, standby, bind) = (flapping(), steady(), free_address());
        let text = config(disk, bind, &hot, &standby);
        let mut proxy = Proxy::start(&lab, &text);
        proxy.wait_endpoint("app", &standby.name(), true);
        order(&proxy, &["switch", "app", "--to", "standby", "--hold", "--reason", "patch day"]);
        until("the hold is written", || disk.state().contains("\"held\":true").then_some(()));
        wait_full(disk, &proxy, bind);

        // Whatever is ordered now is done, and not written.
        let kept = disk.state();
        let place = format!("app/hot/{}", hot.name());
        for mode in ["drain", "active", "drain"] {
            let before = failures(&proxy);
            order(&proxy, &["mode", &place, mode, "--reason", "disk"]);
            until("that cannot be written", || (failures(&proxy) > before).then_some(()));
        }
        assert_eq!(disk.state(), kept);
        assert!(!disk.path("state.json.new").exists(), "half a file takes room");
        let log = proxy.log();
        for (what, file) in [("state file", "state.json.new"), ("probe history", "history.jsonl")] {
            let begun = format!("the {what} cannot be written");
            let said: Vec<_> = log.lines().filter(|line| line.contains(&begun)).collect();
            assert_eq!(said.len(), 1, "{log}");
            for part in [file, "No space left on device", "make room"] {
                assert!(said[0].contains(part), "{part}: {}", said[0]);
            }
        }
        proxy.signal(Signal::KILL);
        proxy.wait_exit();

        let proxy = Proxy::restart(&lab, &proxy, &text);
        assert!(proxy.log().contains("state restored"), "{}", proxy.log());
        let app = &proxy.status()["services"][0];
        assert_eq!((&app["serving"], &app["held"]), (&"standby".into(), &true.into()));
        wait_full(disk, &proxy, bind);
        disk.make_room();
        order(&proxy, &["mode", &place, "drain", "--reason", "there is room"]);
        until("the order is written", || disk.state().contains("\"mode\":\"drain\"").then_some(()));
        for what in ["the state file", "the probe history"] {
            let again = format!("{what} is written again");
            until(&again, || proxy.log().contains(&again).then_some(()));
        }
        proxy.stop();
        assert_readable(&lab, &disk.path("history.jsonl"));
    });
}

/// What is there of the history can be replayed: at most one line was torn by each of the two.
fn assert_readable(lab: &Lab, history: &Path) {
    let text = fs::read_to_string(history).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    let torn = lines.iter().filter(|line| !line.ends_with('}')).count();
    assert!(lines.len() > 10 && torn <= 2, "{torn} of {} lines in {:?}", lines.len(), lab.dir());
}
