//! Route lookup by the number of routes, and the pick of an endpoint by policy.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use standfast::balance::{Candidates, Member, Moment};
use standfast::config::{Balance, HostPattern};
use standfast::route::{Routes, Rule};

/// `count` rules: hosts of ten prefixes each, and a wildcard for every tenth host.
fn routes(count: usize) -> Routes<usize> {
    let rules = (0..count).map(|target| {
        let (host, prefix) = (target / 10, target % 10);
        let host = match prefix {
            9 => HostPattern::Wildcard(format!("zone{host}.example.com")),
            _ => HostPattern::Exact(format!("app{host}.example.com")),
        };
        let path_prefix = if prefix == 0 { "/".into() } else { format!("/api/v{prefix}") };
        Rule { host: Some(host), path_prefix, target }
    });
    Routes::new(rules.collect())
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route_lookup");
    for count in [10, 1_000, 100_000] {
        let table = routes(count);
        // Asked in a stride, so that a large table is not answered from the cache alone.
        let hosts: Vec<String> =
            (0..1024).map(|n| format!("app{}.example.com", n * 7919 % (count / 10))).collect();
        let mut n = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                n = (n + 1) % hosts.len();
                black_box(table.find(hosts[n].as_bytes(), b"/api/v3/users/42/orders"))
            });
        });
    }
    group.finish();
}

/// Every endpoint usable with a load of its own.
struct Now {
    random: u64,
    position: u64,
}

impl Moment for Now {
    fn usable(&self, _: u32) -> bool {
        true
    }

    fn load(&self, endpoint: u32) -> u32 {
        endpoint % 7
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn position(&mut self) -> u64 {
        self.position += 1;
        self.position
    }
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    let policies = [
        ("round_robin", Balance::RoundRobin),
        ("least_requests", Balance::LeastRequests),
        ("random", Balance::Random),
    ];
    for count in [2, 100, 10_000] {
        let members =
            (0..count).map(|endpoint| Member { endpoint, weight: 1 + endpoint as u16 % 3 });
        let candidates = Candidates::new(members.collect());
        for (name, policy) in policies {
            let mut now = Now { random: 0x5eed, position: 0 };
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| black_box(candidates.pick(policy, &mut now)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lookup, pick);
criterion_main!(benches);
