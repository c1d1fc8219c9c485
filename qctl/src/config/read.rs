//! Reading the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ValueEnum;
use qd_protocol::Address;

use super::{Config, Context, DEFAULT, check_name};
use crate::args::Format;
use crate::document::{Document, Entry, Form, Node, Value};
use crate::suggest::did_you_mean;
use crate::units;

/// Keys of the file, and of a context.
const KEYS: [&str; 2] = ["current", "contexts"];
const CONTEXT_KEYS: [&str; 3] = ["server", "timeout", "output"];
/// Keys of a context in later versions.
const LATER: [&str; 2] = ["user", "password_command"];

/// The content of the file at `path`, or what is wrong with it.
pub fn read(path: PathBuf, bytes: Vec<u8>) -> Result<Config, String> {
    let document = Document::parse(path.display().to_string(), bytes, Form::Toml)?;
    let mut config =
        Config { path, text: document.text().to_owned(), current: None, contexts: BTreeMap::new() };
    let file = File(&document);
    let mut current = None;
    for entry in file.table(&document.root, "the file")? {
        match entry.name.as_str() {
            "current" => current = Some((entry, file.text(&entry.node, "the name of a context")?)),
            "contexts" => {
                for entry in file.table(&entry.node, "contexts")? {
                    let context = file.context(entry)?;
                    config.contexts.insert(entry.name.clone(), context);
                }
            }
            other => return Err(file.unknown(entry.at, "key", other, KEYS)),
        }
    }
    if let Some((entry, name)) = current
        && name != DEFAULT
    {
        config.find(name).map_err(|error| file.wrong(entry.node.at, error))?;
        config.current = Some(name.to_owned());
    }
    Ok(config)
}

struct File<'a>(&'a Document);

impl<'a> File<'a> {
    fn wrong(&self, at: usize, what: impl std::fmt::Display) -> String {
        format!("{}: {what}", self.0.place(at))
    }

    fn unknown<const N: usize>(
        &self,
        at: usize,
        what: &str,
        name: &str,
        known: [&str; N],
    ) -> String {
        let (meant, list) = (did_you_mean(name, known), known.join(", "));
        self.wrong(at, format!("unknown {what} {name:?}{meant} (there are {list})"))
    }

    fn context(&self, entry: &'a Entry) -> Result<Context, String> {
        check_name(&entry.name).map_err(|error| self.wrong(entry.at, error))?;
        let mut context = Context::default();
        for Entry { at, name, node } in self.table(&entry.node, "a context")? {
            match name.as_str() {
                "server" => context.server = self.servers(node)?,
                "timeout" => {
                    let text = self.text(node, "a duration like \"30s\"")?;
                    let ms = units::duration_ms(text);
                    context.timeout = Some(ms.map_err(|error| self.wrong(node.at, error))?);
                }
                "output" => context.output = Some(self.output(node)?),
                later if LATER.contains(&later) => {
                    let text = "is not supported yet: the servers of this version have no users";
                    return Err(self.wrong(*at, format!("{later} {text}")));
                }
                other => return Err(self.unknown(*at, "key of a context", other, CONTEXT_KEYS)),
            }
        }
        if context.server.is_empty() {
            return Err(self.wrong(entry.at, format!("context {:?} has no server", entry.name)));
        }
        Ok(context)
    }

    /// One address, several with commas, or a list of them.
    fn servers(&self, node: &'a Node) -> Result<Vec<Address>, String> {
        let single = std::slice::from_ref(node);
        let nodes = if let Value::List(nodes) = &node.value { nodes } else { single };
        let mut servers = Vec::new();
        for node in nodes {
            let text = self.text(node, "an address, or a list of them")?;
            for address in text.split(',') {
                let address = address.parse();
                servers.push(address.map_err(|error| self.wrong(node.at, error))?);
            }
        }
        Ok(servers)
    }

    fn output(&self, node: &'a Node) -> Result<Format, String> {
        let text = self.text(node, "a form of output")?;
        Format::from_str(text, false).map_err(|_| {
            let known: Vec<String> = Format::value_variants()
                .iter()
                .filter_map(|format| Some(format.to_possible_value()?.get_name().to_owned()))
                .collect();
            let meant = did_you_mean(text, known.iter().map(String::as_str));
            let known = known.join(", ");
            self.wrong(node.at, format!("there is no output {text:?}{meant} (there are {known})"))
        })
    }

