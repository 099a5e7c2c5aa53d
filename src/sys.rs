//! ○ The system calls that need `unsafe`, each with its reason.
#![expect(unsafe_code, reason = "TCP_INFO is offered by no safe crate in the tree")]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd};

/// How far a connection got, as its own kernel knows it. Still answers after a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpProgress {
    /// The connection is over in both directions (`TCP_CLOSE`): the peer reset it.
    pub closed: bool,
    /// Bytes the peer's kernel has acknowledged (`tcpi_bytes_acked`, RFC 4898
    /// tcpEStatsAppHCThruOctetsAcked). The SYN counts as one.
    pub bytes_acked: u64,
}

/// Reads `TCP_INFO`.
pub fn tcp_progress(socket: &impl AsFd) -> io::Result<TcpProgress> {
    const TCP_CLOSE: u8 = 7;
    // SAFETY: all-zero is a valid `tcp_info`, a plain struct of integers.
    let mut info: TcpInfo = unsafe { zeroed() };
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the pointers are to live locals and `length` is the size of the one written.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
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
    Ok(TcpProgress { closed: info.state_to_flags[0] == TCP_CLOSE, bytes_acked: info.bytes_acked })
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
    rto_to_total_retrans: [u32; 24],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
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
        assert_eq!(tcp_progress(&client).unwrap(), TcpProgress { closed: false, bytes_acked: 1 });
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(tcp_progress(&client).unwrap().bytes_acked, 6);
    }

    #[test]
    fn what_is_written_to_a_connection_closed_by_its_peer_stays_unacknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        client.write_all(b"POST").unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert_eq!(tcp_progress(&client).unwrap(), TcpProgress { closed: true, bytes_acked: 1 });
    }
}
