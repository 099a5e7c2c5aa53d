//! ● The PROXY protocol, versions 1 and 2: who really connected, told by the proxy before us.
//!
//! The specification is "The PROXY protocol, versions 1 & 2" (haproxy.org, doc/proxy-protocol.txt).
//! Its advice is followed to the letter: a peer either has to send a header or must not, and nobody
//! guesses which.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use crate::config::ProxyVersion as Version;

/// Every header is at least so long: `PROXY UNKNOWN` and the end of its line.
pub const LEAST: usize = 15;
/// Bytes of a header at the most. Version 1 allows for 107; version 2 for 64 KiB that nobody needs.
pub const MOST: usize = 4096;
/// Bytes of a header of version 1, its end of line included.
const V1_MOST: usize = 107;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What is said of a connection of our own, such as a probe's: nobody is behind it.
pub fn local(version: Version) -> &'static [u8] {
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n",
        Version::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// Types of what version 2 can tell besides addresses (section 2.2).
mod kind {
    pub(super) const ALPN: u8 = 0x01;
    pub(super) const AUTHORITY: u8 = 0x02;
    pub(super) const CRC32C: u8 = 0x03;
    pub(super) const UNIQUE_ID: u8 = 0x05;
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Whence the client connected and to what; none where the proxy speaks for itself, or of
    /// something that has no such addresses: then those of the connection hold.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    pub told: Told,
}

/// What version 2 tells of the client's connection beyond addresses, and is handed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// The protocol agreed on by ALPN.
    pub alpn: Option<Vec<u8>>,
    /// The host name the client asked for, as by SNI.
    pub authority: Option<Vec<u8>>,
    /// At most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    Complete { header: Header, length: usize },
    Partial,
}

/// What is wrong, a fragment in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

type Result<T> = std::result::Result<T, Malformed>;

/// Reads the header that `bytes`, all a peer has sent so far, begin with.
pub fn parse(bytes: &[u8]) -> Result<Parsed> {
    if begins(bytes, V1) {
        return version_1(bytes);
    }
    expect(begins(bytes, V2), "no PROXY header")?;
    version_2(bytes)
}

/// Nobody can tell yet that these are not the first bytes of a header; empty ones are not.
pub fn may_be_header(bytes: &[u8]) -> bool {
    !bytes.is_empty() && (begins(bytes, V1) || begins(bytes, V2))
}

/// These are the first bytes of a header, and nothing else.
pub fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1) || bytes.starts_with(V2)
}

/// One is the beginning of the other.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(one, other)| one == other)
}

fn version_1(bytes: &[u8]) -> Result<Parsed> {
    let line = &bytes[..bytes.len().min(V1_MOST)];
    let Some(end) = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        expect(line.len() < V1_MOST, "a header of version 1 that is too long")?;
        return Ok(Parsed::Partial);
    };
    expect(end + 1 < V1_MOST, "a header of version 1 that is too long")?;
    match line[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] => return Ok(Parsed::Partial),
        _ => return Err(Malformed("a line that does not end in CRLF")),
    }
    // The signature may not be whole yet where the line ends within it.
    let text = line.get(V1.len()..end).ok_or(Malformed("no PROXY header"))?;
    let text = str::from_utf8(text).map_err(|_| Malformed("bytes that are no text"))?;
    let header = Header { addresses: addresses(text)?, told: Told::default() };
    Ok(Parsed::Complete { header, length: end + 2 })
}

/// `TCP4 SOURCE DESTINATION PORT PORT`, or the same with TCP6, or `UNKNOWN` and whatever.
fn addresses(text: &str) -> Result<Option<(SocketAddr, SocketAddr)>> {
    let mut fields = text.split(' ');
    let family = fields.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let (Some(source), Some(destination), Some(from), Some(to), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Malformed("not four fields of an address"));
    };
    let address = |text: &str| -> Result<IpAddr> {
        let address = match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6),
            _ => return Err(Malformed("neither TCP4, TCP6 nor UNKNOWN")),
        };
        address.map_err(|_| Malformed("an address that is none"))
    };
    let source = SocketAddr::new(address(source)?, port(from)?);
    Ok(Some((source, SocketAddr::new(address(destination)?, port(to)?))))
}

/// Without leading zeros (section 2.1).
fn port(text: &str) -> Result<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    let port = text.parse().ok().filter(|_| plain);
    port.ok_or(Malformed("a port that is none"))
}

fn version_2(bytes: &[u8]) -> Result<Parsed> {
    let command = bytes.get(12);
    expect(command.is_none_or(|byte| byte >> 4 == 2), "an unknown version")?;
    expect(command.is_none_or(|byte| byte & 0xf <= 1), "an unknown command")?;
    let Some(fixed) = bytes.get(..16) else { return Ok(Parsed::Partial) };
    let length = 16 + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    expect(length <= MOST, "a header that is too long")?;
    let Some(whole) = bytes.get(..length) else { return Ok(Parsed::Partial) };
    let header = if fixed[12] & 0xf == 0 {
        // LOCAL: whatever else it holds is not looked at.
        Header::default()
    } else {
        proxied(whole, fixed[13])?
    };
    Ok(Parsed::Complete { header, length })
}

