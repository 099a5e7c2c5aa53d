use super::*;
use proptest::prelude::*;

/// Everything a decoder says about `input`, given in pieces of `cuts` bytes in turn.
fn decode(body: Body, input: &[u8], cuts: &[usize]) -> Result<Decoded, FramingError> {
    let mut decoder = Decoder::new(body);
    let mut data = Vec::new();
    let mut at = 0;
    let mut cuts = cuts.iter().cycle();
    loop {
        let piece = cuts.next().copied().unwrap_or(input.len()).max(1);
        let end = input.len().min(at + piece);
        let mut from = at;
        loop {
            match decoder.step(&input[from..end])? {
                Step::Data { skip, len } => {
                    assert!(len > 0);
                    data.extend_from_slice(&input[from + skip..from + skip + len]);
                    from += skip + len;
                }
                Step::More => break,
                Step::End { skip } => {
                    assert!(decoder.is_done());
                    let trailers = decoder.trailers().to_vec();
                    return Ok(Decoded { data, trailers, taken: from + skip, done: true });
                }
            }
        }
        at = end;
        if at == input.len() {
            assert!(!decoder.is_done());
            return Ok(Decoded { data, trailers: Vec::new(), taken: at, done: false });
        }
    }
}

#[derive(Debug, PartialEq)]
struct Decoded {
    data: Vec<u8>,
    trailers: Vec<u8>,
    taken: usize,
    done: bool,
}

fn whole(input: &[u8]) -> Result<Decoded, FramingError> {
    decode(Body::Chunked, input, &[])
}

#[test]
fn chunks_are_joined_and_what_follows_is_left() {
    let input = b"5\r\nhello\r\n0006;a=\"b;\\\"\";c\r\n world\r\n0\r\n\r\nGET";
    let decoded = whole(input).unwrap();
    assert_eq!(decoded.data, b"hello world");
    assert_eq!(decoded.taken, input.len() - 3);
    assert!(decoded.done && decoded.trailers.is_empty());
}

#[test]
fn trailers_are_kept_in_one_spelling() {
    let decoded = whole(b"0\r\nDigest:  x=y \r\nB:\r\n\r\n").unwrap();
    assert_eq!(decoded.trailers, b"Digest: x=y\r\nB: \r\n");
}

#[test]
fn chunks_that_are_not_quite_chunks_are_refused() {
    for input in [
        "\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello",
        "5\t\r\n",
        "+5\r\n",
        "-5\r\n",
        "0x5\r\n",
        "g\r\n",
        ";a\r\n",
        "5\n",
        "5\rh",
        "5\r\nhelloX",
        "5\r\nhello\n",
        "5\r\nhello\rX",
        "5;\r\n",
        "5;a\n",
        "5;a\rb",
        "5; ;a\r\n",
        "5;a\0\r\n",
        "5;a\x07\r\n",
        "5;\"a\"\r\n",
        "5,5\r\n",
        "00000000000000005\r\n",
        "10000000000000000\r\n",
        "0\r\nX",
        "0\n",
        "0\rX",
        "5\r\n\r\nhello\n",
    ] {
        let Ok(decoded) = whole(input.as_bytes()) else { continue };
        // Not wrong yet, but never right: it must not be taken for a whole body.
        assert!(!decoded.done && input == "0\r\nX", "{input:?}: {decoded:?}");
    }
}

#[test]
fn trailers_that_frame_route_or_authenticate_are_refused() {
    for name in [
        "Content-Length",
        "transfer-encoding",
        "Host",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "Content-Type",
        "X-Forwarded-For",
        "x-forwarded-anything",
        "Connection",
        "Trailer",
        "TE",
        "Via",
        "X-Request-Id",
        "Proxy-Authorization",
        "Content-Encoding",
        "Expect",
        "a_b",
        "",
        " a",
        "a ",
        "\u{e9}",
    ] {
        let input = format!("0\r\n{name}: 1\r\n\r\n");
        assert!(whole(input.as_bytes()).is_err(), "{name:?}");
    }
    for line in ["a: b\n", "a: b\rc\r\n", "a: b\0\r\n", "a\r\n", " folded\r\n", "a: \x7f\r\n"] {
        let input = format!("0\r\n{line}\r\n");
        assert!(whole(input.as_bytes()).is_err(), "{line:?}");
    }
}

