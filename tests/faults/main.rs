//! The fault suite: the real program with the least configuration, nothing tuned, between an open-loop
//! client and two pools of real NGINX in network namespaces of their own, and everything that can
//! befall them. Needs root; see `support/rig`.
//!
//! What is asserted are counts and their order, which hold on a busy machine too; how long each takes
//! is measured by `cargo bench --bench failover`. One rig runs at a time, so that none starves another.
//! Whatever the fault, [`trial::Ended`] has checked that no POST was delivered twice, that nobody got
//! an answer of an endpoint that had not his request, and that `/metrics` counts as the client does.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(unreachable_pub, reason = "as in the harness it shares with other tests")]

#[path = "../support/certs.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod certs;
#[path = "../support/metrics.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod metrics;
#[path = "../support/rig/mod.rs"]
mod rig;

mod both_lost;
mod flapping;
mod hot_lost;
mod not_their_fault;
mod one_of_three;
mod ordered;
mod sessions;
mod trial;
