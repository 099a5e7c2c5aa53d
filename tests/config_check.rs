//! What `check` says about configurations, good and bad.

#[path = "support/fake_world.rs"]
mod fake_world;

use fake_world::FakeWorld;
use standfast::config::check::check;

#[test]
fn the_least_configuration_that_works_is_clean() {
    let text = include_str!("../config/standfast.yaml");
    let mut world = FakeWorld::default();
    world.file("certs/dev.crt", "localhost -1 100");
    world.file("certs/dev.key", "key");
    let (config, warnings) = check(text, &world).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.listeners[0].bind.to_string(), "[::]:8443");
    assert_eq!(config.services[0].pools.len(), 2);
}
