//! ○ The thread of the admin server: bind, accept within limits, end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::api::{self, Via};
use super::socket::{self, SocketFile};
use super::{Deps, reply};
use crate::{config, listen};

/// Connections at one time over TCP, and as many over the socket: whoever fills the one cannot
/// keep an operator from the other.
const MOST_CONNECTIONS: u32 = 256;
/// From the first byte, or from the end of the request before, to the end of a head.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// A connection is not kept for longer than this, whatever it does: a drill takes its time.
const CONNECTION_LIMIT: Duration = super::orders::LONGEST;
/// How long requests in flight have at the end of the process.
const END_LIMIT: Duration = Duration::from_secs(1);
/// Pause after an accept that failed, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Addresses bound, nothing served yet.
#[derive(Debug)]
pub struct Bound {
    tcp: Option<std::net::TcpListener>,
    socket: Option<(std::os::unix::net::UnixListener, SocketFile)>,
}

/// The running server; ends when dropped.
#[derive(Debug)]
pub struct Admin {
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    _file: Option<SocketFile>,
}

/// Binds the addresses of `config`. A taken port nobody asked for by name is a warning.
///
/// Errors name the key and the address.
pub fn bind(config: &config::Admin) -> io::Result<Bound> {
    let tcp = match tcp(config.listen) {
        Ok(listener) => Some(listener),
        Err(error) if config.listen_is_explicit => {
            let message = format!("admin.listen: {error}");
            return Err(io::Error::new(error.kind(), message));
        }
        Err(error) => {
            let listen = config.listen;
            tracing::warn!(%listen, %error, "admin server is not reachable over TCP");
            None
        }
    };
    let socket = config.socket.as_deref().map(|path| {
        socket::bind(path).map_err(|error| {
            io::Error::new(error.kind(), format!("admin.socket {}: {error}", path.display()))
        })
    });
    Ok(Bound { tcp, socket: socket.transpose()? })
}

fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener =
        std::net::TcpListener::bind(address).map_err(|error| listen::explain(address, &error))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Bound {
    /// The TCP address, with the port the kernel chose; `None` where it was taken.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Starts the thread that answers.
    pub fn serve(self, deps: Deps) -> io::Result<Admin> {
        let address = self.address();
        let (socket, file) = self.socket.unzip();
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tcp, socket) = {
            let _entered = runtime.enter();
            let tcp = self.tcp.map(tokio::net::TcpListener::from_std).transpose()?;
            (tcp, socket.map(tokio::net::UnixListener::from_std).transpose()?)
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let deps = Arc::new(deps);
            runtime.block_on(async {
                let over_tcp = Door::new(&deps, &stopped);
                let over_socket = Door::new(&deps, &stopped);
                tokio::join!(over_tcp.open(tcp), over_socket.open(socket));
            });
        })?;
        Ok(Admin { address, stop, thread: Some(thread), _file: file })
    }
}

impl Admin {
    /// The TCP address, with the port the kernel chose; `None` where it was taken.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Both kinds of listeners.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Via)>> + Send;
}

impl Accept for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Via)> {
        let (stream, peer) = Self::accept(self).await?;
        // Answers are written whole; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        Ok((stream, Via::Tcp(peer.ip())))
    }
}

impl Accept for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Via)> {
        let (stream, _) = Self::accept(self).await?;
        Ok((stream, Via::Socket))
    }
}

/// One way in, with a number of places of its own.
struct Door {
    deps: Arc<Deps>,
    places: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Door {
    fn new(deps: &Arc<Deps>, stopped: &watch::Receiver<bool>) -> Self {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS as usize));
        Self { deps: Arc::clone(deps), places, stopped: stopped.clone() }
    }

    /// Accepts until the server is stopped, then waits a moment for what is in flight.
    async fn open(mut self, listener: Option<impl Accept>) {
        let Some(listener) = listener else { return };
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = told(&mut self.stopped) => break,
            };
            match accepted {
                Ok((stream, via)) => self.admit(stream, via),
                Err(error) => {
                    tracing::debug!(%error, "admin server could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let all = self.places.acquire_many(MOST_CONNECTIONS);
        let _ = tokio::time::timeout(END_LIMIT, all).await;
    }

    /// Serves a connection, or closes it at once where all places are taken.
    fn admit(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, via: Via) {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            let (deps, stopped) = (Arc::clone(&self.deps), self.stopped.clone());
            tokio::spawn(serve(stream, via, deps, stopped, place));
        }
    }
}

/// Waits until the server is told to stop, or its handle is gone.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    via: Via,
    deps: Arc<Deps>,
    mut stopped: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let deps = Arc::clone(&deps);
        async move {
            Ok::<reply::Reply, std::convert::Infallible>(api::answer(request, via, &deps).await)
        }
    });
    let connection = http1::Builder::new()
        // Without a timer the header timeout is silently off.
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let whole = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = told(&mut stopped) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIMIT, whole).await {
        tracing::debug!(%error, "admin connection ended");
    }
}
