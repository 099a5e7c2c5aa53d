//! A head that is accepted frames the same once forwarded, and no strict prefix of it is a head.
#![no_main]
use libfuzzer_sys::fuzz_target;
use standfast::http1::forward::{self, ResponseEdits};
use standfast::http1::{Limits, Method, Parsed, Response, Version};

const LIMITS: Limits = Limits { head_size_max: 8192, headers_max: 100, uri_max: 4096 };

fuzz_target!(|input: (bool, u16, &[u8])| {
    let (is_head, cut, buf) = input;
    let method = if is_head { Method::Head } else { Method::Get };
    let (mut first, mut second) = (Response::default(), Response::default());
    let Ok(Parsed::Complete(len)) = first.parse(buf, method, &LIMITS) else { return };
    assert_eq!(second.parse(&buf[..cut as usize % len], method, &LIMITS), Ok(Parsed::Partial));
    assert_eq!(second.parse(buf, method, &LIMITS), Ok(Parsed::Complete(len)));
    let edits = ResponseEdits { client: Version::Http11, keep_alive: true, chunked: false };
    let (mut once, limits) =
        (Vec::new(), Limits { head_size_max: 32768, headers_max: 200, ..LIMITS });
    forward::response(&mut once, &first, buf, &edits);
    assert_eq!(second.parse(&once, method, &limits), Ok(Parsed::Complete(once.len())));
    assert_eq!((first.status(), first.reason(buf)), (second.status(), second.reason(&once)));
    assert_eq!(first.field(buf, "set-cookie"), second.field(&once, "set-cookie"));
});
