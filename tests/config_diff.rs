//! What `diff` says a reload would do.

#[path = "support/fake_world.rs"]
mod fake_world;

use fake_world::FakeWorld;
use standfast::config::Config;
use standfast::config::check::check;
use standfast::config::diff::diff;

const BASE: &str = r#"listeners:
  - name: https
    bind: ":443"
    tls: { cert_file: a.crt, key_file: a.key }
    routes:
      - { hosts: [a.example.com], path_prefix: /api, service: api }
      - { service: app }
services:
  app:
    health_check: { path: /healthz }
    pools:
      - name: hot
        endpoints: [http://10.0.0.1:80, http://10.0.0.2:80]
      - name: standby
        endpoints: [http://10.0.1.1:80]
  api:
    pools: [{ name: hot, endpoints: ["10.0.0.9:80"] }]
"#;

fn config(text: &str, world: &FakeWorld) -> Config {
    check(text, world).unwrap_or_else(|found| panic!("{text}: {found:#?}")).0
}

/// The lines for one edit of [`BASE`].
fn said(from: &str, to: &str) -> Vec<String> {
    assert_eq!(BASE.matches(from).count(), 1, "{from}");
    let world = FakeWorld::default();
    let [old, new] = [BASE, &BASE.replace(from, to)].map(|text| config(text, &world));
    diff(&old, &new).iter().map(ToString::to_string).collect()
}

#[test]
fn comments_and_order_of_keys_change_nothing() {
    assert_eq!(said("services:\n", "# a comment\nservices:\n"), [""; 0]);
    assert_eq!(
        said(
            "{ name: hot, endpoints: [\"10.0.0.9:80\"] }",
            "{ endpoints: [\"10.0.0.9:80\"], name: hot }"
        ),
        [""; 0]
    );
}

#[test]
fn each_change_is_one_line() {
    #[rustfmt::skip] // one case, one line
    let cases: &[(&str, &str, &[&str])] = &[
        ("    tls:", "    limits: { idle_timeout: 90s, max_body_size: 1GiB }\n    tls:", &["change   listener https: limits.idle_timeout 1m → 90s; limits.max_body_size none → 1GiB"]),
        ("\":443\"", "\":444\"", &["bind     listener https on [::]:444", "close    listener https on [::]:443"]),
        ("service: api }", "service: api, idempotency_key: true }", &["change   route https a.example.com/api: idempotency_key false → true"]),
        ("service: api }", "service: app, idempotency_key: true }", &["change   route https a.example.com/api: idempotency_key false → true", "route    https a.example.com/api: from api to app"]),
        ("  api:\n", "  api:\n    failover: { hold: { time: 0s }, sessions: { spread: 0s }, failback: { ramp: 30s } }\n", &["change   service api: failover.failback.ramp 1m → 30s; failover.hold.time 2s → 0s; failover.sessions.spread 10s → 0s"]),
        ("  api:\n", "  api:\n    failover: { failback: { stable_for: 10s } }\n", &["change   service api: failover.failback.ramp 1m → 2s; failover.failback.stable_for 5m → 10s"]),
        ("  api:\n", "  api:\n    outlier_detection: false\n", &["change   service api: outlier_detection { consecutive_errors: 5 } → false"]),
        ("  api:\n", "  api:\n    outlier_detection: { consecutive_errors: 9 }\n    upstream: { warm: 2 }\n", &["change   service api: outlier_detection.consecutive_errors 5 → 9", "change   pool api/hot: upstream.warm 0 → 2"]),
        ("listeners:\n", "process: { state_file: /tmp/s, history_file: /tmp/h }\nlisteners:\n", &["restart  process.history_file none → /tmp/h (at a restart only)", "restart  process.state_file none → /tmp/s (at a restart only)"]),
        ("services:\n", "  - { name: http, bind: \":80\", redirect: https }\nservices:\n", &["bind     listener http on [::]:80"]),
        ("path_prefix: /api, service: api", "path_prefix: /api, service: app", &["route    https a.example.com/api: from api to app"]),
        ("path_prefix: /api", "path_prefix: /v2", &["route    https a.example.com/v2: to api (new)", "unroute  https a.example.com/api: no longer to api"]),
        ("  api:\n", "  old:\n    pools: [{ name: hot, endpoints: [\"10.0.0.8:80\"] }]\n  api:\n", &["add      service old"]),
        ("  api:\n", "  api:\n    balance: random\n    timeouts: { total: 2m }\n", &["change   service api: balance least_requests → random; timeouts.total none → 2m"]),
        ("      - name: standby\n        endpoints: [http://10.0.1.1:80]\n", "", &["drain    pool app/standby with 1 endpoint"]),
        ("      - name: standby\n", "      - name: third\n        endpoints: [\"10.0.3.1:80\", \"10.0.3.2:80\"]\n      - name: standby\n", &["add      pool app/third with 2 endpoints"]),
        ("      - name: hot\n        endpoints: [http://10.0.0.1:80, http://10.0.0.2:80]\n      - name: standby\n        endpoints: [http://10.0.1.1:80]", "      - name: standby\n        endpoints: [http://10.0.1.1:80]\n      - name: hot\n        endpoints: [http://10.0.0.1:80, http://10.0.0.2:80]", &["change   service app: order of pools hot, standby → standby, hot"]),
        ("http://10.0.0.2:80", "http://10.0.0.3:80", &["add      endpoint app/hot/10.0.0.3:80", "drain    endpoint app/hot/10.0.0.2:80"]),
        ("http://10.0.0.2:80", "{ url: \"http://10.0.0.2\", weight: 5 }", &["change   endpoint app/hot/10.0.0.2:80: weight 1 → 5"]),
        ("{ path: /healthz }", "{ path: /ready }", &["change   pool app/hot: health_check.path /healthz → /ready", "change   pool app/standby: health_check.path /healthz → /ready"]),
        ("listeners:\n", "process: { workers: 2, drain_timeout: 60s }\nlisteners:\n", &["set      process.drain_timeout 30s → 1m", "restart  process.workers auto → 2 (at a restart only)"]),
        ("listeners:\n", "admin: { listen: 127.0.0.1:9091, token: { file: token } }\nlisteners:\n", &["restart  admin.listen 127.0.0.1:9090 → 127.0.0.1:9091 (at a restart only)", "restart  admin.token none → (secret) (at a restart only)"]),
    ];
    for (from, to, expected) in cases {
        assert_eq!(said(from, to), *expected, "{to}");
    }
}

#[test]
fn a_renewed_certificate_is_named_and_no_setting_of_the_listener() {
    let world = FakeWorld::default();
    let mut renewed = FakeWorld::default();
    renewed.file("a.crt", "a.example.com,*.b.example.com 1 200");
    let changes = diff(&config(BASE, &world), &config(BASE, &renewed));
    let said: Vec<_> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["change   listener https: new certificate in a.crt"]);
}

#[test]
fn a_changed_token_is_noticed_and_not_shown() {
    let text = BASE.replace("listeners:\n", "admin: { token: { file: token } }\nlisteners:\n");
    let mut other = FakeWorld::default();
    other.file("token", "an0ther\n");
    let changes = diff(&config(&text, &FakeWorld::default()), &config(&text, &other));
    let said: Vec<_> = changes.iter().map(ToString::to_string).collect();
    let line = "restart  admin.token (secret) → (another secret) (at a restart only)";
    assert_eq!(said, [line]);
}

#[test]
fn services_keep_their_identity_when_others_are_put_before_them() {
    let before = "  api:\n    pools: [{ name: hot, endpoints: [\"10.0.0.9:80\"] }]\n";
    let text = BASE.replace(before, "").replace("services:\n", &format!("services:\n{before}"));
    let world = FakeWorld::default();
    assert_eq!(diff(&config(BASE, &world), &config(&text, &world)), []);
}
