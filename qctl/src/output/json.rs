//! JSON objects whose fields keep the order in which they are added.

use std::fmt::Write;

use base64::Engine;

use super::escape::is_dangerous;

/// A JSON object being written.
#[derive(Debug)]
pub struct Object(String);

impl Object {
    /// An object without fields.
    pub fn new() -> Self {
        Self(String::from("{"))
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        push_text(&mut self.0, key);
        self.0.push(':');
    }

    /// A string.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        push_text(&mut self.0, value);
    }

    /// A number.
    pub fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.0.push_str(&value.to_string());
    }

    /// An array of numbers.
    pub fn numbers(&mut self, key: &str, values: &[u64]) {
        self.key(key);
        let values: Vec<String> = values.iter().map(u64::to_string).collect();
        let _ = write!(self.0, "[{}]", values.join(","));
    }

    /// An object.
    pub fn object(&mut self, key: &str, value: Self) {
        self.key(key);
        self.0.push_str(&value.finish());
    }

    /// A number with a fraction.
    pub fn decimal(&mut self, key: &str, value: f64) {
        self.key(key);
        let _ = write!(self.0, "{value:.3}");
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &str, value: bool) {
        self.key(key);
        self.0.push_str(if value { "true" } else { "false" });
    }

    /// `null`.
    pub fn null(&mut self, key: &str) {
        self.key(key);
        self.0.push_str("null");
    }

    /// A string or `null`.
    pub fn optional_text(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.null(key),
        }
    }

    /// A number or `null`.
    pub fn optional_number(&mut self, key: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.null(key),
        }
    }

    /// Bytes: as `key` when they are UTF-8, else in base64 as `key_base64`.
    pub fn bytes(&mut self, key: &str, value: &[u8]) {
        if let Ok(text) = std::str::from_utf8(value) {
            self.text(key, text);
        } else {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value);
            self.text(&format!("{key}_base64"), &encoded);
        }
    }

    /// Pairs of text as an object; the values of a repeated key as an array.
    pub fn pairs(&mut self, key: &str, pairs: &[(String, String)]) {
        self.key(key);
        self.0.push('{');
        let mut done: Vec<&str> = Vec::new();
        for (name, _) in pairs {
            if done.contains(&name.as_str()) {
                continue;
            }
            if !done.is_empty() {
                self.0.push(',');
            }
            done.push(name);
            push_text(&mut self.0, name);
            self.0.push(':');
            let values: Vec<&str> = pairs
                .iter()
                .filter(|(other, _)| other == name)
                .map(|(_, value)| value.as_str())
                .collect();
            if let [value] = values[..] {
                push_text(&mut self.0, value);
            } else {
                self.0.push('[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        self.0.push(',');
                    }
                    push_text(&mut self.0, value);
                }
                self.0.push(']');
            }
        }
        self.0.push('}');
    }

    /// The text.
    pub fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn push_text(out: &mut String, text: &str) {
    // A string has no value that JSON lacks, so that this cannot fail.
    let json = serde_json::Value::from(text).to_string();
    if json.is_ascii() && !json.contains('\u{7f}') {
        out.push_str(&json);
        return;
    }
    // What a terminal may obey is the same text to whoever reads the JSON.
    for character in json.chars() {
        if is_dangerous(character) {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order() {
        let mut object = Object::new();
        object.text("z", "\"\n\u{1b}é");
        object.number("a", u64::MAX);
        object.null("n");
        object.decimal("d", 0.5);
        assert_eq!(
            object.finish(),
            "{\"z\":\"\\\"\\n\\u001bé\",\"a\":18446744073709551615,\"n\":null,\"d\":0.500}"
        );
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_written_as_it_is() {
        let text = "\u{1b}[2J\u{7f}\u{9b}H\u{202e}漢é\u{2028}";
        let mut object = Object::new();
        object.text("t\u{9b}", text);
        let json = object.finish();
        let escaped = r#"{"t\u009b":"\u001b[2J\u007f\u009bH\u202e漢é\u2028"}"#;
        assert_eq!(json, escaped);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["t\u{9b}"], text);
    }

    #[test]
    fn body_that_is_no_text_is_base64() {
        let mut object = Object::new();
        object.bytes("body", b"ok");
        object.bytes("other", b"\xff\x00");
        assert_eq!(object.finish(), r#"{"body":"ok","other_base64":"/wA="}"#);
    }

    #[test]
    fn repeated_header_keeps_all_values() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut object = Object::new();
        object.pairs("h", &[pair("a", "1"), pair("b", "2"), pair("a", "3")]);
        object.pairs("none", &[]);
        assert_eq!(object.finish(), r#"{"h":{"a":["1","3"],"b":"2"},"none":{}}"#);
    }
}
