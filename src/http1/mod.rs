//! ● HTTP/1.1 on the wire (RFC 9110, RFC 9112), without I/O: heads, where a body ends, and what
//! goes on.
//!
//! The security boundary of the product and what fuzzing hits first. What is ambiguous is refused,
//! never repaired. Steady state allocates nothing: parsed heads are reused, spans point into the
//! caller's buffer, output is appended to the caller's `Vec`.
//!
//! httparse finds the fields; what it forgives (bare LF, 8-bit targets, empty lines without end) is
//! refused here, and everything that has a meaning is judged here.

pub mod forward;
pub mod framing;
pub mod head;
pub mod websocket;

mod authority;
mod fields;
mod request;
mod response;
mod scan;
mod target;
mod trailers;

pub use framing::{Body, Decoder, FramingError, Step};
pub use head::{Limits, Method, Parsed, Version};
pub use request::{Request, RequestError};
pub use response::{Response, ResponseError};

#[cfg(test)]
mod properties;
