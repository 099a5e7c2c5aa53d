//! Parsing and forwarding heads, and following chunked bodies: the CPU of a request that is ours.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use standfast::http1::forward::{self, RequestEdits, ResponseEdits};
use standfast::http1::framing::{encode_chunk, encode_last_chunk};
use standfast::http1::{Body, Decoder, Limits, Method, Request, Response, Step, Version};

const LIMITS: Limits = Limits { head_size_max: 64 << 10, headers_max: 128, uri_max: 16 << 10 };

const TINY: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n";

const BROWSER: &[u8] = b"GET /api/v1/orders/4711?expand=items&lang=de HTTP/1.1\r\n\
    Host: app.example.com\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Dest: document\r\n\
    Referer: https://app.example.com/orders\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: de-DE,de;q=0.9,en;q=0.8\r\n\
    Cookie: session=b3c1f0f6c5a94b6f8f0a3a0d1e2f3a4b; theme=dark; consent=all\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.31.0\r\n\
    Date: Fri, 20 Nov 2026 20:12:18 GMT\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    Content-Length: 128\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: private, no-store\r\n\
    ETag: \"5f3759df\"\r\n\
    X-Content-Type-Options: nosniff\r\n\r\n";

fn heads(c: &mut Criterion) {
    let edits = RequestEdits {
        client: [192, 0, 2, 7].into(),
        trusted: false,
        https: true,
        request_id: b"0123456789abcdef0123456789abcdef",
        fallback_host: b"10.0.0.1:80",
    };
    for (name, head) in [("tiny", TINY), ("browser", BROWSER)] {
        let (mut request, mut out) = (Request::default(), Vec::new());
        c.bench_function(&format!("request/parse/{name}"), |b| {
            b.iter(|| request.parse(black_box(head), &LIMITS));
        });
        c.bench_function(&format!("request/parse+forward/{name}"), |b| {
            b.iter(|| {
                out.clear();
                let parsed = request.parse(black_box(head), &LIMITS);
                forward::request(&mut out, &request, head, &edits);
                (parsed, out.len())
            });
        });
    }
    let edits = ResponseEdits { client: Version::Http11, keep_alive: true, chunked: true };
    let (mut response, mut out) = (Response::default(), Vec::new());
    c.bench_function("response/parse", |b| {
        b.iter(|| response.parse(black_box(ANSWER), Method::Get, &LIMITS));
    });
    c.bench_function("response/parse+forward", |b| {
        b.iter(|| {
            out.clear();
            let parsed = response.parse(black_box(ANSWER), Method::Get, &LIMITS);
            forward::response(&mut out, &response, ANSWER, &edits);
            (parsed, out.len())
        });
    });
}

fn chunked(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunked");
    for size in [16, 4096] {
        let mut wire = Vec::new();
        for _ in 0..64 {
            encode_chunk(&mut wire, &vec![b'x'; size]);
        }
        encode_last_chunk(&mut wire, b"");
        group.throughput(Throughput::Elements(64));
        group.bench_function(format!("decode/64x{size}"), |b| {
            b.iter(|| {
                let (mut decoder, mut rest, mut data) = (Decoder::new(Body::Chunked), &wire[..], 0);
                while let Ok(Step::Data { skip, len }) = decoder.step(black_box(rest)) {
                    data += len;
                    rest = &rest[skip + len..];
                }
                data
            });
        });
        let body = vec![b'x'; size];
        group.bench_function(format!("encode/64x{size}"), |b| {
            b.iter(|| {
                wire.clear();
                for _ in 0..64 {
                    encode_chunk(&mut wire, black_box(&body));
                }
                encode_last_chunk(&mut wire, b"");
                wire.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, heads, chunked);
criterion_main!(benches);
