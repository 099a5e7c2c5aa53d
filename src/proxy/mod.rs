//! ○ One request's life, and the workers in which requests live.
//!
//! [`worker`] threads accept; [`http1`] and [`http2`] read requests off a connection; [`exchange`]
//! takes each to an endpoint and its answer back; [`pump`] moves the bytes. [`tcp`] does so for
//! connections that nobody looks into, and [`relay`] moves theirs. What fails is rescued:
//! [`dialling`] tries the next endpoint beside a silent one, [`evidence`] makes other requests
//! avoid what failed, [`hold`] bridges a moment without any endpoint. Where descriptors run short,
//! [`room`] is made.

pub mod arrival;
pub mod attempt;
pub mod buffer;
pub mod caller;
pub mod client;
pub mod deadline;
pub mod dialling;
pub mod elsewhere;
pub mod evidence;
pub mod exchange;
pub mod fate;
#[cfg(test)]
mod fixture;
pub mod hold;
pub mod http1;
pub mod http2;
pub mod latency;
pub mod local;
pub mod opening;
pub mod passthrough;
pub mod pick;
pub mod pump;
pub mod record;
pub mod relay;
pub mod respond;
pub mod resting;
pub mod room;
pub mod sessions;
pub mod side;
pub mod silence;
pub mod tcp;
pub mod upgrade;
pub mod waiting;
pub mod worker;
