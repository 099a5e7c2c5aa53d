//! What a change of one verdict costs the control thread by the size of the table, and a reload.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

use standfast::config;
use standfast::config::WhenNone;
use standfast::current::Current;
use standfast::failover;
use standfast::health::Verdict;
use standfast::table::{EndpointId, Table, build};

#[path = "../src/table/fixture.rs"]
#[expect(clippy::unwrap_used, reason = "addresses written here")]
mod fixture;

const SERVICES: u32 = 1_000;

/// Two pools of three endpoints each, and a listener that leads to all services.
fn config(services: u32) -> Arc<config::Config> {
    let all: Vec<_> = (0..services).collect();
    let services = all.iter().map(|&index| {
        let pool = |name: &str, second: u8| {
            let [_, _, third, fourth] = index.to_be_bytes();
            let name_of = |port| format!("10.{second}.{third}.{fourth}:{port}");
            let endpoints: Vec<_> = (80..83).map(name_of).collect();
            let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
            fixture::pool(name, &endpoints)
        };
        let pools = vec![pool("hot", 1), pool("standby", 2)];
        fixture::service_of(&format!("service-{index}"), WhenNone::TryAll, pools)
    });
    let services = services.collect();
    fixture::config(vec![fixture::listener("web", "0.0.0.0:443", &all)], services)
}

fn standing(down: Option<EndpointId>) -> impl Fn(EndpointId) -> build::Standing {
    move |id| {
        let verdict = if Some(id) == down { Verdict::Down } else { Verdict::Up };
        build::Standing { verdict, ..Default::default() }
    }
}

fn one_verdict_changed(table: &Table, index: usize, down: Option<EndpointId>) -> Table {
    let service = &table.services[index];
    let state = failover::State::start(service.pools.len(), Duration::ZERO);
    let history = Arc::clone(&service.history);
    let renewed = build::service(service, &state, None, history, &standing(down));
    build::with_services(table, [(index, renewed)])
}

/// One endpoint goes down and comes back, each time in a table that is published.
fn one_verdict(criterion: &mut Criterion, name: &str, first: Table) {
    let index = first.services.len() / 2;
    let endpoint = first.services[index].pools[0].endpoints[0].id;
    let current = Current::new(first);
    let mut down = false;
    criterion.bench_function(&format!("table/publish one verdict {name}"), |bencher| {
        bencher.iter(|| {
            down = !down;
            let table = current.load();
            current.publish(one_verdict_changed(&table, index, down.then_some(endpoint)));
        });
    });
}

fn publish(criterion: &mut Criterion) {
    let config = config(SERVICES);
    let first = build::first(Arc::clone(&config), 2, Duration::ZERO);
    for services in [2, SERVICES, 10 * SERVICES] {
        let first = build::first(self::config(services), 2, Duration::ZERO);
        one_verdict(criterion, &format!("of {} endpoints", services * 6), first);
    }
    let pool: Vec<_> = (0..10_000_u32)
        .map(|n| {
            let [_, _, third, fourth] = n.to_be_bytes();
            format!("10.1.{third}.{fourth}:80")
        })
        .collect();
    let pool: Vec<_> = pool.iter().map(String::as_str).collect();
    let pools = vec![fixture::pool("hot", &pool)];
    let service = fixture::service_of("service", WhenNone::TryAll, pools);
    let listener = fixture::listener("web", "0.0.0.0:443", &[0]);
    let one_pool = build::first(fixture::config(vec![listener], vec![service]), 2, Duration::ZERO);
    one_verdict(criterion, "of a pool of 10000", one_pool);
    criterion.bench_function("table/reload 1k services", |bencher| {
        bencher.iter_batched(
            || Arc::clone(&config),
            |config| {
                let states: Vec<_> = config
                    .services
                    .iter()
                    .map(|service| failover::State::start(service.pools.len(), Duration::ZERO))
                    .collect();
                let (endpoints, identities) = build::endpoints(&config, &first);
                let known = standing(None);
                let now = Duration::ZERO;
                black_box(build::reload(
                    config, &first, endpoints, identities, &states, now, &known,
                ))
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, publish);
criterion_main!(benches);
