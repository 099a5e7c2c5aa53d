//! ● Where a body ends (RFC 9112 sections 6 and 7).

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
    _private: (),
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

#[expect(unused_variables, reason = "http1 helper fills this in")]
impl Decoder {
    /// At most this many bytes of chunk extensions in a body.
    pub const EXTENSIONS_MAX: usize = 16 * 1024;
    /// At most this many bytes of trailers in a body.
    pub const TRAILERS_MAX: usize = 16 * 1024;

    pub fn new(body: Body) -> Self {
        todo!()
    }

    /// Chunk extensions are dropped; trailers are checked and kept for [`Decoder::trailers`].
    /// An `Empty` body answers `End { skip: 0 }` at once; `UntilClose` never ends by itself.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, FramingError> {
        todo!()
    }

    /// `End` was reached.
    pub fn is_done(&self) -> bool {
        todo!()
    }

    /// May the connection end here without cutting the body (done, or `UntilClose`)?
    pub fn may_close(&self) -> bool {
        todo!()
    }

    /// Bytes known to be missing still, for `Length`.
    pub fn remaining(&self) -> Option<u64> {
        todo!()
    }

    /// Trailer fields as `name: value\r\n` each, without what frames, routes or authenticates.
    pub fn trailers(&self) -> &[u8] {
        todo!()
    }
}

/// Appends one chunk of `data` (not empty) to `out`.
pub fn encode_chunk(out: &mut Vec<u8>, data: &[u8]) {
    let _ = (out, data);
    todo!()
}

/// Appends the last chunk and `trailers` (as from [`Decoder::trailers`]).
pub fn encode_last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    let _ = (out, trailers);
    todo!()
}

/// Appends the size line of a chunk of `length` bytes (not 0), which the caller sends behind it,
/// followed by CRLF.
pub fn encode_chunk_size(out: &mut Vec<u8>, length: usize) {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(length >> (4 * place)) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}
