//! What a simulated handler does with a message: a function of the seed, the message's id and its hop alone, so that it
//! does the same whenever and wherever it runs.

use super::random::{Random, hash};

/// What the handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Gives so many results; 0 = ends the message.
    Give(u32),
    /// Gives so many results, then raises.
    GiveThenFail(u32),
    /// Gives so many results, then kills its process.
    GiveThenCrash(u32),
    /// Never returns.
    Hang,
    /// Gives one result that is larger than the broker takes.
    Big,
}

/// How likely each kind is, in thousandths; the rest gives one result.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Ends the message.
    pub none: u64,
    /// Two to four results.
    pub fan_out: u64,
    /// Raises, perhaps after results.
    pub fail: u64,
    /// Kills its process, perhaps after results.
    pub crash: u64,
    /// Never returns.
    pub hang: u64,
    /// Too large a result.
    pub big: u64,
}

impl Mix {
    /// Nothing but well-behaved handlers.
    pub const TAME: Self = Self { none: 20, fan_out: 30, fail: 20, crash: 0, hang: 0, big: 0 };
    /// Everything that goes wrong.
    pub const WILD: Self = Self { none: 30, fan_out: 60, fail: 40, crash: 8, hang: 5, big: 10 };
}

impl Plan {
    /// What the handler of `actor` does with this message.
    pub fn of(seed: u64, mix: Mix, actor: &str, id: &str, hop: u32) -> Self {
        let mut random = Random::new(hash(seed, &format!("{actor}/{id}/{hop}")));
        let draw = random.next() % 1000;
        let mut edge = 0;
        let mut within = |width: u64| {
            edge += width;
            draw < edge
        };
        if within(mix.none) {
            Self::Give(0)
        } else if within(mix.fan_out) {
            Self::Give(random.between(2, 4) as u32)
        } else if within(mix.fail) {
            Self::GiveThenFail(random.between(0, 2) as u32)
        } else if within(mix.crash) {
            Self::GiveThenCrash(random.between(0, 1) as u32)
        } else if within(mix.hang) {
            Self::Hang
        } else if within(mix.big) {
            Self::Big
        } else {
            Self::Give(1)
        }
    }

    /// Results that it gives.
    pub fn results(self) -> u32 {
        match self {
            Self::Give(n) | Self::GiveThenFail(n) | Self::GiveThenCrash(n) => n,
            Self::Hang => 0,
            Self::Big => 1,
        }
    }
}

/// The payload of a result.
pub fn result_payload(id: &str, hop: u32, index: u32, big: bool) -> Vec<u8> {
    let filler = if big { "x".repeat(super::transport::BROKER_LIMIT as usize) } else { String::new() };
    format!(r#"{{"from":"{id}","hop":{hop},"index":{index},"filler":"{filler}"}}"#).into_bytes()
}
