//! The whole proxy on loopback: how long one request takes, with nothing else under way.
//!
//! The times are those of a round trip between three threads, so most of each is spent waking them;
//! what a change to the proxy costs under load is told by `cargo bench --bench speed`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench that cannot run should say so"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use standfast::app::{self, Running};
use standfast::cli::load;
use standfast::control::Source;

const NAME: &str = "app.example.com";

/// The proxy in this process, with one worker and one endpoint whose bodies are `body` bytes long.
fn proxy(dir: &Path, body: usize) -> Running {
    let file = dir.join(format!("{body}.yaml"));
    let text = format!(
        "\
process: {{ workers: 1 }}
logging: {{ access_log: false }}
listeners:
  - {{ name: plain, bind: \"127.0.0.1:0\", service: app }}
  - name: tls
    bind: \"127.0.0.1:0\"
    tls: {{ cert_file: cert.pem, key_file: key.pem }}
    service: app
services:
  app:
    pools: [{{ name: hot, endpoints: [\"http://{}\"] }}]
",
        endpoint(body)
    );
    let text = text.replace("cert.pem", &dir.join("cert.pem").display().to_string());
    let text = text.replace("key.pem", &dir.join("key.pem").display().to_string());
    std::fs::write(&file, text).unwrap();
    let (config, _) = load::load(&file).unwrap();
    let source = Source {
        file: file.display().to_string(),
        load: Box::new(move || load::load(&file)),
        describe: |_, _| Vec::new(),
    };
    app::start(config, source).unwrap()
}

/// An endpoint that answers every request with `body` bytes, a thread for each connection.
fn endpoint(body: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + body, b'x');
    let answer: Arc<[u8]> = answer.into();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    head.extend_from_slice(&buffer[..count]);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        if stream.write_all(&answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// One GET and its answer of `body` bytes, on a connection that is kept.
fn get(stream: &mut (impl Read + Write), body: usize, buffer: &mut [u8]) {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes()).unwrap();
    let mut count = 0;
    let head = loop {
        count += stream.read(&mut buffer[count..]).unwrap();
        if let Some(end) = memchr::memmem::find(&buffer[..count], b"\r\n\r\n") {
            break end + 4;
        }
    };
    assert!(buffer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&buffer[..head]));
    let mut left = body - (count - head);
    while left > 0 {
        let most = left.min(buffer.len());
        left -= match stream.read(&mut buffer[..most]).unwrap() {
            0 => panic!("the response was cut"),
            count => count,
        };
    }
}

fn connect(running: &Running, listener: &str) -> TcpStream {
    let stream = TcpStream::connect(running.address(listener).unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn connect_tls(
    running: &Running,
    client: &Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(NAME).unwrap();
    let session = ClientConnection::new(Arc::clone(client), name).unwrap();
    StreamOwned::new(session, connect(running, "tls"))
}

/// Writes a certificate for [`NAME`] and its key; gives a client that trusts it.
fn identity(dir: &Path) -> Arc<ClientConfig> {
    let pair = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), pair.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pair.cert.pem().as_bytes()).unwrap()).unwrap();
    let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    Arc::new(client)
}

fn round_trips(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let client = identity(dir.path());
    let mut buffer = vec![0; 256 << 10];
    let mut group = criterion.benchmark_group("proxy");
    for (size, body) in [("128B", 128), ("16KiB", 16 << 10), ("1MiB", 1 << 20)] {
        let running = proxy(dir.path(), body);
        group.throughput(Throughput::Bytes(body as u64));
        let mut stream = connect(&running, "plain");
        group.bench_function(format!("plain/{size}"), |bencher| {
            bencher.iter(|| get(&mut stream, body, &mut buffer));
        });
        let mut stream = connect_tls(&running, &client);
        group.bench_function(format!("tls/{size}"), |bencher| {
            bencher.iter(|| get(&mut stream, body, &mut buffer));
        });
    }
    let running = proxy(dir.path(), 128);
    group.throughput(Throughput::Elements(1));
    group.bench_function("new connection/plain", |bencher| {
        bencher.iter(|| get(&mut connect(&running, "plain"), 128, &mut buffer));
    });
    group.bench_function("new connection/tls", |bencher| {
        bencher.iter(|| get(&mut connect_tls(&running, &client), 128, &mut buffer));
    });
    group.finish();
}

criterion_group!(benches, round_trips);
criterion_main!(benches);
