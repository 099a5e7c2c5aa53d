//! A header that is read is read the same once written anew, and no part of it is one.
#![no_main]
use standfast::listen::proxy_protocol::{MOST, Parsed, Version, is_header, parse, write};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(Parsed::Complete { header, length }) = parse(bytes) else { return };
    assert!(is_header(bytes) && length <= MOST);
    for end in 0..length {
        assert_eq!(parse(&bytes[..end]), Ok(Parsed::Partial));
    }
    let Some(addresses) = header.addresses else { return };
    let mut once = Vec::new();
    write(&mut once, Version::V2, addresses, &header.told);
    let Ok(Parsed::Complete { header: second, length }) = parse(&once) else { panic!("{once:?}") };
    let ip = |(from, to): (std::net::SocketAddr, std::net::SocketAddr)| {
        [(from.ip().to_canonical(), from.port()), (to.ip().to_canonical(), to.port())]
    };
    assert_eq!((length, ip(addresses)), (once.len(), ip(second.addresses.unwrap())));
    assert_eq!(header.told, second.told);
});
