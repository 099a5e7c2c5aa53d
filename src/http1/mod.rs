//! ● HTTP/1.1 on the wire (RFC 9110, RFC 9112), without I/O: heads, where a body ends, and what goes on.
//!
//! The security boundary of the product and what fuzzing hits first. What is ambiguous is refused,
//! never repaired. Steady state allocates nothing: parsed heads are reused, spans point into the
//! caller's buffer, output is appended to the caller's `Vec`.

pub mod forward;
pub mod framing;
pub mod head;

pub use framing::{Body, Decoder, Step};
pub use head::{Limits, Method, Parsed, Request, RequestError, Response, ResponseError, Version};
