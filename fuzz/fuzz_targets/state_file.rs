#![no_main]
//! Whatever a state file says: no panic, and what is believed is written as it was read.

use libfuzzer_sys::fuzz_target;
use standfast::control::saved::{decode, encode};
use standfast::failover::record::Stamp;

const NOW: Stamp = Stamp(1_700_000_000_000_000);

fuzz_target!(|bytes: &[u8]| {
    if let Ok((saved, age)) = decode(bytes, NOW) {
        let written_at = Stamp(NOW.0 - age.as_micros() as u64);
        let file = encode(&saved, written_at).expect("it was read from JSON");
        assert_eq!(decode(&file, NOW), Ok((saved, age)));
    }
});
