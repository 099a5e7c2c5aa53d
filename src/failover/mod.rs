//! ● Which pool of a service serves, and why.
//!
//! [`decide`] answers for one moment; [`step`] is the service's state machine around it, with what
//! must be remembered (who serves, since when, how long the others were available).

pub mod decide;
pub mod step;

pub use step::{Cause, Move, PoolView, Settings, State};
