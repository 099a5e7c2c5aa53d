//! What an operator orders of a running Standfast, and looks up afterwards.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::process::Output;

use serde_json::Value;

use support::client::Client;
use support::endpoint::Endpoint;
use support::lab::{Lab, two_pools};
use support::proxy::{Proxy, run};
use support::{free_address, until};

struct Rig {
    proxy: Proxy,
    hot: Endpoint,
    standby: Endpoint,
    bind: std::net::SocketAddr,
    _lab: Lab,
}

/// Hot and standby, both up.
fn rig() -> Rig {
    let (lab, bind) = (Lab::new(), free_address());
    let (hot, standby) = (Endpoint::answering("hot"), Endpoint::answering("standby"));
    let check = "health_check: { path: /healthz, fast_interval: 20ms }";
    let config = two_pools(&format!("bind: {bind}"), check, &[hot.url()], &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    Rig { proxy, hot, standby, bind, _lab: lab }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

impl Rig {
    fn done(&self, words: &[&str]) -> String {
        stdout(&self.proxy.control(words))
    }

    fn refused(&self, words: &[&str]) -> String {
        stderr(&self.proxy.control(words))
    }

    fn service(&self) -> Value {
        self.proxy.status()["services"][0].clone()
    }

    fn answered_by(&self) -> String {
        Client::plain(self.bind).get("/").text()
    }
}

#[test]
fn a_switch_moves_and_says_how_to_go_back() {
    let rig = rig();
    let said = rig.done(&["switch", "app", "--to", "standby", "--reason", "upgrade of hot"]);
    assert!(said.starts_with("app moved from hot to standby\n"), "{said}");
    assert!(said.contains("`standfast release app`"), "{said}");
    assert_eq!(rig.answered_by(), "standby");
    let service = rig.service();
    assert_eq!(service["why"], "ordered: upgrade of hot");
    assert_eq!(service["next"]["kind"], "stands");
    assert_eq!(service["order_reason"], "upgrade of hot");
    assert_eq!(
        (&service["takeover"]["pool"], &service["takeover"]["ready"]),
        (&"hot".into(), &true.into())
    );
    let labels = [("service", "app"), ("cause", "manual")];
    assert_eq!(rig.proxy.metrics().sum("standfast_failovers_total", &labels), 1.0);
    rig.proxy.stop();
}

#[test]
fn a_hold_pins_a_service_until_it_is_released() {
    let rig = rig();
    let said = rig.done(&["switch", "app", "--to", "hot", "--hold", "--reason", "no moves today"]);
    assert!(said.contains("until `standfast release app`"), "{said}");
    let page = rig.done(&["status"]);
    assert!(page.contains("HELD by an operator: no moves today\n"), "{page}");
    let of_app = [("service", "app")];
    assert_eq!(rig.proxy.metrics().sum("standfast_failover_hold", &of_app), 1.0);
    rig.hot.kill();
    let held = [("trouble", "held")];
    until("the hold is told as trouble", || {
        (rig.proxy.metrics().sum("standfast_failover_trouble", &held) == 1.0).then_some(())
    });
    assert_eq!(rig.service()["serving"], "hot");
    assert_eq!(rig.service()["trouble"]["kind"], "held");
    let said = rig.done(&["release", "app", "--reason", "hot died"]);
    assert!(said.contains("health decides again"), "{said}");
    rig.proxy.wait_serving("app", "standby");
    assert_eq!(rig.proxy.metrics().sum("standfast_failover_hold", &of_app), 0.0);
    rig.proxy.stop();
}

#[test]
fn a_mode_takes_an_endpoint_out_of_use_but_not_the_last_one() {
    let rig = rig();
    let path = |pool: &str, endpoint: &Endpoint| format!("app/{pool}/{}", endpoint.name());
    let (hot, standby) = (path("hot", &rig.hot), path("standby", &rig.standby));
    let said = rig.done(&["mode", &hot, "drain", "--reason", "a new disk"]);
    assert!(said.contains(&format!("undo: `standfast mode {hot} active")), "{said}");
    rig.proxy.wait_serving("app", "standby");
    assert_eq!(rig.answered_by(), "standby");
    let endpoint = &rig.service()["pools"][0]["endpoints"][0];
    assert_eq!((&endpoint["mode"], &endpoint["verdict"]), (&"drain".into(), &"up".into()));
    assert_eq!(endpoint["mode_reason"], "a new disk");
    let page = rig.done(&["status"]);
    assert!(page.contains("DRAIN for ") && page.contains(" (a new disk), up for"), "{page}");
    let labels = [("endpoint", &*rig.hot.name()), ("mode", "drain")];
    assert_eq!(rig.proxy.metrics().sum("standfast_endpoint_mode", &labels), 1.0);
    let refused = rig.refused(&["mode", &standby, "off", "--reason", "x"]);
    assert!(refused.contains("without an available pool"), "{refused}");
    rig.done(&["mode", &hot, "active", "--reason", "the disk is in"]);
    rig.done(&["mode", &standby, "off", "--reason", "x"]);
    rig.proxy.wait_serving("app", "hot");
    rig.proxy.stop();
}

#[test]
fn an_order_that_names_what_is_not_there_lists_what_is() {
    let rig = rig();
    let unknown = rig.refused(&["switch", "web", "--to", "hot", "--reason", "x"]);
    assert!(unknown.contains("no service \"web\"; there are: app"), "{unknown}");
    let unknown = rig.refused(&["release", "web"]);
    assert!(unknown.contains("there are: app"), "{unknown}");
    let unknown = rig.refused(&["mode", "app/hot/10.0.0.1:80", "off", "--reason", "x"]);
    assert!(unknown.contains(&format!("there are: {}", rig.hot.name())), "{unknown}");
    let unknown = rig.refused(&["drill", "web"]);
    assert!(unknown.contains("there are: app"), "{unknown}");
    let unknown = rig.refused(&["history", "web"]);
    assert!(unknown.contains("there are: app"), "{unknown}");
    let unknown = rig.refused(&["explain", "app-7"]);
    assert!(unknown.contains("no failover \"app-7\": nothing has moved yet"), "{unknown}");
    assert_eq!(rig.done(&["history", "app"]), "nothing has moved yet\n");
    let none: Value = serde_json::from_str(&rig.done(&["history", "--json"])).unwrap();
    assert_eq!(none["failovers"], serde_json::json!([]));
    rig.proxy.stop();
}

#[test]
fn a_pool_that_could_not_take_over_is_not_switched_to() {
    let rig = rig();
    rig.standby.kill();
    rig.proxy.wait_endpoint("app", &rig.standby.name(), false);
    let takeover = &rig.service()["takeover"];
    assert_eq!(takeover["ready"], false);
    assert_eq!(takeover["because"], "0 of 1 endpoints up, needs 1");
    let page = rig.done(&["status"]);
    assert!(page.contains("standby could take over now: NO, 0 of 1 endpoints up"), "{page}");
    let refused = rig.refused(&["switch", "app", "--to", "standby", "--reason", "x"]);
    assert!(refused.contains("not available"), "{refused}");
    assert_eq!(rig.answered_by(), "hot");
    let forced = ["switch", "app", "--to", "standby", "--force", "--reason", "I know better"];
    let said = rig.done(&forced);
    assert!(said.contains("held there until it is released: standby is not available"), "{said}");
    assert!(said.contains("nothing moves by itself until `standfast release app`"), "{said}");
    let page = rig.done(&["status"]);
    assert!(page.contains("HELD by an operator: I know better\n"), "{page}");
    assert_eq!(rig.service()["serving"], "standby");
    rig.done(&["release", "app"]);
    rig.proxy.wait_serving("app", "hot");
    rig.proxy.stop();
}

#[test]
fn help_names_every_command_and_asks_for_reasons() {
    let lab = Lab::new();
    let help = run(&["--help"], lab.dir());
    for command in ["switch", "release", "mode", "history", "explain", "drill"] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {}", help.stdout);
        let own = run(&[command, "--help"], lab.dir());
        assert_eq!(own.code, Some(0), "{command}");
        assert!(own.stdout.lines().all(|line| line.chars().count() <= 100), "{}", own.stdout);
    }
    for words in [
        &["switch", "app", "--to", "hot"][..],
        &["mode", "app/hot/a:80", "drain"],
        &["mode", "app/hot/a:80", "on", "--reason", "x"],
        &["drill", "app", "--share", "5%", "--full"],
    ] {
        assert_eq!(run(words, lab.dir()).code, Some(2), "{words:?}");
    }
}
