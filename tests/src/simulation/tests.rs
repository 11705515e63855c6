//! A seed alone decides what happens.

use super::run::run;

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in 1..=12 {
        let (first, second) = (run(seed, true), run(seed, true));
        assert!(first.violations.is_empty(), "{:?}", first.violations);
        assert!(first.messages > 0 && first.story.len() > 100);
        assert_eq!(first.story, second.story, "seed {seed}");
    }
}

#[test]
fn keeping_the_story_changes_nothing() {
    for seed in 1..=12 {
        let (told, untold) = (run(seed, true), run(seed, false));
        assert!(untold.story.is_empty());
        assert_eq!((told.messages, told.faults, told.states), (untold.messages, untold.faults, untold.states));
    }
}
