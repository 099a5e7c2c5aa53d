//! ○ `switch`, `release`, `mode`, `drill`: each prints what changed and what to run next.

use std::io::Write;
use std::str::FromStr;

use serde_json::{Value, json};

use super::client::{Limit, encoded};
use super::{Client, Failure, Format, Outcome, expect, read, text};
use crate::control::DrillReport;

/// A planned move.
#[derive(Debug, Clone, clap::Args)]
pub struct SwitchArgs {
    /// Which service
    pub service: String,
    /// The pool that is to serve
    #[arg(long, value_name = "POOL")]
    pub to: String,
    /// Why, for the record
    #[arg(long)]
    pub reason: String,
    /// Stay there whatever happens, until `release`
    #[arg(long)]
    pub hold: bool,
    /// Also if that pool is worse; recorded. One that is not available is held, as with --hold
    #[arg(long)]
    pub force: bool,
}

/// What an endpoint is used for.
#[derive(Debug, Clone, clap::Args)]
pub struct ModeArgs {
    /// Which endpoint, such as app/hot/10.0.1.10:80
    #[arg(value_name = "SERVICE/POOL/ENDPOINT")]
    pub endpoint: EndpointPath,
    /// active: as health says; drain: no new requests; off: sessions are closed, too
    #[arg(value_parser = ["active", "drain", "off"])]
    pub mode: String,
    /// Why, for the log and the status
    #[arg(long)]
    pub reason: String,
    /// Also if no pool is then available; recorded
    #[arg(long)]
    pub force: bool,
}

/// A rehearsed failover.
#[derive(Debug, Clone, clap::Args)]
pub struct DrillArgs {
    /// Which service
    pub service: String,
    /// Ask the other pool and decide, move nothing (the default)
    #[arg(long, group = "kind", conflicts_with = "watch")]
    pub decision: bool,
    /// Send it this part of the requests for a while
    #[arg(long, group = "kind", value_name = "PERCENT")]
    pub share: Option<String>,
    /// Move there and back
    #[arg(long, group = "kind")]
    pub full: bool,
    /// Abort when more than this part of its requests err [default: 0.1%]
    #[arg(long, value_name = "PERCENT")]
    pub max_errors: Option<String>,
    /// How long the other pool is watched under traffic, at most 10m [default: 30s]
    #[arg(long = "for", id = "watch", value_name = "DURATION", requires = "kind")]
    pub watch: Option<String>,
    /// Why, for the record
    #[arg(long)]
    pub reason: Option<String>,
}

/// The names an endpoint is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPath {
    pub service: String,
    pub pool: String,
    pub endpoint: String,
}

impl FromStr for EndpointPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, '/').map(str::to_owned).filter(|part| !part.is_empty());
        match (parts.next(), parts.next(), parts.next()) {
            (Some(service), Some(pool), Some(endpoint)) => Ok(Self { service, pool, endpoint }),
            _ => Err("expected SERVICE/POOL/ENDPOINT, as in app/hot/10.0.1.10:80".to_owned()),
        }
    }
}

fn of_service(service: &str, what: &str) -> String {
    format!("/api/v1/services/{}/{what}", encoded(service))
}

/// `standfast switch`: a planned move of a service to a pool.
pub fn switch(client: &Client, order: &SwitchArgs, out: &mut dyn Write) -> Outcome {
    let SwitchArgs { service, to, reason, hold, force } = order;
    let body = json!({ "to": to, "reason": reason, "hold": hold, "force": force });
    outcome(client.post(&of_service(service, "switch"), &body, Limit::Order), out)?;
    // What is forced on a pool that is not available is held, too.
    let held = *hold || *force && super::service(client, service).is_ok_and(|now| now.held);
    let service = text::clean(service);
    if held {
        writeln!(out, "nothing moves by itself until `standfast release {service}`")?;
    } else {
        writeln!(out, "it stays until health forces a move, or `standfast release {service}`")?;
    }
    writeln!(out, "next: `standfast status`, `standfast history {service}`")?;
    Ok(())
}

/// `standfast release`: ends a hold, and the standing of an order.
pub fn release(
    client: &Client,
    service: &str,
    reason: Option<&str>,
    out: &mut dyn Write,
) -> Outcome {
    let body = reason.map_or(Value::Null, |reason| json!({ "reason": reason }));
    outcome(client.delete(&of_service(service, "switch"), &body), out)?;
    writeln!(out, "from now on health decides again")?;
    // What that means is shown where it can be had; the release is done in any case.
    if let Ok(now) = super::service(client, service) {
        out.write_all(text::status::outlook(&now, text::Paint(false)).as_bytes())?;
    }
    Ok(())
}

/// `standfast mode`: what an endpoint is used for.
pub fn mode(client: &Client, order: &ModeArgs, out: &mut dyn Write) -> Outcome {
    let ModeArgs { endpoint: EndpointPath { service, pool, endpoint }, mode, reason, force } =
        order;
    let path = format!("pools/{}/endpoints/{}/mode", encoded(pool), encoded(endpoint));
    let body = json!({ "mode": mode, "reason": reason, "force": force });
    outcome(client.put(&of_service(service, &path), &body), out)?;
    let name = text::clean(&format!("{service}/{pool}/{endpoint}"));
    match &**mode {
        "active" => writeln!(out, "next: `standfast status` shows it up once its probes pass")?,
        _ => {
            writeln!(out, "next: `standfast status` shows what is still in flight there")?;
            writeln!(out, "undo: `standfast mode {name} active --reason …`")?;
        }
    }
    Ok(())
}

/// `standfast drill`: fails where the drill did not pass.
pub fn drill(client: &Client, order: &DrillArgs, format: Format, out: &mut dyn Write) -> Outcome {
    let kind = match order {
        DrillArgs { share: Some(_), .. } => "share",
        DrillArgs { full: true, .. } => "full",
        _ => "decision",
    };
    let mut body = json!({ "kind": kind });
    let rest = [
        ("share", &order.share),
        ("max_errors", &order.max_errors),
        ("for", &order.watch),
        ("reason", &order.reason),
    ];
    for (key, value) in rest {
        if let Some(value) = value {
            body[key] = json!(value);
        }
    }
    let path = of_service(&order.service, "drill");
    let answer = expect(client.post(&path, &body, Limit::Drill)?)?;
    let report: DrillReport = read(client, &answer, "a report")?;
    match format.json {
        true => out.write_all(&answer.body)?,
        false => out.write_all(text::drill::drill(&report, format.paint).as_bytes())?,
    }
    match report.passed {
        true => Ok(()),
        false => Err(Failure("the drill did not pass".to_owned())),
    }
}

/// Prints what was done, or fails with the refusal.
fn outcome(answer: Result<super::Answer, Failure>, out: &mut dyn Write) -> Outcome {
    let told = expect(answer?)?.json();
    writeln!(out, "{}", text::clean(told["outcome"].as_str().unwrap_or("done")))?;
    Ok(())
}
