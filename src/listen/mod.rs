//! ○ Binds listeners: for each worker a socket of its own on the same address (SO_REUSEPORT).

pub mod proxy_protocol;

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel may queue for one socket; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds `address` once for each worker. Port 0 gets one port for all of them. An address another
/// process listens on is an error, although SO_REUSEPORT alone would share it in silence.
///
/// The sockets listen already and do not block. The error keeps its kind and is a sentence that
/// names the address and says what to do.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    bind_all(address, workers).map_err(|error| explain(address, &error))
}

fn bind_all(mut address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // The kernel never picks a port that is in use, so port 0 needs no probe.
    if address.port() != 0 {
        open(address, Sharing::Alone)?;
    }
    let mut sockets = Vec::with_capacity(workers.max(1));
    for _ in 0..workers.max(1) {
        let socket = open(address, Sharing::BetweenWorkers)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Without SO_REUSEPORT a listening socket of anybody on this address is a conflict.
    Alone,
    BetweenWorkers,
}

/// A bound socket. SO_REUSEADDR lets a restart pass connections of the old process in TIME_WAIT.
fn open(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if sharing == Sharing::BetweenWorkers {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `[::]` is every address of this machine, IPv4 included, whatever the sysctl says.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What is wrong with `address` and what to do about it, in a sentence.
pub(crate) fn explain(address: SocketAddr, error: &io::Error) -> io::Error {
    let port = address.port();
    let sentence = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{address} is in use by another process: find it with `ss -ltnp 'sport = :{port}'` \
             and stop it, or choose another port"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "no interface of this machine has the address {}: write one that has, or `:{port}` \
             for all of them",
            address.ip()
        ),
        io::ErrorKind::PermissionDenied => format!(
            "binding {address} is not permitted: ports below 1024 need the capability \
             CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
        ),
        _ => format!("binding {address} failed: {error}"),
    };
    io::Error::new(error.kind(), sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn every_worker_gets_a_socket_on_the_same_port() {
        let sockets = bind(LOOPBACK, 3).unwrap();
        let ports: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 3);
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[test]
    fn sockets_listen_and_do_not_block() {
        let sockets = bind(LOOPBACK, 1).unwrap();
        assert_eq!(sockets[0].accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        TcpStream::connect(sockets[0].local_addr().unwrap()).unwrap();
    }

    #[test]
    fn an_address_somebody_shares_with_reuseport_is_refused_all_the_same() {
        let held = bind(LOOPBACK, 1).unwrap();
        let address = held[0].local_addr().unwrap();
        let error = bind(address, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let sentence = error.to_string();
        assert!(sentence.contains(&address.to_string()) && sentence.contains("ss -ltnp"));
    }

    #[test]
    fn an_address_is_free_again_at_once_although_connections_linger_in_time_wait() {
        let held = bind(LOOPBACK, 1).unwrap();
        let address = held[0].local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        held[0].set_nonblocking(false).unwrap();
        // The side that closes first is the one that waits.
        drop(held[0].accept().unwrap());
        drop(client);
        drop(held);
        assert_eq!(bind(address, 2).unwrap().len(), 2);
    }

    #[test]
    fn an_address_of_another_machine_is_refused_with_advice() {
        let error = bind("192.0.2.1:8443".parse().unwrap(), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(error.to_string().contains("`:8443`"), "{error}");
    }

    #[test]
    fn the_unspecified_ipv6_address_takes_ipv4_as_well() {
        let Ok(sockets) = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), 1) else {
            return; // this machine has no IPv6
        };
        let port = sockets[0].local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
