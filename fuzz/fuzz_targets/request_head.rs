//! A head that is accepted says the same once forwarded, and no strict prefix of it is a head.
#![no_main]
use libfuzzer_sys::fuzz_target;
use standfast::http1::forward::{self, RequestEdits};
use standfast::http1::{Limits, Parsed, Request};

const LIMITS: Limits = Limits { head_size_max: 8192, headers_max: 100, uri_max: 4096 };

fuzz_target!(|input: (bool, u16, &[u8])| {
    let (trusted, cut, buf) = input;
    let (mut first, mut second) = (Request::default(), Request::default());
    let Ok(Parsed::Complete(len)) = first.parse(buf, &LIMITS) else { return };
    assert_eq!(second.parse(&buf[..cut as usize % len], &LIMITS), Ok(Parsed::Partial));
    assert_eq!(second.parse(buf, &LIMITS), Ok(Parsed::Complete(len)));
    let client = [192, 0, 2, 1].into();
    let edits =
        RequestEdits { client, trusted, https: true, request_id: b"id", fallback_host: b"e:80" };
    let (mut once, limits) =
        (Vec::new(), Limits { head_size_max: 32768, headers_max: 200, ..LIMITS });
    forward::request(&mut once, &first, buf, &edits);
    assert_eq!(second.parse(&once, &limits), Ok(Parsed::Complete(once.len())));
    assert_eq!(first.path(buf), second.path(&once));
    assert_eq!((first.query(buf), first.body()), (second.query(&once), second.body()));
    assert!(first.authority(buf).is_empty() || first.host(buf) == second.host(&once));
});
