//! However the bytes of a WebSocket are cut, the same borders are found, and none before its time.
#![no_main]
use standfast::http1::websocket::Frames;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let (mut whole, mut pieces, mut border) = (Frames::default(), Frames::default(), Some(0));
    let mut at = 0;
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        if let Some(end) = pieces.last_border(piece) {
            border = Some(at + end);
        }
        pieces.advance(piece);
        at += piece.len();
        assert_eq!(pieces.at_border(), border == Some(at));
    }
    assert_eq!(whole.last_border(bytes), border);
    whole.advance(bytes);
    assert_eq!((whole.at_border(), whole.closing()), (pieces.at_border(), pieces.closing()));
});
