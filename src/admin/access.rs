//! ● Who may do what on the admin server.
//!
//! The unix socket is guarded by its mode, 0600: whoever can connect may do everything. Over TCP,
//! reading is open on loopback and changes need the token. A web page must not reach it through a
//! browser on this machine (DNS rebinding), so without the token the `Host` of a request has to be
//! an address or `localhost`: a page from elsewhere comes with its own name.

use std::net::IpAddr;

use crate::config::Secret;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Liveness and readiness: they tell nothing.
    Nothing,
    Reading,
    Change,
}

/// What is known of a caller over TCP.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) address: IpAddr,
    /// The `Host` header, or the authority of the target; `None` where the request has neither.
    pub(super) host: Option<&'a [u8]>,
    /// The `Authorization` header.
    pub(super) authorization: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no token that could be shown.
    NoTokenConfigured,
    /// A token is needed, and none or the wrong one was shown.
    Unauthorized,
    ForeignHost,
}

/// May `caller` do what needs `needs`?
pub(super) fn check(
    needs: Needs,
    caller: Caller<'_>,
    token: Option<&Secret>,
) -> Result<(), Refusal> {
    if needs == Needs::Nothing {
        return Ok(());
    }
    match (token, caller.authorization) {
        (Some(token), Some(shown)) if shows(shown, token) => return Ok(()),
        (Some(_), Some(_)) => return Err(Refusal::Unauthorized),
        _ => {}
    }
    if needs == Needs::Reading && caller.address.to_canonical().is_loopback() {
        let own = caller.host.is_none_or(is_own);
        return if own { Ok(()) } else { Err(Refusal::ForeignHost) };
    }
    Err(if token.is_some() { Refusal::Unauthorized } else { Refusal::NoTokenConfigured })
}

/// `Bearer TOKEN` (RFC 6750 section 2.1). An empty token opens nothing.
fn shows(authorization: &[u8], token: &Secret) -> bool {
    let Some((scheme, shown)) = authorization.split_at_checked(7) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && !token.0.is_empty() && equal(shown, &token.0)
}

/// Equality in a time that depends on the lengths alone.
fn equal(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(differences) == 0 && one.len() == other.len()
}

/// An IP address or `localhost`, with or without a port.
fn is_own(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        needs: Needs,
        address: &str,
        host: &str,
        authorization: Option<&str>,
        token: Option<&str>,
    ) -> Result<(), Refusal> {
        let address = address.parse().unwrap();
        let authorization = authorization.map(str::as_bytes);
        let caller = Caller { address, host: Some(host.as_bytes()), authorization };
        let token = token.map(|token| Secret(token.as_bytes().to_vec()));
        check(needs, caller, token.as_ref())
    }

    #[test]
    fn reading_is_open_on_loopback_and_nowhere_else() {
        for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.9"] {
            assert_eq!(ask(Needs::Reading, loopback, "localhost:9090", None, Some("t")), Ok(()));
        }
        let ask = |token| ask(Needs::Reading, "10.0.0.9", "10.0.0.1", None, token);
        assert_eq!(ask(None), Err(Refusal::NoTokenConfigured));
        assert_eq!(ask(Some("t")), Err(Refusal::Unauthorized));
    }

    #[test]
    fn changes_over_tcp_need_the_token_that_is_configured() {
        let ask = |shown, token| ask(Needs::Change, "127.0.0.1", "localhost", shown, token);
        assert_eq!(ask(None, None), Err(Refusal::NoTokenConfigured));
        assert_eq!(ask(Some("Bearer x"), None), Err(Refusal::NoTokenConfigured));
        assert_eq!(ask(None, Some("secret")), Err(Refusal::Unauthorized));
        for wrong in ["secret", "Bearer ", "Bearer secre", "Bearer secrets", "Basic secret", "é"] {
            assert_eq!(ask(Some(wrong), Some("secret")), Err(Refusal::Unauthorized), "{wrong}");
        }
        assert_eq!(ask(Some("Bearer "), Some("")), Err(Refusal::Unauthorized));
        assert_eq!(ask(Some("bearer secret"), Some("secret")), Ok(()));
    }

    #[test]
    fn a_name_that_is_not_ours_is_refused_unless_the_token_is_shown() {
        let ask = |host, shown| ask(Needs::Reading, "127.0.0.1", host, shown, Some("t"));
        for own in ["127.0.0.1", "127.0.0.1:9090", "[::1]:9090", "[::1]", "LocalHost:1"] {
            assert_eq!(ask(own, None), Ok(()), "{own}");
        }
        for foreign in ["evil.example", "evil.example:9090", "localhost.evil.example", "", "[x]"] {
            assert_eq!(ask(foreign, None), Err(Refusal::ForeignHost), "{foreign}");
            assert_eq!(ask(foreign, Some("Bearer t")), Ok(()));
        }
    }

    #[test]
    fn liveness_and_readiness_are_open_to_everybody() {
        assert_eq!(ask(Needs::Nothing, "10.0.0.9", "evil.example", None, None), Ok(()));
    }
}
