//! The table as text: for `--help` and for `docs/CONFIG.md`.

use std::fmt::Write;

use super::value;
use super::vars::{Absent, Section, TABLE, Var};

/// All variables with defaults, for a terminal.
pub fn help() -> String {
    let mut out = String::new();
    for (section, vars) in sections() {
        let _ = writeln!(out, "{}:", section.title());
        for var in vars {
            let _ = writeln!(out, "  {}  [{}]", var.name, default(var).replace('`', ""));
            let _ = writeln!(out, "      {}", var.doc.replace('`', ""));
            if !var.older.is_empty() {
                let _ = writeln!(out, "      Older name: {}", var.older.join(", "));
            }
        }
        out.push('\n');
    }
    out
}

/// All variables as Markdown tables, one a section.
pub fn markdown() -> String {
    let mut out = String::new();
    for (section, vars) in sections() {
        let _ = writeln!(out, "### {}\n", section.title());
        let _ = writeln!(out, "| variable | default | values | what it does |\n| --- | --- | --- | --- |");
        for var in vars {
            let older = match var.older {
                [] => String::new(),
                names => format!("<br>older: `{}`", names.join("`, `")),
            };
            let default = match var.default {
                Absent::Value(text) => format!("`{text}`"),
                _ => default(var),
            };
            let values = match var.kind {
                super::vars::Kind::Unused(why) => format!("no effect: {why}"),
                kind => value::allowed(kind),
            };
            let _ = writeln!(out, "| `{}`{older} | {default} | {values} | {} |", var.name, var.doc);
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn default(var: &Var) -> String {
    match var.default {
        Absent::Required => "required".to_owned(),
        Absent::Value(text) => text.to_owned(),
        Absent::Means(meaning) => format!("unset: {meaning}"),
    }
}

fn sections() -> impl Iterator<Item = (Section, impl Iterator<Item = &'static Var>)> {
    Section::ALL.iter().map(|&section| (section, TABLE.iter().copied().filter(move |var| var.section == section)))
}
