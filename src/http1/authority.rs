//! ● `host[:port]` of Host and of an absolute-form target (RFC 9110 section 4.2,
//! RFC 3986 section 3.2).

use std::net::Ipv6Addr;

/// Longest DNS name (RFC 1035 section 2.3.4).
const HOST_MAX: usize = 255;

/// The length of the host in `authority`, brackets included.
///
/// Stricter than RFC 3986: no userinfo, no percent-encoding, no sub-delims (a comma would be a
/// list), no zone; the port is 1 to 65535.
pub(super) fn host_len(authority: &[u8]) -> Result<usize, &'static str> {
    let len = match authority {
        [] => return Err("host is empty"),
        [b'[', inner @ ..] => {
            let close = inner.iter().position(|&b| b == b']').ok_or("host is not an address")?;
            let text = inner.get(..close).and_then(|inner| str::from_utf8(inner).ok());
            if text.is_none_or(|text| text.parse::<Ipv6Addr>().is_err()) {
                return Err("host is not an address");
            }
            close + 2
        }
        _ => authority.iter().position(|&b| b == b':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at_checked(len).ok_or("host is not an address")?;
    if host.is_empty() || host.len() > HOST_MAX {
        return Err("host is empty or too long");
    }
    if !host.starts_with(b"[") && !host.iter().all(|&b| is_name_byte(b)) {
        return Err("host has a byte that no host name has");
    }
    match port {
        [] => Ok(len),
        [b':', digits @ ..] if is_port(digits) => Ok(len),
        _ => Err("host has a bad port"),
    }
}

/// Unreserved characters of RFC 3986; `_` is no host name but common inside clusters.
fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

fn is_port(digits: &[u8]) -> bool {
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let port = digits.iter().fold(0, |port: u32, digit| port * 10 + u32::from(digit - b'0'));
    (1..=65535).contains(&port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_a_port_are_taken() {
        for (authority, host) in [
            ("a", "a"),
            ("app.example.com", "app.example.com"),
            ("app.example.com.", "app.example.com."),
            ("my_svc:8080", "my_svc"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[::1]", "[::1]"),
            ("[2001:db8::1]:65535", "[2001:db8::1]"),
        ] {
            assert_eq!(host_len(authority.as_bytes()), Ok(host.len()), "{authority}");
        }
    }

    #[test]
    fn whatever_else_is_refused() {
        let long = "a".repeat(256);
        for authority in [
            "",
            ":",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:123456",
            "a:8o",
            "a:+1",
            "a:80:80",
            "a,b",
            "a b",
            "u@a",
            "u:p@a",
            "a/",
            "a?b",
            "a#b",
            "a%41",
            "[",
            "[]",
            "[::1",
            "::1",
            "[::1]a",
            "[fe80::1%25eth0]",
            "[a.b]",
            "a]",
            "a\\b",
            "a;b",
            "\u{e9}",
            "a\t",
            &long,
        ] {
            assert!(host_len(authority.as_bytes()).is_err(), "{authority:?}");
        }
    }
}
