//! A configuration is refused with a place that exists, or compared with itself without a change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use standfast::config::check::{check, World};
use standfast::config::diff::diff;

#[path = "../../tests/support/fake_world.rs"]
mod fake_world;

fuzz_target!(|text: &str| {
    let world = fake_world::FakeWorld::default();
    match check(text, &world as &dyn World) {
        Ok((config, _)) => assert!(diff(&config, &config).is_empty()),
        Err(found) => {
            assert!(!found.is_empty());
            let lines = text.lines().count().max(1);
            assert!(found.iter().all(|found| (1..=lines).contains(&found.line) && found.column > 0));
        }
    }
});
