//! ● Which pool of a service serves, and why.
//!
//! [`view`] sums up what the endpoints' verdicts mean for a pool; [`decide`] answers for one
//! moment; [`step`] is the service's state machine around it, with what must be remembered (who
//! serves, since when, how long the others were available); [`damping`] is what a pool's failures
//! cost it later, [`ramp`] how a return is watched, [`record`] what is kept of a move, [`next`]
//! what comes next.

pub mod damping;
pub mod decide;
pub mod next;
pub mod ramp;
pub mod record;
pub mod step;
pub mod view;

pub use damping::Penalty;
pub use decide::{Decision, Trouble, decide};
pub use next::{Next, Waits, next};
pub use ramp::Ramp;
pub use record::Record;
pub use step::{Cause, Move, Order, Refusal, Settings, State, Step};
pub use view::PoolView;
