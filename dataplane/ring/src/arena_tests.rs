//! The arena against an oracle that knows one thing: which pages are taken.

use proptest::prelude::*;

use super::*;

const SPACE: Extent = Extent { offset: 8 * PAGE, len: 300 * PAGE };

#[derive(Clone, Copy, Debug)]
enum Operation {
    Alloc {
        len: u64,
    },
    /// Frees the n-th of what is allocated, modulo its number.
    Free {
        n: usize,
    },
    /// Frees something that is not allocated like that.
    FreeWrong {
        offset: u64,
        len: u64,
    },
    Punch,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        6 => prop_oneof![0..=PAGE, PAGE..20 * PAGE, 20 * PAGE..320 * PAGE].prop_map(|len| Operation::Alloc { len }),
        5 => any::<usize>().prop_map(|n| Operation::Free { n }),
        1 => (0..400 * PAGE, 0..40 * PAGE).prop_map(|(offset, len)| Operation::FreeWrong { offset, len }),
        2 => Just(Operation::Punch),
    ];
    proptest::collection::vec(operation, 1..300)
}

fn configs() -> impl Strategy<Value = ArenaConfig> {
    (1..3 * PAGE, 0..200_u32, 1..400 * PAGE, 0..100 * PAGE).prop_map(
        |(small_bytes, small_slots, budget_bytes, warm_bytes)| ArenaConfig {
            space: SPACE,
            small_bytes,
            small_slots,
            budget_bytes,
            warm_bytes,
        },
    )
}

/// What a page is, as the oracle sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    /// Never touched, or punched.
    Cold,
    Warm,
    Taken,
}

fn run(config: ArenaConfig, operations: &[Operation]) {
    let mut arena = Arena::new(config);
    let mut pages = vec![Page::Cold; 400];
    let mut live: Vec<Extent> = Vec::new();
    let pages_of = |extent: Extent| (extent.offset / PAGE) as usize..((extent.offset + extent.len) / PAGE) as usize;
    let small = arena.small_slots();
    let mut last_freed_slot = None;
    for &operation in operations {
        match operation {
            Operation::Alloc { len } => {
                let used = arena.used_bytes();
                match arena.alloc(len) {
                    Some(extent) => {
                        assert!(extent.len >= len && extent.offset.is_multiple_of(PAGE) && SPACE.contains(extent));
                        assert!(pages[pages_of(extent)].iter().all(|&page| page != Page::Taken), "overlap");
                        assert!(used + extent.len <= config.budget_bytes);
                        assert!(arena.fits_ever(len));
                        if small.contains(extent) {
                            // Last in, first out.
                            assert!(last_freed_slot.is_none_or(|slot| slot == extent));
                            last_freed_slot = None;
                        }
                        pages[pages_of(extent)].fill(Page::Taken);
                        live.push(extent);
                    }
                    None => {
                        // Refused only for a reason: the budget, or no run of free pages outside the small slots.
                        let need = (len.max(1)).next_multiple_of(PAGE);
                        let from = (small.end().expect("inside") / PAGE) as usize;
                        let to = (SPACE.end().expect("inside") / PAGE) as usize;
                        let longest = pages[from..to].split(|&page| page == Page::Taken).map(<[_]>::len).max();
                        let no_run = longest.unwrap_or(0) < (need / PAGE) as usize;
                        assert!(used + need > config.budget_bytes || no_run, "refused without a reason");
                    }
                }
            }
            Operation::Free { n } if !live.is_empty() => {
                let extent = live.swap_remove(n % live.len());
                arena.free(extent).expect("is allocated");
                pages[pages_of(extent)].fill(Page::Warm);
                if small.contains(extent) {
                    last_freed_slot = Some(extent);
                }
                arena.free(extent).expect_err("a second free is detected");
            }
            Operation::Free { .. } => {}
            Operation::FreeWrong { offset, len } => {
                let extent = Extent { offset, len };
                if !live.contains(&extent) {
                    arena.free(extent).expect_err("is not allocated");
                }
            }
            Operation::Punch => {
                while let Some(hole) = arena.next_punch() {
                    assert!(!small.contains(hole), "small slots stay warm");
                    let hole = &mut pages[pages_of(hole)];
                    assert!(hole.iter().all(|&page| page == Page::Warm), "only what is free and warm is punched");
                    hole.fill(Page::Cold);
                }
                assert!(arena.warm_bytes() <= config.warm_bytes);
            }
        }
        arena.check();
        let live_bytes: u64 = live.iter().map(|extent| extent.len).sum();
        assert_eq!(arena.used_bytes(), live_bytes);
        let outside = (small.end().expect("inside") / PAGE) as usize;
        let warm = pages[outside..].iter().filter(|&&page| page == Page::Warm).count() as u64 * PAGE;
        assert_eq!(arena.warm_bytes(), warm, "the arena knows what is warm");
    }
    for extent in live {
        arena.free(extent).expect("is allocated");
    }
    arena.check();
    assert_eq!(arena.used_bytes(), 0);
    // All in one piece again.
    let rest = arena.runs.len.min(config.budget_bytes) / PAGE * PAGE;
    if rest > arena.small.slot_bytes {
        assert_eq!(arena.alloc(rest).map(|extent| extent.len), Some(rest));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "safe code, and slow there")]
    fn agrees_with_the_oracle(config in configs(), operations in operations()) {
        run(config, &operations);
    }
}

