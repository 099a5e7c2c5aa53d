//! ○ What each path of the admin server answers.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;

use super::access::{self, Caller, Needs};
use super::ready::Phase;
use super::reply::{self, Reply};
use super::{Deps, orders, view};
use crate::clock;
use crate::control::ReloadCounters;
use crate::observe::metrics;

/// Bytes of a request body.
const MOST_BODY: usize = 64 * 1024;
/// How long a request body may take.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// How a request came in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Via {
    Tcp(IpAddr),
    Socket,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Live,
    Ready,
    Metrics,
    Status,
    Config,
    Reload,
    Drain,
    Switch { service: String },
}

impl Action {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/livez" => Self::Live,
            "/readyz" | "/healthz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/api/v1/status" => Self::Status,
            "/api/v1/config" => Self::Config,
            "/api/v1/reload" => Self::Reload,
            "/api/v1/drain" => Self::Drain,
            _ => {
                let service = path.strip_prefix("/api/v1/services/")?.strip_suffix("/switch")?;
                Self::Switch { service: decoded(service)? }
            }
        })
    }

    fn needs(&self) -> Needs {
        match self {
            Self::Live | Self::Ready => Needs::Nothing,
            Self::Metrics | Self::Status | Self::Config => Needs::Reading,
            Self::Reload | Self::Drain | Self::Switch { .. } => Needs::Change,
        }
    }
}

/// One segment of a path, percent-decoded; `None` where it is none, or no text.
fn decoded(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        (out, rest) = match byte {
            b'/' => return None,
            b'%' => {
                let digit = |byte: u8| (byte as char).to_digit(16);
                out.push((digit(*after.first()?)? << 4 | digit(*after.get(1)?)?) as u8);
                (out, &after[2..])
            }
            other => {
                out.push(*other);
                (out, after)
            }
        };
    }
    String::from_utf8(out).ok().filter(|name| !name.is_empty())
}

/// Answers one request.
pub(super) async fn answer<B>(request: Request<B>, via: Via, deps: &Deps) -> Reply
where
    B: BodyExt<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(action) = Action::of(request.uri().path()) else {
        return reply::problem(
            StatusCode::NOT_FOUND,
            "there are /livez, /readyz, /metrics, /api/v1/status, /api/v1/config, \
             /api/v1/reload, /api/v1/drain and /api/v1/services/SERVICE/switch",
        );
    };
    if let Err(refusal) = may(&request, via, action.needs(), deps) {
        return reply::refused(refusal);
    }
    let changes = action.needs() == Needs::Change;
    match *request.method() {
        Method::POST if changes => change(action, request, deps).await,
        Method::GET | Method::HEAD if !changes => show(&action, deps),
        _ => reply::not_allowed(if changes { "POST" } else { "GET, HEAD" }),
    }
}

fn may<B>(
    request: &Request<B>,
    via: Via,
    needs: Needs,
    deps: &Deps,
) -> Result<(), access::Refusal> {
    let Via::Tcp(address) = via else { return Ok(()) };
    let header = |name| request.headers().get(name).map(http::HeaderValue::as_bytes);
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let host = target.or_else(|| header(header::HOST));
    let caller = Caller { address, host, authorization: header(header::AUTHORIZATION) };
    access::check(needs, caller, deps.current.load().config.admin.token.as_ref())
}

fn show(action: &Action, deps: &Deps) -> Reply {
    let table = deps.current.load();
    match action {
        Action::Ready => ready(deps.readiness.phase()),
        Action::Metrics => {
            let (now, unix) = both_clocks();
            let access_log_dropped = deps.access_log_dropped.as_ref().map(|dropped| dropped());
            let reloads = reloads(&deps.reloads);
            let scrape = metrics::Scrape { table: &table, reloads, now, unix, access_log_dropped };
            reply::ok("text/plain; version=0.0.4; charset=utf-8", metrics::render(&scrape))
        }
        Action::Status => {
            let (now, unix) = both_clocks();
            let phase = deps.readiness.phase().label();
            let status = view::Status::of(&table, phase, view::Moment { now, unix });
            reply::json(StatusCode::OK, &status)
        }
        Action::Config => {
            reply::json(StatusCode::OK, &view::config::of(&table.config, table.generation))
        }
        Action::Live | Action::Reload | Action::Drain | Action::Switch { .. } => {
            reply::ok("text/plain; charset=utf-8", "ok\n")
        }
    }
}

fn ready(phase: Phase) -> Reply {
    match phase {
        Phase::Ready => reply::ok("text/plain; charset=utf-8", "ok\n"),
        Phase::Starting => reply::problem(StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Phase::Draining => reply::problem(StatusCode::SERVICE_UNAVAILABLE, "draining"),
    }
}

fn reloads(counters: &ReloadCounters) -> metrics::Reloads {
    metrics::Reloads {
        applied: counters.applied.load(Ordering::Relaxed),
        refused: counters.refused.load(Ordering::Relaxed),
        last_successful: counters.last_successful.load(Ordering::Relaxed),
        last_success_at: counters.last_success_at.load(Ordering::Relaxed),
    }
}

fn both_clocks() -> (Duration, Duration) {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (clock::now(), unix)
}

async fn change<B>(action: Action, request: Request<B>, deps: &Deps) -> Reply
where
    B: BodyExt<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match action {
        Action::Drain => {
            (deps.drain)();
            reply::json(StatusCode::ACCEPTED, &json!({ "draining": true }))
        }
        Action::Switch { service } => match body(request).await {
            Ok(bytes) => orders::switch(service, &bytes, deps).await,
            Err(reply) => reply,
        },
        _ => {
            let query = request.uri().query().unwrap_or_default();
            orders::reload(query.split('&').any(|pair| pair == "force=true"), deps).await
        }
    }
}

async fn body<B>(request: Request<B>) -> Result<Bytes, Reply>
where
    B: BodyExt<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = std::pin::pin!(Limited::new(request.into_body(), MOST_BODY).collect());
    match tokio::time::timeout(BODY_LIMIT, body).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("the body is larger than {MOST_BODY} bytes");
            Err(reply::problem(StatusCode::PAYLOAD_TOO_LARGE, &detail))
        }
        Ok(Err(error)) => Err(reply::problem(StatusCode::BAD_REQUEST, &error.to_string())),
        Err(_) => Err(reply::problem(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_in_a_path_is_one_decoded_segment() {
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
}
