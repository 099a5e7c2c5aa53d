//! ● The fields behind the last chunk (RFC 9112 section 7.1.2), as strictly as those of a head.

use super::fields::{is_token, is_value_byte, may_be_trailer, trim};
use super::framing::Decoder;

/// Collects trailers line by line, however the input is cut. Allocates only where there are any.
#[derive(Debug, Default)]
pub(super) struct Trailers {
    /// `name: value\r\n` each.
    fields: Vec<u8>,
    count: usize,
    /// The line that has not ended, its CR included.
    line: Vec<u8>,
    /// Bytes taken so far, the empty line included.
    taken: usize,
}

impl Trailers {
    pub(super) fn fields(&self) -> &[u8] {
        &self.fields
    }

    /// Takes bytes of `input`: how many, and whether the empty line that ends them was among them.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<(usize, bool), &'static str> {
        let (part, line_ended) = match memchr::memchr(b'\n', input) {
            Some(end) => (input.get(..=end).unwrap_or(input), true),
            None => (input, false),
        };
        self.taken = self.taken.saturating_add(part.len());
        if self.taken > Decoder::TRAILERS_MAX {
            return Err("trailers are too long");
        }
        if !line_ended {
            // A CR that something else than LF follows is refused before the line ends.
            let before = part.split_last().map_or(part, |(_, before)| before);
            if self.line.ends_with(b"\r") || before.contains(&b'\r') {
                return Err(BARE);
            }
            self.line.extend_from_slice(part);
            return Ok((part.len(), false));
        }
        if self.line.is_empty() {
            let ended = self.end_line(part)?;
            return Ok((part.len(), ended));
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(part);
        let ended = self.end_line(&line)?;
        line.clear();
        self.line = line;
        Ok((part.len(), ended))
    }

    /// True for the empty line. `line` ends with LF.
    fn end_line(&mut self, line: &[u8]) -> Result<bool, &'static str> {
        let line = line.strip_suffix(b"\r\n").ok_or(BARE)?;
        if line.is_empty() {
            return Ok(true);
        }
        let colon = memchr::memchr(b':', line).ok_or("trailer has no colon")?;
        let (name, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
        let value = trim(value.get(1..).unwrap_or(&[]));
        if !is_token(name) || name.contains(&b'_') {
            return Err("trailer name is malformed");
        }
        if !value.iter().all(|&b| is_value_byte(b)) {
            return Err("trailer value is malformed");
        }
        if !may_be_trailer(name) {
            return Err("trailer frames, routes or authenticates");
        }
        self.count += 1;
        if self.count > Decoder::TRAILER_FIELDS_MAX {
            return Err("too many trailers");
        }
        for part in [name, b": ", value, b"\r\n"] {
            self.fields.extend_from_slice(part);
        }
        Ok(false)
    }
}

const BARE: &str = "trailer ends with a bare line end";