fn arena(space_bytes: u64, budget_bytes: u64, warm_bytes: u64) -> Arena {
    let space = Extent { offset: PAGE, len: space_bytes };
    Arena::new(ArenaConfig { space, small_bytes: PAGE, small_slots: 16, budget_bytes, warm_bytes })
}

#[test]
fn a_very_large_request_succeeds_after_fragmentation() {
    const MIB: u64 = 1 << 20;
    let mut arena = arena(1024 * MIB, 512 * MIB, 64 * MIB);
    // A thousand pieces of many sizes, every second one freed: nothing but holes below.
    let mut kept = Vec::new();
    for i in 0..1000_u64 {
        let piece = arena.alloc(5_000 + i * 397 % 200_000).expect("room");
        if i % 2 == 0 {
            kept.push(piece);
        } else {
            arena.free(piece).expect("allocated");
        }
    }
    // In sparse space it fits although half of the pieces live on ...
    let large = arena.alloc(400 * MIB).expect("space beside the holes");
    arena.free(large).expect("allocated");
    // ... and where the space is the budget, once they are gone.
    for piece in kept {
        arena.free(piece).expect("allocated");
    }
    assert!(arena.alloc(512 * MIB).is_some());
    arena.check();
}

#[test]
fn warm_memory_is_preferred_and_the_rest_is_given_back_from_the_top() {
    let mut arena = arena(1000 * PAGE, 1000 * PAGE, 10 * PAGE);
    let a = arena.alloc(8 * PAGE).expect("room");
    let b = arena.alloc(8 * PAGE).expect("room");
    arena.free(a).expect("allocated");
    assert_eq!(arena.next_punch(), None, "within what may stay warm");
    assert_eq!(arena.alloc(7 * PAGE).map(|extent| extent.offset), Some(a.offset), "warm before cold");
    arena.free(Extent { offset: a.offset, len: 7 * PAGE }).expect("allocated");
    arena.free(b).expect("allocated");
    assert_eq!(arena.next_punch(), Some(Extent { offset: b.offset + 2 * PAGE, len: 6 * PAGE }));
    assert_eq!(arena.next_punch(), None);
    assert_eq!(arena.warm_bytes(), 10 * PAGE);
}

#[test]
fn odd_shapes_are_taken_as_far_as_they_go() {
    let empty = ArenaConfig {
        space: Extent { offset: 0, len: 0 },
        small_bytes: 0,
        small_slots: 9,
        budget_bytes: u64::MAX,
        warm_bytes: 0,
    };
    assert_eq!(Arena::new(empty).alloc(0), None);
    assert!(!Arena::new(empty).fits_ever(0));
    let huge = ArenaConfig { space: Extent { offset: 1, len: u64::MAX }, ..empty };
    let mut arena = Arena::new(huge);
    assert_eq!(arena.alloc(u64::MAX), None);
    assert!(arena.alloc(1 << 50).is_some());
    arena.check();
}
