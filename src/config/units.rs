//! ● Quantities as operators write them: `800ms`, `64KiB`, `50%`.

use std::fmt;
use std::time::Duration;

/// What is wrong with one value, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) remedy: String,
}

pub(super) fn wrong<T>(message: impl Into<String>, remedy: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { message: message.into(), remedy: remedy.into() })
}

/// A value of the file inside a message: one line, of bounded length.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("`{}`", shown.replace("\\'", "'").replace("\\\"", "\""))
}

const DURATIONS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    quantity(text, DURATIONS, "a duration", "10s").map(Duration::from_millis)
}

/// Bytes.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    quantity(text, SIZES, "a size", "64KiB")
}

/// A share, 0..=1.
pub(super) fn percentage(text: &str) -> Result<f64, Wrong> {
    let Some(number) = text.strip_suffix('%') else {
        return wrong(
            format!("expected a percentage, e.g. `50%`, found {}", quote(text)),
            "write a number and a percent sign",
        );
    };
    let digits = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    match number.parse::<f64>() {
        Ok(value) if number.bytes().all(digits) && value <= 100.0 => Ok(value / 100.0),
        _ => wrong(
            format!("{} is not a percentage", quote(text)),
            "write a number between 0 and 100 and a percent sign, e.g. `50%`",
        ),
    }
}

/// A whole number and one of the units, in the smallest unit.
fn quantity(text: &str, units: &[(&str, u64)], what: &str, example: &str) -> Result<u64, Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let names = units.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let expected = format!("expected {what} with a unit, e.g. `{example}`, found {}", quote(text));
    let remedy = format!("write a whole number and one of the units {names}");
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let (false, Some(factor)) = (number.is_empty(), factor) else {
        return wrong(expected, remedy);
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(value) => Ok(value),
        None => wrong(format!("{} is too large", quote(text)), "write a smaller value"),
    }
}

/// A duration in its largest whole unit, as it would be written in the file.
pub(super) struct Period(pub(super) Duration);

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        // A day and a half is read more easily as 36h than as 2160m; ninety seconds are not 1.5m.
        if millis == 0 { f.write_str("0s") } else { largest(f, millis, DURATIONS) }
    }
}

/// A number of bytes in its largest whole unit, as it would be written in the file.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        largest(f, self.0, SIZES)
    }
}

fn largest(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let whole = units.iter().rev().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    let (name, factor) = whole.unwrap_or(&units[0]);
    write!(f, "{}{name}", value / factor)
}

/// The day of a Unix time in UTC (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub(super) fn date(unix: i64) -> String {
    let days = unix.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bare_number_is_not_a_duration() {
        let found = duration("10").unwrap_err();
        assert_eq!(found.message, "expected a duration with a unit, e.g. `10s`, found `10`");
    }

    #[test]
    fn quantities_need_a_whole_number_and_a_known_unit() {
        for text in ["", "s", "-1s", "1.5s", "1 s", "1d", "1us", "1S", "+1s", "1s ", "１s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "KiB", "64", "64KB", "64kB", "64K", "64kib", "-1B"] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in ["", "%", "50", "-1%", "101%", "1e1%", "nan%", "inf%", "+5%", "5 %", "1.2.3%"] {
            assert!(percentage(text).is_err(), "{text}");
        }
    }

    #[test]
    fn quantities_that_do_not_fit_are_refused() {
        assert!(duration("99999999999999999999h").is_err());
        assert!(duration("18446744073709551615h").is_err());
        assert!(size("18446744073709551615GiB").is_err());
    }

    #[test]
    fn percentages_are_shares() {
        assert_eq!(percentage("50%").unwrap(), 0.5);
        assert_eq!(percentage("0%").unwrap(), 0.0);
        assert_eq!(percentage("100%").unwrap(), 1.0);
        assert_eq!(percentage("0.1%").unwrap(), 0.001);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_767_225_599), "2025-12-31");
        assert_eq!(date(-1), "1969-12-31");
        assert_eq!(date(253_402_300_799), "9999-12-31");
    }

    proptest! {
        #[test]
        fn a_duration_survives_being_written(millis in 0u64..1_000_000_000_000) {
            let value = Duration::from_millis(millis);
            prop_assert_eq!(duration(&Period(value).to_string()).unwrap(), value);
        }

        #[test]
        fn a_size_survives_being_written(bytes in any::<u64>()) {
            prop_assert_eq!(size(&Bytes(bytes).to_string()).unwrap(), bytes);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = (duration(&text), size(&text), percentage(&text), quote(&text));
        }
    }
}
