//! ● Header fields: what each name means to a proxy, and what the fields of a head say together.

use httparse::Header;

use super::head::Span;

/// What a field means to the proxy; everything else is [`Kind::Plain`] and goes on as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    Upgrade,
    /// For this hop alone (RFC 9110 section 7.6.1), or never wanted (`Proxy`, which CGI programs
    /// mistake for a setting).
    HopByHop,
    Expect,
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    /// Other fields that name the client: believed from trusted proxies alone.
    ForwardedOther,
    RequestId,
    Via,
    /// Named by Connection.
    Named,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// What the fields say together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Summary {
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) host: Option<Span>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    /// Connection has the option `upgrade`.
    pub(super) upgrade_option: bool,
    pub(super) has_upgrade: bool,
    pub(super) has_expect: bool,
    /// Seconds of `Keep-Alive: timeout=N`.
    pub(super) keep_alive_timeout: Option<u32>,
}

/// At most this many fields can be named by Connection: each is looked for among all fields.
const NAMED_MAX: usize = 32;

/// Judges `headers`, parsed from `buf`, and lists them. `end` is the length of the head.
pub(super) fn collect(
    list: &mut Vec<Field>,
    buf: &[u8],
    headers: &[Header<'_>],
    end: usize,
    side: Side,
) -> Result<Summary, &'static str> {
    let mut summary = Summary::default();
    let mut named = false;
    list.clear();
    for header in headers {
        let name = header.name.as_bytes();
        let field = Field {
            name: Span::within(buf, name),
            value: Span::within(buf, header.value),
            kind: classify(name),
        };
        check_line_end(buf, field.name.start as usize)?;
        if side == Side::Request && name.iter().fold(false, |any, &b| any | (b == b'_')) {
            // `X_Real_IP` and `X-Real-IP` are one variable to CGI, WSGI and their heirs.
            return Err("field name has an underscore");
        }
        if field.kind != Kind::Plain {
            summary.add(field, header.value, side, &mut named)?;
        }
        list.push(field);
    }
    check_line_end(buf, end.saturating_sub(2))?;
    check_line_end(buf, end)?;
    if summary.chunked && summary.content_length.is_some() {
        return Err("content-length beside transfer-encoding");
    }
    if named {
        drop_named(list, buf);
    }
    Ok(summary)
}

/// httparse takes a bare LF for a line end; a line must end with CRLF right before `at`.
#[inline]
fn check_line_end(buf: &[u8], at: usize) -> Result<(), &'static str> {
    match at.checked_sub(2).and_then(|start| buf.get(start..at)) {
        Some(b"\r\n") => Ok(()),
        _ => Err("line ends with a bare line feed"),
    }
}

impl Summary {
    fn add(
        &mut self,
        field: Field,
        value: &[u8],
        side: Side,
        named: &mut bool,
    ) -> Result<(), &'static str> {
        match field.kind {
            Kind::Host if self.host.is_some() && side == Side::Request => {
                return Err("host is there twice");
            }
            Kind::Host => self.host = Some(field.value),
            Kind::ContentLength if self.content_length.is_some() => {
                return Err("content-length is there twice");
            }
            Kind::ContentLength => self.content_length = Some(content_length(value)?),
            Kind::TransferEncoding if self.chunked => {
                return Err("transfer-encoding is there twice");
            }
            Kind::TransferEncoding if value.eq_ignore_ascii_case(b"chunked") => self.chunked = true,
            Kind::TransferEncoding => return Err("transfer-encoding is not chunked"),
            Kind::Connection => *named |= self.add_connection(value, side)?,
            Kind::KeepAlive => {
                self.keep_alive_timeout = self.keep_alive_timeout.or_else(|| timeout_of(value));
            }
            Kind::Upgrade => self.has_upgrade = true,
            Kind::Expect => self.has_expect = true,
            _ => {}
        }
        Ok(())
    }

    /// True when an option names a field.
    fn add_connection(&mut self, value: &[u8], side: Side) -> Result<bool, &'static str> {
        let mut named = 0;
        for option in list_items(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade_option = true;
            } else if !is_token(option) {
                return Err("connection has an option that is no token");
            } else if may_not_be_named(option, side) {
                return Err("connection names a field that is not for one hop");
            } else {
                named += 1;
            }
        }
        if named > NAMED_MAX { Err("connection names too many fields") } else { Ok(named > 0) }
    }
}

/// 0 to 2^63-1, digits alone (RFC 9110 section 8.6; a list of equal values is refused too).
fn content_length(value: &[u8]) -> Result<u64, &'static str> {
    const BAD: &str = "content-length is not a number";
    if value.is_empty() {
        return Err(BAD);
    }
    let number = value.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    number.filter(|&number| i64::try_from(number).is_ok()).ok_or(BAD)
}

