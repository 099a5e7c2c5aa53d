//! ● What only shows when parts are seen together: clashing binds, unused services, descriptors.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::listeners::ReadListener;
use super::services::ReadService;
use crate::config::file::{self, Item};
use crate::config::units::quote;
use crate::config::{Admin, Pool};

/// Two sockets on one port: with equal addresses, or with one that stands for every address.
pub(super) fn binds(listeners: &[ReadListener<'_>], admin: &Admin, item: Option<Item<'_>>) {
    let bound: Vec<_> = listeners
        .iter()
        .filter_map(|read| Some((read.bind.as_ref()?, read.listener.bind)))
        .collect();
    let mut by_port: Vec<_> = bound.iter().collect();
    by_port.sort_by_key(|(item, address)| (address.port(), item.line()));
    for same_port in by_port.chunk_by(|(_, one), (_, other)| one.port() == other.port()) {
        for (index, (item, address)) in same_port.iter().enumerate() {
            let clash = same_port[..index].iter().find(|(_, other)| clashes(*address, *other));
            if let Some((first, other)) = clash {
                item.error(
                    format!("`{address}` clashes with `{other}` on line {}", first.line()),
                    "give each listener an address or port of its own",
                );
            }
        }
    }
    let Some((first, other)) = bound.iter().find(|(_, other)| clashes(admin.listen, *other)) else {
        return;
    };
    let listen =
        item.filter(|item| item.is_map()).and_then(|item| item.table(&file::ADMIN)?.get("listen"));
    match listen {
        Some(listen) => listen.error(
            format!("`{}` clashes with `{other}` on line {}", admin.listen, first.line()),
            "give the admin server a port of its own",
        ),
        None => first.warn(
            format!("`{other}` is where the admin server would listen by default"),
            "write `admin: { listen: ADDRESS }` with another port",
        ),
    }
}

/// `[::]` takes the port on IPv4 too; port 0 is a free one each time.
fn clashes(one: SocketAddr, other: SocketAddr) -> bool {
    let (one_ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    one.port() == other.port()
        && one.port() != 0
        && (one_ip == other_ip || covers(one_ip, other_ip) || covers(other_ip, one_ip))
}

pub(super) fn redirects(listeners: &[ReadListener<'_>]) {
    if listeners.iter().any(|read| read.has_tls) {
        return;
    }
    for read in listeners.iter().filter(|read| read.listener.redirect_https) {
        read.item.warn(
            "this listener redirects to https, but no listener has `tls`",
            "add a listener with `tls`, unless something else answers there",
        );
    }
}

pub(super) fn unused_services(services: &[ReadService<'_>]) {
    for read in services.iter().filter(|read| !read.is_named.get()) {
        read.key.warn(
            format!("no route leads to the service {}", quote(read.name)),
            "name it in a listener or route, or remove it",
        );
    }
}

/// Descriptors besides connections: standard streams, runtimes, admin clients, log files.
const RESERVE: u64 = 100;

/// More descriptors than the limit allows would refuse clients just when there are many.
pub(super) fn descriptors(
    listeners: &[ReadListener<'_>],
    services: &[ReadService<'_>],
    workers: usize,
    limit: u64,
) {
    // Each worker has a socket of its own for every listener; each endpoint has one probe and the
    // connections that are kept ready.
    let pools = services.iter().filter_map(|read| read.service.as_ref()).flat_map(|s| &s.pools);
    let of_pool =
        |pool: &Arc<Pool>| pool.endpoints.len() as u64 * (1 + u64::from(pool.upstream.warm));
    let fixed = RESERVE + pools.map(of_pool).sum::<u64>() + (listeners.len() * workers) as u64;
    // A request holds two: the client's and the endpoint's.
    let of = |read: &ReadListener<'_>| {
        let connections = u64::from(read.listener.limits.max_connections);
        if read.listener.redirect_https { connections } else { 2 * connections }
    };
    let written = || listeners.iter().filter(|read| read.connections.is_some());
    let all = fixed + listeners.iter().map(of).sum::<u64>();
    if all <= limit {
        return;
    }
    let message = format!("up to {all} descriptors may be needed, but the limit is {limit}");
    let room = limit.saturating_sub(fixed) / 2 / (listeners.len() as u64).max(1);
    let remedy = format!(
        "raise the limit (`ulimit -n`, or `LimitNOFILE=` in the unit), or set \
         `limits.max_connections` to {room} or less"
    );
    let written_need = fixed + written().map(of).sum::<u64>();
    let largest = written().max_by_key(|read| of(read)).and_then(|read| read.connections.as_ref());
    match largest {
        Some(item) if written_need > limit => item.error(message, remedy),
        _ => {
            let left = listeners.iter().find(|read| read.connections.is_none());
            if let Some(read) = left {
                read.item.warn(message, remedy);
            }
        }
    }
}
