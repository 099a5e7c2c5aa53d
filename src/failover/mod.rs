//! ● Which pool of a service serves, and why.
//!
//! [`view`] sums up what the endpoints' verdicts mean for a pool; [`decide`] answers for one
//! moment;
//! [`step`] is the service's state machine around it, with what must be remembered (who serves,
//! since when, how long the others were available).

pub mod decide;
pub mod step;
pub mod view;

pub use decide::{Decision, decide};
pub use step::{Cause, Move, Refusal, Settings, State, Step};
pub use view::PoolView;
