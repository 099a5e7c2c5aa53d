//! However a ClientHello is cut, the same is read, and nothing of it before its last byte.
#![no_main]
use standfast::tls::hello::{MOST, Parsed, parse};

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let Ok(Parsed::Complete { hello, length }) = parse(bytes) else { return };
    assert!(length <= MOST && length <= bytes.len());
    for end in 0..length.min(2000) {
        assert_eq!(parse(&bytes[..end]), Ok(Parsed::Partial));
    }
    // Its records, with each cut in pieces of so many bytes.
    let (mut at, mut cut) = (0, Vec::new());
    while at < length {
        let end = at + 5 + usize::from(u16::from_be_bytes([bytes[at + 3], bytes[at + 4]]));
        for piece in bytes[at + 5..end].chunks(usize::from(size) + 100) {
            cut.extend([&bytes[at..at + 3], &(piece.len() as u16).to_be_bytes(), piece].concat());
        }
        at = end;
    }
    if cut.len() <= MOST {
        assert_eq!(parse(&cut), Ok(Parsed::Complete { hello, length: cut.len() }));
    }
});
