//! ○ One request's life, and the workers in which requests live.
//!
//! [`worker`] threads accept; [`http1`] reads requests off a connection; [`exchange`] takes each to
//! an endpoint and its answer back; [`pump`] moves the bytes.

pub mod attempt;
pub mod buffer;
pub mod deadline;
pub mod exchange;
pub mod fate;
pub mod http1;
pub mod local;
pub mod pick;
pub mod pump;
pub mod record;
pub mod respond;
pub mod sessions;
pub mod side;
pub mod upgrade;
pub mod worker;
