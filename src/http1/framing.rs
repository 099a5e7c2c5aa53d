//! ● Where a body ends (RFC 9112 sections 6 and 7).

use super::fields::{is_token_byte, is_value_byte};
use super::trailers::Trailers;

/// How a message body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    #[default]
    Empty,
    /// `Content-Length`, never 0 (that is `Empty`).
    Length(u64),
    Chunked,
    /// Responses alone: ends with the connection.
    UntilClose,
}

/// Follows a body through the bytes of a connection.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Bytes of chunk extensions so far.
    extensions: usize,
    trailers: Trailers,
}

/// What stands at the start of the input given to [`Decoder::step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `skip` bytes of framing, then `len` bytes of data (at least 1); all `skip + len` are taken.
    Data { skip: usize, len: usize },
    /// The whole input was framing and is taken (or it was empty); more is needed.
    More,
    /// The body ends after these bytes of framing; what follows belongs to the next message.
    End { skip: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramingError {
    pub reason: &'static str,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Of a body with a length, this many bytes are missing.
    Length(u64),
    UntilClose,
    /// A digit of the chunk size, or what ends it; `digits` came already.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind `;`: whitespace, or the first byte of the name.
    ExtensionStart {
        size: u64,
    },
    Extension {
        size: u64,
    },
    /// Inside a quoted string, where `;` separates nothing.
    Quoted {
        size: u64,
        escaped: bool,
    },
    /// The LF that ends the line of the size.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// The CR behind the data, then the LF.
    DataCr,
    DataLf,
    Trailers,
    Done,
    /// An error was found: whatever comes is refused.
    Broken,
}

/// More digits than a `u64` has are refused, leading zeros or not.
const SIZE_DIGITS_MAX: u8 = 16;

impl Decoder {
    /// At most this many bytes of chunk extensions in a body.
    pub const EXTENSIONS_MAX: usize = 16 * 1024;
    /// At most this many bytes of trailers in a body.
    pub const TRAILERS_MAX: usize = 16 * 1024;
    /// At most this many trailer fields in a body.
    pub const TRAILER_FIELDS_MAX: usize = 64;

    pub fn new(body: Body) -> Self {
        let state = match body {
            Body::Empty | Body::Length(0) => State::Done,
            Body::Length(length) => State::Length(length),
            Body::Chunked => State::Size { size: 0, digits: 0 },
            Body::UntilClose => State::UntilClose,
        };
        Self { state, extensions: 0, trailers: Trailers::default() }
    }

    /// Chunk extensions are dropped; trailers are checked and kept for [`Decoder::trailers`].
    /// An `Empty` body answers `End { skip: 0 }` at once; `UntilClose` never ends by itself.
    ///
    /// # Errors
    /// What is not exactly RFC 9112 section 7.1, and then whatever follows it.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, FramingError> {
        match self.walk(input) {
            Ok(step) => Ok(step),
            Err(reason) => {
                self.state = State::Broken;
                Err(FramingError { reason })
            }
        }
    }

    fn walk(&mut self, input: &[u8]) -> Result<Step, &'static str> {
        let mut at = 0;
        loop {
            if self.state == State::Done {
                return Ok(Step::End { skip: at });
            }
            let rest = input.get(at..).unwrap_or(&[]);
            let Some(&byte) = rest.first() else { return Ok(Step::More) };
            self.state = match self.state {
                State::Length(left) => {
                    let len = available(left, rest);
                    let left = left - len as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Step::Data { skip: at, len });
                }
                State::UntilClose => return Ok(Step::Data { skip: at, len: rest.len() }),
                State::Data { left } => {
                    let len = available(left, rest);
                    let left = left - len as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                    return Ok(Step::Data { skip: at, len });
                }
                State::Trailers => {
                    let (taken, ended) = self.trailers.take(rest)?;
                    at += taken;
                    self.state = if ended { State::Done } else { State::Trailers };
                    continue;
                }
                State::Size { size, digits } => size_byte(size, digits, byte)?,
                State::ExtensionStart { size }
                | State::Extension { size }
                | State::Quoted { size, .. } => self.extension_byte(size, byte)?,
                State::SizeEnd { size: 0 } if byte == b'\n' => State::Trailers,
                State::SizeEnd { size } if byte == b'\n' => State::Data { left: size },
                State::SizeEnd { .. } => return Err("chunk size ends with a bare carriage return"),
                State::DataCr if byte == b'\r' => State::DataLf,
                State::DataLf if byte == b'\n' => State::Size { size: 0, digits: 0 },
                State::DataCr | State::DataLf => return Err("chunk is longer than its size"),
                State::Done | State::Broken => return Err("body is broken"),
            };
            at += 1;
        }
    }

    /// Extensions are for this hop and dropped; they are looked at only so that no line end and no
    /// control can hide in them, and counted so that they cannot go on for ever.
    fn extension_byte(&mut self, size: u64, byte: u8) -> Result<State, &'static str> {
        self.extensions += 1;
        if self.extensions > Self::EXTENSIONS_MAX {
            return Err("chunk extensions are too long");
        }
        match (self.state, byte) {
            (State::ExtensionStart { .. }, b' ' | b'\t') => Ok(State::ExtensionStart { size }),
            (State::ExtensionStart { .. }, byte) if is_token_byte(byte) => {
                Ok(State::Extension { size })
            }
            (State::Extension { .. }, b'\r') => Ok(State::SizeEnd { size }),
            (State::Extension { .. }, b';') => Ok(State::ExtensionStart { size }),
            (State::Extension { .. }, b'"') => Ok(State::Quoted { size, escaped: false }),
            (State::Quoted { escaped: false, .. }, b'"') => Ok(State::Extension { size }),
            (State::Quoted { escaped, .. }, byte) if is_value_byte(byte) => {
                Ok(State::Quoted { size, escaped: !escaped && byte == b'\\' })
            }
            (State::Extension { .. }, byte) if is_value_byte(byte) => Ok(State::Extension { size }),
            _ => Err("chunk extension is malformed"),
        }
    }

    /// `End` was reached, or will be without another byte.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// May the connection end here without cutting the body (done, or `UntilClose`)?
    pub fn may_close(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// Bytes known to be missing still, for `Length`.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Trailer fields as `name: value\r\n` each, without what frames, routes or authenticates.
    /// Whole once the body is done.
    pub fn trailers(&self) -> &[u8] {
        self.trailers.fields()
    }
}

