use proptest::prelude::*;

use super::*;

fn complete(bytes: &[u8]) -> (Header, usize) {
    match parse(bytes) {
        Ok(Parsed::Complete { header, length }) => (header, length),
        other => panic!("{other:?}"),
    }
}

fn addresses_of(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    complete(bytes).0.addresses
}

fn between(source: &str, destination: &str) -> Option<(SocketAddr, SocketAddr)> {
    Some((source.parse().unwrap(), destination.parse().unwrap()))
}

/// A header of version 2 with this command, family and block.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [V2, &[command, family], &length, block].concat()
}

const TCP4: &[u8] = b"\x0a\x00\x00\x01\xc0\x00\x02\x07\x30\x39\x01\xbb";

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

/// The lines of the specification's section 2.1.
#[test]
fn official_examples_of_version_1_are_read() {
    let longest = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
    assert_eq!(complete(longest), (Header::default(), longest.len()));
    let line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(addresses_of(line), between("255.255.255.255:65535", "255.255.255.255:65535"));
    let wide = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY TCP6 {wide} {wide} 65535 65535\r\n");
    let expected = between(&format!("[{wide}]:65535"), &format!("[{wide}]:65535"));
    assert_eq!(addresses_of(line.as_bytes()), expected);
    let worst = format!("PROXY UNKNOWN {wide} {wide} 65535 65535\r\n");
    assert_eq!(worst.len(), V1_MOST);
    assert_eq!(complete(worst.as_bytes()), (Header::default(), V1_MOST));
    let request =
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n";
    assert_eq!(complete(request).1, 47);
    assert_eq!(addresses_of(request), between("192.168.0.1:56324", "192.168.0.11:443"));
    assert_eq!(complete(b"PROXY UNKNOWN\r\n"), (Header::default(), LEAST));
}

#[test]
fn lines_that_are_almost_right_are_refused() {
    for line in [
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
        "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        "PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY \r\n",
        "PROXYTCP4 ",
        "proxy ",
        "GET / HTTP/1.1\r\n",
    ] {
        assert!(parse(line.as_bytes()).is_err(), "{line:?}");
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MOST - 15));
    assert!(parse(long.as_bytes()).is_err());
    assert!(parse(&long.as_bytes()[..V1_MOST]).is_err());
}

#[test]
fn version_2_is_read_with_what_it_tells() {
    let block = [
        TCP4,
        &field(kind::ALPN, b"h2"),
        &field(kind::AUTHORITY, b"a.test"),
        &field(0x04, b"\0\0"),
        &field(0x20, b"\x07\0\0\0\0"),
        &field(kind::UNIQUE_ID, &[9; 128]),
        &field(0xe0, b"custom"),
    ]
    .concat();
    let bytes = [&binary(0x21, 0x11, &block)[..], b"rest"].concat();
    let (header, length) = complete(&bytes);
    assert_eq!(length, bytes.len() - 4);
    assert_eq!(header.addresses, between("10.0.0.1:12345", "192.0.2.7:443"));
    let told = Told {
        alpn: Some(b"h2".into()),
        authority: Some(b"a.test".into()),
        unique_id: Some(vec![9; 128]),
    };
    assert_eq!(header.told, told);
    for end in 0..length {
        assert_eq!(parse(&bytes[..end]), Ok(Parsed::Partial), "{end}");
    }
}

#[test]
fn local_unspecified_and_unix_leave_the_connection_its_own_addresses() {
    for (command, family, block) in [
        (0x20, 0x00, &b""[..]),
        (0x20, 0x11, TCP4),
        (0x20, 0x77, b"whatever"),
        (0x21, 0x00, b"whatever"),
        (0x21, 0x31, &[b'/'; 216]),
    ] {
        let bytes = binary(command, family, block);
        assert_eq!(complete(&bytes), (Header::default(), bytes.len()));
    }
    for version in [Version::V1, Version::V2] {
        assert_eq!(complete(local(version)), (Header::default(), local(version).len()));
    }
}

