//! Durations and sizes as they are written in a manifest.
//!
//! Takes text; gives values that write themselves back the same way. Blocks on nothing. On failure: what is wrong and
//! how to write it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What is wrong with a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("\"{0}\" is not a duration")]
    Duration(String),
    /// A duration with no unit.
    #[error("\"{0}\" has no unit")]
    NoUnit(String),
    /// Not a size.
    #[error("\"{0}\" is not a size")]
    Size(String),
}

impl UnitError {
    /// How to write it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Duration(_) | Self::NoUnit(_) => "write a number and ms, s, m or h: 500ms, 30s, 5m, 1h30m",
            Self::Size(_) => "write bytes, or a number and KiB, MiB, GiB, kB, MB or GB: 65536, 512KiB, 1MiB",
        }
    }
}

/// A duration as Go and Kubernetes write it: `30s`, `1h30m`, `1.5s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

const DURATION_UNITS: [(&str, u128); 7] = [
    // Longest names first, so that `ms` is not read as `m`.
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for GoDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Duration(text.to_owned());
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self::default());
        }
        if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()) {
            return Err(UnitError::NoUnit(text.to_owned()));
        }
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let (unit, size) = DURATION_UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(wrong)?;
            nanos = nanos.checked_add(scaled(number, *size).ok_or_else(wrong)?).ok_or_else(wrong)?;
            rest = &tail[unit.len()..];
        }
        u64::try_from(nanos).map(|nanos| Self(Duration::from_nanos(nanos))).map_err(|_| wrong())
    }
}

/// `number` (digits with at most one point) times `size`, rounded down.
fn scaled(number: &str, size: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Ten digits are finer than a nanosecond of an hour.
    let fraction: String = fraction.chars().take(12).collect();
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    whole.checked_mul(size)?.checked_add(part.checked_mul(size)? / scale)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
            ("ns", 1),
        ] {
            if nanos >= size {
                write!(f, "{}{unit}", nanos / size)?;
                nanos %= size;
            }
        }
        Ok(())
    }
}

/// A number of bytes: `65536`, `512KiB`, `1Mi`, `2MB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u128); 9] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Size(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, tail) = trimmed.split_at(digits);
        let unit = tail.trim_start();
        let unit = unit.strip_suffix('B').unwrap_or(unit);
        let size = match unit {
            "" => 1,
            unit => SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size).ok_or_else(wrong)?,
        };
        scaled(number, size).and_then(|bytes| u64::try_from(bytes).ok()).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 > 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_text!(GoDuration);
as_text!(ByteSize);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        let millis = |text: &str| text.parse::<GoDuration>().map(|d| d.0.as_millis());
        assert_eq!(millis("5m"), Ok(300_000));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("1.5s"), Ok(1_500));
        assert_eq!(millis("250ms"), Ok(250));
        assert_eq!(millis("0"), Ok(0));
        assert_eq!(millis("30"), Err(UnitError::NoUnit("30".into())));
        for wrong in ["", "s", "5 minutes", "5d", "1.2.3s", "-5s", ".s", "99999999999999h", "5m30"] {
            assert_eq!(millis(wrong), Err(UnitError::Duration(wrong.into())), "{wrong}");
        }
    }

    #[test]
    fn sizes_read_with_binary_and_decimal_units() {
        let bytes = |text: &str| text.parse::<ByteSize>().map(|b| b.0);
        assert_eq!(bytes("65536"), Ok(65_536));
        assert_eq!(bytes("512KiB"), Ok(524_288));
        assert_eq!(bytes("1Mi"), Ok(1_048_576));
        assert_eq!(bytes("1.5 MB"), Ok(1_500_000));
        for wrong in ["", "MiB", "1XB", "-1", "many", "99999999TiB"] {
            assert_eq!(bytes(wrong), Err(UnitError::Size(wrong.into())), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in any::<u64>(), bytes in any::<u64>()) {
            let duration = GoDuration(Duration::from_nanos(nanos));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn no_text_makes_them_panic(text in ".{0,24}") {
            let _ = text.parse::<GoDuration>();
            let _ = text.parse::<ByteSize>();
        }
    }
}
