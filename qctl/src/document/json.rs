//! JSON. What is valid is left to `serde_json`; the walk over it finds the places.

use std::collections::BTreeSet;

use super::{Entry, Node, Value};

/// The tree of a text, or where and what is wrong with it.
pub fn parse(text: &str) -> Result<Node, (usize, String)> {
    if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        return Err((offset(text, error.line(), error.column()), what.to_owned()));
    }
    let mut walk = Walk { text, at: 0 };
    walk.node().unwrap_or_else(|| Err((walk.at, "not JSON".to_owned())))
}

/// Where a column counted in bytes is, both counted from 1; a column of 0 is the end of the line
/// before.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start =
        text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum::<usize>();
    let mut at = (start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Goes over JSON that is known to be valid; where it is not, there is nothing.
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

/// A part, or a key that is there twice; `None` where the text is not valid.
type Found<T> = Option<Result<T, (usize, String)>>;

impl Walk<'_> {
    fn node(&mut self) -> Found<Node> {
        let at = self.skip_blanks();
        let value = match self.peek()? {
            b'{' => self.members().map(|entries| entries.map(Value::Table)),
            b'[' => self.list().map(|nodes| nodes.map(Value::List)),
            b'"' => self.string().map(|text| Ok(Value::Text(text))),
            _ => Some(Ok(self.literal())),
        };
        value.map(|value| value.map(|value| Node { at, value }))
    }

    fn members(&mut self) -> Found<Vec<Entry>> {
        let (mut entries, mut names) = (Vec::new(), BTreeSet::new());
        self.at += 1;
        while self.next_of(b'}')? {
            let at = self.skip_blanks();
            let name = self.string()?;
            if !names.insert(name.clone()) {
                return Some(Err((at, format!("the key {name:?} is there twice"))));
            }
            self.skip_blanks();
            self.at += 1; // the colon
            match self.node()? {
                Ok(node) => entries.push(Entry { at, name, node }),
                Err(twice) => return Some(Err(twice)),
            }
        }
        Some(Ok(entries))
    }

    fn list(&mut self) -> Found<Vec<Node>> {
        let mut nodes = Vec::new();
        self.at += 1;
        while self.next_of(b']')? {
            match self.node()? {
                Ok(node) => nodes.push(node),
                Err(twice) => return Some(Err(twice)),
            }
        }
        Some(Ok(nodes))
    }

    /// Whether another member follows; goes over the comma before it, or the bracket at the end.
    fn next_of(&mut self, end: u8) -> Option<bool> {
        self.skip_blanks();
        let next = self.peek()?;
        if next == end || next == b',' {
            self.at += 1;
        }
        Some(next != end)
    }

    fn string(&mut self) -> Option<String> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let mut escaped = false;
        let quote = rest.iter().skip(1).position(|byte| {
            let is_end = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            is_end
        })?;
        let end = self.at + quote + 2;
        let text = serde_json::from_str(self.text.get(self.at..end)?).ok();
        self.at = end;
        text
    }

    fn literal(&mut self) -> Value {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest.find([',', '}', ']', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
        self.at += end;
        match rest.get(..end).unwrap_or_default() {
            "true" => Value::Flag(true),
            "false" => Value::Flag(false),
            other => match other.parse() {
                Ok(number) => Value::Number(number),
                Err(_) => Value::Other(other.to_owned()),
            },
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) -> usize {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.at
    }
}
