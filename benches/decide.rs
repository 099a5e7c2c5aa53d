//! What the control thread decides: an endpoint's verdict, a pool's view, which pool serves; and
//! what a worker decides when a request failed.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use standfast::config::Failback;
use standfast::failover::{self, PoolView, Settings};
use standfast::health::{self, Failure, Observation, Thresholds};
use standfast::retry::{self, Budget, Facts, Progress};

const THRESHOLDS: Thresholds = Thresholds { unhealthy: 3, healthy: 2 };
const SETTINGS: Settings = Settings {
    failback: Failback::Auto {
        stable_for: Duration::from_secs(300),
        ramp: Duration::from_secs(60),
    },
};

/// An endpoint after some observations, one each second.
fn endpoint(observations: &[Observation]) -> health::State {
    let mut now = Duration::ZERO;
    observations.iter().fold(health::State::default(), |state, observation| {
        now += Duration::from_secs(1);
        state.step(*observation, now, now, THRESHOLDS).0
    })
}

fn up() -> health::State {
    endpoint(&[Observation::Success; 5])
}

fn down() -> health::State {
    endpoint(&[Observation::Failure(Failure::Refused); 5])
}

fn verdict(criterion: &mut Criterion) {
    let now = Duration::from_secs(60);
    let steps = [
        ("success of one that is up", up(), Observation::Success),
        ("failure of one that is up", up(), Observation::Failure(Failure::Timeout)),
        ("success of one that is down", down(), Observation::Success),
    ];
    for (name, state, observation) in steps {
        criterion.bench_function(&format!("verdict/{name}"), |bencher| {
            bencher.iter(|| black_box(state).step(black_box(observation), now, now, THRESHOLDS));
        });
    }
}

fn view(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pool view");
    for count in [3, 10_000] {
        let endpoints: Vec<_> =
            (0..count).map(|n| if n % 3 == 0 { down() } else { up() }).collect();
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            let window = Duration::from_secs(10);
            bencher.iter(|| {
                let all = endpoints.iter().map(|state| (state, true));
                PoolView::of(1, window, black_box(all))
            });
        });
    }
    group.finish();
}

fn who_serves(criterion: &mut Criterion) {
    let pool = |state: health::State| PoolView::of(1, Duration::from_secs(10), [(&state, true); 3]);
    let now = Duration::from_secs(60);
    let state = failover::State::start(2, Duration::ZERO);
    for (name, views) in [
        ("all is well", [pool(up()), pool(up())]),
        ("the serving pool is lost", [pool(down()), pool(up())]),
        ("both are lost", [pool(down()), pool(down())]),
    ] {
        criterion.bench_function(&format!("failover/decide/{name}"), |bencher| {
            bencher.iter(|| failover::decide(&state, black_box(&views), SETTINGS, now));
        });
        criterion.bench_function(&format!("failover/step/{name}"), |bencher| {
            bencher.iter(|| state.step(black_box(&views), SETTINGS, now));
        });
    }
}

fn again(criterion: &mut Criterion) {
    let facts = Facts {
        idempotent: true,
        keyed: false,
        replayable: true,
        progress: Progress::Sent,
        resent: 0,
        changes_pool: false,
    };
    criterion.bench_function("retry/decide", |bencher| {
        let mut budget = Budget::default();
        bencher.iter(|| {
            budget.earn(1.0);
            retry::decide(black_box(facts), 2, &mut budget)
        });
    });
}

criterion_group!(benches, verdict, view, who_serves, again);
criterion_main!(benches);
