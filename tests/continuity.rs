//! What survives: a crash, a restart, a broken file; and what is known of it afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;
use standfast::control::saved::{Saved, encode};
use standfast::failover::record::Stamp;

use support::client::Client;
use support::endpoint::{Conn, Endpoint};
use support::lab::{Lab, two_pools};
use support::load::{Load, Plan};
use support::proxy::{Proxy, run};
use support::{free_address, until};

const QUICK: &str = "health_check: { path: /probe, interval: 200ms, timeout: 150ms }";

/// A plain listener, a hot and a standby pool of one endpoint each, and a state file.
fn config(lab: &Lab, bind: SocketAddr, hot: &Endpoint, standby: &Endpoint) -> String {
    let (state, history) = (lab.path("state.json"), lab.path("history.jsonl"));
    let pools = two_pools(&format!("bind: {bind}"), QUICK, &[hot.url()], &[standby.url()]);
    let (state, history) = (state.display(), history.display());
    format!("process: {{ state_file: {state}, history_file: {history} }}\n{pools}")
}

/// Well for everybody.
fn answering(body: &'static str) -> impl Fn(&mut Conn) + Send + Sync + 'static {
    move |conn| {
        while conn.head_only().is_some() {
            conn.answer(200, body);
        }
    }
}

/// Ill for probes and well for users, who are counted.
fn tempting(conn: &mut Conn) {
    while let Some(request) = conn.head_only() {
        let probe = request.target() == "/probe";
        conn.answer(if probe { 500 } else { 200 }, "hot");
    }
}

fn users(endpoint: &Endpoint) -> usize {
    endpoint.requests().iter().filter(|request| request.target() != "/probe").count()
}

fn kill9(proxy: &mut Proxy) {
    proxy.signal(Signal::KILL);
    proxy.wait_exit();
}

fn wait_saved(lab: &Lab, text: &str) {
    until(&format!("the state file says {text}"), || {
        let state = fs::read_to_string(lab.path("state.json")).ok()?;
        state.contains(text).then_some(())
    });
}

/// A client that asks all the time, also while nobody listens.
struct Hammer {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Hammer {
    fn start(bind: SocketAddr) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = std::thread::spawn(move || {
            let mut wrong = Vec::new();
            while !told.load(Ordering::SeqCst) {
                // Nobody listens while the process is dead.
                let Ok(answer) = Client::try_get(bind, "/user") else { continue };
                if (answer.status(), answer.text().as_str()) != (200, "standby") {
                    wrong.push(format!("{} {}", answer.status(), answer.text()));
                }
                counted.fetch_add(1, Ordering::SeqCst);
            }
            wrong
        });
        Self { stop, answered, thread: Some(thread) }
    }

    fn wait_more(&self, count: usize) {
        let goal = self.answered.load(Ordering::SeqCst) + count;
        until("more answers", || (self.answered.load(Ordering::SeqCst) >= goal).then_some(()));
    }

    fn finish(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("runs once").join().unwrap()
    }
}

#[test]
fn twenty_crashes_while_hot_is_dead_send_no_request_to_it() {
    let lab = Lab::new();
    let (hot, standby) = (Endpoint::start(answering("hot")), Endpoint::start(answering("standby")));
    let bind = free_address();
    let text = config(&lab, bind, &hot, &standby);
    let mut proxy = Proxy::start(&lab, &text);
    proxy.wait_all_up("app");
    hot.kill();
    proxy.wait_serving("app", "standby");
    wait_saved(&lab, "\"serving\":\"standby\"");
    kill9(&mut proxy);
    // It takes connections again, so as to count what comes; probes still fail.
    let hot = Endpoint::start_at(hot.address, tempting);

    let hammer = Hammer::start(bind);
    for _ in 0..20 {
        let mut next = Proxy::restart(&lab, &proxy, &text);
        hammer.wait_more(20);
        let status = next.status();
        assert_eq!(status["services"][0]["serving"], "standby");
        assert_eq!(status["services"][0]["cause"], "health");
        kill9(&mut next);
        proxy = next;
    }
    let wrong = hammer.finish();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(users(&hot), 0);
}

#[test]
fn holds_and_modes_and_records_survive_a_crash() {
    let lab = Lab::new();
    let (hot, standby) = (Endpoint::start(answering("hot")), Endpoint::start(answering("standby")));
    let text = config(&lab, free_address(), &hot, &standby);
    let mut proxy = Proxy::start(&lab, &text);
    proxy.wait_all_up("app");
    let moved =
        proxy.control(&["switch", "app", "--to", "standby", "--hold", "--reason", "patch day"]);
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    let place = format!("app/hot/{}", hot.name());
    let drained = proxy.control(&["mode", &place, "drain", "--reason", "disk"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    wait_saved(&lab, "\"mode\":\"drain\"");
    let since = proxy.status()["services"][0]["since"].clone();
    kill9(&mut proxy);

    let proxy = Proxy::restart(&lab, &proxy, &text);
    let app = &proxy.status()["services"][0];
    assert_eq!((&app["serving"], &app["held"]), (&"standby".into(), &true.into()));
    assert_eq!(app["cause"], "manual");
    let second = |time: &Value| time.as_str().unwrap()[..16].to_owned();
    assert_eq!(second(&app["since"]), second(&since));
    let endpoint = &app["pools"][0]["endpoints"][0];
    assert_eq!((&endpoint["mode"], &endpoint["mode_reason"]), (&"drain".into(), &"disk".into()));
    let records = failovers(&proxy);
    assert_eq!(records.len(), 1);
    assert_eq!((&records[0]["id"], &records[0]["held"]), (&"app-1".into(), &true.into()));
    proxy.stop();
}

/// Newest first.
fn failovers(proxy: &Proxy) -> Vec<Value> {
    let answer = Client::try_get(proxy.admin, "/api/v1/failovers?service=app").unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let list: Value = serde_json::from_slice(&answer.body).unwrap();
    list["failovers"].as_array().unwrap().clone()
}

/// A whole file of a later version of the program. The checksum is FNV-1a of what follows it.
fn of_version_2(file: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(file).unwrap().trim_end();
    let (_, rest) = text.split_once("\",").unwrap();
    let rest = rest.replacen("\"version\":1", "\"version\":2", 1);
    let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let sum = rest.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{{\"checksum\":\"{sum:016x}\",{rest}\n").into_bytes()
}

#[test]
fn a_state_file_that_cannot_be_believed_is_a_warning_and_a_cold_start() {
    let lab = Lab::new();
    let (hot, standby) = (Endpoint::start(answering("hot")), Endpoint::start(answering("standby")));
    let text = config(&lab, free_address(), &hot, &standby);
    let mut proxy = Proxy::start(&lab, &text);
    proxy.wait_all_up("app");
    assert!(proxy.control(&["switch", "app", "--to", "standby", "--reason", "x"]).status.success());
    wait_saved(&lab, "\"serving\":\"standby\"");
    kill9(&mut proxy);

    let path = lab.path("state.json");
    let whole = fs::read(&path).unwrap();
    let written = |before: i64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        let at = i64::try_from(now).unwrap() - before * 1_000_000;
        encode(&Saved::default(), Stamp(u64::try_from(at).unwrap())).unwrap()
    };
    let half = whole[..whole.len() / 2].to_vec();
    let alien = b"{\"services\":{}}\n".to_vec();
    let damaged = "it is damaged, or not a state file of ours";
    for (broken, why) in [
        (half, damaged),
        (Vec::new(), damaged),
        (vec![0; whole.len()], damaged),
        (alien, damaged),
        (of_version_2(&whole), "it has version 2 of the format, not 1"),
        (written(4000), "it is 400"),
        (written(-4000), "it was written 39"),
    ] {
        fs::write(&path, &broken).unwrap();
        let mut next = Proxy::restart(&lab, &proxy, &text);
        let log = next.log();
        assert!(log.contains("the state file is not heeded: a cold start"), "{log}");
        assert!(log.contains(why) && log.contains(&path.display().to_string()), "{why}: {log}");
        assert_eq!(next.status()["services"][0]["serving"], "hot");
        kill9(&mut next);
        proxy = next;
    }
    // Not even root can read a link to itself; it is replaced by a file that can be.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let mut next = Proxy::restart(&lab, &proxy, &text);
    assert!(next.log().contains("the state file cannot be read: a cold start"), "{}", next.log());
    wait_saved(&lab, "\"serving\":\"hot\"");
    kill9(&mut next);
    fs::write(&path, &whole).unwrap();
    let next = Proxy::restart(&lab, &proxy, &text);
    assert_eq!(next.status()["services"][0]["serving"], "standby");
    next.stop();
}

#[test]
fn a_state_file_that_cannot_be_written_is_one_warning_and_delays_nothing() {
    let lab = Lab::new();
    let (hot, standby) = (Endpoint::start(answering("hot")), Endpoint::start(answering("standby")));
    let text = config(&lab, free_address(), &hot, &standby);
    let text = text.replace("state.json", "gone/state.json");
    fs::create_dir(lab.path("gone")).unwrap();
    let proxy = Proxy::start(&lab, &text);
    proxy.wait_all_up("app");
    // A write that is under way may put its file in between.
    until("the folder is gone", || fs::remove_dir_all(lab.path("gone")).ok());
    hot.kill();
    proxy.wait_serving("app", "standby");
    until("it is said", || proxy.log().contains("cannot be written").then_some(()));
    assert_eq!(proxy.log().matches("cannot be written").count(), 1);
    proxy.stop();
}

/// Answers slowly enough that some requests are always in flight.
fn slow(body: &'static str) -> impl Fn(&mut Conn) + Send + Sync + 'static {
    move |conn| {
        while let Some(request) = conn.request() {
            if request.target() != "/probe" {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            if !conn.answer(200, body) {
                return;
            }
        }
    }
}

/// A TLS listener, for the load.
fn loaded(lab: &Lab, bind: SocketAddr, hot: &[Endpoint], standby: &Endpoint) -> String {
    let hot: Vec<_> = hot.iter().map(Endpoint::url).collect();
    let listener = format!("bind: {bind}, tls: {}", lab.tls());
    let pools = two_pools(&listener, QUICK, &hot, &[standby.url()]);
    format!("process: {{ history_file: {} }}\n{pools}", lab.path("history.jsonl").display())
}

fn plan(lab: &Lab, target: SocketAddr, method: &'static str) -> Plan {
    let tls = lab.client_config();
    Plan { target, tls, rate: 500, kept: 64, most: 512, fresh_every: 50, method }
}

/// The record of the one move, once its cost is final.
fn complete_record(proxy: &Proxy) -> Value {
    until("the record is complete", || {
        let mut records = failovers(proxy);
        assert!(records.len() <= 1, "{records:?}");
        records.pop().filter(|record| record["complete"] == true)
    })
}

fn total(counts: &Value) -> usize {
    counts.as_object().unwrap().values().map(|count| count.as_u64().unwrap() as usize).sum()
}

#[test]
fn a_record_counts_what_the_client_counted() {
    for method in ["POST", "GET"] {
        let lab = Lab::new();
        let hot = [Endpoint::start(slow("hot")), Endpoint::start(slow("hot"))];
        let standby = Endpoint::start(slow("standby"));
        let bind = free_address();
        let proxy = Proxy::start(&lab, &loaded(&lab, bind, &hot, &standby));
        proxy.wait_all_up("app");
        let load = Load::start(plan(&lab, bind, method));
        load.wait_more_by("hot", 700);
        hot.iter().for_each(Endpoint::kill);
        proxy.wait_serving("app", "standby");
        load.wait_more_by("standby", 700);
        let record = complete_record(&proxy);
        let report = load.finish();

        let cost = &record["cost"];
        assert_eq!(total(&cost["lost"]), report.lost().len(), "{record:#}");
        let metrics = proxy.metrics();
        let rescued = metrics.sum("standfast_requests_rescued_total", &[("service", "app")]);
        assert_eq!(total(&cost["rescued"]), rescued as usize, "{record:#}");
        assert!(rescued > 0.0 || !report.lost().is_empty(), "nothing was in flight: {record:#}");
        let requests = cost["requests"].as_u64().unwrap() as usize;
        assert!((1..=report.samples.len()).contains(&requests), "{record:#}");
        assert_eq!(record["cause"], "health");
        let pools = |success: bool| -> Vec<&str> {
            let evidence = record["evidence"].as_array().unwrap();
            let told = evidence.iter().filter(|seen| seen["success"] == success);
            told.map(|seen| seen["pool"].as_str().unwrap()).collect()
        };
        assert!(pools(false).iter().all(|pool| *pool == "hot") && !pools(false).is_empty());
        assert_eq!(pools(true), ["standby"]);
        let time = |name: &str| record["times"][name].as_u64().unwrap();
        assert!(time("first_evidence") <= time("decided"), "{record:#}");
        assert!(time("decided") <= time("published"), "{record:#}");
        let first = time("first_success").saturating_sub(time("first_evidence"));
        assert!(first < 1_000_000, "{record:#}");
        proxy.stop();
        assert_backtest_agrees(&lab, &proxy_config(&lab));
    }
}

fn proxy_config(lab: &Lab) -> String {
    let files = fs::read_dir(lab.dir()).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let mut configs = files.filter(|path| path.extension().is_some_and(|end| end == "yaml"));
    configs.next().unwrap().display().to_string()
}

/// The history of this run, replayed under its own configuration, makes the move that was made.
fn assert_backtest_agrees(lab: &Lab, config: &str) {
    let history = lab.path("history.jsonl").display().to_string();
    let words = ["backtest", "-c", config, "--history", &history, "--json"];
    let done = run(&words, Path::new("."));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    let moves = |list: &str| -> Vec<(Value, Value)> {
        let moves = told[list].as_array().unwrap().iter();
        moves.map(|made| (made["from"].clone(), made["to"].clone())).collect()
    };
    assert_eq!(moves("moves"), moves("recorded"), "{told:#}");
    assert_eq!(moves("moves").len(), 1, "{told:#}");
    let text = run(&words[..words.len() - 1], Path::new("."));
    assert!(text.stdout.contains("app: hot → standby  health"), "{}", text.stdout);
}
