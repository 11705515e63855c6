//! Time stamps of envelopes: RFC 3339. Written in UTC and whole seconds; read with any offset and fraction.

/// Formats the clock's second, again only when it has changed.
#[derive(Debug, Default)]
pub struct Stamp {
    second: Option<u64>,
    text: String,
}

impl Stamp {
    /// The time stamp of a moment, given in milliseconds since the Unix epoch.
    pub fn at(&mut self, wall_ms: u64) -> &str {
        let second = wall_ms / 1000;
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = rfc3339(second);
        }
        &self.text
    }
}

/// Days to a date after H. Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn rfc3339(unix: u64) -> String {
    let (days, rest) = (unix / 86_400, unix % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Days since the Unix epoch of a date, after H. Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Reads a time stamp (RFC 3339, section 5.6): milliseconds since the Unix epoch, rounded down. `None` when it is none, or
/// lies before the epoch.
pub fn parse(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let is = |at: usize, allowed: &[u8]| text.as_bytes().get(at).is_some_and(|b| allowed.contains(b));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    // A leap second counts as the one after it.
    let valid =
        (1..=12).contains(&month) && (1..=month_days).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !separated || !valid {
        return None;
    }
    let rest = text.get(19..)?;
    let fraction = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let (digits, zone) = match rest.strip_prefix('.') {
        Some(_) if fraction == 0 => return None,
        Some(rest) => rest.split_at(fraction),
        None => ("", rest),
    };
    let millis = format!("{digits:0<3}").get(..3)?.parse::<i64>().ok()?;
    let offset_minutes = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - zone.len();
            let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let minutes = days(year, month, day) * 1440 + hour * 60 + minute - offset_minutes;
    u64::try_from((minutes * 60 + second) * 1000 + millis).ok()
}

/// Writes a moment with its milliseconds.
pub fn precise(wall_ms: u64) -> String {
    let whole = rfc3339(wall_ms / 1000);
    format!("{}.{:03}Z", whole.trim_end_matches('Z'), wall_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_507_199), "2026-11-24T07:59:59Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn what_is_written_is_read() {
        for wall_ms in (0..4_200_000_000_000).step_by(37_123_456_789) {
            assert_eq!(parse(&precise(wall_ms)), Some(wall_ms));
            assert_eq!(parse(&rfc3339(wall_ms / 1000)), Some(wall_ms / 1000 * 1000));
        }
    }

    #[test]
    fn offsets_and_fractions_are_read() {
        let noon = Some(1_795_521_600_000);
        for text in
            ["2026-11-24T12:00:00Z", "2026-11-24t12:00:00.0z", "2026-11-24 13:30:00+01:30", "2026-11-24T04:00:00-08:00"]
        {
            assert_eq!(parse(text), noon, "{text}");
        }
        assert_eq!(parse("2026-11-24T12:00:00.9876543Z"), noon.map(|ms| ms + 987));
        assert_eq!(parse("2026-11-24T11:59:60Z"), noon);
    }

    #[test]
    fn what_is_no_time_stamp_is_told() {
        for text in [
            "",
            "soon",
            "1795521600",
            "2026-11-24",
            "2026-11-24T12:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-24T24:00:00Z",
            "2026-11-24T12:60:00Z",
            "2026-11-24T12:00:00.Z",
            "2026-11-24T12:00:00+1:00",
            "2026-11-24T12:00:00+24:00",
            "1969-12-31T23:59:59Z",
            "2026-11-24T12:00:00Zé",
            "２026-11-24T12:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
