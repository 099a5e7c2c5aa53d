//! ● What a reload may not do without force, and what it cannot do at all.

use std::collections::HashSet;

use crate::config::Config;
use crate::config::check::{Diagnostic, Severity};

/// An empty configuration, or one without most of the endpoints, is more likely a broken file than
/// anybody's wish.
pub(super) fn refuse_collapse(old: &Config, new: &Config) -> Result<(), Diagnostic> {
    let addresses = |config: &Config| -> HashSet<_> {
        let pools = config.services.iter().flat_map(|service| &service.pools);
        pools.flat_map(|pool| &pool.endpoints).map(|endpoint| endpoint.address).collect()
    };
    let (before, after) = (addresses(old), addresses(new));
    let removed = before.difference(&after).count();
    let remedy = "restore the file, or reload with --force if this is meant";
    if new.listeners.is_empty() || after.is_empty() {
        return Err(error("", "it has no listeners or no endpoints".to_owned(), remedy));
    }
    if removed * 2 > before.len() {
        let message = format!("it removes {removed} of {} endpoints", before.len());
        return Err(error("services", message, remedy));
    }
    Ok(())
}

/// Settings that are read once, at the start.
pub(super) fn needs_restart(old: &Config, new: &Config) -> Vec<Diagnostic> {
    let changed = [
        ("process.workers", old.process.workers != new.process.workers),
        ("process.state_file", old.process.state_file != new.process.state_file),
        ("process.history_file", old.process.history_file != new.process.history_file),
        ("admin", old.admin != new.admin),
        ("logging", old.logging != new.logging),
    ];
    let warning = |path: &str| Diagnostic {
        severity: Severity::Warning,
        ..error(
            path,
            format!("the change of {path} is not in force"),
            "restart for it to take effect",
        )
    };
    changed.iter().filter(|(_, changed)| *changed).map(|(path, _)| warning(path)).collect()
}

/// A problem that lies in the world, not in a line of the file: it has no snippet.
pub(super) fn error(path: &str, message: String, remedy: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        path: path.to_owned(),
        line: 1,
        column: 1,
        snippet: String::new(),
        message,
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::WhenNone;
    use crate::table::fixture;

    fn config(endpoints: &[&str]) -> Arc<Config> {
        let pool = fixture::pool("hot", endpoints);
        let service = fixture::service_of("app", WhenNone::TryAll, vec![pool]);
        fixture::config(vec![fixture::listener("web", "0.0.0.0:80", &[0])], vec![service])
    }

    #[test]
    fn half_of_the_endpoints_may_go_but_not_more() {
        let old = config(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"]);
        let half = config(&["10.0.0.3:1", "10.0.0.4:1", "10.0.0.5:1"]);
        assert_eq!(refuse_collapse(&old, &half), Ok(()));
        let most = config(&["10.0.0.4:1", "10.0.0.5:1", "10.0.0.6:1", "10.0.0.7:1"]);
        let refusal = refuse_collapse(&old, &most).unwrap_err();
        assert_eq!(refusal.message, "it removes 3 of 4 endpoints");
    }

    #[test]
    fn a_configuration_without_listeners_is_refused_and_other_names_are_not() {
        let old = config(&["10.0.0.1:1"]);
        let silent = Config { listeners: Vec::new(), ..(*old).clone() };
        assert!(refuse_collapse(&old, &silent).is_err());
        let pool = fixture::pool("renamed", &["10.0.0.1:1"]);
        let service = fixture::service_of("renamed", WhenNone::TryAll, vec![pool]);
        let renamed = Config { services: vec![service], ..(*old).clone() };
        assert_eq!(refuse_collapse(&old, &renamed), Ok(()));
    }

    #[test]
    fn what_is_read_only_at_the_start_is_said_to_wait_for_a_restart() {
        let old = config(&["10.0.0.1:1"]);
        let mut new = (*old).clone();
        assert_eq!(needs_restart(&old, &new), []);
        new.process.workers = Some(3);
        let warnings = needs_restart(&old, &new);
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].path, "process.workers");
        assert_eq!(warnings[0].severity, Severity::Warning);
    }
}
