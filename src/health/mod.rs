//! ● Observations become a verdict, and the time of the next probe.
//!
//! Knows nothing of sockets, pools or services: one [`State`] an endpoint, one `step`.

pub mod schedule;
pub mod verdict;

pub use verdict::{CALM, Failure, Flip, Observation, State, Thresholds, Verdict};
