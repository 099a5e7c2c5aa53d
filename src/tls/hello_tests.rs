use std::sync::Arc;

use proptest::prelude::*;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// What a rustls client says first.
fn real(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let versions = rustls::DEFAULT_VERSIONS;
    let builder = ClientConfig::builder_with_provider(crate::tls::provider());
    let builder = builder.with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same message in records of so many bytes.
fn cut(bytes: &[u8], size: usize) -> Vec<u8> {
    let records = bytes[5..].chunks(size).flat_map(|piece| {
        let length = (piece.len() as u16).to_be_bytes();
        [&[HANDSHAKE, 3, 1], &length[..], piece].concat()
    });
    records.collect()
}

fn complete(bytes: &[u8]) -> (Hello, usize) {
    match parse(bytes) {
        Ok(Parsed::Complete { hello, length }) => (hello, length),
        other => panic!("{other:?}"),
    }
}

/// A hello with these extensions.
fn made(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (kind, data) in extensions {
        all.extend_from_slice(&kind.to_be_bytes());
        all.extend_from_slice(&(data.len() as u16).to_be_bytes());
        all.extend_from_slice(data);
    }
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
    body.extend_from_slice(&(all.len() as u16).to_be_bytes());
    body.extend_from_slice(&all);
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[CLIENT_HELLO], &length[1..], &body].concat();
    [&[HANDSHAKE, 3, 1], &(message.len() as u16).to_be_bytes()[..], &message].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    let length = (name.len() as u16).to_be_bytes();
    let list = ((name.len() + 3) as u16).to_be_bytes();
    [&list[..], &[0], &length, name].concat()
}

#[test]
fn names_and_protocols_of_a_real_client_are_found_in_any_cut() {
    let bytes = real("DB.Example.com", &[b"postgresql", b"h2"]);
    let expected = Hello {
        server_name: Some("db.example.com".into()),
        alpn: vec![b"postgresql".to_vec(), b"h2".to_vec()],
        early_data: false,
    };
    assert_eq!(complete(&bytes), (expected.clone(), bytes.len()));
    for size in [1, 2, 3, 4, 5, 100, 1000] {
        let cut = cut(&bytes, size);
        assert_eq!(complete(&cut), (expected.clone(), cut.len()), "in records of {size}");
        for end in 0..cut.len() {
            assert_eq!(parse(&cut[..end]), Ok(Parsed::Partial), "{end} bytes of {size}");
        }
    }
}

#[test]
fn what_follows_the_message_in_a_record_of_its_own_is_left_alone() {
    let bytes = real("a.test", &[]);
    let more = [&bytes[..], b"\x14\x03\x03\x00\x01\x01"].concat();
    assert_eq!(complete(&more).1, bytes.len());
}

#[test]
fn an_address_is_no_name_and_a_name_is_optional() {
    for (name, expected) in [
        (&b"a.test"[..], Some("a.test")),
        (b"_srv.A-b.test", Some("_srv.a-b.test")),
        (b"10.0.0.1", None),
        (b"fd00::1", None),
    ] {
        let bytes = made(&[(SERVER_NAME, &sni(name))]);
        assert_eq!(complete(&bytes).0.server_name.as_deref(), expected);
    }
    assert_eq!(complete(&made(&[])).0.server_name, None);
    assert!(complete(&made(&[(EARLY_DATA, b""), (PRE_SHARED_KEY, b"?")])).0.early_data);
}

#[test]
fn what_is_no_client_hello_is_refused_at_its_first_wrong_byte() {
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n"[..], "not a TLS handshake"),
        (b"\x80", "not a TLS handshake"),
        (b"\x16\x02", "an unknown version of TLS"),
        (b"\x16\x03\x01\x00\x00", "a record of an impossible length"),
        (b"\x16\x03\x01\x40\x01", "a record of an impossible length"),
        (b"\x16\x03\x01\x00\x09\x02", "not a ClientHello"),
        (b"\x16\x03\x01\x00\x09\x01\x00\x40\x00", "a ClientHello that is too large"),
        (b"\x16\x03\x01\x00\x09\x01\x00\x00\x04", "a ClientHello with something behind it"),
    ] {
        assert_eq!(parse(bytes), Err(Malformed(reason)));
    }
}

