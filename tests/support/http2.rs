//! An HTTP/2 client that counts, and one that says what no sane client says.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::PATIENCE;

/// One connection, driven in the background of the test's runtime.
pub struct Client {
    pub send: SendRequest<Bytes>,
    /// Ends with the connection.
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub head: Response<()>,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// Runs a test's own part to its end.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(2 * PATIENCE, test).await };
    runtime.block_on(limited).expect("an HTTP/2 test does not end")
}

/// A request for `app.test`.
pub fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://app.test{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

impl Client {
    /// By prior knowledge.
    pub async fn plain(address: SocketAddr) -> Self {
        Self::try_plain(address, &mut h2::client::Builder::new()).await.unwrap()
    }

    pub async fn try_plain(
        address: SocketAddr,
        builder: &mut h2::client::Builder,
    ) -> io::Result<Self> {
        let tcp = tokio::net::TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let (send, connection) = builder.handshake(tcp).await.map_err(io::Error::other)?;
        Ok(Self { send, driver: tokio::spawn(connection) })
    }

    /// By ALPN, for `name`.
    pub async fn tls(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (send, connection) = h2::client::handshake(tls).await.unwrap();
        Self { send, driver: tokio::spawn(connection) }
    }

    /// Sends a whole request and reads its whole answer.
    pub async fn exchange(
        &self,
        request: Request<()>,
        body: impl Into<Bytes>,
    ) -> Result<Answer, h2::Error> {
        let body = body.into();
        let mut send = self.send.clone().ready().await?;
        let (answer, mut stream) = send.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            send_all(&mut stream, body, true).await?;
        }
        finish(answer.await?).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.exchange(request(Method::GET, path), "").await.unwrap()
    }
}

/// Within the windows the other side gives.
pub async fn send_all(
    stream: &mut SendStream<Bytes>,
    mut body: Bytes,
    ended: bool,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        while stream.capacity() == 0 {
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(given) => given.map(drop)?,
                None => return Err(Reason::CANCEL.into()),
            }
        }
        let part = body.split_to(stream.capacity().min(body.len()));
        let is_last = ended && body.is_empty();
        stream.send_data(part, is_last)?;
    }
    Ok(())
}

pub async fn finish(answer: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?;
    Ok(Answer { head: Response::from_parts(parts, ()), body, trailers })
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }
}

/// Frames as the test writes them.
pub struct Raw(TcpStream);

/// One frame that came: its type, flags, stream and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

impl Raw {
    /// Says the preface and empty SETTINGS.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut raw = Self(stream);
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        raw.send(SETTINGS, 0, 0, &[]);
        raw
    }

    /// False if the other side is gone.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).is_ok()
    }

    /// A header block of literals without indexing, names as given.
    pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                assert!(text.len() < 127, "one byte says the length");
                block.push(text.len() as u8);
                block.extend_from_slice(text);
            }
        }
        block
    }

    /// The next frame; none once the connection has ended.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// What answers a stream, or ends the connection.
    pub fn verdict(&mut self, stream: u32) -> Verdict {
        while let Some(frame) = self.frame() {
            match frame.kind {
                HEADERS if frame.stream == stream => {
                    return Verdict::Answer(status(&frame.payload));
                }
                RST_STREAM if frame.stream == stream => return Verdict::Reset,
                GOAWAY => return Verdict::Ended,
                _ => {}
            }
        }
        Verdict::Ended
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Of what HPACK's static table can say in a byte; else 0.
    Answer(u16),
    Reset,
    Ended,
}

/// RFC 7541 appendix A.
fn status(block: &[u8]) -> u16 {
    match block.first() {
        Some(0x88) => 200,
        Some(0x89) => 204,
        Some(0x8a) => 206,
        Some(0x8b) => 304,
        Some(0x8c) => 400,
        Some(0x8d) => 404,
        Some(0x8e) => 500,
        _ => 0,
    }
}
