//! The suite that every transport passes, with the disk waited for.

use crate::harness::EmbeddedHarness;

asya_transport::conformance_suite!(EmbeddedHarness::new());
