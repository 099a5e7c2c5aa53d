//! ● A TLS ClientHello, read without answering it: whom the client asks for, in which protocols.
//!
//! rustls can read one too, but keeps what it was fed, wants a provider and cannot say how long
//! the message is; here nothing is consumed, and what is not a ClientHello is refused at its first
//! wrong byte. RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3, RFC 7301 section 3.1.

use std::borrow::Cow;
use std::net::Ipv4Addr;

/// Bytes of a ClientHello with its record headers at the most. Those of browsers have 2 KiB.
pub const MOST: usize = 16 * 1024;

/// What a route can ask of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The host name (SNI) in lower case. An address is no name, though some clients send one.
    pub server_name: Option<String>,
    /// Protocols (ALPN) in the client's order.
    pub alpn: Vec<Vec<u8>>,
    /// Data that the client cannot take back may follow at once (0-RTT).
    pub early_data: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// `length`: bytes of the message with its record headers.
    Complete {
        hello: Hello,
        length: usize,
    },
    Partial,
}

/// What is wrong, a fragment in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

type Result<T> = std::result::Result<T, Malformed>;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Bytes in a record (RFC 8446 section 5.1).
const RECORD_MOST: usize = 1 << 14;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;

/// Reads the ClientHello that `bytes`, all a client has sent so far, begin with.
pub fn parse(bytes: &[u8]) -> Result<Parsed> {
    let Some((message, length)) = message(bytes)? else {
        return Ok(Parsed::Partial);
    };
    Ok(Parsed::Complete { hello: hello(&message[4..])?, length })
}

/// The handshake message put together from its records, and its length with their headers.
fn message(bytes: &[u8]) -> Result<Option<(Cow<'_, [u8]>, usize)>> {
    let mut message = Cow::Borrowed(&bytes[..0]);
    let mut at = 0;
    loop {
        let record = &bytes[at..];
        expect(record.first().is_none_or(|kind| *kind == HANDSHAKE), "not a TLS handshake")?;
        // The minor version says nothing (RFC 8446 section 5.1).
        expect(record.get(1).is_none_or(|major| *major == 3), "an unknown version of TLS")?;
        let Some(header) = record.get(..5) else { return partial(bytes) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        expect(length > 0 && length <= RECORD_MOST, "a record of an impossible length")?;
        let body = &record[5..record.len().min(5 + length)];
        let before = message.len();
        match message {
            Cow::Borrowed([]) => message = Cow::Borrowed(body),
            _ => message.to_mut().extend_from_slice(body),
        }
        expect(message.first().is_none_or(|kind| *kind == CLIENT_HELLO), "not a ClientHello")?;
        if let Some(size) = message.get(1..4) {
            let whole =
                4 + (usize::from(size[0]) << 16 | usize::from(size[1]) << 8) + usize::from(size[2]);
            expect(whole <= MOST, "a ClientHello that is too large")?;
            expect(before + length <= whole, "a ClientHello with something behind it")?;
            let end = at + 5 + length;
            if message.len() == whole && end <= MOST {
                return Ok(Some((message, end)));
            }
        }
        if body.len() < length {
            return partial(bytes);
        }
        at += 5 + length;
    }
}

fn partial<T>(bytes: &[u8]) -> Result<Option<T>> {
    expect(bytes.len() < MOST, "a ClientHello that is too large").map(|()| None)
}

fn hello(body: &[u8]) -> Result<Hello> {
    let mut rest = Reader(body);
    expect(rest.number()? >> 8 == 3, "an unknown version of TLS")?;
    rest.take(32)?;
    expect(rest.short()?.len() <= 32, "a session id that is too long")?;
    let suites = rest.long()?.len();
    expect(suites >= 2 && suites % 2 == 0, "an impossible list of cipher suites")?;
    expect(!rest.short()?.is_empty(), "no compression method")?;
    let mut hello = Hello { server_name: None, alpn: Vec::new(), early_data: false };
    // TLS 1.2 knows messages without extensions.
    if rest.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Reader(rest.long()?);
    rest.end()?;
    let mut kinds = Vec::new();
    while !extensions.0.is_empty() {
        expect(kinds.last() != Some(&PRE_SHARED_KEY), "an extension behind pre_shared_key")?;
        let kind = extensions.number()?;
        let mut data = Reader(extensions.long()?);
        match kind {
            SERVER_NAME => hello.server_name = server_name(&mut data)?,
            ALPN => hello.alpn = protocols(&mut data)?,
            EARLY_DATA => hello.early_data = true,
            _ => data.0 = &[],
        }
        data.end()?;
        kinds.push(kind);
    }
    kinds.sort_unstable();
    expect(kinds.windows(2).all(|two| two[0] != two[1]), "an extension that is there twice")?;
    Ok(hello)
}

/// RFC 6066 section 3. There is one type of name, and a list may have one name of each type.
fn server_name(data: &mut Reader<'_>) -> Result<Option<String>> {
    let mut list = Reader(data.long()?);
    expect(list.take(1)? == [0], "a server name of an unknown type")?;
    let name = list.long()?;
    list.end()?;
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let colons = name.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b':');
    if colons && name.contains(&b':') {
        return Ok(None);
    }
    expect((1..=255).contains(&name.len()) && name.iter().all(fits), "no host name")?;
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok(Some(name).filter(|name| name.parse::<Ipv4Addr>().is_err()))
}

/// RFC 7301 section 3.1: neither the list nor a name in it may be empty.
fn protocols(data: &mut Reader<'_>) -> Result<Vec<Vec<u8>>> {
    let mut list = Reader(data.long()?);
    let mut names = Vec::new();
    while !list.0.is_empty() {
        names.push(list.short()?.to_vec());
    }
    expect(!names.is_empty() && names.iter().all(|name| !name.is_empty()), "an empty protocol")?;
    Ok(names)
}

/// What is left of a structure.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(Malformed("a ClientHello that is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector with a length of one byte before it.
    fn short(&mut self) -> Result<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// … and of two.
    fn long(&mut self) -> Result<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }

    fn end(&self) -> Result<()> {
        expect(self.0.is_empty(), "a length that does not fit")
    }
}

fn expect(holds: bool, reason: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(Malformed(reason)) }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
