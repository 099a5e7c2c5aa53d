//! ● Seconds since 1970 as a date in UTC.

/// Appends `2026-11-20T12:34:56` (RFC 3339 section 5.6, without a zone).
pub(crate) fn date(out: &mut Vec<u8>, seconds: u64) {
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let parts = [(year, 4, b'-'), (month, 2, b'-'), (day, 2, b'T')];
    let times = [(of_day / 3600, 2, b':'), (of_day / 60 % 60, 2, b':')];
    for (value, count, after) in parts.into_iter().chain(times) {
        digits(out, value, count);
        out.push(after);
    }
    digits(out, of_day % 60, 2);
}

/// `count` decimal digits with leading zeros.
pub(crate) fn digits(out: &mut Vec<u8>, mut value: u64, count: usize) {
    let at = out.len();
    out.resize(at + count, b'0');
    for digit in out[at..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Days since 1970-01-01 → year, month, day (Howard Hinnant, "chrono-compatible low-level date
/// algorithms"; years are counted from March, in eras of 400 years).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
