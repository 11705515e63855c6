//! A worker that lies in every field. See `common/words.rs`; the fuzz target runs the same body.

#![cfg(not(loom))]

#[path = "common/words.rs"]
mod words;

use asya_ring::wire::RawCompletion;
use proptest::prelude::*;
use words::{Lie, run};

/// Small, boundary and arbitrary values alike.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..100_u64,
        2 => 0..10_000_u64,
        1 => prop_oneof![Just(u64::MAX), Just(1 << 63), Just(u64::from(u32::MAX)), Just(8192), Just(20_000)],
        1 => any::<u64>(),
    ]
    .boxed()
}

fn near() -> impl Strategy<Value = Lie> {
    let places = (0..40_u64, 1..7_000_u64, 0..7_000_u64, 0..200_u64, 0..200_u64);
    let kind = prop_oneof![30 => 1..6_u16, 1 => any::<u16>()];
    let flags = prop_oneof![10 => Just(0), 10 => Just(1), 4 => Just(3), 1 => any::<u16>()];
    let blobs = prop_oneof![8 => Just(0), 2 => 1..3_u32, 1 => any::<u32>()];
    let parts = prop_oneof![8 => Just(0), 4 => 1..4_u32, 1 => 0..70_u32];
    let small = (kind, flags, blobs, 0..4_u64, parts, prop_oneof![Just(0), 0..40_u32]);
    let turns = (prop::bool::weighted(0.8), prop::bool::weighted(0.8));
    (small, places, turns, prop::option::weighted(0.1, number())).prop_map(
        |((kind, flags, blobs, call, parts, meta_len), (at, document_len, more, parts_at, meta_at), turns, odd)| {
            let (name_room, ring) = turns;
            let payload_len = if blobs == 0 { document_len } else { document_len + more };
            let raw = RawCompletion {
                kind,
                flags,
                blobs,
                call,
                document_offset: odd.unwrap_or(at * 64),
                document_len,
                payload_len,
                parts_offset: parts_at * 8,
                parts,
                meta_len,
                meta_offset: meta_at,
                elapsed_ns: 1,
                ..RawCompletion::default()
            };
            Lie::Near { raw, name_room, ring }
        },
    )
}

fn lie() -> impl Strategy<Value = Lie> {
    let any_words = || proptest::array::uniform16(number());
    let part = (0..3_u8, 0..80_000_u64, 0..9_000_u64).prop_map(|(region, offset, len)| {
        let mut bytes = [0; 48];
        for half in [0, 24] {
            bytes[half] = region;
            bytes[half + 8..half + 16].copy_from_slice(&offset.to_le_bytes());
            bytes[half + 16..half + 24].copy_from_slice(&len.to_le_bytes());
        }
        bytes
    });
    prop_oneof![
        1 => any_words().prop_map(Lie::Words).boxed(),
        1 => any_words().prop_map(Lie::InSequence).boxed(),
        20 => near().boxed(),
        2 => (any::<u16>(), part).prop_map(|(at, bytes)| Lie::Bytes(at / 8 * 8, bytes)),
        1 => number().prop_map(|count| Lie::Ring(count.min(u64::MAX - 1))),
    ]
}

#[test]
fn only_violations_and_valid_ranges_come_out() {
    let cases = match () {
        () if cfg!(miri) => 3,
        () if cfg!(debug_assertions) => 2_000,
        () => 20_000,
    };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let (mut completions, mut violations) = (0, std::collections::BTreeMap::new());
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let counted = std::cell::RefCell::new((&mut completions, &mut violations));
    let result = runner.run(&proptest::collection::vec(lie(), 1..if cfg!(miri) { 4 } else { 24 }), |lies| {
        let outcome = run(&lies);
        let mut counted = counted.borrow_mut();
        *counted.0 += outcome.completions;
        if let Some(violation) = outcome.violation {
            let debug = format!("{violation:?}");
            let name = debug.split([' ', '(']).next().unwrap_or_default().to_owned();
            *counted.1.entry(name).or_insert(0_u64) += 1;
        }
        Ok(())
    });
    result.expect("no lie gets through");
    use std::io::Write;
    let _ = writeln!(
        std::io::stderr(),
        "asya-ring: peer words: {cases} lying workers, {completions} entries let through, violations {violations:?}"
    );
    if !cfg!(miri) {
        assert!(completions > u64::from(cases) / 2, "lies come near enough to the truth");
        assert!(violations.len() >= 8, "most checks are met: {violations:?}");
    }
}
