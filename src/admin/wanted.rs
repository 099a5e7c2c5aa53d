//! ● The bodies of orders: JSON → what control is asked to do, or the sentence that says what is
//! missing.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config;
use crate::control::{DrillKind, DrillOrder, ModeOrder, SwitchOrder};
use crate::table::Mode;

/// A drill watches the other pool for this long unless told otherwise, and no longer than that.
const WATCH: Duration = Duration::from_secs(30);
pub(super) const MOST_WATCH: Duration = Duration::from_secs(600);
/// Share of requests that may err before a drill is aborted, unless told otherwise.
const MAX_ERRORS: f64 = 0.001;
/// Part of the requests a share drill sends, in thousandths, unless told otherwise.
const SHARE: u16 = 50;

/// Characters of a reason: it is kept in every record and shown in every list.
const MOST_REASON: usize = 500;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    to: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    hold: bool,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetMode {
    mode: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drill {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    share: Option<String>,
    #[serde(default)]
    max_errors: Option<String>,
    #[serde(default, rename = "for")]
    watch: Option<String>,
    #[serde(default)]
    reason: String,
}

/// A body, or what was expected of it.
fn read<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("expected {expected}: {error}"))
}

/// A reason that tells somebody something later.
fn reason(text: &str, what: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err(format!("say why: {what} without a reason tells nobody anything later")),
        1..=MOST_REASON => Ok(text.to_owned()),
        _ => Err(format!("the reason is longer than {MOST_REASON} characters")),
    }
}

pub(super) fn switch(body: &[u8]) -> Result<SwitchOrder, String> {
    let wanted: Switch = read(body, r#"{"to": "POOL", "reason": "…", "hold": false}"#)?;
    let Switch { to, hold, force, .. } = wanted;
    Ok(SwitchOrder { to, reason: reason(&wanted.reason, "a switch")?, hold, force })
}

/// The reason of a release, which may be empty; as may the body.
pub(super) fn release(body: &[u8]) -> Result<String, String> {
    if body.trim_ascii().is_empty() {
        return Ok(String::new());
    }
    let wanted: Release = read(body, r#"no body, or {"reason": "…"}"#)?;
    if wanted.reason.trim().is_empty() { Ok(String::new()) } else { reason(&wanted.reason, "") }
}

pub(super) fn mode(pool: String, endpoint: String, body: &[u8]) -> Result<ModeOrder, String> {
    let wanted: SetMode = read(body, r#"{"mode": "drain", "reason": "…"}"#)?;
    let mode = Mode::ALL.into_iter().find(|mode| mode.label() == wanted.mode);
    let mode =
        mode.ok_or_else(|| format!("no mode {:?}; there are: active, drain, off", wanted.mode))?;
    let reason = reason(&wanted.reason, "a mode")?;
    Ok(ModeOrder { pool, endpoint, mode, reason, force: wanted.force })
}

pub(super) fn drill(body: &[u8]) -> Result<DrillOrder, String> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    let wanted: Drill = read(body, r#"{"kind": "share", "share": "5%", "for": "30s"}"#)?;
    let share = match wanted.share.as_deref().map(share).transpose()? {
        Some(_) if wanted.kind.as_deref().is_some_and(|kind| kind != "share") => {
            return Err("share goes with kind share alone".to_owned());
        }
        share => share,
    };
    let kind = match (wanted.kind.as_deref(), share) {
        (Some("share"), share) => DrillKind::Share(share.unwrap_or(SHARE)),
        (None, Some(share)) => DrillKind::Share(share),
        (Some("decision") | None, _) => DrillKind::Decision,
        (Some("full"), _) => DrillKind::Full,
        (Some(other), _) => {
            return Err(format!("no drill {other:?}; there are: decision, share, full"));
        }
    };
    let watch = match &wanted.watch {
        Some(_) if kind == DrillKind::Decision => {
            return Err("a decision watches no traffic: leave `for` out".to_owned());
        }
        Some(text) => config::duration(text).map_err(|wrong| format!("for: {wrong}"))?,
        None => WATCH,
    };
    if watch.is_zero() || watch > MOST_WATCH {
        let most = config::period(MOST_WATCH);
        return Err(format!("for: more than 0s and at most {most}, not {}", config::period(watch)));
    }
    let max_errors = match &wanted.max_errors {
        Some(text) => config::percentage(text).map_err(|wrong| format!("max_errors: {wrong}"))?,
        None => MAX_ERRORS,
    };
    let reason = if wanted.reason.trim().is_empty() { "a drill" } else { &*wanted.reason };
    let reason = self::reason(reason, "")?;
    Ok(DrillOrder { kind, max_errors, watch, reason })
}

/// Thousandths.
fn share(text: &str) -> Result<u16, String> {
    let share = config::percentage(text).map_err(|wrong| format!("share: {wrong}"))?;
    match (share * 1000.0).round() as u16 {
        0 => Err(format!("share: {text} is less than 0.1%")),
        1000.. => Err("share: all of the requests is a full drill".to_owned()),
        permille => Ok(permille),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_has_a_kind_a_budget_and_a_bounded_time() {
        let order = |body: &str| drill(body.as_bytes());
        let plain = order("").unwrap();
        assert_eq!((plain.kind, plain.max_errors), (DrillKind::Decision, 0.001));
        assert_eq!(order(r#"{"share": "2.5%"}"#).unwrap().kind, DrillKind::Share(25));
        let full = order(r#"{"kind": "full", "for": "10m", "max_errors": "1%"}"#).unwrap();
        assert_eq!((full.kind, full.watch), (DrillKind::Full, MOST_WATCH));
        assert_eq!(full.max_errors, 0.01);
        for (body, part) in [
            (r#"{"kind": "half"}"#, "decision, share, full"),
            (r#"{"kind": "full", "share": "5%"}"#, "kind share alone"),
            (r#"{"kind": "full", "for": "11m"}"#, "at most 10m, not 11m"),
            (r#"{"kind": "full", "for": "0s"}"#, "more than 0s"),
            (r#"{"kind": "full", "for": "10"}"#, "a duration with a unit"),
            (r#"{"for": "10s"}"#, "leave `for` out"),
            (r#"{"share": "0%"}"#, "less than 0.1%"),
            (r#"{"share": "100%"}"#, "a full drill"),
            (r#"{"share": "5"}"#, "a percentage"),
            (r#"{"kind": "full", "max_errors": "x"}"#, "max_errors: "),
            (r#"{"kinds": "full"}"#, "kinds"),
        ] {
            let told = order(body).unwrap_err();
            assert!(told.contains(part), "{body}: {told}");
        }
    }

    #[test]
    fn a_release_needs_no_body_and_no_reason() {
        assert_eq!(release(b" "), Ok(String::new()));
        assert_eq!(release(br#"{"reason": " all well "}"#), Ok("all well".to_owned()));
        assert!(release(br#"{"why": "x"}"#).unwrap_err().contains("why"));
    }

    #[test]
    fn a_reason_is_asked_for_and_bounded() {
        let body = |reason: &str| format!(r#"{{"to": "hot", "reason": "{reason}"}}"#);
        assert_eq!(switch(body(" upgrade ").as_bytes()).unwrap().reason, "upgrade");
        assert!(switch(body("  ").as_bytes()).unwrap_err().starts_with("say why"));
        assert!(switch(body(&"x".repeat(501)).as_bytes()).unwrap_err().contains("500"));
    }
}