/// N of `timeout=N` in a Keep-Alive field (RFC 2068 section 19.7.1.1).
fn timeout_of(value: &[u8]) -> Option<u32> {
    list_items(value).find_map(|item| {
        let (name, number) = item.split_at_checked(b"timeout=".len())?;
        if !name.eq_ignore_ascii_case(b"timeout=") || !number.iter().all(u8::is_ascii_digit) {
            return None;
        }
        str::from_utf8(number).ok()?.parse().ok()
    })
}

/// Marks what Connection names, so that it goes no further.
fn drop_named(list: &mut [Field], buf: &[u8]) {
    for at in 0..list.len() {
        let Some(field) = list.get(at).filter(|field| field.kind == Kind::Connection) else {
            continue;
        };
        for option in list_items(field.value.of(buf)) {
            for other in list.iter_mut().filter(|other| other.kind == Kind::Plain) {
                if other.name.of(buf).eq_ignore_ascii_case(option) {
                    other.kind = Kind::Named;
                }
            }
        }
    }
}

/// Elements of a comma-separated list without whitespace around them; empty ones are skipped (RFC
/// 9110 section 5.6.1).
pub(super) fn list_items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim).filter(|item| !item.is_empty())
}

/// Without optional whitespace (RFC 9110 section 5.6.3) at both ends.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_token_byte(b))
}

pub(super) fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// HTAB, SP, VCHAR and obs-text (RFC 9110 section 5.5).
pub(super) fn is_value_byte(b: u8) -> bool {
    matches!(b, b'\t' | 0x20..=0x7e | 0x80..)
}

/// Dropping these because a client says so would change who it is, or what the message means.
/// Endpoints are known to name Transfer-Encoding, which is for one hop indeed.
fn may_not_be_named(name: &[u8], side: Side) -> bool {
    match classify(name) {
        Kind::HopByHop | Kind::KeepAlive | Kind::Upgrade | Kind::Named => false,
        Kind::TransferEncoding => side == Side::Request,
        Kind::Plain => is_about_the_message(name),
        _ => true,
    }
}

/// Fields of no special kind that authenticate or say what the content is.
fn is_about_the_message(name: &[u8]) -> bool {
    const NAMES: [&str; 16] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-location",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "location",
        "max-forwards",
        "origin",
        "range",
        "retry-after",
        "set-cookie",
        "vary",
        "www-authenticate",
    ];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// A trailer may neither frame, route, authenticate nor say how to read the content (RFC 9110
/// section 6.5.1).
pub(super) fn may_be_trailer(name: &[u8]) -> bool {
    classify(name) == Kind::Plain
        && !is_about_the_message(name)
        && !name.eq_ignore_ascii_case(b"trailer")
}

/// Every field of every message passes here: the first byte and the length decide nearly always.
pub(super) fn classify(name: &[u8]) -> Kind {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let Some(first) = name.first() else { return Kind::Plain };
    match (first | 0x20, name.len()) {
        (b'h', 4) if is("host") => Kind::Host,
        (b'h', 14) if is("http2-settings") => Kind::HopByHop,
        (b'c', 10) if is("connection") => Kind::Connection,
        (b'c', 14) if is("content-length") => Kind::ContentLength,
        (b't', 2) if is("te") => Kind::HopByHop,
        (b't', 17) if is("transfer-encoding") => Kind::TransferEncoding,
        (b'k', 10) if is("keep-alive") => Kind::KeepAlive,
        (b'u', 7) if is("upgrade") => Kind::Upgrade,
        (b'e', 6) if is("expect") => Kind::Expect,
        (b'v', 3) if is("via") => Kind::Via,
        (b'f', 9) if is("forwarded") => Kind::ForwardedOther,
        (b'p', 5) if is("proxy") => Kind::HopByHop,
        (b'p', 16) if is("proxy-connection") => Kind::HopByHop,
        (b'p', 18) if is("proxy-authenticate") => Kind::HopByHop,
        (b'p', 19) if is("proxy-authorization") => Kind::HopByHop,
        (b'x', 9..) => classify_x(name),
        _ => Kind::Plain,
    }
}

fn classify_x(name: &[u8]) -> Kind {
    const FORWARDED: &[u8] = b"x-forwarded";
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        9 if is("x-real-ip") => Kind::ForwardedOther,
        12 if is("x-request-id") => Kind::RequestId,
        15 if is("x-forwarded-for") => Kind::ForwardedFor,
        16 if is("x-forwarded-host") => Kind::ForwardedHost,
        17 if is("x-forwarded-proto") => Kind::ForwardedProto,
        _ => match name.get(..FORWARDED.len()) {
            Some(front) if front.eq_ignore_ascii_case(FORWARDED) => Kind::ForwardedOther,
            _ => Kind::Plain,
        },
    }
}