#[test]
fn extensions_that_contradict_are_refused() {
    let name = sni(b"a.test");
    let two = [&[0, 18][..], &name[2..], &name[2..]].concat();
    for (extensions, reason) in [
        (vec![(SERVER_NAME, &name[..]), (SERVER_NAME, &name)], "an extension that is there twice"),
        (
            vec![(PRE_SHARED_KEY, b"?"), (ALPN, b"\0\x03\x02h2")],
            "an extension behind pre_shared_key",
        ),
        (vec![(SERVER_NAME, &two)], "a length that does not fit"),
        (vec![(SERVER_NAME, b"\0\x04\x01\0\x01a")], "a server name of an unknown type"),
        (vec![(SERVER_NAME, &sni(b""))], "no host name"),
        (vec![(SERVER_NAME, &sni(b"a test"))], "no host name"),
        (vec![(SERVER_NAME, &sni(&[b'a'; 256]))], "no host name"),
        (vec![(ALPN, b"\0\0")], "an empty protocol"),
        (vec![(ALPN, b"\0\x01\0")], "an empty protocol"),
        (vec![(ALPN, b"\0\x03\x02h2?")], "a length that does not fit"),
        (vec![(EARLY_DATA, b"?")], "a length that does not fit"),
        (vec![(ALPN, b"\0\x09\x02h2")], "a ClientHello that is cut short"),
    ] {
        assert_eq!(parse(&made(&extensions)), Err(Malformed(reason)), "{extensions:?}");
    }
}

#[test]
fn one_that_never_ends_is_refused_at_the_bound() {
    let endless = [b"\x16\x03\x01\x00\x06\x01\x00\x3f\x00\x00\x00".to_vec(), {
        let record = b"\x16\x03\x01\x00\x01\x00";
        record.iter().copied().cycle().take(MOST).collect()
    }]
    .concat();
    assert_eq!(parse(&endless[..MOST - 1]), Ok(Parsed::Partial));
    assert_eq!(parse(&endless[..MOST]), Err(Malformed("a ClientHello that is too large")));
}

proptest! {
    /// Whatever a byte is changed to: where both understand it, rustls says the same.
    #[test]
    fn what_rustls_accepts_too_it_reads_alike(
        at in 0_usize..600, byte: u8, name in "[a-z]{1,20}\\.test", size in 1_usize..2000,
    ) {
        let mut bytes = real(&name, &[b"h2", b"http/1.1"]);
        let at = at % bytes.len();
        bytes[at] = byte;
        let mut acceptor = Acceptor::default();
        let cut = if at < 5 { bytes } else { cut(&bytes, size) };
        if let (Ok(Parsed::Complete { hello, length }), Ok(_)) =
            (parse(&cut), acceptor.read_tls(&mut &cut[..]))
            && let Ok(Some(accepted)) = acceptor.accept()
        {
            prop_assert_eq!(length, cut.len());
            let theirs = accepted.client_hello();
            prop_assert_eq!(hello.server_name.as_deref(), theirs.server_name());
            let alpn = theirs.alpn().map(|names| names.map(<[u8]>::to_vec).collect());
            prop_assert_eq!(hello.alpn, alpn.unwrap_or(Vec::new()));
        }
    }

    #[test]
    fn nothing_makes_it_panic(bytes: Vec<u8>, extension: Vec<u8>) {
        let _ = parse(&bytes);
        for kind in [SERVER_NAME, ALPN] {
            let _ = parse(&made(&[(kind, &extension)]));
        }
    }
}
