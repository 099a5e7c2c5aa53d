//! ○ What is seen from outside: metrics and the access log.

pub mod access_log;
pub(crate) mod calendar;
pub mod metrics;
pub mod panics;

#[cfg(test)]
pub(crate) mod fixture;
