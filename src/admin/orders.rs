//! ○ Orders to control: a reload, a switch, and how they ended.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Deps;
use super::reply::{self, Reply};
use crate::config::check::{Diagnostic, Severity};
use crate::control::{Event, SwitchOrder};
use crate::table::Table;

/// How long control may take to carry out an order; a reload resolves names and reads files.
const ORDER_LIMIT: Duration = Duration::from_secs(60);

/// Sends an order to control and waits for its answer.
async fn order<T>(deps: &Deps, event: Event, answer: oneshot::Receiver<T>) -> Result<T, Reply> {
    let exchange = async {
        deps.control.send(event).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(ORDER_LIMIT, exchange).await {
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
    match order(deps, Event::Reload { force, reply: Some(sender) }, receiver).await {
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    to: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    hold: bool,
}

pub(super) async fn switch(service: String, body: &[u8], deps: &Deps) -> Reply {
    let wanted: Switch = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(error) => {
            let detail = format!(r#"expected {{"to": "POOL", "reason": "…"}}: {error}"#);
            return reply::problem(StatusCode::BAD_REQUEST, &detail);
        }
    };
    if wanted.hold {
        let detail = "hold is not available yet; leave it out";
        return reply::problem(StatusCode::BAD_REQUEST, detail);
    }
    if wanted.reason.trim().is_empty() {
        let detail = "say why: a switch without a reason tells nobody anything later";
        return reply::problem(StatusCode::BAD_REQUEST, detail);
    }
    if let Some(reply) = missing(&deps.current.load(), &service, &wanted.to) {
        return reply;
    }
    let (sender, receiver) = oneshot::channel();
    let Switch { to, reason, .. } = wanted;
    let wanted = SwitchOrder { to: to.clone(), reason, hold: false, force: false };
    let event = Event::Switch { service: service.clone(), order: wanted, reply: sender };
    match order(deps, event, receiver).await {
        Err(reply) => reply,
        Ok(Ok(outcome)) => {
            let value = json!({ "service": service, "to": to, "outcome": outcome });
            reply::json(StatusCode::OK, &value)
        }
        Ok(Err(refusal)) => reply::problem(StatusCode::CONFLICT, &refusal),
    }
}

/// The answer where the table has no such service or pool.
fn missing(table: &Table, service: &str, pool: &str) -> Option<Reply> {
    let Some(known) = table.service(service) else {
        let names = table.services.iter().map(|service| &*service.config.name);
        return Some(unknown("service", service, names));
    };
    let names = known.pools.iter().map(|pool| &*pool.config.name);
    match names.clone().any(|name| name == pool) {
        true => None,
        false => Some(unknown("pool", pool, names)),
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Reply {
    let known = known.collect::<Vec<_>>().join(", ");
    reply::problem(StatusCode::NOT_FOUND, &format!("no {what} {name:?}; there are: {known}"))
}
