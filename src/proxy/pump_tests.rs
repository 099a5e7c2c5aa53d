//! What the pump says of itself while TLS still holds what was written.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::task::Waker;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// Both ends of a TLS connection whose kernels hold a few KiB and no more.
async fn narrow_tls() -> (Stream, tokio_rustls::server::TlsStream<TcpStream>) {
    let pair = rcgen::generate_simple_self_signed(vec!["app.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let chain = vec![pair.cert.der().clone()];
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(chain, key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots);
    let client = client.with_no_client_auth();
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_recv_buffer_size(4096).unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(1).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    let socket = socket.connect(listener.local_addr().unwrap()).await.unwrap();
    let (peer, _) = listener.accept().await.unwrap();
    let name = ServerName::try_from("app.test").unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (near, far) = tokio::join!(connector.connect(name, socket), acceptor.accept(peer));
    (Stream::Tls(Box::new(near.unwrap().into())), far.unwrap())
}

async fn plain() -> (Stream, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Stream::Plain(near), listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn message_is_not_done_nor_its_source_waited_for_while_tls_still_holds_it() {
    for missing in [0, 1] {
        let (mut sink, mut endpoint) = narrow_tls().await;
        let (mut stream, mut client) = plain().await;
        let (store, mut buffer) = (Store::default(), Buffer::default());
        buffer.ensure(&store);
        buffer.grow(&store, Buffer::LARGE);
        client.write_all(&[b'x'; 40_000]).await.unwrap();
        while buffer.len() < 40_000 {
            std::future::poll_fn(|cx| buffer.poll_fill(cx, &mut stream)).await.unwrap();
        }
        let mut pump = Pump::default();
        pump.begin(Body::Length(40_000 + missing), false, 0);
        let mut source = Source {
            stream: &mut stream,
            buffer: &mut buffer,
            store: &store,
            keep: 0,
            replay: false,
            body_max: u64::MAX,
        };
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pump.poll(&mut cx, &mut source, &mut sink).is_pending());
        assert_eq!(pump.wire_bytes(), 40_000, "TLS did not take all of it");
        assert!(!pump.is_done(), "what TLS holds would never be sent");
        assert!(!pump.waits_for_source(), "the client would be blamed for the endpoint");
        client.write_all(b"x").await.unwrap();
        let mut body = vec![0; 40_000];
        let whole = std::future::poll_fn(|cx| pump.poll(cx, &mut source, &mut sink));
        let (whole, read) = tokio::join!(whole, endpoint.read_exact(&mut body));
        assert!(whole.is_ok() && read.is_ok() && pump.is_done());
    }
}