    fn text(&self, node: &'a Node, what: &str) -> Result<&'a str, String> {
        match &node.value {
            Value::Text(text) => Ok(text),
            other => Err(self.wrong(node.at, format!("expected {what}, not {}", other.shown()))),
        }
    }

    fn table(&self, node: &'a Node, what: &str) -> Result<&'a [Entry], String> {
        match &node.value {
            Value::Table(entries) => Ok(entries),
            other => {
                Err(self.wrong(node.at, format!("{what} must be a table, not {}", other.shown())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Config, String> {
        read("/c".into(), text.as_bytes().to_vec())
    }

    #[test]
    fn contexts_are_read() {
        let text = "current = \"b\"\n[contexts.a]\nserver = \"unix:/a,qd://h:7\"\ntimeout = \"30s\"\n\
                    [contexts]\nb = { server = [\"h:7\", \"h:8\"], output = \"jsonl\" }\n";
        let config = read_text(text).unwrap();
        assert_eq!(config.current.as_deref(), Some("b"));
        let a = &config.contexts["a"];
        assert_eq!(a.server, ["unix:/a".parse().unwrap(), "h:7".parse().unwrap()]);
        assert_eq!((a.timeout, a.output), (Some(30_000), None));
        let b = &config.contexts["b"];
        assert_eq!((b.server.len(), b.output), (2, Some(Format::Jsonl)));
        assert_eq!(read_text("current = \"default\"").unwrap().current, None);
        assert!(read_text("").unwrap().contexts.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, told) in [
            (
                "curent = \"a\"",
                "/c:1:1: unknown key \"curent\"; did you mean \"current\"? (there are current, contexts)",
            ),
            ("current = \"a\"", "/c:1:11: no context is named \"a\" in /c"),
            ("current = 1", "/c:1:11: expected the name of a context, not 1"),
            ("contexts = 1", "/c:1:12: contexts must be a table, not 1"),
            ("[contexts]\na = 1", "/c:2:5: a context must be a table, not 1"),
            ("[contexts.a]", "/c:1:11: context \"a\" has no server"),
            ("[contexts.a]\nserver = []", "/c:1:11: context \"a\" has no server"),
            ("[contexts.a]\nserver = \"x\"", "/c:2:10: \"x\" is not an address: expected "),
            (
                "[contexts.a]\nserver = [\"h:7\", 7]",
                "/c:2:18: expected an address, or a list of them, not 7",
            ),
            (
                "[contexts.a]\nserver = \"qds://h:7\"",
                "/c:2:10: \"qds://h:7\" is not an address: TLS is ",
            ),
            (
                "[contexts.a]\nserver = \"qd://u@h:7\"",
                "/c:2:10: \"qd://u@h:7\" is not an address: users are ",
            ),
            (
                "[contexts.a]\nserver = \"h:7\"\ntimeout = 5",
                "/c:3:11: expected a duration like \"30s\", not 5",
            ),
            ("[contexts.a]\nserver = \"h:7\"\ntimeout = \"5\"", "/c:3:11: \"5\" needs a unit"),
            (
                "[contexts.a]\nserver = \"h:7\"\noutput = \"jso\"",
                "/c:3:10: there is no output \"jso\"; did you mean \"json\"? (there are table, plain, ",
            ),
            ("[contexts.a]\nuser = \"me\"", "/c:2:1: user is not supported yet: "),
            (
                "[contexts.a]\npassword_command = \"x\"",
                "/c:2:1: password_command is not supported yet: ",
            ),
            (
                "[contexts.a]\nservr = \"x\"",
                "/c:2:1: unknown key of a context \"servr\"; did you mean \"server\"?",
            ),
            ("[contexts.default]\nserver = \"h:7\"", "/c:1:11: default is the name for no context"),
            ("[contexts.\"a b\"]\nserver = \"h:7\"", "/c:1:11: \"a b\" is no name for a context"),
            ("[contexts", "/c:1:10: "),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.starts_with(told), "{text:?}: {error}");
        }
    }
}
