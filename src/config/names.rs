//! ● Names and addresses as operators write them: binds, hosts, paths, endpoint URLs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::units::{Wrong, quote, wrong};
use super::{HostPattern, IpNet, Scheme};

/// A name of ours, fit for a URL path, a metric label and a command line.
pub(super) fn name(text: &str) -> Result<&str, Wrong> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && text.len() <= 63 && text.bytes().all(fits) {
        return Ok(text);
    }
    wrong(
        format!("{} is not a usable name", quote(text)),
        "use up to 63 letters, digits, `-`, `_` and `.`, and begin with a letter or digit",
    )
}

/// `:8443` is every address, IPv6 and IPv4.
pub(super) fn bind(text: &str) -> Result<SocketAddr, Wrong> {
    if let Some(port) = text.strip_prefix(':').and_then(port) {
        return Ok((Ipv6Addr::UNSPECIFIED, port).into());
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let remedy = if let Some(port) = port(text) {
        format!("write `\":{port}\"` for every address")
    } else if text.parse::<IpAddr>().is_ok() {
        "add a port, e.g. `0.0.0.0:443` or `[::1]:443`".into()
    } else {
        "write an address and a port, e.g. `:443`, `0.0.0.0:443` or `[::1]:443`".into()
    };
    wrong(format!("{} is not an address with a port", quote(text)), remedy)
}

fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    match text.parse::<IpNet>() {
        Ok(network) => Ok(network.trunc()),
        Err(_) => wrong(
            format!("{} is not a network", quote(text)),
            "write an address and a prefix length, e.g. `10.0.0.0/8` or `fd00::/8`",
        ),
    }
}

/// A host of a route: exact, or `*.` and a name.
pub(super) fn host_pattern(text: &str) -> Result<HostPattern, Wrong> {
    if text == "*" {
        return wrong("`*` is not a host", "leave `hosts` out to match every host");
    }
    let host = text.to_ascii_lowercase();
    if let Some(parent) = host.strip_prefix("*.") {
        dns_name(parent, text)?;
        return Ok(HostPattern::Wildcard(parent.to_owned()));
    }
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let Ok(address) = address.parse::<Ipv6Addr>() else {
            return wrong(format!("{} is not an IPv6 address", quote(text)), "correct the address");
        };
        return Ok(HostPattern::Exact(format!("[{address}]")));
    }
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        return wrong(
            format!("{} lacks brackets", quote(text)),
            format!("write `\"[{address}]\"`"),
        );
    }
    host_name(&host, text)?;
    Ok(HostPattern::Exact(host))
}

/// A DNS name or an IPv4 address, in lower case; `written` is what messages show.
pub(super) fn host_name(host: &str, written: &str) -> Result<(), Wrong> {
    if host.parse::<Ipv4Addr>().is_ok() {
        return Ok(());
    }
    dns_name(host, written)
}

