//! ● What each path of the admin server means, and who may ask for it by which method.

use http::Method;

use super::access::Needs;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Live,
    Ready,
    Metrics,
    Status,
    Config,
    /// `GET /api/v1/failovers`.
    Failovers,
    /// `GET /api/v1/failovers/ID`.
    Failover {
        id: String,
    },
    Reload,
    Drain,
    /// `POST` moves, `DELETE` releases.
    Switch {
        service: String,
    },
    /// `PUT`.
    Mode {
        service: String,
        pool: String,
        endpoint: String,
    },
    /// `POST`.
    Drill {
        service: String,
    },
}

/// The answer to a path that is none of them.
pub(super) const THERE_ARE: &str = "there are /livez, /readyz, /metrics, /api/v1/status, \
    /api/v1/config, /api/v1/failovers, /api/v1/failovers/ID, /api/v1/reload, /api/v1/drain, \
    /api/v1/services/SERVICE/switch, /api/v1/services/SERVICE/drill and \
    /api/v1/services/SERVICE/pools/POOL/endpoints/ENDPOINT/mode";

impl Action {
    /// `None` where there is no such path. Names in it are percent-encoded segments.
    pub(super) fn of(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match segments[..] {
            ["livez"] => Self::Live,
            ["readyz" | "healthz"] => Self::Ready,
            ["metrics"] => Self::Metrics,
            ["api", "v1", "status"] => Self::Status,
            ["api", "v1", "config"] => Self::Config,
            ["api", "v1", "failovers"] => Self::Failovers,
            ["api", "v1", "failovers", id] => Self::Failover { id: decoded(id)? },
            ["api", "v1", "reload"] => Self::Reload,
            ["api", "v1", "drain"] => Self::Drain,
            ["api", "v1", "services", service, "switch"] => {
                Self::Switch { service: decoded(service)? }
            }
            ["api", "v1", "services", service, "drill"] => {
                Self::Drill { service: decoded(service)? }
            }
            ["api", "v1", "services", service, "pools", pool, "endpoints", endpoint, "mode"] => {
                let (service, pool) = (decoded(service)?, decoded(pool)?);
                Self::Mode { service, pool, endpoint: decoded(endpoint)? }
            }
            _ => return None,
        })
    }

    pub(super) fn needs(&self) -> Needs {
        match self {
            Self::Live | Self::Ready => Needs::Nothing,
            Self::Metrics
            | Self::Status
            | Self::Config
            | Self::Failovers
            | Self::Failover { .. } => Needs::Reading,
            Self::Reload
            | Self::Drain
            | Self::Switch { .. }
            | Self::Mode { .. }
            | Self::Drill { .. } => Needs::Change,
        }
    }

    /// What the path answers to, as `Allow` lists it (RFC 9110 section 10.2.1).
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Switch { .. } => "POST, DELETE",
            Self::Mode { .. } => "PUT",
            _ if self.needs() == Needs::Change => "POST",
            _ => "GET, HEAD",
        }
    }

    pub(super) fn answers_to(&self, method: &Method) -> bool {
        self.methods().split(", ").any(|known| known == method.as_str())
    }
}

/// One segment of a path, percent-decoded; `None` where it is none, or no text.
fn decoded(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'%' => {
                let digit = |byte: u8| (byte as char).to_digit(16);
                out.push((digit(*after.first()?)? << 4 | digit(*after.get(1)?)?) as u8);
                &after[2..]
            }
            other => {
                out.push(*other);
                after
            }
        };
    }
    String::from_utf8(out).ok().filter(|name| !name.is_empty())
}

/// The pairs of a query, decoded, in its order; `None` where one is no text.
pub(super) fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // An empty value is one all the same.
        let value = if value.is_empty() { String::new() } else { decoded(value)? };
        Some((decoded(name)?, value))
    };
    query.split('&').filter(|text| !text.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_is_one_decoded_segment() {
        let service = |path: &str| match Action::of(path) {
            Some(Action::Switch { service }) => Some(service),
            _ => None,
        };
        assert_eq!(service("/api/v1/services/app/switch").as_deref(), Some("app"));
        assert_eq!(service("/api/v1/services/a%2fb%C3%A4/switch").as_deref(), Some("a/bä"));
        for wrong in ["a/b", "", "%", "%2", "%zz", "%ff", "%+1"] {
            assert_eq!(service(&format!("/api/v1/services/{wrong}/switch")), None, "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_is_named_with_its_port_encoded_or_not() {
        let named = |endpoint: &str| {
            Action::of(&format!("/api/v1/services/app/pools/hot/endpoints/{endpoint}/mode"))
        };
        let found = |endpoint: &str| {
            let (service, pool) = ("app".to_owned(), "hot".to_owned());
            Some(Action::Mode { service, pool, endpoint: endpoint.to_owned() })
        };
        for written in ["10.0.1.10:80", "10.0.1.10%3A80", "10.0.1.10%3a80"] {
            assert_eq!(named(written), found("10.0.1.10:80"));
        }
        assert_eq!(named("%5Bfd00::1%5D:443"), found("[fd00::1]:443"));
    }

    #[test]
    fn each_path_answers_to_its_methods_alone() {
        let answers = |path: &str, method| Action::of(path).unwrap().answers_to(&method);
        assert!(answers("/api/v1/failovers/app-1", Method::HEAD));
        assert!(answers("/api/v1/services/app/switch", Method::DELETE));
        assert!(answers("/api/v1/services/app/switch", Method::POST));
        assert!(!answers("/api/v1/services/app/switch", Method::PUT));
        assert!(!answers("/api/v1/services/app/drill", Method::GET));
        assert!(!answers("/api/v1/services/app/pools/p/endpoints/e/mode", Method::POST));
    }

    #[test]
    fn every_path_told_to_a_lost_caller_is_there() {
        let paths = THERE_ARE.split([' ', ',']).filter(|word| word.starts_with('/'));
        assert_eq!(paths.filter(|path| Action::of(path).is_some()).count(), 12);
    }

    #[test]
    fn a_query_is_pairs_of_text() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = vec![pair("service", "a b"), pair("limit", "5"), pair("x", "")];
        assert_eq!(pairs("service=a%20b&limit=5&&x"), Some(expected));
        assert_eq!(pairs(""), Some(Vec::new()));
        assert_eq!(pairs("a=%ff"), None);
    }
}
