//! The examples users copy are clean: no error, no warning.

#[path = "support/fake_world.rs"]
mod fake_world;

use std::fs;
use std::path::Path;

use fake_world::FakeWorld;
use standfast::cli::load::load;
use standfast::config::check::{Checked, check};
use standfast::config::view::redacted_json;
use standfast::config::{CheckKind, Failback, ListenerMode};

/// What the examples name, and nothing else.
fn world() -> FakeWorld {
    let mut world = FakeWorld::default();
    world.files.clear();
    for (path, names) in [
        ("certs/dev", "localhost"),
        ("/etc/standfast/app", "app.example.com,*.app.example.com"),
        ("/etc/standfast/shop", "shop.example.com"),
        ("/etc/standfast/tls/example.com", "*.example.com"),
    ] {
        world.file(&format!("{path}.crt"), &format!("{names} 1 100"));
        world.file(&format!("{path}.key"), "key");
    }
    world.file("/etc/standfast/clusters-ca.crt", "ca");
    world.file("/etc/kubernetes/pki/ca.crt", "ca");
    world.file("/etc/standfast/tls/company-ca.crt", "ca");
    world.file("/run/secrets/admin-token", "s3cret-token\n");
    world.file("/etc/standfast/secrets/admin-token", "s3cret-token\n");
    world
}

fn example(name: &str) -> Checked {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    // A file that is not there is refused as an empty one.
    check(&fs::read_to_string(path).unwrap_or_default(), &world())
}

#[test]
fn every_example_is_clean() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    // Rules for Prometheus are no configuration; a unit test of the metrics reads them.
    let ours = |name: &&String| name.ends_with(".yaml") && !name.starts_with("prometheus");
    let examples = names.iter().filter(ours);
    let mut seen = 0;
    for name in examples {
        seen += 1;
        match example(name) {
            Ok((_, warnings)) => assert_eq!(warnings, [], "{name}"),
            Err(found) => panic!("{name}: {found:#?}"),
        }
    }
    assert!(seen >= 3, "{names:?}");
}

/// A reader who runs `check` elsewhere is told beforehand what it will miss.
#[test]
fn every_example_says_first_in_which_folders_it_needs_something() {
    for name in ["full.yaml", "kubernetes-two-clusters.yaml"] {
        let text = fs::read_to_string(Path::new("config").join(name)).unwrap();
        let head: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        let value = |c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c));
        let files = text.split(value).filter(|word| {
            ["/etc/", "/run/", "/var/"].iter().any(|root| word.starts_with(root))
                && !head.contains(*word)
        });
        for file in files {
            let folder = Path::new(file).parent().unwrap().display().to_string();
            assert!(head.contains(&folder), "{name}: {folder}");
        }
    }
}

/// What the README says to run, with the files that are really there.
#[test]
fn the_least_example_can_be_used_as_it_lies_there() {
    let (_, warnings) = load(Path::new("config/standfast.yaml")).unwrap();
    // How many descriptors this machine allows is no fault of the example.
    let others = warnings.iter().filter(|warning| !warning.message.contains("descriptors"));
    assert_eq!(others.count(), 0, "{warnings:#?}");
}

#[test]
fn the_example_of_two_clusters_has_blue_first_and_green_to_fall_back_on() {
    let (config, _) = example("kubernetes-two-clusters.yaml").unwrap();
    for service in &config.services {
        let pools: Vec<_> = service.pools.iter().map(|pool| &*pool.name).collect();
        assert_eq!(pools, ["blue", "green"]);
        assert!(service.pools.iter().all(|pool| pool.min_healthy == 2));
        // Both services have the one that is written for the first and named by the second.
        assert!(service.pools.iter().all(|pool| pool.upstream.tls.ca.is_some()));
    }
    assert_eq!(config.services[1].failover.failback, Failback::Manual);
    // Every pool takes its own cluster for an answer alone, and is kept ready to be taken over.
    for pool in config.services.iter().flat_map(|service| &service.pools) {
        let kind = pool.health_check.clone().unwrap().kind;
        let headers = [("x-cluster-id".to_owned(), pool.name.to_string())];
        assert!(matches!(kind, CheckKind::Http(http) if http.headers == headers && http.tls));
        assert!(pool.upstream.warm > 0);
    }
    assert!(config.process.state_file.is_some() && config.process.history_file.is_some());
}

#[test]
fn the_examples_of_the_kubernetes_api_and_of_postgres_pass_bytes_on() {
    let (api, _) = example("kube-apiserver.yaml").unwrap();
    assert_eq!(api.listeners[0].mode, ListenerMode::Tcp);
    let check = api.services[0].pools[0].health_check.clone().unwrap();
    // An API server that turns red must be left while it still answers.
    let red = check.interval * check.unhealthy_threshold + check.timeout;
    assert!(red < std::time::Duration::from_secs(30), "{red:?}");
    assert!(matches!(check.kind, CheckKind::Http(http) if http.tls && http.path == "/readyz"));
    let (postgres, _) = example("postgres.yaml").unwrap();
    assert_eq!(postgres.services[0].timeouts.silence, None);
    assert_eq!(postgres.services[0].failover.failback, Failback::Manual);
}

/// Keeps config/full.yaml true: what it says are the defaults are the defaults.
#[test]
fn the_full_example_names_the_defaults() {
    let (full, _) = example("full.yaml").unwrap();
    let (least, _) = example("standfast.yaml").unwrap();
    let [full, least] = [redacted_json(&full), redacted_json(&least)];
    for key in [
        "/admin/listen",
        "/process/workers",
        "/process/drain_timeout",
        "/logging/level",
        "/logging/format",
    ] {
        assert_eq!(full.pointer(key).unwrap(), least.pointer(key).unwrap(), "{key}");
    }
    let mut limits = full["listeners"][1]["limits"].clone();
    limits["max_body_size"] = serde_json::Value::Null;
    assert_eq!(limits, least["listeners"][0]["limits"]);
    let [full, least] = [&full["services"]["app"], &least["services"]["app"]];
    for key in [
        "/balance",
        "/failover",
        "/outlier_detection",
        "/retries",
        "/timeouts/connect",
        "/timeouts/response_header",
        "/timeouts/idle",
        "/pools/0/health_check/interval",
        "/pools/0/health_check/timeout",
        "/pools/0/health_check/fast_interval",
        "/pools/0/health_check/unhealthy_threshold",
        "/pools/0/health_check/healthy_threshold",
        "/pools/0/health_check/expect/status",
        "/pools/0/upstream/max_requests",
        "/pools/0/upstream/tls/verify",
    ] {
        assert_eq!(full.pointer(key).unwrap(), least.pointer(key).unwrap(), "{key}");
    }
}

#[test]
fn no_secret_is_in_the_json_of_a_configuration() {
    let (config, _) = example("full.yaml").unwrap();
    let shown = redacted_json(&config).to_string();
    assert!(shown.contains("(secret)"));
    assert!(!shown.contains("s3cret"));
    assert!(!format!("{config:?}").contains("s3cret"));
}
