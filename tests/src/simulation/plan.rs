//! What a simulated handler does with a message: a function of the seed, the message's id and its hop alone, so that it
//! does the same whenever and wherever it runs.

use asya_envelope::Head;

use super::random::{Random, hash};

/// An actor that no queue belongs to.
pub const ABSENT: &str = "nobody";

/// What the handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Gives so many results; 0 = ends the message.
    Give(u32),
    /// Gives so many results, then raises.
    GiveThenFail(u32),
    /// Raises until it has been tried so often, then gives one result.
    FailThenGive(u32),
    /// Gives so many results, then kills its process.
    GiveThenCrash(u32),
    /// Never returns.
    Hang,
    /// Gives one result that is larger than the broker takes.
    Big,
    /// Gives one result with other headers.
    Relabel,
    /// Gives one result that ends the route early.
    EndRoute,
    /// Gives one result whose route is no route.
    Malformed,
    /// Gives one result for an actor whose name cannot be one.
    Nowhere,
    /// Gives one result for an actor whose queue does not exist.
    Absent,
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
    /// Raises the first times.
    pub flaky: u64,
    /// Kills its process, perhaps after results.
    pub crash: u64,
    /// Never returns.
    pub hang: u64,
    /// Too large a result.
    pub big: u64,
    /// Changes headers or route; as likely again, spoils the route.
    pub meta: u64,
    /// What raises may have given results before.
    pub partly: bool,
}

impl Mix {
    /// Nothing but well-behaved handlers.
    pub const TAME: Self =
        Self { none: 20, fan_out: 30, fail: 20, flaky: 0, crash: 0, hang: 0, big: 0, meta: 30, partly: true };
    /// Everything that goes wrong.
    pub const WILD: Self =
        Self { none: 30, fan_out: 60, fail: 40, flaky: 0, crash: 8, hang: 5, big: 10, meta: 30, partly: true };
}

impl Plan {
    /// What the handler of `actor` does with this message.
    pub fn of(seed: u64, mix: Mix, actor: &str, id: &str, hop: u32) -> Self {
        let mut random = Random::new(hash(seed, &format!("{actor}/{id}/{hop}")));
        let draw = random.number() % 1000;
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
            let results = random.between(0, 2) as u32;
            Self::GiveThenFail(if mix.partly { results } else { 0 })
        } else if within(mix.flaky) {
            Self::FailThenGive(random.between(1, 3) as u32)
        } else if within(mix.crash) {
            Self::GiveThenCrash(random.between(0, 1) as u32)
        } else if within(mix.hang) {
            Self::Hang
        } else if within(mix.big) {
            Self::Big
        } else if within(mix.meta) {
            random.pick(&[Self::Relabel, Self::EndRoute])
        } else if within(mix.meta) {
            random.pick(&[Self::Malformed, Self::Nowhere, Self::Absent])
        } else {
            Self::Give(1)
        }
    }

    /// Results that it gives.
    pub fn results(self) -> u32 {
        match self {
            Self::Give(n) | Self::GiveThenFail(n) | Self::GiveThenCrash(n) => n,
            Self::Hang => 0,
            Self::FailThenGive(_)
            | Self::Big
            | Self::Relabel
            | Self::EndRoute
            | Self::Malformed
            | Self::Nowhere
            | Self::Absent => 1,
        }
    }

    /// Whether its message goes on, rather than to the failure sink.
    pub fn succeeds(self) -> bool {
        matches!(self, Self::Give(_) | Self::FailThenGive(_) | Self::Relabel | Self::EndRoute)
    }

    /// What its results say that they change (RING.md, section 5).
    pub fn meta(self, head: &Head) -> Vec<u8> {
        match self {
            Self::Relabel => format!(r#"{{"headers":{}}}"#, self.child(head, 0).headers.as_json()).into_bytes(),
            Self::EndRoute => br#"{"next":[]}"#.to_vec(),
            Self::Malformed => br#"{"next":7}"#.to_vec(),
            Self::Nowhere => br#"{"next":["Not A Name!"]}"#.to_vec(),
            Self::Absent => format!(r#"{{"next":["{ABSENT}"]}}"#).into_bytes(),
            _ => Vec::new(),
        }
    }

    /// The head that a result has to have, its status aside.
    pub fn child(self, head: &Head, index: u32) -> Head {
        let mut child = Head {
            id: asya_envelope::ids::child_id(&head.id, head.route.hop(), index),
            parent_id: if index == 0 { head.parent_id.clone() } else { Some(head.id.clone()) },
            route: head.route.shifted(),
            status: None,
            ..head.clone()
        };
        match self {
            Self::Relabel => child.headers.set_str("added", "by a handler"),
            Self::EndRoute => (child.route.curr, child.route.next) = (String::new(), Vec::new()),
            _ => {}
        }
        child
    }
}

/// The payload of a result.
pub fn result_payload(id: &str, hop: u32, index: u32, big: bool) -> Vec<u8> {
    let filler = if big { "x".repeat(super::scenario::LIMITS[0] as usize) } else { String::new() };
    format!(r#"{{"from":"{id}","hop":{hop},"index":{index},"filler":"{filler}"}}"#).into_bytes()
}

/// Whose result a payload is: id and hop of its parent, and its index.
pub fn parent_of(document: &[u8]) -> Option<(String, u32, u32)> {
    let document: serde_json::Value = serde_json::from_slice(document).ok()?;
    let number = |key: &str| Some(document[key].as_u64()? as u32);
    Some((document["from"].as_str()?.to_owned(), number("hop")?, number("index")?))
}
