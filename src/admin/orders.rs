//! ○ Orders to control, and how they ended.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Deps;
use super::reply::{self, Reply};
use super::wanted::{self, MOST_WATCH};
use crate::config::check::{Diagnostic, Severity};
use crate::control::{Answer, DrillKind, DrillOrder, Event};
use crate::table::{self, Table};

/// How long control may take to carry out an order; a reload resolves names and reads files.
const ORDER_LIMIT: Duration = Duration::from_secs(60);

/// What a drill takes beside the time it watches: the proof of the target before, and after it the
/// requests that are still at a pool, until what it cost is known.
const DRILL_REST: Duration = Duration::from_secs(120);

/// Longer than any answer takes.
pub(super) const LONGEST: Duration =
    Duration::from_secs(2 * MOST_WATCH.as_secs() + DRILL_REST.as_secs() + 30);

/// Sends an order to control and waits for its answer.
async fn order<T>(
    deps: &Deps,
    limit: Duration,
    event: Event,
    answer: oneshot::Receiver<T>,
) -> Result<T, Reply> {
    let exchange = async {
        deps.control.send(event).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(reply::problem(StatusCode::SERVICE_UNAVAILABLE, "the process is ending")),
        Err(_) => Err(reply::problem(
            StatusCode::GATEWAY_TIMEOUT,
            "the order was not carried out yet; ask /api/v1/status for its outcome",
        )),
    }
}

pub(super) async fn reload(force: bool, deps: &Deps) -> Reply {
    let (sender, receiver) = oneshot::channel();
    match order(deps, ORDER_LIMIT, Event::Reload { force, reply: Some(sender) }, receiver).await {
        Err(reply) => reply,
        Ok(Ok(reloaded)) => {
            let value = json!({
                "generation": reloaded.generation,
                "changes": reloaded.changes,
                "warnings": diagnostics(&reloaded.warnings),
            });
            reply::json(StatusCode::OK, &value)
        }
        Ok(Err(found)) => reply::problem_with(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the configuration was not applied; the running one goes on",
            json!({ "diagnostics": diagnostics(&found) }),
        ),
    }
}

fn diagnostics(found: &[Diagnostic]) -> Vec<Value> {
    let one = |diagnostic: &Diagnostic| {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        json!({
            "severity": severity,
            "path": diagnostic.path,
            "line": diagnostic.line,
            "column": diagnostic.column,
            "snippet": diagnostic.snippet,
            "message": diagnostic.message,
            "remedy": diagnostic.remedy,
        })
    };
    found.iter().map(one).collect()
}

/// `POST /api/v1/services/S/switch`.
pub(super) async fn switch(service: String, body: &[u8], deps: &Deps) -> Reply {
    let order = match wanted::switch(body) {
        Ok(order) => order,
        Err(wrong) => return reply::problem(StatusCode::BAD_REQUEST, &wrong),
    };
    if let Err(unknown) = pool(&deps.current.load(), &service, &order.to) {
        return not_found(&unknown);
    }
    let done = json!({ "service": service, "to": order.to, "hold": order.hold });
    obeyed(deps, done, |reply| Event::Switch { service, order, reply }).await
}

/// `DELETE /api/v1/services/S/switch`.
pub(super) async fn release(service: String, body: &[u8], deps: &Deps) -> Reply {
    let reason = match wanted::release(body) {
        Ok(reason) => reason,
        Err(wrong) => return reply::problem(StatusCode::BAD_REQUEST, &wrong),
    };
    if let Err(unknown) = known(&deps.current.load(), &service) {
        return not_found(&unknown);
    }
    let done = json!({ "service": service });
    obeyed(deps, done, |reply| Event::Release { service, reason, reply }).await
}

/// `PUT /api/v1/services/S/pools/P/endpoints/E/mode`.
pub(super) async fn mode(
    [service, pool, endpoint]: [String; 3],
    body: &[u8],
    deps: &Deps,
) -> Reply {
    let done = json!({ "service": service, "pool": pool, "endpoint": endpoint });
    let order = match wanted::mode(pool, endpoint, body) {
        Ok(order) => order,
        Err(wrong) => return reply::problem(StatusCode::BAD_REQUEST, &wrong),
    };
    if let Err(unknown) = has_endpoint(&deps.current.load(), &service, &order.pool, &order.endpoint)
    {
        return not_found(&unknown);
    }
    obeyed(deps, done, |reply| Event::Mode { service, order, reply }).await
}

/// `POST /api/v1/services/S/drill`; answers when the drill is over.
pub(super) async fn drill(service: String, body: &[u8], deps: &Deps) -> Reply {
    let wanted = match wanted::drill(body) {
        Ok(order) => order,
        Err(wrong) => return reply::problem(StatusCode::BAD_REQUEST, &wrong),
    };
    if let Err(unknown) = known(&deps.current.load(), &service) {
        return not_found(&unknown);
    }
    let (sender, receiver) = oneshot::channel();
    let limit = limit(&wanted);
    let event = Event::Drill { service, order: wanted, reply: sender };
    match order(deps, limit, event, receiver).await {
        Err(reply) => reply,
        Ok(Ok(report)) => reply::json(StatusCode::OK, &report),
        Ok(Err(refusal)) => reply::problem(StatusCode::CONFLICT, &refusal),
    }
}

/// A whole drill is watched there, and may be watched again on its way back.
fn limit(drill: &DrillOrder) -> Duration {
    match drill.kind {
        DrillKind::Decision => DRILL_REST,
        DrillKind::Share(_) => DRILL_REST + drill.watch,
        DrillKind::Full => DRILL_REST + drill.watch * 2,
    }
}

/// What control answers an order: `done` with its outcome, or the refusal.
async fn obeyed(
    deps: &Deps,
    done: Value,
    event: impl FnOnce(oneshot::Sender<Answer>) -> Event,
) -> Reply {
    let (sender, receiver) = oneshot::channel();
    match order(deps, ORDER_LIMIT, event(sender), receiver).await {
        Err(reply) => reply,
        Ok(Ok(outcome)) => {
            let mut done = done;
            done["outcome"] = outcome.into();
            reply::json(StatusCode::OK, &done)
        }
        Ok(Err(refusal)) => reply::problem(StatusCode::CONFLICT, &refusal),
    }
}

/// The service of this name, or the sentence that lists those there are.
pub(super) fn known<'a>(table: &'a Table, service: &str) -> Result<&'a table::Service, String> {
    let names = table.services.iter().map(|service| &*service.config.name);
    let found = table.service(service).map(|service| &**service);
    found.ok_or_else(|| unknown("service", service, names))
}

fn pool<'a>(table: &'a Table, service: &str, pool: &str) -> Result<&'a table::Pool, String> {
    let pools = &known(table, service)?.pools;
    let found = pools.iter().find(|known| &*known.config.name == pool);
    let names = pools.iter().map(|pool| &*pool.config.name);
    found.map(|pool| &**pool).ok_or_else(|| unknown("pool", pool, names))
}

fn has_endpoint(table: &Table, service: &str, pool: &str, endpoint: &str) -> Result<(), String> {
    let names = self::pool(table, service, pool)?.endpoints.iter().map(|known| &*known.config.name);
    match names.clone().any(|name| name == endpoint) {
        true => Ok(()),
        false => Err(unknown("endpoint", endpoint, names)),
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known = known.collect::<Vec<_>>().join(", ");
    format!("no {what} {name:?}; there are: {known}")
}

pub(super) fn not_found(detail: &str) -> Reply {
    reply::problem(StatusCode::NOT_FOUND, detail)
}
