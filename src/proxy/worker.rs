//! ○ A data thread: its own current-thread runtime, sockets, idle connections, buffers, counters.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::arrival;
use super::buffer::Buffer;
use super::deadline::Registry;
use super::http1::{After, Connection};
use super::http2::{self, Arrival, Client, Met};
use super::local::Local;
use super::resting::Resting;
use super::room;
use super::sessions;
use super::silence;
use super::tcp;
use super::upgrade::Tunnel;
use crate::clock;
use crate::config::{ListenerMode, Protocols};
use crate::current::Current;
use crate::observe::access_log;
use crate::stream::Stream;
use crate::table::counters::{ListenerCells, ListenerCounters, Rejection};
use crate::table::live::Sighting;
use crate::table::{Listener, ListenerId};
use crate::tls::Certificates;
use crate::upstream::warm;

/// The data threads of the process.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<mpsc::UnboundedSender<Command>>,
    /// A value once a worker ended on its own, which none ever should.
    failed: watch::Receiver<bool>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Connections, and requests over HTTP/2, that were still busy at the limit and were cut.
    pub forced: usize,
}

/// What a worker is told. The channel is unbounded, but only control and app write to it, a few
/// commands for each reload.
#[derive(Debug)]
enum Command {
    Listen(ListenerId, TcpListener),
    Unlisten(ListenerId),
    Drain(Duration, oneshot::Sender<Drained>),
}

impl Workers {
    /// Starts one thread for each access log sink given (`None`: no access log); worker `i` writes
    /// cells `i` of all counters. Endpoints that fail a request are told to `sightings`.
    pub fn start(
        current: &Arc<Current>,
        certificates: &Arc<Certificates>,
        sinks: Vec<Option<access_log::Sink>>,
        sightings: &mpsc::Sender<Sighting>,
    ) -> io::Result<Self> {
        let (failing, failed) = watch::channel(false);
        let mut handles = Vec::with_capacity(sinks.len());
        for (index, sink) in sinks.into_iter().enumerate() {
            let (handle, commands) = mpsc::unbounded_channel();
            let (current, certificates) = (Arc::clone(current), Arc::clone(certificates));
            let sightings = sightings.clone();
            let guard = Alarm(failing.clone());
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let guard = guard;
                match run(index, &current, certificates, sink, sightings, commands) {
                    Ok(()) => std::mem::forget(guard),
                    Err(error) => tracing::error!(worker = index, %error, "worker cannot run"),
                }
            })?;
            handles.push(handle);
        }
        Ok(Self { handles, failed })
    }

    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Waits until a worker ends on its own: a defect, for each serves until it is drained.
    pub async fn failure(&self) {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Begins to accept on `sockets`, one for each worker.
    pub fn listen(&self, id: ListenerId, sockets: Vec<TcpListener>) {
        for (handle, socket) in self.handles.iter().zip(sockets) {
            let _ = handle.send(Command::Listen(id, socket));
        }
    }

    /// Stops accepting; connections already queued are still taken, requests in flight finish, and
    /// kept connections are closed after their current request.
    pub fn unlisten(&self, id: ListenerId) {
        for handle in &self.handles {
            let _ = handle.send(Command::Unlisten(id));
        }
    }

    /// Stops accepting everywhere, closes idle connections, waits for requests in flight at most
    /// `limit`, then cuts the rest and ends the threads.
    pub async fn drain(&self, limit: Duration) -> Drained {
        let mut answers = Vec::new();
        for handle in &self.handles {
            let (reply, answer) = oneshot::channel();
            if handle.send(Command::Drain(limit, reply)).is_ok() {
                answers.push(answer);
            }
        }
        let mut drained = Drained::default();
        for answer in answers {
            drained.forced += answer.await.map_or(0, |worker| worker.forced);
        }
        drained
    }
}

