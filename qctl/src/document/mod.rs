//! Files that people write, in TOML or JSON, with the place of everything in them.
//!
//! Always true here: every offset of a tree is one of its text, so that whatever is wrong with the
//! content is told with line and column.

mod json;
mod toml;

/// A file that was read.
#[derive(Debug)]
pub struct Document {
    /// Its name, for messages.
    name: String,
    text: String,
    /// What is in it.
    pub root: Node,
}

/// A value and where it stands.
#[derive(Debug, PartialEq)]
pub struct Node {
    /// Offset in bytes.
    pub at: usize,
    /// What it is.
    pub value: Value,
}

/// What both forms can say.
#[derive(Debug, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number that is not negative.
    Number(u64),
    /// `true` or `false`.
    Flag(bool),
    /// A list.
    List(Vec<Node>),
    /// Keys with values, in their order.
    Table(Vec<Entry>),
    /// Something else, as it stands in the file or by what it is called.
    Other(String),
}

/// A key with its value.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// Where the key stands.
    pub at: usize,
    /// The key.
    pub name: String,
    /// The value.
    pub node: Node,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// TOML 1.0.
    Toml,
    /// JSON.
    Json,
}

impl Form {
    /// A file that begins with a brace is JSON: no TOML does.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.trim_ascii_start().first() == Some(&b'{') { Self::Json } else { Self::Toml }
    }
}

impl Document {
    /// Reads a file; a failure is one line that begins with the place.
    pub fn parse(name: String, bytes: Vec<u8>, form: Form) -> Result<Self, String> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes().get(..good).unwrap_or_default());
            format!("{}: not UTF-8", place(&name, &text, good))
        })?;
        let parsed = match form {
            Form::Toml => toml::parse(&text),
            Form::Json => json::parse(&text),
        };
        match parsed {
            Ok(root) => Ok(Self { name, text, root }),
            Err((at, what)) => Err(format!("{}: {what}", place(&name, &text, at))),
        }
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `FILE:LINE:COLUMN` of an offset.
    pub fn place(&self, at: usize) -> String {
        place(&self.name, &self.text, at)
    }
}

impl Value {
    /// As in a sentence: `expected a string, not …`.
    pub fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Other(other) => other.clone(),
        }
    }
}

/// Lines and columns count from 1, columns in characters.
fn place(name: &str, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    format!("{name}:{line}:{column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree with the places of values and keys, in a line.
    fn told(text: &str) -> Result<String, String> {
        let form = Form::of(text.as_bytes());
        let document = Document::parse("f".to_owned(), text.as_bytes().to_vec(), form)?;
        Ok(tell(&document, &document.root))
    }

    fn tell(document: &Document, node: &Node) -> String {
        let place = |at| document.place(at).trim_start_matches("f:").to_owned();
        let value = match &node.value {
            Value::List(members) => {
                let members: Vec<_> = members.iter().map(|node| tell(document, node)).collect();
                format!("[{}]", members.join(" "))
            }
            Value::Table(entries) => {
                let entry = |entry: &Entry| {
                    format!("{}@{}={}", entry.name, place(entry.at), tell(document, &entry.node))
                };
                return format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(" "));
            }
            other => other.shown(),
        };
        format!("{value}@{}", place(node.at))
    }

    #[test]
    fn both_forms_give_the_same_tree() {
        let toml = "v = 1\n[q.\"a.b\"]\n\"é\" = \"5m\" # five\nl = [\"1s\",\n  true]\n";
        let tree =
            "{v@1:1=1@1:5 q@2:2={a.b@2:4={é@3:1=\"5m\"@3:7 l@4:1=[\"1s\"@4:6 true@5:3]@4:5}}}";
        assert_eq!(told(toml).unwrap(), tree);
        let json = "{\"v\":1,\n \"q\":{\"a.b\":{\"\\u00e9\":\"5m\",\n\"l\":[\"1\\u0073\", true]}}}";
        let tree =
            "{v@1:2=1@1:6 q@2:2={a.b@2:7={é@2:14=\"5m\"@2:23 l@3:1=[\"1s\"@3:6 true@3:17]@3:5}}}";
        assert_eq!(told(json).unwrap(), tree);
    }

    #[test]
    fn tables_are_written_in_many_ways() {
        for text in ["a.b.c = 1", "[a.b]\nc = 1", "[a]\nb = { c = 1 }", "a = { b.c = 1 }"] {
            let tree: String = told(text).unwrap().split('@').map(|part| &part[..1]).collect();
            assert_eq!(tree.len(), 5, "{text}: {}", told(text).unwrap());
            assert!(told(text).unwrap().contains("c@"), "{text}");
        }
        assert!(
            told("[[a]]\nb = 1\n[[a]]\nb = 2").unwrap().contains("=[{b@2:1=1@2:5} {b@4:1=2@4:5}]@")
        );
    }

    #[test]
    fn numbers_are_whole_and_not_negative_or_something_else() {
        let toml =
            told("a = -1\nb = 1.5\nc = 9223372036854775807\nd = 1979-05-27\ne = 0x10").unwrap();
        for part in ["=-1@", "=1.5@", "=9223372036854775807@", "=a date@", "=16@"] {
            assert!(toml.contains(part), "{part}: {toml}");
        }
        let json = told(r#"{"a":-1,"b":1.5,"c":18446744073709551615,"d":null,"e":1e3,"f":false}"#)
            .unwrap();
        for part in ["=-1@", "=1.5@", "=18446744073709551615@", "=null@", "=1e3@", "=false@"] {
            assert!(json.contains(part), "{part}: {json}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, told_so) in [
            ("a = ", "f:1:5: "),
            ("a = 1\na = 2", "f:2:1: "),
            ("[x\n", "f:1:3: "),
            ("{\"a\":1,}", "f:1:8: "),
            ("{\n\"a\":1\n", "f:3:1: "),
            ("{\"a\":1,\n \"a\":2}", "f:2:2: the key \"a\" is there twice"),
            ("{\"a\":\"\u{1}\"}", "f:1:7: "),
            ("{} x", "f:1:4: "),
        ] {
            let error = told(text).unwrap_err();
            assert!(error.starts_with(told_so), "{text:?}: {error}");
            assert!(!error.contains('\n') && !error.contains(" at line "), "{error}");
        }
        let bytes = b"a = 1\nb = \"\xff\"".to_vec();
        let error = Document::parse("f".to_owned(), bytes, Form::Toml).unwrap_err();
        assert_eq!(error, "f:2:6: not UTF-8");
    }
}
