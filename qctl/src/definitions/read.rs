//! Reading definitions.

use std::collections::BTreeMap;

use qd_protocol::attributes::{
    DeadLetter, OVERFLOW_DROP_OLDEST, SOURCE_NAME_CHARACTERS_MAX, SPECS,
};
use qd_protocol::{AttributeChanges, Attributes, QueueName};

use super::{Defined, Definitions, VERSION, value};
use crate::document::{Document, Entry, Node, Value};
use crate::suggest::did_you_mean;

/// What a file may have.
const SECTIONS: [&str; 2] = ["version", "queues"];
/// What files of later versions will have.
const LATER: [&str; 2] = ["users", "grants"];

/// Reads a file, or all that is wrong with it: a line each, with its place.
pub fn read(document: Document) -> Result<Definitions, Vec<String>> {
    let mut file = File { document: &document, mistakes: Vec::new() };
    let (queues, has_queues) = file.sections();
    let mistakes = file.mistakes;
    if mistakes.is_empty() {
        Ok(Definitions { document, queues, has_queues })
    } else {
        Err(mistakes)
    }
}

struct File<'a> {
    document: &'a Document,
    mistakes: Vec<String>,
}

impl<'a> File<'a> {
    fn wrong(&mut self, at: usize, what: impl std::fmt::Display) {
        self.mistakes.push(format!("{}: {what}", self.document.place(at)));
    }

    fn sections(&mut self) -> (BTreeMap<QueueName, Defined>, bool) {
        let mut queues = None;
        let Some(entries) = self.table(&self.document.root, "a file of definitions") else {
            return Default::default();
        };
        if !entries.iter().any(|entry| entry.name == "version") {
            self.wrong(0, format!("the version is missing: version = {VERSION} in TOML, \"version\": {VERSION} in JSON"));
        }
        for entry in entries {
            match entry.name.as_str() {
                "version" => self.version(&entry.node),
                "queues" => queues = Some(self.queues(&entry.node)),
                later if LATER.contains(&later) => {
                    self.wrong(entry.at, format!("{later} are not known to this version of qctl"));
                }
                other => {
                    let meant = did_you_mean(other, SECTIONS);
                    self.wrong(entry.at, format!("unknown section {other:?}{meant}"));
                }
            }
        }
        let has_queues = queues.is_some();
        (queues.unwrap_or_default(), has_queues)
    }

    fn version(&mut self, node: &Node) {
        if node.value != Value::Number(VERSION) {
            let text = format!("this qctl reads version {VERSION}, not {}", node.value.shown());
            self.wrong(node.at, text);
        }
    }

    fn queues(&mut self, node: &'a Node) -> BTreeMap<QueueName, Defined> {
        let mut queues = BTreeMap::new();
        for entry in self.table(node, "queues").unwrap_or_default() {
            match QueueName::new(entry.name.clone()) {
                Ok(name) => {
                    if let Some(attributes) = self.queue(&name, entry) {
                        queues.insert(name, Defined { at: entry.at, attributes });
                    }
                }
                Err(error) => self.wrong(entry.at, error),
            }
        }
        queues
    }

    fn queue(&mut self, name: &QueueName, entry: &'a Entry) -> Option<Attributes> {
        let mut changes = AttributeChanges::default();
        for Entry { at, name: key, node } in self.table(&entry.node, "a queue")? {
            let Some(spec) = SPECS.iter().find(|spec| spec.name == key) else {
                let meant = did_you_mean(key, SPECS.iter().map(|spec| spec.name));
                self.wrong(
                    *at,
                    format!("queue \"{name}\" has the unknown attribute {key:?}{meant}"),
                );
                continue;
            };
            match value::read(spec, node, name) {
                // The value is of the attribute's type: it was read as that.
                Ok(value) => _ = changes.set(spec.tag, value),
                Err(error) => self.wrong(node.at, format!("queue \"{name}\": {error}")),
            }
        }
        let attributes = Attributes::default().changed(&changes);
        if let Some(conflict) = conflict(name, &attributes) {
            self.wrong(entry.at, format!("queue \"{name}\": {conflict}"));
        }
        Some(attributes)
    }

