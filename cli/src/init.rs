//! `asya init NAME`: writes a working actor and says what to do with it.
//!
//! Takes a name and a folder; gives two files. Blocks on writing them. On failure: nothing is overwritten.

use crate::args::Init;
use crate::error::Error;
use crate::out;
use std::fs::{self, File};
use std::io::Write;

/// Writes the files.
pub fn init(args: &Init) -> Result<(), Error> {
    let name = &args.name;
    asya_manifest::names::check_actor(name)
        .map_err(|why| Error::Usage(format!("an actor cannot be called {name:?}: {why}")))?;
    let module = name.replace('-', "_");
    // A module's name cannot begin with a digit, an actor's can.
    let module = if module.starts_with(|c: char| c.is_ascii_digit()) { format!("a{module}") } else { module };
    let handler = format!(
        "\"\"\"The handler of the actor {name}: a plain function. What it returns goes to the next actor of the route.\"\"\"\n\n\n\
         def process(payload: dict) -> dict:\n    \
             name = payload.get(\"name\", \"world\")\n    \
             return {{**payload, \"greeting\": f\"Hello, {{name}}!\"}}\n"
    );
    let manifest = format!(
        "apiVersion: asya.sh/v1alpha1\n\
         kind: AsyncActor\n\
         metadata:\n  name: {name}\n\
         spec:\n  \
           actor: {name}\n  \
           handler: {module}.process\n  \
           timeout: 30s\n"
    );
    fs::create_dir_all(&args.dir).map_err(Error::file(&args.dir))?;
    let files = [(args.dir.join(format!("{module}.py")), handler), (args.dir.join(format!("{name}.yaml")), manifest)];
    if let Some((path, _)) = files.iter().find(|(path, _)| path.exists()) {
        return Err(Error::Usage(format!("{} is already there; nothing was written", path.display())));
    }
    for (path, text) in &files {
        let write = || File::create_new(path)?.write_all(text.as_bytes());
        write().map_err(Error::file(path))?;
        out::line(&format!("wrote {}", path.display()))?;
    }
    let manifest = args.dir.join(format!("{name}.yaml"));
    let manifest = manifest.strip_prefix(".").unwrap_or(&manifest).display();
    out::line(&format!(
        "\nNow run it:\n  asya run {manifest}\nand in another terminal send it a message:\n  \
         asya send {name} '{{\"name\": \"Ada\"}}' --wait"
    ))
}
