//! Packs the Python runtime into the one file that `asya run` hands to `python3`.
//!
//! Takes `runtime/asya`; gives `runtime.pyz` in the build folder: a zip archive with a `__main__.py`, as the `zipapp`
//! module of Python makes it, with the contents that `runtime/build.py` gives it. Packed here, and not by Python, so
//! that a build needs none. On failure the build stops.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// What `python3 runtime.pyz` runs.
const MAIN: &str = "import sys\n\nfrom asya.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../runtime");
    println!("cargo::rerun-if-changed={}", root.join("asya").display());
    let mut sources = Vec::new();
    collect(&root.join("asya"), &mut sources)?;
    sources.sort();
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("runtime.pyz");
    let mut archive = ZipWriter::new(File::create(out)?);
    // Always the same time, so that the same sources give the same file.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644);
    archive.start_file("__main__.py", options)?;
    archive.write_all(MAIN.as_bytes())?;
    for path in sources {
        archive.start_file(path.strip_prefix(&root)?.to_string_lossy(), options)?;
        archive.write_all(&fs::read(&path)?)?;
    }
    archive.finish()?;
    Ok(())
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|e| e == "py" || e == "typed") {
            sources.push(path);
        }
    }
    Ok(())
}
