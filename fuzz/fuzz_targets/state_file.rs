#![no_main]
//! Whatever a state file says: no panic, and what is believed is written as it was read. The bytes
//! are tried as they are, and as what follows the checksum (FNV-1a) of a file that is whole.

use standfast::control::saved::{decode, encode};
use standfast::failover::record::Stamp;

const NOW: Stamp = Stamp(1_700_000_000_000_000);

fn read(file: &[u8]) {
    if let Ok((saved, age)) = decode(file, NOW) {
        let written_at = Stamp(NOW.0 - age.as_micros() as u64);
        let file = encode(&saved, written_at).expect("it was read from JSON");
        assert_eq!(decode(&file, NOW), Ok((saved, age)));
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let rest = bytes.trim_ascii_end();
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let sum = rest.iter().fold(0xcbf2_9ce4_8422_2325, step);
    read(bytes);
    read(&[format!("{{\"checksum\":\"{sum:016x}\",").as_bytes(), rest].concat());
});
