//! ● Listeners of a new configuration, their routes, and the counters they keep.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::{self, Config, ListenerMode};
use crate::route::hello::{NameRule, Names};
use crate::route::{Routes, Rule};
use crate::table::counters::{ListenerCounters, RouteCounters};
use crate::table::{Identities, Listener, ListenerId, Table, Target};

/// One whose bind did not change keeps its identity (and with it its sockets and counters),
/// whatever else changed, its name included.
pub(super) fn carry(
    config: &Config,
    previous: &Table,
    identities: &mut Identities,
) -> Arc<[Arc<Listener>]> {
    let mut kept = HashSet::new();
    let mut carry_one = |listener: &Arc<config::Listener>| {
        let (id, counters) = match known(listener, previous, &kept) {
            Some(known) => (known.id, Arc::clone(&known.counters)),
            None => {
                let id = ListenerId(identities.next_listener);
                identities.next_listener = identities.next_listener.wrapping_add(1);
                (id, Arc::new(ListenerCounters::new(identities.workers)))
            }
        };
        kept.insert(id);
        let targets = targets(listener, config, previous, identities.workers);
        Arc::new(Listener {
            id,
            routes: routes(listener, &targets),
            names: names(listener, &targets),
            targets: targets.into(),
            config: Arc::clone(listener),
            counters,
        })
    };
    config.listeners.iter().map(&mut carry_one).collect()
}

/// Port 0 is not an address yet: two listeners may ask for it, so there the name decides.
fn known<'a>(
    listener: &config::Listener,
    previous: &'a Table,
    kept: &HashSet<ListenerId>,
) -> Option<&'a Arc<Listener>> {
    previous.listeners.iter().find(|known| {
        known.config.bind == listener.bind
            && (listener.bind.port() != 0 || known.config.name == listener.name)
            && !kept.contains(&known.id)
    })
}

/// One for each service the listener's routes lead to, with the counters that the listener and the
/// service of these names had before.
fn targets(
    listener: &config::Listener,
    config: &Config,
    previous: &Table,
    workers: usize,
) -> Vec<Target> {
    let same_name = |known: &&Arc<Listener>| known.config.name == listener.name;
    let before = previous.listeners.iter().find(same_name).map_or(&[][..], |known| &known.targets);
    let before: HashMap<&str, &Arc<RouteCounters>> = before
        .iter()
        .filter_map(|t| {
            Some((&*previous.services.get(t.service as usize)?.config.name, &t.counters))
        })
        .collect();
    let mut seen = HashSet::new();
    let services = listener.routes.iter().map(|route| route.service);
    services
        .filter(|service| seen.insert(*service))
        .map(|service| {
            let name = config.services.get(service as usize).map(|service| &*service.name);
            let counters = name.and_then(|name| before.get(name));
            let new = || Arc::new(RouteCounters::new(workers));
            let counters = counters.map_or_else(new, |known| Arc::clone(known));
            Target { service, idempotency_key: false, counters }
        })
        .collect()
}

fn names(listener: &config::Listener, targets: &[Target]) -> Names<Target> {
    let mut rules = Vec::new();
    for route in listener.routes.iter().filter(|_| listener.mode == ListenerMode::TlsPassthrough) {
        let Some(target) = targets.iter().find(|t| t.service == route.service) else { continue };
        let rule = |name| NameRule { name, alpn: route.alpn.clone(), target: target.clone() };
        if route.hosts.is_empty() {
            rules.push(rule(None));
        }
        rules.extend(route.hosts.iter().map(|host| rule(Some(host.clone()))));
    }
    Names::new(rules)
}

fn routes(listener: &config::Listener, targets: &[Target]) -> Routes<Target> {
    let by_service: HashMap<u32, &Target> = targets.iter().map(|t| (t.service, t)).collect();
    let mut rules = Vec::new();
    for route in &listener.routes {
        let Some(target) = by_service.get(&route.service) else { continue };
        let rule = |host| Rule {
            host,
            path_prefix: route.path_prefix.clone(),
            target: Target { idempotency_key: route.idempotency_key, ..Target::clone(target) },
        };
        if route.hosts.is_empty() {
            rules.push(rule(None));
        }
        rules.extend(route.hosts.iter().map(|host| rule(Some(host.clone()))));
    }
    Routes::new(rules)
}