fn dns_name(host: &str, written: &str) -> Result<(), Wrong> {
    let shown = quote(written);
    if host.contains("://") || host.contains('/') {
        return wrong(format!("{shown} is not a host name"), "write the host alone, without a URL");
    }
    if let Some((name, number)) = host.rsplit_once(':')
        && port(number).is_some()
    {
        return wrong(format!("{shown} carries a port"), format!("write `{name}`"));
    }
    if let Some(name) = host.strip_suffix('.') {
        return wrong(format!("{shown} ends in a dot"), format!("write `{name}`"));
    }
    if !host.is_ascii() {
        return wrong(
            format!("{shown} is not ASCII"),
            "write it as Punycode, e.g. `xn--bcher-kva`",
        );
    }
    if host.contains('*') {
        return wrong(
            format!("{shown} has a `*` in a place where none is possible"),
            "a wildcard is the whole first label, as in `*.example.com`",
        );
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    if host.contains('.') && last.bytes().all(|byte| byte.is_ascii_digit()) && !last.is_empty() {
        return wrong(format!("{shown} is not an IPv4 address"), "correct the address");
    }
    if host.len() > 253 || !host.split('.').all(is_label) {
        return wrong(
            format!("{shown} is not a host name"),
            "labels have 1 to 63 letters, digits, `-` and `_`, and dots between them",
        );
    }
    Ok(())
}

fn is_label(label: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    matches!(label.len(), 1..=63)
        && label.bytes().all(fits)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A route's prefix: `/`, or segments without a slash at the end.
pub(super) fn path_prefix(text: &str) -> Result<String, Wrong> {
    visible_path(text)?;
    let shown = quote(text);
    if text.contains(['?', '#']) {
        return wrong(format!("{shown} is more than a path"), "write the path alone");
    }
    if text.contains('*') {
        return wrong(
            format!("{shown} has a wildcard"),
            "a prefix matches all that begins with it",
        );
    }
    let path = text.strip_suffix('/').unwrap_or(text);
    if path.is_empty() {
        return Ok("/".into());
    }
    for segment in path.split('/').skip(1) {
        if segment.is_empty() {
            return wrong(format!("{shown} has an empty segment"), "write single slashes");
        }
        let decoded = segment.to_ascii_lowercase().replace("%2e", ".");
        if decoded == "." || decoded == ".." {
            return wrong(format!("{shown} has a dot segment"), "write the path it leads to");
        }
        if decoded.contains("%2f") || decoded.contains("%5c") || !escapes_are_whole(segment) {
            return wrong(
                format!("{shown} has an escape that cannot be matched"),
                "write `%` and two hexadecimal digits, and no escaped slash",
            );
        }
    }
    Ok(path.to_owned())
}

fn escapes_are_whole(segment: &str) -> bool {
    segment
        .split('%')
        .skip(1)
        .all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}

/// The target of a probe: a path and perhaps a query.
pub(super) fn probe_path(text: &str) -> Result<String, Wrong> {
    visible_path(text)?;
    if text.contains('#') {
        return wrong(format!("{} has a fragment", quote(text)), "write the path without `#…`");
    }
    Ok(text.to_owned())
}

fn visible_path(text: &str) -> Result<(), Wrong> {
    if !text.starts_with('/') {
        return wrong(format!("{} does not begin with `/`", quote(text)), "begin it with a slash");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return wrong(
            format!("{} has a character that cannot stand in a request", quote(text)),
            "write it percent-encoded, e.g. `%20` for a space",
        );
    }
    Ok(())
}

/// A value of `Host`: a host and perhaps a port.
pub(super) fn authority(text: &str) -> Result<String, Wrong> {
    let (host, _) = host_and_port(text)?;
    let literal = host.parse::<Ipv6Addr>().is_ok();
    if !literal {
        host_name(&host.to_ascii_lowercase(), text)?;
    }
    Ok(text.to_owned())
}

/// Where an endpoint is, before names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    /// Without brackets; names in lower case.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    /// `10.0.1.10:80`, `[fd00::1]:80`.
    pub(super) fn name(&self) -> String {
        let colon = self.host.contains(':');
        let (open, close) = if colon { ("[", "]") } else { ("", "") };
        format!("{open}{}{close}:{}", self.host, self.port)
    }
}

/// `http://HOST[:PORT]`, `https://HOST[:PORT]` or `HOST:PORT`.
pub(super) fn endpoint(text: &str) -> Result<Target, Wrong> {
    let shown = quote(text);
    let (scheme, rest) = match text.split_once("://") {
        None => (None, text),
        Some(("http", rest)) => (Some(Scheme::Http), rest),
        Some(("https", rest)) => (Some(Scheme::Https), rest),
        Some((other, rest)) => {
            let message = format!("{shown} has the unknown scheme {}", quote(other));
            return wrong(message, format!("write `http://{rest}` or `https://{rest}`"));
        }
    };
    if rest.contains('@') {
        return wrong(
            "an endpoint cannot carry a user or password",
            "write scheme, host and port alone",
        );
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return wrong(
            format!("{shown} has more than scheme, host and port"),
            "remove what follows the port: the path of the request goes on as it came",
        );
    }
    let (host, port) = host_and_port(authority)?;
    let host = host.to_ascii_lowercase();
    let literal = host.parse::<IpAddr>().ok();
    if literal.is_none() {
        host_name(&host, text)?;
    }
    let port = match (port, scheme) {
        (Some(port), _) => port,
        (None, Some(Scheme::Http)) => 80,
        (None, Some(Scheme::Https)) => 443,
        (None, None) => {
            return wrong(
                format!("{shown} has neither scheme nor port"),
                format!("write `http://{text}`, `https://{text}` or `{text}:80`"),
            );
        }
    };
    let nowhere = |address: IpAddr| address.is_unspecified() || address.is_multicast();
    if literal.is_some_and(nowhere) || port == 0 {
        return wrong(format!("{shown} cannot be connected to"), "write a real address and port");
    }
    Ok(Target { scheme: scheme.unwrap_or(Scheme::Http), host, port })
}

/// Host without brackets, and the port if there is one.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), Wrong> {
    let bad_port = |number: &str| -> Result<(&str, Option<u16>), Wrong> {
        let message = format!("{} is not a port", quote(number));
        wrong(message, "write a number between 1 and 65535")
    };
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, after)) = rest.split_once(']') else {
            return wrong(format!("{} lacks a `]`", quote(text)), "write `[ADDRESS]:PORT`");
        };
        if host.parse::<Ipv6Addr>().is_err() {
            return wrong(format!("{} is not an IPv6 address", quote(host)), "correct the address");
        }
        return match after.strip_prefix(':') {
            None if after.is_empty() => Ok((host, None)),
            None => bad_port(after),
            Some(number) => port(number).map_or_else(|| bad_port(number), |p| Ok((host, Some(p)))),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        let message = format!("{} lacks brackets", quote(text));
        return wrong(message, format!("write `[{text}]`, or `[{text}]:PORT`"));
    }
    match text.rsplit_once(':') {
        None => Ok((text, None)),
        Some((host, number)) => {
            port(number).map_or_else(|| bad_port(number), |port| Ok((host, Some(port))))
        }
    }
}