fn proxied(whole: &[u8], family: u8) -> Result<Header> {
    let block = &whole[16..];
    let take = |count: usize| {
        block.split_at_checked(count).ok_or(Malformed("addresses that are cut short"))
    };
    let (addresses, rest) = match family {
        // Nothing is known of such a block, not even where addresses would end.
        0x00 => return Ok(Header::default()),
        0x11 => {
            let (found, rest) = take(12)?;
            let ip = |at: usize| Ipv4Addr::from(array::<4>(&found[at..]));
            (Some(pair(ip(0).into(), ip(4).into(), &found[8..])), rest)
        }
        0x21 => {
            let (found, rest) = take(36)?;
            let ip = |at: usize| Ipv6Addr::from(array::<16>(&found[at..]));
            (Some(pair(ip(0).into(), ip(16).into(), &found[32..])), rest)
        }
        0x31 => (None, take(216)?.1),
        _ => return Err(Malformed("an unknown family of addresses")),
    };
    Ok(Header { addresses, told: told(whole, rest)? })
}

fn pair(source: IpAddr, destination: IpAddr, ports: &[u8]) -> (SocketAddr, SocketAddr) {
    let port = |at: usize| u16::from_be_bytes(array(&ports[at..]));
    (SocketAddr::new(source, port(0)), SocketAddr::new(destination, port(2)))
}

/// The first bytes of a slice that is long enough.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| bytes.get(at).copied().unwrap_or_default())
}

/// What stands behind the addresses, to the end of the header.
fn told(whole: &[u8], mut rest: &[u8]) -> Result<Told> {
    let mut told = Told::default();
    let mut checked = false;
    while !rest.is_empty() {
        let short = Malformed("a field that is cut short");
        let (head, tail) = rest.split_at_checked(3).ok_or(short)?;
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, after) = tail.split_at_checked(length).ok_or(short)?;
        let place = match head[0] {
            kind::ALPN => Some(&mut told.alpn),
            kind::AUTHORITY => Some(&mut told.authority),
            kind::UNIQUE_ID => Some(&mut told.unique_id),
            _ => None,
        };
        if let Some(place) = place {
            expect(place.replace(value.to_vec()).is_none(), "a field that is there twice")?;
        }
        if head[0] == kind::CRC32C {
            expect(!std::mem::replace(&mut checked, true), "a field that is there twice")?;
            let at = whole.len() - tail.len();
            check(whole, at, value)?;
        }
        rest = after;
    }
    expect(
        told.unique_id.as_ref().is_none_or(|id| id.len() <= 128),
        "a unique id that is too long",
    )?;
    Ok(told)
}

/// The checksum is of the header with the checksum's own four bytes taken as zero (section 2.2.3).
fn check(whole: &[u8], at: usize, value: &[u8]) -> Result<()> {
    expect(value.len() == 4, "a checksum of a wrong length")?;
    let bytes = whole.iter().enumerate();
    let sum = bytes.fold(!0, |sum, (index, byte)| {
        let byte = if (at..at + 4).contains(&index) { 0 } else { *byte };
        CRC32C[((sum ^ u32::from(byte)) & 0xff) as usize] ^ (sum >> 8)
    });
    expect(!sum == u32::from_be_bytes(array(value)), "a wrong checksum")
}

/// Remainders of every byte, by the reversed polynomial of Castagnoli (RFC 3720 section 12.1).
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// Appends the header of a connection from `source` to `destination`. Version 1 cannot say what was
/// `told`.
pub fn write(
    out: &mut Vec<u8>,
    version: Version,
    (source, destination): (SocketAddr, SocketAddr),
    told: &Told,
) {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let ports = (source.port(), destination.port());
    match version {
        Version::V1 => line(out, (from, to), ports),
        Version::V2 => block(out, (from, to), ports, told),
    }
}

fn line(out: &mut Vec<u8>, addresses: (IpAddr, IpAddr), (from, to): (u16, u16)) {
    let line = match addresses {
        (IpAddr::V4(one), IpAddr::V4(two)) => format!("PROXY TCP4 {one} {two} {from} {to}\r\n"),
        (one, two) => format!("PROXY TCP6 {} {} {from} {to}\r\n", wide(one), wide(two)),
    };
    out.extend_from_slice(line.as_bytes());
}

fn block(out: &mut Vec<u8>, addresses: (IpAddr, IpAddr), ports: (u16, u16), told: &Told) {
    let start = out.len();
    out.extend_from_slice(V2);
    out.extend_from_slice(&[0x21, 0, 0, 0]);
    let family = match addresses {
        (IpAddr::V4(one), IpAddr::V4(two)) => {
            out.extend_from_slice(&one.octets());
            out.extend_from_slice(&two.octets());
            0x11
        }
        (one, two) => {
            out.extend_from_slice(&wide(one).octets());
            out.extend_from_slice(&wide(two).octets());
            0x21
        }
    };
    out.extend_from_slice(&ports.0.to_be_bytes());
    out.extend_from_slice(&ports.1.to_be_bytes());
    let fields = [
        (kind::ALPN, &told.alpn),
        (kind::AUTHORITY, &told.authority),
        (kind::UNIQUE_ID, &told.unique_id),
    ];
    for (kind, value) in fields {
        let Some(value) = value else { continue };
        out.push(kind);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
    let length = (out.len() - start - 16) as u16;
    out[start + 13] = family;
    out[start + 14..start + 16].copy_from_slice(&length.to_be_bytes());
}

/// Both addresses of a header are of one family.
fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn expect(holds: bool, reason: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(Malformed(reason)) }
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
