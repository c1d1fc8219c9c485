//! JSON Schema, as much of it as the schemas of `qctl` use.
//!
//! Always true here: a keyword that is not known is a panic, so that nothing in a schema goes
//! unchecked; and a field that the schema does not describe is an error, although others must take it:
//! fields are added to the schema with the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::pattern::time_at;

/// Words about a schema that say nothing about a value.
const NOTES: [&str; 4] = ["$schema", "$defs", "title", "description"];

/// A schema, and which fields it has met.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    /// Paths of the fields met, like `.dead_letter.id`.
    pub met: BTreeSet<String>,
}

impl Schema {
    /// The schema in a file.
    ///
    /// # Panics
    ///
    /// When it cannot be read or is no JSON.
    pub fn read(path: &Path) -> Self {
        let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::new(serde_json::from_slice(&text).expect("a schema is JSON"))
    }

    /// A schema.
    pub fn new(root: Value) -> Self {
        Self { root, met: BTreeSet::new() }
    }

    /// What is wrong with a value, and where.
    pub fn errors(&mut self, value: &Value) -> Vec<String> {
        let root = self.root.clone();
        let mut check = Check { root: &root, met: &mut self.met, errors: Vec::new() };
        check.value(&root, value, "");
        check.errors
    }

    /// Fields of the schema that no value has had so far.
    pub fn unmet(&self) -> Vec<String> {
        let mut all = Vec::new();
        fields(&self.root, "", &mut all);
        all.retain(|field| !self.met.contains(field));
        all
    }
}

fn fields(schema: &Value, place: &str, all: &mut Vec<String>) {
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let place = format!("{place}.{name}");
        fields(field, &place, all);
        all.push(place);
    }
}

struct Check<'a> {
    root: &'a Value,
    met: &'a mut BTreeSet<String>,
    errors: Vec<String>,
}

impl Check<'_> {
    fn wrong(&mut self, place: &str, what: &str) {
        let place = if place.is_empty() { "." } else { place };
        self.errors.push(format!("{place}: {what}"));
    }

    fn value(&mut self, schema: &Value, value: &Value, place: &str) {
        let schema = schema.as_object().expect("a schema is an object");
        for (keyword, wanted) in schema {
            if let Some(what) = self.keyword(keyword, wanted, value, place) {
                self.wrong(place, &what);
            }
        }
        if let Value::Object(fields) = value {
            self.fields(schema, fields, place);
        }
    }

    /// What is wrong by one keyword.
    fn keyword(
        &mut self,
        word: &str,
        wanted: &Value,
        value: &Value,
        place: &str,
    ) -> Option<String> {
        let say = |wrong: bool, what: &str| wrong.then(|| format!("{what}: {value}"));
        match word {
            "$ref" => {
                let path = wanted.as_str().and_then(|path| path.strip_prefix('#'));
                let target = self.root.pointer(path.expect("a reference into the schema"));
                let target = target.expect("a reference to something").clone();
                self.value(&target, value, place);
                None
            }
            "type" => say(!one_or_many(wanted).any(|name| is_of(name, value)), "not of the type"),
            "enum" => say(!members(wanted).contains(value), "none of the values"),
            "minimum" => say(value.as_f64() < wanted.as_f64() && value.is_number(), "too small"),
            "maximum" => say(value.as_f64() > wanted.as_f64() && value.is_number(), "too large"),
            "minLength" | "maxLength" | "minItems" => say(!length_fits(word, wanted, value), word),
            "format" => {
                assert_eq!(wanted, "date-time", "the only format that is known");
                let text = value.as_str();
                say(text.is_some_and(|text| time_at(text) != Some(text.len())), "no time")
            }
            "pattern" => {
                assert_eq!(wanted, "^[0-9]+$", "the only pattern that is known");
                let digits =
                    |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                say(value.as_str().is_some_and(|text| !digits(text)), "not digits alone")
            }
            "oneOf" => say(fitting(wanted, value) != 1, "not exactly one of oneOf"),
            "anyOf" => say(fitting(wanted, value) == 0, "none of anyOf"),
            "items" => {
                for member in value.as_array().into_iter().flatten() {
                    self.value(wanted, member, &format!("{place}[]"));
                }
                None
            }
            // With the fields.
            "properties" | "required" | "additionalProperties" => None,
            _ if NOTES.contains(&word) => None,
            other => panic!("the keyword {other} is not known"),
        }
    }

    fn fields(&mut self, schema: &Map<String, Value>, fields: &Map<String, Value>, place: &str) {
        for name in schema.get("required").map(members).unwrap_or_default() {
            let name = name.as_str().expect("a field's name").to_owned();
            if !fields.contains_key(&name) {
                self.wrong(place, &format!("there is no {name}"));
            }
        }
        let known = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        if known.is_none() && others.is_none() {
            return;
        }
        for (name, value) in fields {
            let field = format!("{place}.{name}");
            match (known.and_then(|known| known.get(name)), others) {
                (Some(schema), _) => {
                    self.met.insert(field.clone());
                    self.value(schema, value, &field);
                }
                (None, Some(schema)) => self.value(schema, value, &field),
                (None, None) => self.wrong(&field, "the schema does not describe it"),
            }
        }
    }
}

/// How many of the alternatives fit. They say which fields there are, not all of them.
fn fitting(alternatives: &Value, value: &Value) -> usize {
    let fits = |schema: &&Value| {
        let required = schema.get("required").map(members).unwrap_or_default();
        let has = |name: &Value| name.as_str().is_some_and(|name| value.get(name).is_some());
        let types = schema
            .get("type")
            .is_none_or(|names| one_or_many(names).any(|name| is_of(name, value)));
        let items = schema.get("items").and_then(|items| items.get("type"));
        let items = items.is_none_or(|names| {
            let fits = |member: &Value| one_or_many(names).any(|name| is_of(name, member));
            value.as_array().is_some_and(|members| members.iter().all(fits))
        });
        let long = schema.get("minItems").is_none_or(|min| length_fits("minItems", min, value));
        required.iter().all(has) && types && items && long
    };
    members(alternatives).iter().filter(fits).count()
}

fn members(list: &Value) -> Vec<Value> {
    list.as_array().expect("a list").clone()
}

/// The names of a `type`.
fn one_or_many(names: &Value) -> impl Iterator<Item = &str> {
    let one = names.as_str().into_iter();
    one.chain(names.as_array().into_iter().flatten().filter_map(Value::as_str))
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type {other} is not known"),
    }
}

fn length_fits(word: &str, limit: &Value, value: &Value) -> bool {
    let limit = limit.as_u64().expect("a length");
    let length = match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Array(members) => members.len() as u64,
        _ => return true,
    };
    if word == "maxLength" { length <= limit } else { length >= limit }
}
