//! What was probably meant.

/// The name nearest to `typed`, when one is near enough to be meant: at most two slips, or one in five characters.
pub(super) fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips_max = (typed.len() / 5).max(2);
    names
        .map(|name| (strsim::damerau_levenshtein(typed, name), name))
        .filter(|(slips, name)| *slips <= slips_max && *slips < name.len())
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}
