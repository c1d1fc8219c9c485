//! Writing definitions.

use std::fmt::Write;

use qd_protocol::{Attributes, QueueName};
use toml_edit::{Array, Key};

use super::value::{Written, written};
use super::{Queues, VERSION};
use crate::document::Form;

/// The queues as a file: in the order of their names, with the attributes that differ from their
/// defaults, or all of them.
pub fn write(queues: &Queues, form: Form, every_attribute: bool) -> String {
    let fields = queues.iter().map(|(name, attributes)| {
        let fields = fields(name, attributes, every_attribute);
        (name.as_str(), fields)
    });
    match form {
        Form::Toml => toml(fields),
        Form::Json => json(fields),
    }
}

/// Name and value of each attribute.
fn fields(
    queue: &QueueName,
    attributes: &Attributes,
    every_attribute: bool,
) -> Vec<(&'static str, Written)> {
    let defaults = Attributes::default().values();
    attributes
        .values()
        .into_iter()
        .zip(defaults)
        .filter(|((_, value), (_, default))| every_attribute || value != default)
        .map(|((spec, value), _)| (spec.name, written(spec, &value, queue)))
        .collect()
}

type Fields = Vec<(&'static str, Written)>;

fn toml<'a>(queues: impl Iterator<Item = (&'a str, Fields)>) -> String {
    let mut out = format!("version = {VERSION}\n");
    let before = out.len();
    for (name, fields) in queues {
        let _ = write!(out, "\n[queues.{}]\n", Key::new(name));
        for (name, value) in fields {
            let value = match value {
                Written::Number(number) => number.to_string(),
                Written::Text(text) => toml_edit::Value::from(text).to_string(),
                Written::Flag(flag) => flag.to_string(),
                Written::List(members) => Array::from_iter(members).to_string(),
            };
            let _ = writeln!(out, "{name} = {value}");
        }
    }
    if out.len() == before {
        out.push_str("\n[queues]\n");
    }
    out
}

fn json<'a>(queues: impl Iterator<Item = (&'a str, Fields)>) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let mut all = Vec::new();
    for (name, fields) in queues {
        let fields = fields.into_iter().map(|(name, value)| {
            let value = match value {
                Written::Number(number) => number.to_string(),
                Written::Text(value) => text(&value),
                Written::Flag(flag) => flag.to_string(),
                Written::List(members) => serde_json::Value::from(members).to_string(),
            };
            format!("{}: {value}", text(name))
        });
        let fields = block(&fields.collect::<Vec<_>>(), 4);
        all.push(format!("{}: {fields}", text(name)));
    }
    let parts = [format!("\"version\": {VERSION}"), format!("\"queues\": {}", block(&all, 2))];
    format!("{}\n", block(&parts, 0))
}

/// Members in braces, one a line, in a block that is indented by so many spaces.
fn block(members: &[String], indent: usize) -> String {
    if members.is_empty() {
        return "{}".to_owned();
    }
    let (inner, outer) = (" ".repeat(indent + 2), " ".repeat(indent));
    format!("{{\n{inner}{}\n{outer}}}", members.join(&format!(",\n{inner}")))
}
