//! The value of an attribute in a file.

use std::fmt;

use qd_protocol::QueueName;
use qd_protocol::attributes::{self, AttributeSpec, DeadLetter, OVERFLOW_NAMES, UNLIMITED, Unit};

use crate::document::{Node, Value};
use crate::suggest::did_you_mean;
use crate::units;
use crate::verbs::attributes::{dead_letter, must_be, show_overflow};

/// As it is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// A number.
    Number(u64),
    /// A string.
    Text(String),
    /// `true` or `false`.
    Flag(bool),
    /// A list of strings.
    List(Vec<String>),
}

/// As the flag takes it, for people.
impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::List(members) => f.write_str(&members.join(",")),
        }
    }
}

/// Largest integer of TOML.
const NUMBER_MAX: u64 = i64::MAX as u64;
/// Units in which sizes are written, where they are exact.
const SIZES: [(u64, &str); 4] =
    [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];

/// An attribute of `queue` as it is written.
pub fn written(spec: &AttributeSpec, value: &attributes::Value, queue: &QueueName) -> Written {
    let number = |number: u64| match number {
        UNLIMITED => Written::Text("unlimited".to_owned()),
        0..=NUMBER_MAX => Written::Number(number),
        _ => Written::Text(number.to_string()),
    };
    match value {
        attributes::Value::DeadLetter(dead_letter) => {
            let target = dead_letter.queue_of(queue);
            Written::Text(target.map_or_else(|| "none".to_owned(), |target| target.to_string()))
        }
        attributes::Value::List(members) => {
            Written::List(members.iter().map(|ms| units::show_duration(*ms)).collect())
        }
        attributes::Value::Number(value) => match spec.unit {
            Unit::Flag => Written::Flag(*value != 0),
            Unit::Overflow => Written::Text(show_overflow(*value)),
            Unit::Milliseconds if *value == UNLIMITED => Written::Text("forever".to_owned()),
            Unit::Milliseconds => Written::Text(units::show_duration(*value)),
            Unit::Bytes if *value != 0 && *value != UNLIMITED => {
                let mut sizes = SIZES.iter().filter(|(unit, _)| value.is_multiple_of(*unit));
                sizes.next().map_or_else(
                    || number(*value),
                    |(unit, name)| Written::Text(format!("{}{name}", value / unit)),
                )
            }
            Unit::Messages | Unit::Deliveries | Unit::Bytes | Unit::DeadLetter => number(*value),
        },
    }
}

/// Reads an attribute of `queue`, within its range.
pub fn read(
    spec: &AttributeSpec,
    node: &Node,
    queue: &QueueName,
) -> Result<attributes::Value, String> {
    let value = of_its_type(spec, node, queue)?;
    if spec.allows(&value) { Ok(value) } else { Err(format!("{} {}", spec.name, must_be(spec))) }
}

fn of_its_type(
    spec: &AttributeSpec,
    node: &Node,
    queue: &QueueName,
) -> Result<attributes::Value, String> {
    let expected =
        |what: &str| Err(format!("{}: expected {what}, not {}", spec.name, node.value.shown()));
    let named = |error: String| format!("{}: {error}", spec.name);
    let number = match (spec.unit, &node.value) {
        (Unit::Messages | Unit::Deliveries | Unit::Bytes, Value::Number(number)) => *number,
        (Unit::Messages | Unit::Deliveries, Value::Text(text)) => {
            units::count_or_unlimited(text).map_err(named)?
        }
        (Unit::Messages | Unit::Deliveries, _) => {
            return expected("a whole number or \"unlimited\"");
        }
        (Unit::Bytes, Value::Text(text)) if spec.unlimited => {
            units::size_or_unlimited(text).map_err(named)?
        }
        (Unit::Bytes, Value::Text(text)) => units::size(text).map_err(named)?,
        (Unit::Bytes, _) => return expected("a size like \"64KiB\", or a number of bytes"),
        // The only list.
        (Unit::Milliseconds, Value::List(members)) if spec.name == "retry-delay" => {
            let members = members.iter().map(|member| duration(member, false).map_err(named));
            return members.collect::<Result<_, _>>().map(attributes::Value::List);
        }
        (Unit::Milliseconds, _) if spec.name == "retry-delay" => {
            return expected("a list like [\"1s\", \"5s\"]");
        }
        (Unit::Milliseconds, _) => duration(node, spec.unlimited).map_err(named)?,
        (Unit::Overflow, Value::Text(text)) => {
            let known = OVERFLOW_NAMES.iter().position(|name| name == text);
            let unknown = || {
                let (known, meant) =
                    (OVERFLOW_NAMES.join(" or "), did_you_mean(text, OVERFLOW_NAMES));
                format!("{}: expected {known}, not {text:?}{meant}", spec.name)
            };
            known.ok_or_else(unknown)? as u64
        }
        (Unit::Overflow, _) => return expected("\"reject\" or \"drop-oldest\""),
        (Unit::Flag, Value::Flag(flag)) => u64::from(*flag),
        (Unit::Flag, _) => return expected("true or false"),
        (Unit::DeadLetter, Value::Text(text)) => {
            let dead_letter = dead_letter(text).map_err(named)?;
            return Ok(attributes::Value::DeadLetter(canonical(dead_letter, queue)));
        }
        (Unit::DeadLetter, _) => return expected("the name of a queue, or \"none\""),
    };
    Ok(attributes::Value::Number(number))
}

fn duration(node: &Node, or_forever: bool) -> Result<u64, String> {
    match &node.value {
        Value::Text(text) if or_forever => units::duration_ms_or_forever(text),
        Value::Text(text) => units::duration_ms(text),
        Value::Number(0) => Ok(0),
        Value::Number(number) => {
            Err(format!("{number} needs a unit: \"500ms\", \"30s\", \"5m\", \"12h\" or \"14d\""))
        }
        other => Err(format!("expected a duration like \"30s\", not {}", other.shown())),
    }
}

/// The default dead-letter queue as such, also where its name is given: so the server has it.
fn canonical(dead_letter: DeadLetter, queue: &QueueName) -> DeadLetter {
    let is_default = dead_letter.queue_of(queue) == DeadLetter::Default.queue_of(queue);
    if is_default { DeadLetter::Default } else { dead_letter }
}