fn available(left: u64, rest: &[u8]) -> usize {
    usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()))
}

fn size_byte(size: u64, digits: u8, byte: u8) -> Result<State, &'static str> {
    if let Some(digit) = char::from(byte).to_digit(16) {
        if digits == SIZE_DIGITS_MAX {
            return Err("chunk size has too many digits");
        }
        // 16 hexadecimal digits fill a u64 exactly, so the shift loses nothing.
        return Ok(State::Size { size: (size << 4) | u64::from(digit), digits: digits + 1 });
    }
    match byte {
        _ if digits == 0 => Err("chunk size is missing"),
        // The bound of Content-Length.
        _ if size > i64::MAX as u64 => Err("chunk size is too large"),
        b'\r' => Ok(State::SizeEnd { size }),
        b';' => Ok(State::ExtensionStart { size }),
        _ => Err("chunk size is malformed"),
    }
}

/// Appends one chunk of `data` (not empty) to `out`. Nothing is appended for empty data, which
/// would end the body.
pub fn encode_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    encode_chunk_head(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line before `len` (not 0) bytes of data that are written apart; `\r\n` goes behind
/// them.
pub fn encode_chunk_head(out: &mut Vec<u8>, len: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut line = [0; 18];
    let mut at = line.len();
    let mut rest = len;
    for (place, byte) in line.iter_mut().enumerate().rev() {
        *byte = match place {
            17 => b'\n',
            16 => b'\r',
            _ => {
                let digit = DIGITS.get(rest & 15).copied().unwrap_or(b'0');
                rest >>= 4;
                digit
            }
        };
        at = place;
        if rest == 0 && place < 16 {
            break;
        }
    }
    out.extend_from_slice(line.get(at..).unwrap_or(&[]));
}

/// Appends the last chunk and `trailers` (as from [`Decoder::trailers`]).
pub fn encode_last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
