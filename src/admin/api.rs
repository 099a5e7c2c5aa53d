//! ○ What each path of the admin server answers.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;

use super::access::{self, Caller, Needs};
use super::path::{Action, THERE_ARE};
use super::ready::Phase;
use super::reply::{self, Reply};
use super::{Deps, failovers, orders, view};
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

/// Answers one request.
pub(super) async fn answer<B>(request: Request<B>, via: Via, deps: &Deps) -> Reply
where
    B: BodyExt<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(action) = Action::of(request.uri().path()) else {
        return reply::problem(StatusCode::NOT_FOUND, THERE_ARE);
    };
    if let Err(refusal) = may(&request, via, action.needs(), deps) {
        return reply::refused(refusal);
    }
    if !action.answers_to(request.method()) {
        return reply::not_allowed(action.methods());
    }
    match action.needs() {
        Needs::Change => change(action, request, deps).await,
        Needs::Nothing | Needs::Reading => {
            show(&action, request.uri().query().unwrap_or_default(), deps)
        }
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

fn show(action: &Action, query: &str, deps: &Deps) -> Reply {
    let table = deps.current.load();
    match action {
        Action::Ready => ready(deps.readiness.phase()),
        Action::Metrics => {
            let (now, unix) = both_clocks();
            let (reloads, files) = (reloads(&deps.reloads), (deps.files)());
            let scrape = metrics::Scrape { table: &table, reloads, now, unix, files };
            reply::ok("text/plain; version=0.0.4; charset=utf-8", metrics::render(&scrape))
        }
        Action::Status => {
            let (now, unix) = both_clocks();
            let phase = deps.readiness.phase().label();
            let moment = view::Moment { now, unix };
            let status = view::Status::of(&table, phase, moment);
            reply::json(StatusCode::OK, &status.started_at(clock::STARTED, moment))
        }
        Action::Config => {
            reply::json(StatusCode::OK, &view::config::of(&table.config, table.generation))
        }
        Action::Failovers => failovers::list(&table, query),
        Action::Failover { id } => failovers::one(&table, id),
        Action::Live
        | Action::Reload
        | Action::Drain
        | Action::Switch { .. }
        | Action::Mode { .. }
        | Action::Drill { .. } => reply::ok("text/plain; charset=utf-8", "ok\n"),
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
    let query = request.uri().query().unwrap_or_default();
    let force = query.split('&').any(|pair| pair == "force=true");
    let releases = request.method() == Method::DELETE;
    match action {
        Action::Drain => {
            (deps.drain)();
            return reply::json(StatusCode::ACCEPTED, &json!({ "draining": true }));
        }
        Action::Reload => return orders::reload(force, deps).await,
        _ => {}
    }
    let body = match body(request).await {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    match action {
        Action::Switch { service } if releases => orders::release(service, &body, deps).await,
        Action::Switch { service } => orders::switch(service, &body, deps).await,
        Action::Mode { service, pool, endpoint } => {
            orders::mode([service, pool, endpoint], &body, deps).await
        }
        Action::Drill { service } => orders::drill(service, &body, deps).await,
        _ => reply::problem(StatusCode::NOT_FOUND, THERE_ARE),
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
