//! What actors and handlers may be called.
//!
//! Takes text; gives it back when it may stand. Blocks on nothing. On failure: a problem that says how to write it.

use crate::reader::Reader;
use crate::yaml::Node;

/// Kubernetes' bound on a label, and so on an actor's name.
const LABEL_MAX: usize = 63;
/// Endings that queues of the system have.
const RESERVED_ENDINGS: [&str; 2] = ["-dlq", "-delay"];

/// Says why a name cannot be an actor's.
pub fn check_actor(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("it is empty".to_owned());
    }
    if name.len() > LABEL_MAX {
        return Err(format!("it has {} characters, and at most {LABEL_MAX} are allowed", name.len()));
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err("only a-z, 0-9 and - are allowed".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err("it must begin and end with a letter or a digit".to_owned());
    }
    match RESERVED_ENDINGS.iter().find(|ending| name.ends_with(**ending)) {
        Some(ending) => Err(format!("names that end in {ending} are reserved for queues of the system")),
        None => Ok(()),
    }
}

/// Says why text cannot name a handler.
pub fn check_handler(text: &str) -> Result<(), String> {
    if let Some((file, function)) = text.split_once(':') {
        let named = function.split('.').all(is_identifier);
        return match (file.ends_with(".py"), named) {
            (true, true) => Ok(()),
            (true, false) => Err(format!("after the colon comes a function or Class.method: {file}:FUNCTION")),
            (false, _) => Err(format!(
                "write it with dots, {}.{function}, or name a file: {file}.py:{function}",
                file.replace("/", ".")
            )),
        };
    }
    if let Some(module) = text.strip_suffix(".py") {
        return Err(format!("name a function in the file: {}.FUNCTION", module.replace('/', ".")));
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.iter().all(|part| is_identifier(part)) {
        return if parts.len() >= 2 {
            Ok(())
        } else {
            Err(format!("a handler names its module too: {text}.FUNCTION or MODULE.{text}"))
        };
    }
    if let Some(call) = text.strip_suffix("()") {
        return Err(format!("name it without calling it: {call}"));
    }
    Err("a handler is module.function, module.Class.method or file.py:function".to_owned())
}

fn is_identifier(part: &str) -> bool {
    let mut chars = part.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.all(|c| c.is_alphanumeric() || c == '_')
}

/// Reads an actor's name.
pub(crate) fn actor(reader: &mut Reader, node: &Node, path: &str) -> Option<String> {
    let name = reader.text(node, path)?;
    if let Err(why) = check_actor(&name) {
        let help = Some(suggestion(&name)).filter(|s| check_actor(s).is_ok()).map(|s| format!("such as {s}"));
        reader.wrong(node.mark, format!("{path} cannot be \"{name}\": {why}"), help);
        return None;
    }
    Some(name)
}

/// The nearest name that may stand.
fn suggestion(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    plain.trim_matches('-').chars().take(LABEL_MAX).collect()
}

/// Reads a handler.
pub(crate) fn handler(reader: &mut Reader, node: &Node, path: &str) -> Option<String> {
    let text = reader.text(node, path)?;
    if let Err(why) = check_handler(&text) {
        reader.wrong(node.mark, format!("{path} cannot be \"{text}\""), why);
        return None;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_are_dns_labels_outside_the_reserved_endings() {
        for good in ["a", "text-infer", "x-sink", "a1", "1a"] {
            assert_eq!(check_actor(good), Ok(()), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a.b", "work-dlq", "work-delay", &"a".repeat(64)] {
            assert!(check_actor(bad).is_err(), "{bad}");
        }
        assert_eq!(suggestion("Text_Infer"), "text-infer");
    }

    #[test]
    fn handlers_are_dotted_names() {
        for good in ["m.f", "pkg.mod.Class.method", "_m._f", "größe.f", "src/work.py:run", "work.py:Work.run"] {
            assert_eq!(check_handler(good), Ok(()), "{good}");
        }
        let why = |text: &str| check_handler(text).unwrap_err();
        assert_eq!(why("work:run"), "write it with dots, work.run, or name a file: work.py:run");
        assert!(why("work.py:").contains("work.py:FUNCTION"));
        assert_eq!(why("work.py"), "name a function in the file: work.FUNCTION");
        assert!(why("run").contains("MODULE.run"));
        assert!(why("m.f()").contains("m.f"));
        assert!(why("m..f").contains("module.function"));
        assert!(why("1m.f").contains("module.function"));
    }
}
