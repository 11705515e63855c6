//! The suite against doubles: it passes a transport that keeps every promise, and catches each that breaks one.

use super::doubles::{FAULTS, Simulated};
use super::{Verdict, cases};

#[test]
fn the_reference_passes_every_case() {
    for case in cases::<Simulated>() {
        let verdict = (case.run)(&mut Simulated::new(None));
        assert_eq!(verdict, Ok(Verdict::Passed), "{}", case.name);
    }
}

#[test]
fn every_fault_is_caught_and_every_case_catches_one() {
    let mut idle: Vec<&str> = cases::<Simulated>().iter().map(|case| case.name).collect();
    let mut uncaught = Vec::new();
    for fault in FAULTS {
        let caught: Vec<_> = cases::<Simulated>()
            .into_iter()
            .filter(|case| (case.run)(&mut Simulated::new(Some(*fault))).is_err())
            .map(|case| case.name)
            .collect();
        println!("{fault:?}: {}", caught.join(", "));
        idle.retain(|name| !caught.contains(name));
        if caught.is_empty() {
            uncaught.push(fault);
        }
    }
    assert!(uncaught.is_empty(), "no case catches {uncaught:?}");
    assert!(idle.is_empty(), "never seen to fail: {idle:?}");
}