/// Raises the alarm when a worker's thread unwinds or returns an error.
struct Alarm(watch::Sender<bool>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

fn run(
    index: usize,
    current: &Current,
    certificates: Arc<Certificates>,
    sink: Option<access_log::Sink>,
    sightings: mpsc::Sender<Sighting>,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let local = Local::new(index, current.reader(), certificates, sink, sightings);
    runtime.block_on(work(local, current.changes(), commands));
    Ok(())
}

/// The life of a worker: commands, ticks and changes of the table, until it is drained.
async fn work(
    local: Rc<Local>,
    mut changes: watch::Receiver<u64>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    tokio::task::spawn_local(watch(Rc::clone(&local)));
    let accepting: RefCell<HashMap<ListenerId, JoinHandle<()>>> = RefCell::default();
    let mut tick = tokio::time::interval(Registry::TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks: u32 = 0;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                ticks = ticks.wrapping_add(1);
                on_tick(&local, ticks);
            }
            Ok(()) = changes.changed() => {
                local.table_changed();
                warm::keep(&local.outbound);
            }
            command = commands.recv() => match command {
                Some(Command::Listen(id, socket)) => {
                    if let Some(task) = listen(&local, id, socket) {
                        accepting.borrow_mut().insert(id, task);
                    }
                }
                Some(Command::Unlisten(id)) => {
                    if let Some(task) = accepting.borrow_mut().remove(&id) {
                        task.abort();
                    }
                    local.registry.leave(Some(id));
                }
                Some(Command::Drain(limit, reply)) => {
                    accepting.borrow_mut().drain().for_each(|(_, task)| task.abort());
                    // Requests in flight are moved when their endpoint goes down now, too.
                    let follow = async {
                        while changes.changed().await.is_ok() {
                            local.table_changed();
                        }
                        std::future::pending().await
                    };
                    let drained = tokio::select! {
                        drained = drain(&local, limit) => drained,
                        never = follow => never,
                    };
                    let _ = reply.send(drained);
                    return;
                }
                None => return,
            },
        }
    }
}

/// Looks at the requests that wait for an endpoint, as long as there are any.
async fn watch(local: Rc<Local>) {
    loop {
        local.waiting.begins().await;
        loop {
            tokio::time::sleep(silence::LOOK).await;
            if !local.waiting.look(clock::now(), |endpoint, kind| local.sight(endpoint, kind)) {
                break;
            }
        }
    }
}

fn on_tick(local: &Rc<Local>, ticks: u32) {
    local.registry.sweep(clock::now());
    if let Some(sink) = &mut *local.access_log.borrow_mut() {
        sink.flush();
    }
    // Twenty ticks are a second.
    if ticks.is_multiple_of(20) {
        local.sweep_idle();
    }
    let touched = local.idle.borrow_mut().was_touched();
    if touched || ticks.is_multiple_of(20) {
        warm::keep(&local.outbound);
    }
}

/// Lets requests in flight finish.
async fn drain(local: &Rc<Local>, limit: Duration) -> Drained {
    local.draining.set(true);
    local.idle.borrow_mut().clear();
    sessions::drain(local, limit);
    let deadline = clock::now() + limit;
    // The accept loops that were ended take what is queued when they are next run.
    tokio::task::yield_now().await;
    loop {
        local.registry.sweep(clock::now());
        local.registry.leave(None);
        let left = local.registry.count();
        if left == 0 || clock::now() >= deadline {
            if let Some(sink) = &mut *local.access_log.borrow_mut() {
                sink.flush();
            }
            return Drained { forced: left };
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn listen(local: &Rc<Local>, id: ListenerId, socket: TcpListener) -> Option<JoinHandle<()>> {
    let socket = match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "cannot accept on a listener");
            return None;
        }
    };
    Some(tokio::task::spawn_local(accept(Rc::clone(local), id, socket)))
}

/// Accepts for ever. Dropping the future closes the socket after what is queued was taken.
async fn accept(local: Rc<Local>, id: ListenerId, socket: tokio::net::TcpListener) {
    let socket = Queue { local: Rc::clone(&local), id, socket };
    loop {
        match socket.socket.accept().await {
            Ok((stream, peer)) => {
                let is_last = local.descriptors.is_last_for_clients(stream.as_raw_fd());
                admit(&local, id, stream, peer);
                if is_last {
                    room::make(&local, &socket.socket).await;
                }
            }
            Err(error) => {
                count(&local, id, |cells| cells.accept_errors.increment());
                if is_exhaustion(&error) {
                    room::make(&local, &socket.socket).await;
                }
            }
        }
    }
}

/// A listening socket that, when it goes, first takes the connections the kernel has already
/// established for it: a bare close would reset them.
struct Queue {
    local: Rc<Local>,
    id: ListenerId,
    socket: tokio::net::TcpListener,
}

impl Drop for Queue {
    fn drop(&mut self) {
        let Ok(socket) = rustix::io::dup(&self.socket).map(TcpListener::from) else {
            return;
        };
        while let Ok((stream, peer)) = socket.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                admit(&self.local, self.id, stream, peer);
            }
        }
    }
}

