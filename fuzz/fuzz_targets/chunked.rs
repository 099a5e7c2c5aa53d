//! However a chunked body is cut, the same bytes are data and it ends at the same place.
#![no_main]
use standfast::http1::{Body, Decoder, Step};

fn decode(bytes: &[u8], piece: usize) -> Option<(Vec<u8>, Vec<u8>, Option<usize>)> {
    let (mut decoder, mut data, mut at) = (Decoder::new(Body::Chunked), Vec::new(), 0);
    loop {
        let end = bytes.len().min(at + piece);
        match decoder.step(&bytes[at..end]).ok()? {
            Step::Data { skip, len } => {
                data.extend_from_slice(&bytes[at + skip..at + skip + len]);
                at += skip + len;
            }
            Step::More if end == bytes.len() => return Some((data, Vec::new(), None)),
            Step::More => at = end,
            Step::End { skip } => return Some((data, decoder.trailers().to_vec(), Some(at + skip))),
        }
    }
}

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    assert_eq!(decode(bytes, bytes.len().max(1)), decode(bytes, usize::from(piece).max(1)));
});
