//! ○ What the search for an endpoint must know of whom it is for, whatever the protocol.

use std::task::{Context, Poll};

use super::pump::Upload;
use crate::stream::Left;

/// A client that waits for an endpoint.
pub trait Caller {
    /// How far what it sent got.
    fn upload(&self) -> Upload;
    /// Ready once the client has ended its side or is gone, with nothing left to read.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Left>;
}
