//! What differs between versions of the broker.
//!
//! Takes the version that the broker says it has; gives yes or no. Never blocks. What cannot be read is taken for
//! 3.10, the oldest that is supported and the least able.

/// Major and minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u16, u16);

impl Default for Version {
    fn default() -> Self {
        Self(3, 10)
    }
}

impl Version {
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut numbers = text
            .split(|b| !b.is_ascii_digit())
            .map(|digits| digits.iter().try_fold(0_u16, |n, b| n.checked_mul(10)?.checked_add(u16::from(b - b'0'))));
        match (text.first().is_some_and(u8::is_ascii_digit), numbers.next(), numbers.next()) {
            (true, Some(Some(major)), Some(Some(minor))) => Self(major, minor),
            _ => Self::default(),
        }
    }

    /// The smallest frame (bytes) that a client may ask for; one that asks for less is dropped without a word.
    pub(crate) fn least_frame_max(self) -> u32 {
        if self >= Self(4, 1) { 8192 } else { 4096 }
    }

    /// Queues take `x-consumer-timeout`.
    pub(crate) fn queue_consumer_timeout(self) -> bool {
        self >= Self(3, 12)
    }

    /// Quorum queues have a delivery limit of 20 unless told otherwise, and take -1 for none.
    pub(crate) fn default_delivery_limit(self) -> bool {
        self >= Self(4, 0)
    }

    /// Giving a message back does not raise its delivery count, which thus counts lost consumers.
    pub(crate) fn requeue_uncounted(self) -> bool {
        self >= Self(4, 3)
    }

    /// Consumers take `x-consumer-timeout`.
    pub(crate) fn consumer_timeout(self) -> bool {
        self >= Self(4, 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(Version::parse(b"3.10.8"), Version(3, 10));
        assert_eq!(Version::parse(b"4.3.0-rc.1"), Version(4, 3));
        assert!(Version::parse(b"4.10.0") > Version::parse(b"4.3.9"));
        for strange in [&b""[..], b"x", b".1", b"4", b"99999.1"] {
            assert_eq!(Version::parse(strange), Version::default(), "{strange:?}");
        }
    }
}
