//! Where the text of variables comes from: the environment, or a map in tests.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Somewhere that variables can be read from.
pub trait Source {
    /// The value of one variable.
    fn get(&self, name: &str) -> Option<OsString>;

    /// The names of all variables; what is not UTF-8 is left out.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Environment;

impl Source for Environment {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Source for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<OsString> {
        BTreeMap::get(self, name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}
