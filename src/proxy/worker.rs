//! ○ A data thread: its own current-thread runtime, sockets, idle connections, buffers, counters.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use crate::current::Current;
use crate::observe::access_log;
use crate::table::ListenerId;
use crate::tls::Certificates;

/// The data threads of the process.
#[derive(Debug)]
pub struct Workers {
    _private: (),
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Connections that were still busy at the limit and were cut.
    pub forced: usize,
}

#[expect(unused_variables, reason = "being built")]
impl Workers {
    /// Starts one thread for each access log sink given (`None`: no access log); worker `i` writes
    /// cells `i` of all counters.
    pub fn start(
        current: &Arc<Current>,
        certificates: &Arc<Certificates>,
        sinks: Vec<Option<access_log::Sink>>,
    ) -> io::Result<Self> {
        todo!()
    }

    pub fn count(&self) -> usize {
        todo!()
    }

    /// Begins to accept on `sockets`, one for each worker.
    pub fn listen(&self, id: ListenerId, sockets: Vec<TcpListener>) {
        todo!()
    }

    /// Stops accepting; connections already queued are still taken, requests in flight finish, and
    /// kept connections are closed after their current request.
    pub fn unlisten(&self, id: ListenerId) {
        todo!()
    }

    /// Stops accepting everywhere, closes idle connections, waits for requests in flight at most
    /// `limit`, then cuts the rest and ends the threads.
    pub async fn drain(&self, limit: Duration) -> Drained {
        todo!()
    }
}
