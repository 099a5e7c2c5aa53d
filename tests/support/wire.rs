//! HTTP/1.1 messages as bytes, for both ends of a test: deliberately separate from the product's
//! parser, so that a fault in one is not hidden by the same fault in the other.

/// A message that is there as a whole.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// In their order; names as they came.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The head as it came, the empty line included.
    pub raw_head: Vec<u8>,
}

/// How the body of a head ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

impl Message {
    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count()
    }

    /// Of a response; 0 where the status line has none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// Of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or("")
    }

    /// Of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the sender will keep the connection.
    pub fn keeps(&self) -> bool {
        let connection = self.field("connection").unwrap_or("").to_ascii_lowercase();
        if self.start.contains("HTTP/1.0") {
            connection.contains("keep-alive")
        } else {
            !connection.contains("close")
        }
    }

    fn chunked(&self) -> bool {
        self.field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
    }

    fn length(&self) -> Option<usize> {
        self.field("content-length").and_then(|v| v.parse().ok())
    }

    /// RFC 9112 section 6.3, as a client reads the answer to `method`.
    pub fn response_framing(&self, method: &str) -> Framing {
        let status = self.status();
        if method == "HEAD" || (100..200).contains(&status) || status == 204 || status == 304 {
            Framing::None
        } else if self.chunked() {
            Framing::Chunked
        } else {
            self.length().map_or(Framing::UntilClose, Framing::Length)
        }
    }

    /// As a server reads a request.
    pub fn request_framing(&self) -> Framing {
        if self.chunked() {
            Framing::Chunked
        } else {
            self.length().map_or(Framing::None, Framing::Length)
        }
    }
}

/// The head at the start of `buf`, and its size, once it is whole.
pub fn head(buf: &[u8]) -> Option<(Message, usize)> {
    let end = find(buf, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&buf[..end - 4]).into_owned();
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or("").to_owned();
    let fields = lines.filter_map(field).collect();
    Some((Message { start, fields, raw_head: buf[..end].to_vec(), ..Message::default() }, end))
}

/// A whole message of `framing`, its head already taken: fills body and trailers from `buf` and says
/// how many bytes they took. `None`: more is needed.
pub fn body(message: &mut Message, framing: Framing, buf: &[u8], eof: bool) -> Option<usize> {
    match framing {
        Framing::None => Some(0),
        Framing::Length(length) => {
            message.body = buf.get(..length)?.to_vec();
            Some(length)
        }
        Framing::UntilClose => eof.then(|| {
            message.body = buf.to_vec();
            buf.len()
        }),
        Framing::Chunked => chunks(message, buf),
    }
}

fn chunks(message: &mut Message, buf: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut body = Vec::new();
    loop {
        let line = find(&buf[at..], b"\r\n")?;
        let size = String::from_utf8_lossy(&buf[at..at + line]).into_owned();
        let size = size.split(';').next().unwrap_or("").trim().to_owned();
        let size = usize::from_str_radix(&size, 16).expect("a chunk size");
        at += line + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(buf.get(at..at + size)?);
        assert_eq!(buf.get(at + size..at + size + 2)?, b"\r\n", "a chunk ends with CRLF");
        at += size + 2;
    }
    let mut trailers = Vec::new();
    loop {
        let line = find(&buf[at..], b"\r\n")?;
        let text = String::from_utf8_lossy(&buf[at..at + line]).into_owned();
        at += line + 2;
        if text.is_empty() {
            break;
        }
        trailers.extend(field(&text));
    }
    message.body = body;
    message.trailers = trailers;
    Some(at)
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Bytes of a body that tell their place: no two blocks are alike, so a lost, doubled or moved byte
/// changes the [`Checksum`].
pub struct Pattern {
    position: u64,
    end: u64,
}

impl Pattern {
    pub fn new(length: u64) -> Self {
        Self { position: 0, end: length }
    }

    /// The next bytes, at most `buf.len()`, a multiple of eight until the end. 0: done.
    pub fn fill(&mut self, buf: &mut [u8]) -> usize {
        let room = (buf.len() as u64 & !7).min(self.end - self.position) as usize;
        for word in buf[..room].chunks_mut(8) {
            let value = (self.position / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            let length = word.len();
            word.copy_from_slice(&value[..length]);
            self.position += length as u64;
        }
        room
    }

    /// The checksum of a whole pattern.
    pub fn checksum(length: u64) -> Checksum {
        let mut pattern = Self::new(length);
        let mut sum = Checksum::default();
        let mut buf = vec![0; 256 * 1024];
        loop {
            match pattern.fill(&mut buf) {
                0 => return sum.finish(),
                n => sum.update(&buf[..n]),
            }
        }
    }
}

/// An order-sensitive digest of a stream, and its length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checksum {
    hash: u64,
    pub length: u64,
    partial: Vec<u8>,
}

impl Checksum {
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if !self.partial.is_empty() {
            let missing = (8 - self.partial.len()).min(bytes.len());
            self.partial.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.partial.len() < 8 {
                return;
            }
            let word = std::mem::take(&mut self.partial);
            self.word(&word);
        }
        let words = bytes.chunks_exact(8);
        self.partial = words.remainder().to_vec();
        words.for_each(|word| self.word(word));
    }

    /// Folds what is left, so that two digests can be compared.
    pub fn finish(mut self) -> Self {
        let mut last = std::mem::take(&mut self.partial);
        if !last.is_empty() {
            last.resize(8, 0);
            self.word(&last);
        }
        self
    }

    fn word(&mut self, word: &[u8]) {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}
