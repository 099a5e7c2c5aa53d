//! ● Finding the end of a head that arrives in pieces, in time linear in its length.
//!
//! A head is parsed at once when it is there at once. When it is not, each further piece is only
//! searched for line ends, and parsed again when the first line or the whole head has ended or the
//! buffer has doubled. A drip of single bytes so costs one look at each byte plus at most
//! log2(length) + 2 parses of what is there: linear in total, and errors still show early.

use memchr::memchr2;

/// How far the bytes of an unfinished head have been looked at.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Bytes before this one hold no unseen line end.
    seen: usize,
    line_start: usize,
    /// Lines that are not empty and have ended.
    lines: usize,
    /// Parse again when the buffer is this long.
    parse_at: usize,
    /// The bytes right before `seen`: a head given up and another begun is so told from more of the
    /// same, even where nobody said so.
    tail: [u8; TAIL],
}

const TAIL: usize = 8;

/// A CR or LF that is not part of CRLF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BareLineEnd;

impl Scan {
    /// Is it worth parsing `buf`, which has grown since the last call?
    pub(super) fn should_parse(&mut self, buf: &[u8]) -> Result<bool, BareLineEnd> {
        if self.seen == 0 || tail(buf, self.seen) != Some(self.tail) {
            // A new head: nearly always whole, so that looking at it twice would be a waste.
            *self = Self::default();
            return Ok(true);
        }
        let lines = self.lines;
        let ended = self.advance(buf)?;
        Ok(ended || (lines == 0 && self.lines > 0) || buf.len() >= self.parse_at)
    }

    /// Remembers that `buf` holds no whole head.
    pub(super) fn remember(&mut self, buf: &[u8]) -> Result<(), BareLineEnd> {
        self.advance(buf)?;
        self.parse_at = buf.len().saturating_mul(2);
        Ok(())
    }

    pub(super) fn first_line_ended(&self) -> bool {
        self.lines > 0
    }

    /// Looks at the bytes not seen yet; true when the empty line that ends the head was met.
    fn advance(&mut self, buf: &[u8]) -> Result<bool, BareLineEnd> {
        let ended = self.walk(buf)?;
        self.tail = tail(buf, self.seen).unwrap_or_default();
        Ok(ended)
    }

    fn walk(&mut self, buf: &[u8]) -> Result<bool, BareLineEnd> {
        while let Some(rest) = buf.get(self.seen..) {
            let Some(at) = memchr2(b'\r', b'\n', rest).map(|offset| self.seen + offset) else {
                self.seen = buf.len();
                break;
            };
            self.seen = at;
            match (buf.get(at), buf.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => {}
                (Some(b'\r'), None) => break,
                _ => return Err(BareLineEnd),
            }
            let empty = at == self.line_start;
            self.seen = at + 2;
            self.line_start = self.seen;
            if empty && self.lines > 0 {
                return Ok(true);
            }
            self.lines += usize::from(!empty);
        }
        Ok(false)
    }
}

/// The last bytes of `buf[..end]`, with zeros in front where there are fewer.
fn tail(buf: &[u8], end: usize) -> Option<[u8; TAIL]> {
    let bytes = buf.get(end.saturating_sub(TAIL)..end)?;
    let mut tail = [0; TAIL];
    tail.get_mut(TAIL - bytes.len()..)?.copy_from_slice(bytes);
    Some(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_is_parsed_a_logarithmic_number_of_times() {
        let mut head = b"GET / HTTP/1.1\r\n".to_vec();
        while head.len() < 64 * 1024 {
            head.extend_from_slice(b"a: b\r\n");
        }
        let mut scan = Scan::default();
        let mut parses = 0;
        for end in 1..=head.len() {
            if scan.should_parse(&head[..end]).unwrap() {
                parses += 1;
                scan.remember(&head[..end]).unwrap();
            }
        }
        assert!(parses <= 18, "{parses} parses");
    }

    #[test]
    fn the_end_is_noticed_at_its_last_byte() {
        let head = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut scan = Scan::default();
        for end in 1..head.len() {
            if scan.should_parse(&head[..end]).unwrap() {
                scan.remember(&head[..end]).unwrap();
            }
        }
        scan.parse_at = usize::MAX;
        assert_eq!(scan.should_parse(head), Ok(true));
    }

    #[test]
    fn bare_line_ends_are_noticed_at_once() {
        for bad in [&b"GET / HTTP/1.1\n"[..], b"GET / HTTP/1.1\rX", b"GET / HTTP/1.1\r\r"] {
            let mut scan = Scan::default();
            let (last, before) = bad.split_last().unwrap();
            scan.remember(before).unwrap();
            let mut all = before.to_vec();
            all.push(*last);
            assert_eq!(scan.should_parse(&all), Err(BareLineEnd), "{bad:?}");
        }
    }

    #[test]
    fn another_head_in_the_place_of_a_partial_one_is_parsed_at_once() {
        let given_up = [&b"HTTP/1.1 200 OK\r\nA: "[..], &[b'x'; 300]].concat();
        let whole = [&b"HTTP/1.1 200 OK\r\nB: c\r\n\r\n"[..], &[b'y'; 400]].concat();
        for next in [&whole[..], &whole[..27], b"H"] {
            let mut scan = Scan::default();
            assert_eq!(scan.should_parse(&given_up), Ok(true));
            scan.remember(&given_up).unwrap();
            assert_eq!(scan.should_parse(next), Ok(true));
        }
    }
}
