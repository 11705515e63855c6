//! Which Python runs the handlers.
//!
//! Takes what the user said and where the manifest lies; gives an interpreter that starts and is new enough. Blocks on
//! starting it once. On failure: which one was tried, why it is unfit, and how to name another.

use crate::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest Python that the runtime works on.
const OLDEST: (u32, u32) = (3, 9);

/// Chooses: `--python`, else `$VIRTUAL_ENV`, else `.venv` beside the manifest, else `python3`.
pub fn choose(asked: Option<&Path>, virtual_env: Option<&Path>, folder: &Path) -> Result<PathBuf, Error> {
    let (python, reason) = candidate(asked, virtual_env, folder);
    let version = version(&python).map_err(|why| {
        let help = "name another with --python, or make one: python3 -m venv .venv";
        Error::Usage(format!("{} ({reason}) does not work: {why}\n  = {help}", python.display()))
    })?;
    if version < OLDEST {
        let (major, minor) = version;
        return Err(Error::Usage(format!(
            "{} ({reason}) is Python {major}.{minor}, and handlers need {}.{} or newer\n  = name another with --python",
            python.display(),
            OLDEST.0,
            OLDEST.1
        )));
    }
    Ok(python)
}

fn candidate(asked: Option<&Path>, virtual_env: Option<&Path>, folder: &Path) -> (PathBuf, &'static str) {
    if let Some(asked) = asked {
        return (asked.to_owned(), "from --python");
    }
    if let Some(env) = virtual_env {
        return (env.join("bin/python"), "from $VIRTUAL_ENV");
    }
    let beside = folder.join(".venv/bin/python");
    if beside.exists() { (beside, "beside the manifest") } else { (PathBuf::from("python3"), "on the path") }
}

fn version(python: &Path) -> Result<(u32, u32), String> {
    let output = Command::new(python)
        .args(["-c", "import sys; print(*sys.version_info[:2])"])
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_whitespace().map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(format!("it ended with {} and did not tell its version", output.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn fake(path: &Path, prints: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/bin/sh\necho {prints}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_nearest_wish_wins() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(candidate(None, None, folder.path()).0, Path::new("python3"));
        fake(&at(".venv/bin/python"), "3 12");
        assert_eq!(candidate(None, None, folder.path()).0, at(".venv/bin/python"));
        assert_eq!(candidate(None, Some(&at("env")), folder.path()).0, at("env/bin/python"));
        assert_eq!(candidate(Some(&at("mine")), Some(&at("env")), folder.path()).0, at("mine"));
        assert_eq!(choose(None, None, folder.path()).unwrap(), at(".venv/bin/python"));
    }

    #[test]
    fn an_unfit_one_is_named_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old");
        fake(&old, "3 8");
        let why = choose(Some(&old), None, folder.path()).unwrap_err().to_string();
        assert!(why.contains("is Python 3.8") && why.contains("3.9 or newer"), "{why}");
        let absent = folder.path().join("absent");
        let why = choose(Some(&absent), None, folder.path()).unwrap_err().to_string();
        assert!(why.contains("from --python") && why.contains("No such file"), "{why}");
    }
}