    /// The entries of what must be a table.
    fn table(&mut self, node: &'a Node, what: &str) -> Option<&'a [Entry]> {
        let Value::Table(entries) = &node.value else {
            self.wrong(node.at, format!("{what} must be a table, not {}", node.value.shown()));
            return None;
        };
        Some(entries)
    }
}

/// What the server refuses of attributes together.
fn conflict(name: &QueueName, attributes: &Attributes) -> Option<String> {
    let characters = name.as_str().len();
    let is_none = attributes.dead_letter == DeadLetter::None;
    let against_none = |flag: &str| Some(format!("{flag} contradicts dead-letter \"none\""));
    match attributes {
        Attributes { dead_letter: DeadLetter::Default, .. }
            if characters > SOURCE_NAME_CHARACTERS_MAX =>
        {
            Some(format!(
                "the name has {characters} characters: at most {SOURCE_NAME_CHARACTERS_MAX} where \
                 the dead-letter queue is QUEUE.dead; give another dead-letter, or \"none\""
            ))
        }
        Attributes { ordered: true, overflow: OVERFLOW_DROP_OLDEST, .. } => {
            Some("ordered contradicts overflow \"drop-oldest\"".to_owned())
        }
        Attributes { dead_letter_expired: true, .. } if is_none => {
            against_none("dead-letter-expired")
        }
        Attributes { dead_letter_overflow: true, .. } if is_none => {
            against_none("dead-letter-overflow")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Form;

    fn mistakes(text: &str) -> Vec<String> {
        let form = Form::of(text.as_bytes());
        let document = Document::parse("f".to_owned(), text.as_bytes().to_vec(), form).unwrap();
        read(document).map(|read| read.queues.len()).unwrap_err()
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        let text = "version = 2\nuser = 1\nusers = []\n[queues.jobs]\nmax-mesages = 5\n\
                    delay = 5\noverflow = \"drop-oldst\"\n[queues.\"a/b\"]\n[queues]\nc = 7\n\
                    d = { max-messages = 0, max-bytes = true, retry-delay = [\"1s\", \"x\"] }\n";
        assert_eq!(
            mistakes(text),
            [
                "f:1:11: this qctl reads version 1, not 2",
                "f:2:1: unknown section \"user\"",
                "f:3:1: users are not known to this version of qctl",
                "f:5:1: queue \"jobs\" has the unknown attribute \"max-mesages\"; did you mean \"max-messages\"?",
                "f:6:9: queue \"jobs\": delay: 5 needs a unit: \"500ms\", \"30s\", \"5m\", \"12h\" or \"14d\"",
                "f:7:12: queue \"jobs\": overflow: expected reject or drop-oldest, not \"drop-oldst\"; did you mean \"drop-oldest\"?",
                "f:8:9: queue name \"a/b\" has '/' at position 2; allowed are A-Z a-z 0-9 . _ -, and . and - not first",
                "f:10:5: a queue must be a table, not 7",
                "f:11:22: queue \"d\": max-messages must be 1 to 9223372036854775808, or unlimited",
                "f:11:37: queue \"d\": max-bytes: expected a size like \"64KiB\", or a number of bytes, not true",
                "f:11:57: queue \"d\": retry-delay: expected a number first",
            ]
        );
        assert_eq!(
            mistakes("{\"queues\": []}"),
            [
                "f:1:1: the version is missing: version = 1 in TOML, \"version\": 1 in JSON",
                "f:1:12: queues must be a table, not a list"
            ]
        );
    }

    #[test]
    fn attributes_that_contradict_each_other_are_told() {
        let long = "x".repeat(121);
        for (queue, fields, what) in [
            ("a", "ordered = true\noverflow = \"drop-oldest\"", "ordered contradicts"),
            (
                "a",
                "dead-letter = \"none\"\ndead-letter-expired = true",
                "dead-letter-expired contr",
            ),
            (
                "a",
                "dead-letter = \"none\"\ndead-letter-overflow = true",
                "dead-letter-overflow con",
            ),
            (long.as_str(), "", "the name has 121 characters"),
        ] {
            let found = mistakes(&format!("version = 1\n[queues.{queue}]\n{fields}\n"));
            let expected = format!("f:2:9: queue \"{queue}\": {what}");
            assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
        }
    }
}