/// Starts a connection's task, unless the listener is full.
fn admit(local: &Rc<Local>, id: ListenerId, stream: TcpStream, peer: SocketAddr) {
    let table = local.table();
    let Some(listener) = table.listener(id) else {
        return;
    };
    let cells = listener.counters.workers.of(local.worker);
    let Some(open) = Open::count(listener) else {
        cells.rejected[Rejection::Limit as usize].increment();
        return;
    };
    cells.connections.increment();
    let _ = stream.set_nodelay(true);
    let (local, ticket) = (Rc::clone(local), local.registry.register(id));
    if listener.config.mode != ListenerMode::Http {
        tokio::task::spawn_local(tcp::serve(local, id, ticket, stream, peer, open));
        return;
    }
    let tls = listener.config.tls.is_some();
    let protocols = listener.config.protocols;
    let proxied = !listener.config.proxy_protocol.is_empty();
    if !tls && !protocols.http2 && !proxied {
        let resting = Resting::new(local, id, ticket, Stream::Plain(stream), peer);
        tokio::task::spawn_local(serve(resting, open));
        return;
    }
    let name = Arc::clone(&listener.config.name);
    let timeout = listener.config.limits.header_timeout;
    // What follows is in tasks of its own, without the room for a handshake.
    tokio::task::spawn_local(async move {
        let Some(greeted) = arrival::greet(&local, id, &stream, peer).await else { return };
        let peer = greeted.peer;
        let arrival =
            Arrival { local: &local, listener: id, name: &name, ticket: &ticket, timeout };
        match arrive(arrival, protocols, tls, stream).await {
            Some(Met::Http1(stream, begun)) => {
                let resting = Resting::new(local, id, ticket, stream, peer);
                if begun.is_empty() {
                    tokio::task::spawn_local(serve(resting, open));
                } else {
                    tokio::task::spawn_local(serve_begun(resting, begun, open));
                }
            }
            Some(Met::Http2(stream, begun)) => {
                let opened = Client::open(&local, (id, &name), (stream, begun), peer);
                tokio::task::spawn_local(async move {
                    let _open = open;
                    http2::serve(opened, ticket).await;
                });
            }
            None => {}
        }
    });
}

/// One of which the first bytes were read to find out what it speaks.
async fn serve_begun(resting: Resting, begun: Buffer, open: Open) {
    match Box::pin(Connection::begun(resting, begun).serve()).await {
        After::Rest(resting) => drop(tokio::task::spawn_local(serve(resting, open))),
        After::Tunnel(tunnel) => carry(tunnel, open),
        After::Over => {}
    }
}

/// In a task of its own, without the room for requests.
fn carry(tunnel: Box<Tunnel>, open: Open) {
    tokio::task::spawn_local(async move {
        let _open = open;
        tunnel.run().await;
    });
}

/// A client's connection, from the first byte to the last.
async fn serve(mut resting: Resting, open: Open) {
    while resting.wait().await {
        // Boxed, and gone while the client is silent: most connections are, most of the time.
        match Box::pin(Connection::new(resting).serve()).await {
            After::Rest(rests) => resting = rests,
            After::Tunnel(tunnel) => {
                carry(tunnel, open);
                return;
            }
            After::Over => return,
        }
    }
}

/// Finds out what a new connection speaks, behind TLS where that is to be.
async fn arrive(
    arrival: Arrival<'_>,
    protocols: Protocols,
    tls: bool,
    stream: TcpStream,
) -> Option<Met> {
    let Arrival { local, listener, name, timeout, .. } = arrival;
    let stream = match tls {
        true => handshake(local, listener, name, stream, timeout).await?,
        false => Stream::Plain(stream),
    };
    if protocols.http2 {
        return http2::meet(arrival, protocols, stream).await;
    }
    Some(Met::Http1(stream, Buffer::default()))
}

async fn handshake(
    local: &Local,
    id: ListenerId,
    listener: &str,
    stream: TcpStream,
    timeout: Duration,
) -> Option<Stream> {
    let acceptor = TlsAcceptor::from(local.certificates.server(listener)?);
    match tokio::time::timeout(timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            count(local, id, |cells| cells.handshakes.increment());
            let resumed =
                stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            if resumed {
                count(local, id, |cells| cells.handshakes_resumed.increment());
            }
            Some(Stream::Tls(Box::new(stream.into())))
        }
        Ok(Err(error)) => {
            tracing::debug!(listener, %error, "TLS handshake failed");
            count(local, id, |cells| cells.rejected[Rejection::Tls as usize].increment());
            None
        }
        Err(_) => {
            count(local, id, |cells| cells.rejected[Rejection::Timeout as usize].increment());
            None
        }
    }
}

/// One open connection of a listener, until it is dropped.
pub(super) struct Open(Arc<ListenerCounters>);

impl Open {
    /// `None` if the listener has as many as it may.
    fn count(listener: &Listener) -> Option<Self> {
        let before = listener.counters.connections_active.fetch_add(1, Ordering::Relaxed);
        // From here on the drop takes it back.
        let open = Self(Arc::clone(&listener.counters));
        (before < listener.config.limits.max_connections).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections_active.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn count(local: &Local, id: ListenerId, add: impl FnOnce(&ListenerCells)) {
    if let Some(listener) = local.table().listener(id) {
        add(listener.counters.workers.of(local.worker));
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}
