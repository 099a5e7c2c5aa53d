//! A response of the proxy as the client reads it: complete or not yet, and who wrote it.

/// A whole answer.
pub struct Answer {
    pub status: u16,
    /// The endpoint whose application wrote the body.
    pub endpoint: Option<usize>,
    /// The connection may carry another request.
    pub keep: bool,
}

impl Answer {
    /// `None` while it is not whole; `ended`: nothing more will come.
    pub fn parse(bytes: &[u8], ended: bool) -> Option<Self> {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let status = head.get(9..12)?.parse().ok()?;
        let field = |name: &str| {
            head.lines().skip(1).find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let body = &bytes[end..];
        let whole = match field("content-length").and_then(|text| text.parse().ok()) {
            Some(length) => body.len() >= length,
            None if field("transfer-encoding").is_some() => body.ends_with(b"0\r\n\r\n"),
            None => ended || status == 204,
        };
        if !whole {
            return None;
        }
        let text = String::from_utf8_lossy(body);
        let endpoint = text.trim().strip_prefix("endpoint ").and_then(|text| text.parse().ok());
        let keep = !field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Some(Self { status, endpoint, keep: keep && head.starts_with("HTTP/1.1") })
    }
}
