//! `AsyncActor` manifests: the one thing that a platform engineer writes, read by the operator, by `asya run` and by
//! the generator of the CRD.
//!
//! [`load()`] reads files and directories and reports every mistake of every file at once, each with its place, what was
//! probably meant and what is allowed. [`env`](mod@env) says which variables an actor's two processes get, and
//! [`memory`] how much memory they may need. Nothing here knows a cluster or a broker.

pub mod actor;
pub mod env;
mod flat;
pub mod load;
pub mod memory;
pub mod names;
mod nested;
pub mod problem;
mod reader;
pub mod units;
pub mod yaml;

pub use actor::{ActorSpec, AsyncActor};
pub use load::{Found, load, load_text};
pub use problem::{Problem, Problems};
