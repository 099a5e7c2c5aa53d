//! ○ What is seen from outside: metrics and the access log.

pub mod access_log;
pub mod metrics;

#[cfg(test)]
pub(crate) mod fixture;

/// Days since 1970-01-01 → year, month, day (Howard Hinnant, "chrono-compatible low-level date
/// algorithms"; years are counted from March, in eras of 400 years).
pub(crate) fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