#[test]
fn extensions_and_trailers_are_bounded_over_the_whole_body() {
    let extension = "x".repeat(1000);
    let chunk = format!("1;{extension}\r\na\r\n");
    assert!(whole(format!("{}0\r\n\r\n", chunk.repeat(16)).as_bytes()).is_ok());
    assert!(whole(chunk.repeat(17).as_bytes()).is_err());

    let line = |len: usize| format!("a: {}\r\n", "x".repeat(len));
    assert!(whole(format!("0\r\n{}\r\n", line(16_000)).as_bytes()).is_ok());
    assert!(whole(format!("0\r\n{}", line(17_000)).as_bytes()).is_err());
    assert!(whole(format!("0\r\n{}\r\n", line(1).repeat(64)).as_bytes()).is_ok());
    assert!(whole(format!("0\r\n{}\r\n", line(1).repeat(65)).as_bytes()).is_err());
}

#[test]
fn the_greatest_size_is_that_of_content_length_and_one_more_is_refused() {
    let mut decoder = Decoder::new(Body::Chunked);
    let step = decoder.step(b"7fffffffffffffff\r\nabc").unwrap();
    assert_eq!(step, Step::Data { skip: 18, len: 3 });
    assert!(!decoder.is_done() && !decoder.may_close());
    assert!(whole(b"8000000000000000\r\n").is_err());
    assert!(whole(b"ffffffffffffffff\r\n").is_err());
    assert!(whole(b"07fffffffffffffff\r\n").is_err());
}

#[test]
fn lengths_count_down_and_end_by_themselves() {
    let mut decoder = Decoder::new(Body::Length(5));
    assert_eq!(decoder.remaining(), Some(5));
    assert_eq!(decoder.step(b"hel"), Ok(Step::Data { skip: 0, len: 3 }));
    assert_eq!((decoder.remaining(), decoder.may_close()), (Some(2), false));
    assert_eq!(decoder.step(b"loGET"), Ok(Step::Data { skip: 0, len: 2 }));
    assert!(decoder.is_done() && decoder.may_close());
    assert_eq!(decoder.step(b"GET"), Ok(Step::End { skip: 0 }));
}

#[test]
fn the_other_bodies_begin_as_they_should() {
    assert_eq!(Decoder::new(Body::Empty).step(b""), Ok(Step::End { skip: 0 }));
    let mut decoder = Decoder::new(Body::UntilClose);
    assert!(decoder.may_close());
    assert_eq!(decoder.step(b"abc"), Ok(Step::Data { skip: 0, len: 3 }));
    assert_eq!(decoder.step(b""), Ok(Step::More));
    assert!(!decoder.is_done());
    let chunked = Decoder::new(Body::Chunked);
    assert!(!chunked.may_close() && chunked.remaining().is_none());
}

#[test]
fn after_an_error_nothing_is_taken() {
    let mut decoder = Decoder::new(Body::Chunked);
    assert!(decoder.step(b"x").is_err());
    assert!(decoder.step(b"0\r\n\r\n").is_err());
    assert!(!decoder.may_close());
}

#[test]
fn chunk_heads_are_plain_hexadecimal() {
    for len in [1, 9, 10, 15, 16, 255, 256, 65_536, usize::MAX] {
        let mut out = Vec::new();
        encode_chunk_head(&mut out, len);
        assert_eq!(out, format!("{len:x}\r\n").into_bytes());
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same_however_it_is_cut(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        trailers in prop::sample::select(vec!["", "Digest: x\r\n", "A: 1\r\nB: 2\r\n"]),
        behind in prop::collection::vec(any::<u8>(), 0..9),
        cuts in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            encode_chunk(&mut wire, chunk);
        }
        encode_last_chunk(&mut wire, trailers.as_bytes());
        let len = wire.len();
        wire.extend_from_slice(&behind);
        let decoded = decode(Body::Chunked, &wire, &cuts).unwrap();
        prop_assert_eq!(decoded, Decoded {
            data: chunks.concat(), trailers: trailers.into(), taken: len, done: true,
        });
    }

    #[test]
    fn any_cut_of_any_input_says_the_same(
        input in "([0-9a-f]{1,2}(;[a-z=\" ]{0,4})?\r\n[ -~]{0,20}(\r\n)?){0,4}(0\r\n)?([a-z]{1,3}: ?[ -~]{0,5}\r?\n){0,3}\r?\n?",
        cuts in prop::collection::vec(1_usize..5, 1..6),
    ) {
        let whole = whole(input.as_bytes());
        let cut = decode(Body::Chunked, input.as_bytes(), &cuts);
        prop_assert_eq!(whole.is_ok(), cut.is_ok());
        if let (Ok(whole), Ok(cut)) = (whole, cut) {
            prop_assert!(whole.data.len() <= input.len());
            prop_assert_eq!(whole, cut);
        }
    }
}
