//! ○ A small ingress inside this process that can be killed for real: its listener goes and every
//! connection is reset, as when the machine is gone.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// The header that says which ingress answered.
pub(super) const SERVED_BY: &str = "x-served-by";

/// Ports below those the kernel takes for outgoing connections: a killed ingress must not lose its
/// port to a client, nor may a connection to the closed port meet itself.
const PORTS: std::ops::Range<u16> = 18_080..18_980;

/// One ingress, running or killed.
#[derive(Debug)]
pub(super) struct Ingress {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    kill: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Ingress {
    /// Starts on a free port of loopback.
    pub(super) fn start(name: &'static str) -> io::Result<Self> {
        let listener = free_port()?;
        let address = listener.local_addr()?;
        let running = Some(Running::start(name, listener)?);
        Ok(Self { name, address, running })
    }

    /// Closes the listener and resets every connection. Returns when that has happened.
    pub(super) fn kill(&mut self) {
        if let Some(Running { kill, thread }) = self.running.take() {
            // It ends as well where it had ended already.
            let _ = kill.send(());
            let _ = thread.join();
        }
    }

    /// Serves again on the same port.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        if self.running.is_none() {
            let listener = bind(self.address)?;
            self.running = Some(Running::start(self.name, listener)?);
        }
        Ok(())
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Running {
    fn start(name: &'static str, listener: TcpListener) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (kill, killed) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name(format!("ingress-{name}")).spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = killed => {}
                        () = serve(name, listener) => {}
                    }
                });
                // With the runtime go all its connections, in the middle of whatever they do.
                drop(runtime);
            })?;
        Ok(Self { kill, thread })
    }
}

fn free_port() -> io::Result<TcpListener> {
    let start = fastrand::u16(PORTS);
    let ports = (start..PORTS.end).chain(PORTS.start..start);
    for port in ports {
        if let Ok(listener) = bind((Ipv4Addr::LOCALHOST, port).into()) {
            return Ok(listener);
        }
    }
    bind((Ipv4Addr::LOCALHOST, 0).into())
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(name: &'static str, listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // However it ends, it ends with a reset.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        let _ = stream.set_nodelay(true);
        let service = hyper::service::service_fn(move |request| answer(name, request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

/// What an ingress says: its name, and for a PUT how much it got.
pub(super) fn body(name: &str, received: Option<usize>) -> String {
    match received {
        Some(bytes) => format!("{name} got {bytes} bytes\n"),
        None => format!("hello from {name}\n"),
    }
}

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let received = match *request.method() {
        Method::PUT => Some(request.into_body().collect().await.map_or(0, |b| b.to_bytes().len())),
        _ => None,
    };
    let mut response = Response::new(Full::from(body(name, received)));
    response.headers_mut().insert(SERVED_BY, http::HeaderValue::from_static(name));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn get(stream: &mut TcpStream) -> io::Result<String> {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n")?;
        let mut answer = vec![0; 4096];
        let n = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
    }

    #[test]
    fn an_ingress_says_who_it_is() {
        let ingress = Ingress::start("hot").unwrap();
        let answer = get(&mut TcpStream::connect(ingress.address).unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-served-by: hot"));
        assert!(answer.ends_with("hello from hot\n"), "{answer}");
    }

    #[test]
    fn a_killed_ingress_resets_its_connections_and_refuses_new_ones_until_it_is_back() {
        let mut ingress = Ingress::start("hot").unwrap();
        let mut kept = TcpStream::connect(ingress.address).unwrap();
        get(&mut kept).unwrap();

        ingress.kill();
        assert_eq!(get(&mut kept).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let refused = TcpStream::connect(ingress.address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(!ingress.is_running());

        ingress.restart().unwrap();
        get(&mut TcpStream::connect(ingress.address).unwrap()).unwrap();
    }
}
