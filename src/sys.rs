//! ○ The system calls that need `unsafe`, each with its reason.
#![expect(unsafe_code, reason = "TCP_INFO and IP_RECVERR are offered by no safe crate in the tree")]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

/// How far a connection got, as its own kernel knows it. Still answers after a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpProgress {
    /// The connection is over in both directions (`TCP_CLOSE`): the peer reset it.
    pub closed: bool,
    /// Bytes the peer's kernel has acknowledged (`tcpi_bytes_acked`, RFC 4898
    /// tcpEStatsAppHCThruOctetsAcked). The SYN counts as one.
    pub bytes_acked: u64,
    /// Segments sent and not acknowledged yet.
    pub unacked: u32,
    /// Bytes written that have not been sent for the first time.
    pub not_sent: u32,
    /// In milliseconds, as fine as the kernel's ticks.
    pub since_last_ack: Duration,
    /// The shortest round trip of the last minutes; zero while none was measured.
    pub round_trip: Duration,
}

/// Reads `TCP_INFO`.
///
/// # Errors
/// It is no TCP socket, or the kernel is older than Linux 4.6.
pub fn tcp_progress(socket: &impl AsFd) -> io::Result<TcpProgress> {
    tcp_progress_of(socket.as_fd().as_raw_fd())
}

/// [`tcp_progress`] of a socket that another borrows. The caller sees to it that it is still open,
/// or the answer is about whatever got its number.
///
/// # Errors
/// As [`tcp_progress`], or there is no such descriptor.
pub fn tcp_progress_of(socket: RawFd) -> io::Result<TcpProgress> {
    const TCP_CLOSE: u8 = 7;
    // SAFETY: all-zero is a valid `tcp_info`, a plain struct of integers.
    let mut info: TcpInfo = unsafe { zeroed() };
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the pointers are to live locals and `length` is the size of the one written.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < size_of::<TcpInfo>() {
        return Err(io::Error::other("this kernel's TCP_INFO does not count acknowledged bytes"));
    }
    // The kernel's own word for a round trip that was not measured.
    let round_trip = if info.min_rtt == u32::MAX { 0 } else { info.min_rtt };
    Ok(TcpProgress {
        closed: info.state_to_flags[0] == TCP_CLOSE,
        bytes_acked: info.bytes_acked,
        unacked: info.unacked,
        not_sent: info.notsent_bytes,
        since_last_ack: Duration::from_millis(info.last_ack_recv.into()),
        round_trip: Duration::from_micros(round_trip.into()),
    })
}

/// Seconds east of UTC at a Unix time, as this machine's time zone has it; 0 where it has none.
pub fn local_offset(unix: u64) -> i64 {
    let Ok(unix) = libc::time_t::try_from(unix) else { return 0 };
    // SAFETY: all-zero is a valid `tm`: integers, and a pointer that is not read.
    let mut local: libc::tm = unsafe { zeroed() };
    // SAFETY: both pointers are to live locals; nothing else changes the environment meanwhile.
    let told = unsafe { libc::localtime_r(&raw const unix, &raw mut local) };
    if told.is_null() { 0 } else { local.tm_gmtoff }
}

/// The head of Linux's `struct tcp_info` as far as it is needed; libc's stops before it.
#[repr(C)]
struct TcpInfo {
    state_to_flags: [u8; 8],
    rto_to_rcv_mss: [u32; 4],
    unacked: u32,
    sacked_to_last_data_recv: [u32; 7],
    last_ack_recv: u32,
    pmtu_to_total_retrans: [u32; 11],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
}

/// From now on an ICMP error about this connection ends a read or write of it at once, as ip(7)
/// says of `IP_RECVERR`; otherwise an established connection waits out its retransmissions.
///
/// # Errors
/// It is no socket of the Internet.
pub fn report_icmp_errors(socket: &impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, option) = match ipv6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        false => (libc::IPPROTO_IP, libc::IP_RECVERR),
    };
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a live local, and the length is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes what the kernel holds against a connection (`SO_ERROR`), which no event may have told: an
/// ICMP error that came in while the socket was being written to ends nothing and wakes nobody.
///
/// The caller sees to it that the socket is still open.
pub fn take_error_of(socket: RawFd) -> Option<io::Error> {
    let mut errno: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointers are to live locals and `length` is the size of the one written.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut errno).cast(),
            &raw mut length,
        )
    };
    (result == 0 && errno != 0).then(|| io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_syn_counts_as_one_and_each_acknowledged_byte_as_one_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let before = tcp_progress(&client).unwrap();
        assert_eq!((before.closed, before.bytes_acked, before.unacked), (false, 1, 0));
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0; 1]).unwrap();
        let after = tcp_progress(&client).unwrap();
        assert_eq!((after.bytes_acked, after.unacked, after.not_sent), (6, 0, 0));
    }

    #[test]
    fn what_is_written_to_a_connection_closed_by_its_peer_stays_unacknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        client.write_all(b"POST").unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        let progress = tcp_progress(&client).unwrap();
        assert_eq!((progress.closed, progress.bytes_acked), (true, 1));
    }

    #[test]
    fn what_falls_into_a_black_hole_stays_unacknowledged_though_the_connection_stands() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        // BPF_RET | BPF_K, 0: every segment to this socket is dropped before TCP sees it.
        let drop_all = socket2::SockFilter::new(0x06, 0, 0, 0);
        socket2::SockRef::from(&server).attach_filter(&[drop_all]).unwrap();
        let sent = std::time::Instant::now();
        client.write_all(b"GET").unwrap();
        let progress = tcp_progress(&client).unwrap();
        assert_eq!((progress.closed, progress.bytes_acked), (false, 1));
        assert_eq!((progress.unacked, progress.not_sent), (1, 0));
        while tcp_progress(&client).unwrap().since_last_ack < Duration::from_millis(50) {
            assert!(sent.elapsed() < Duration::from_secs(10), "nothing else can acknowledge it");
            std::thread::yield_now();
        }
        assert!(tcp_progress(&client).unwrap().round_trip < Duration::from_secs(1));
    }

    #[test]
    fn an_error_is_taken_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(take_error_of(client.as_raw_fd()).is_none());
        socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        let error = loop {
            if let Some(error) = take_error_of(client.as_raw_fd()) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(take_error_of(client.as_raw_fd()).is_none());
    }

    #[test]
    fn sockets_of_both_families_report_icmp_errors_and_others_cannot() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).unwrap();
            report_icmp_errors(&client, local.is_ipv6()).unwrap();
        }
        let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(report_icmp_errors(&unix, false).is_err());
    }
}
