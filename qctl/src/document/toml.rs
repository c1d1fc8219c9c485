//! TOML.

use toml_edit::{InlineTable, Item, Key, Table};

use super::{Entry, Node, Value};

/// The tree of a text, or where and what is wrong with it.
pub fn parse(text: &str) -> Result<Node, (usize, String)> {
    let document = toml_edit::Document::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let lines = error.message().lines().map(str::trim);
        (at, lines.collect::<Vec<_>>().join(", "))
    })?;
    Ok(Node { at: 0, value: table(document.as_table()) })
}

fn table(table: &Table) -> Value {
    let entries = table.iter().filter_map(|(name, item)| {
        let node = node(item)?;
        Some(entry(table.key(name), name, node))
    });
    Value::Table(entries.collect())
}

fn inline_table(table: &InlineTable) -> Value {
    let entries = table.iter().map(|(name, value)| entry(table.key(name), name, of_value(value)));
    Value::Table(entries.collect())
}

fn entry(key: Option<&Key>, name: &str, node: Node) -> Entry {
    let at = key.and_then(Key::span).map_or(node.at, |span| span.start);
    Entry { at, name: name.to_owned(), node }
}

fn node(item: &Item) -> Option<Node> {
    let at = item.span().map_or(0, |span| span.start);
    let value = match item {
        Item::None => return None,
        Item::Value(value) => return Some(of_value(value)),
        Item::Table(inner) => table(inner),
        Item::ArrayOfTables(tables) => {
            let member = |inner: &Table| Node {
                at: inner.span().map_or(at, |span| span.start),
                value: table(inner),
            };
            Value::List(tables.iter().map(member).collect())
        }
    };
    Some(Node { at, value })
}

fn of_value(value: &toml_edit::Value) -> Node {
    use toml_edit::Value as Toml;
    let at = value.span().map_or(0, |span| span.start);
    let value = match value {
        Toml::String(text) => Value::Text(text.value().clone()),
        Toml::Integer(number) => match u64::try_from(*number.value()) {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Other(number.value().to_string()),
        },
        Toml::Float(number) => Value::Other(number.value().to_string()),
        Toml::Boolean(flag) => Value::Flag(*flag.value()),
        Toml::Datetime(_) => Value::Other("a date".to_owned()),
        Toml::Array(members) => Value::List(members.iter().map(of_value).collect()),
        Toml::InlineTable(inner) => inline_table(inner),
    };
    Node { at, value }
}
