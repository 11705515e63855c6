//! What people read about the table is made from the table.

use super::super::{TABLE, help, markdown};

#[test]
fn help_lists_every_variable() {
    let help = help();
    for var in TABLE {
        assert!(help.contains(&format!("\n  {}  [", var.name)), "{}", var.name);
        assert!(var.older.iter().all(|older| help.contains(older)), "{}", var.name);
        assert!(var.doc.ends_with('.'), "{}: a sentence ends with a full stop", var.name);
    }
    assert!(!help.contains('`'), "a terminal shows no Markdown");
}

#[test]
fn the_page_is_generated_from_the_table() {
    check_generated("CONFIG.md", &markdown());
}

/// Checks that the generated part of a page of `docs/` is `expected`; with `UPDATE_DOCS=1` writes it first.
pub(crate) fn check_generated(page: &str, expected: &str) {
    const BEGIN: &str = "<!-- generated: begin -->\n";
    const END: &str = "<!-- generated: end -->\n";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (generated, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}\n{expected}\n{END}{after}")).unwrap();
        return;
    }
    let is_same = generated.trim() == expected.trim();
    assert!(is_same, "docs/{page} is out of date: run the tests once with UPDATE_DOCS=1");
}