/// Computed by hand with the algorithm of RFC 3720, whose test vectors the table reproduces.
#[test]
fn checksum_is_that_of_the_standard_and_is_checked() {
    let of = |bytes: &[u8]| {
        !bytes.iter().fold(!0_u32, |sum, byte| {
            CRC32C[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8)
        })
    };
    // RFC 3720 appendix B.4.
    assert_eq!(of(&[0; 32]), 0x8a91_36aa);
    assert_eq!(of(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(of(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);

    let block = [TCP4, &field(kind::CRC32C, &[0; 4]), &field(kind::ALPN, b"h2")].concat();
    let mut bytes = binary(0x21, 0x11, &block);
    let sum = of(&bytes).to_be_bytes();
    let at = 16 + TCP4.len() + 3;
    bytes[at..at + 4].copy_from_slice(&sum);
    assert_eq!(complete(&bytes).0.told.alpn.as_deref(), Some(&b"h2"[..]));
    for changed in [13, 16, 20, at, bytes.len() - 1] {
        let mut wrong = bytes.clone();
        wrong[changed] ^= 1;
        assert!(parse(&wrong).is_err(), "byte {changed}");
    }
}

#[test]
fn blocks_that_contradict_themselves_are_refused() {
    let with = |more: &[u8]| [TCP4, more].concat();
    for (command, family, block) in [
        (0x31, 0x11, TCP4.to_vec()),
        (0x22, 0x11, TCP4.to_vec()),
        (0x21, 0x12, TCP4.to_vec()),
        (0x21, 0x41, TCP4.to_vec()),
        (0x21, 0x11, TCP4[..11].to_vec()),
        (0x21, 0x21, TCP4.to_vec()),
        (0x21, 0x11, with(b"\x01\0")),
        (0x21, 0x11, with(b"\x01\0\x03h2")),
        (0x21, 0x11, with(&field(kind::UNIQUE_ID, &[9; 129]))),
        (0x21, 0x11, with(&field(kind::CRC32C, b"123"))),
        (0x21, 0x11, with(&[field(kind::ALPN, b"h2"), field(kind::ALPN, b"h2")].concat())),
        (0x20, 0x00, vec![0; MOST]),
    ] {
        let bytes = binary(command, family, &block);
        assert!(parse(&bytes).is_err(), "{command:x} {family:x} {block:?}");
    }
}

#[test]
fn bytes_that_could_still_become_a_header_are_told_from_others() {
    for (bytes, may_be, is) in [
        (&b""[..], false, false),
        (b"P", true, false),
        (b"PROXY", true, false),
        (b"PROXY ", true, true),
        (b"\r\n", true, false),
        (b"\r\n\r\n\0\r\nQUIT\n", true, true),
        (b"\r\n\r\n\0\r\nQUIT\n!", true, true),
        (b"POST /", false, false),
        (b"\r\nGET", false, false),
    ] {
        assert_eq!((may_be_header(bytes), is_header(bytes)), (may_be, is), "{bytes:?}");
    }
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u16; 8]>(), any::<u16>()).prop_map(SocketAddr::from),
    ]
}

fn value(most: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..most))
}

fn canonical(address: SocketAddr, wide: bool) -> SocketAddr {
    let ip = match (address.ip().to_canonical(), wide) {
        (IpAddr::V4(ip), true) => ip.to_ipv6_mapped().into(),
        (ip, _) => ip,
    };
    SocketAddr::new(ip, address.port())
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        source in socket(), destination in socket(),
        alpn in value(20), authority in value(255), unique_id in value(129), v2: bool,
        rest: Vec<u8>,
    ) {
        let told = Told { alpn, authority, unique_id };
        let version = if v2 { Version::V2 } else { Version::V1 };
        let mut bytes = Vec::new();
        write(&mut bytes, version, (source, destination), &told);
        let length = bytes.len();
        bytes.extend_from_slice(&rest);
        let wide = [source, destination].iter().any(|a| a.ip().to_canonical().is_ipv6());
        let expected = (canonical(source, wide), canonical(destination, wide));
        let header = Header {
            addresses: Some(expected),
            told: if v2 { told } else { Told::default() },
        };
        prop_assert_eq!(parse(&bytes), Ok(Parsed::Complete { header, length }));
        for end in [0, 1, 6, 12, 15, 16, length / 2, length - 1] {
            prop_assert_eq!(parse(&bytes[..end.min(length - 1)]), Ok(Parsed::Partial));
        }
    }

    #[test]
    fn nothing_makes_it_panic(bytes: Vec<u8>, block: Vec<u8>, family: u8) {
        let _ = parse(&bytes);
        let _ = parse(&[V1, &bytes].concat());
        for family in [family, 0x11, 0x21, 0x31] {
            let _ = parse(&binary(0x21, family, &block));
        }
    }
}
