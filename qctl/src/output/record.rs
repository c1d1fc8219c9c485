//! Records with named fields: queues, answers of the server, measurements.

use comfy_table::{CellAlignment, Table};

use super::{Object, Out, csv, escape, one_record_only, shell};
use crate::args::Format;
use crate::exit::Failure;
use crate::units::{show_duration, show_size};

/// One field's value, with the unit that decides how people see it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text, whose control characters are escaped but for JSON and for a shell.
    Text(String),
    /// A number; the largest one is "unlimited".
    Count(u64),
    /// Bytes; the largest number is "unlimited".
    Bytes(u64),
    /// Milliseconds; the largest number is "forever".
    Millis(u64),
    /// Milliseconds each, in order.
    MillisList(Vec<u64>),
    /// A name, or "none".
    Name(Option<String>),
    /// A name, or nothing.
    NameOrEmpty(Option<String>),
    /// Milliseconds since 1970-01-01 UTC.
    Time(u64),
    /// A number with a fraction.
    Decimal(f64),
    /// So many a second, where it is known.
    Rate(Option<f64>),
    /// Yes or no.
    Flag(bool),
}

/// Fields in their order.
pub type Record = Vec<(String, Value)>;

const UNLIMITED: u64 = qd_protocol::attributes::UNLIMITED;

impl Value {
    /// As in a plain line: without control characters.
    pub fn plain(&self) -> String {
        escape(self.text().as_bytes(), false)
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(UNLIMITED) | Self::Bytes(UNLIMITED) => "unlimited".to_owned(),
            Self::Millis(UNLIMITED) => "forever".to_owned(),
            Self::Count(number) | Self::Bytes(number) | Self::Millis(number) => number.to_string(),
            Self::MillisList(members) => join(members, u64::to_string),
            Self::Name(name) => name.clone().unwrap_or_else(|| "none".to_owned()),
            Self::NameOrEmpty(name) => name.clone().unwrap_or_default(),
            Self::Time(ms) => crate::time::rfc3339(*ms),
            Self::Decimal(number) | Self::Rate(Some(number)) => format!("{number:.3}"),
            Self::Rate(None) => String::new(),
            Self::Flag(flag) => flag.to_string(),
        }
    }

    /// For people: with units.
    pub fn human(&self) -> String {
        match self {
            Self::Bytes(number) if *number != UNLIMITED => show_size(*number),
            Self::Millis(ms) if *ms != UNLIMITED => show_duration(*ms),
            Self::MillisList(members) => join(members, |ms| show_duration(*ms)),
            Self::Rate(Some(rate)) => format!("{rate:.1}"),
            Self::Rate(None) => "-".to_owned(),
            _ => self.plain(),
        }
    }

    fn is_number(&self) -> bool {
        match self {
            Self::Count(_)
            | Self::Bytes(_)
            | Self::Millis(_)
            | Self::Decimal(_)
            | Self::Rate(_) => true,
            Self::Text(_)
            | Self::MillisList(_)
            | Self::Name(_)
            | Self::NameOrEmpty(_)
            | Self::Time(_)
            | Self::Flag(_) => false,
        }
    }

    fn json(&self, key: &str, object: &mut Object) {
        match self {
            Self::Text(text) => object.text(key, text),
            Self::Count(UNLIMITED) | Self::Bytes(UNLIMITED) | Self::Millis(UNLIMITED) => {
                object.null(key);
            }
            Self::Count(number) | Self::Bytes(number) | Self::Millis(number) => {
                object.number(key, *number);
            }
            Self::MillisList(members) => object.numbers(key, members),
            Self::Name(name) | Self::NameOrEmpty(name) => {
                object.optional_text(key, name.as_deref());
            }
            Self::Time(ms) => object.text(key, &crate::time::rfc3339(*ms)),
            Self::Decimal(number) | Self::Rate(Some(number)) => object.decimal(key, *number),
            Self::Rate(None) => object.null(key),
            Self::Flag(flag) => object.flag(key, *flag),
        }
    }
}

/// As the flag that sets them takes them.
fn join(members: &[u64], show: impl Fn(&u64) -> String) -> String {
    members.iter().map(show).collect::<Vec<_>>().join(",")
}

/// Writes records one by one.
#[derive(Debug)]
pub struct Records {
    /// Fields shown in tables and plain lines.
    columns: Vec<String>,
    /// JSON: an array of any number, not one object.
    many: bool,
    /// JSON: keep to `columns` too, because they were asked for.
    only_columns: bool,
    table: Option<Table>,
    written: u64,
}

impl Records {
    /// Writes records with the fields `known`; without `--columns` shows `plain` in plain lines and
    /// `table` in tables. With `many` the JSON document is an array, and there is no form for a shell.
    pub fn new(
        out: &Out,
        many: bool,
        known: &[String],
        plain: &[&str],
        table: &[&str],
    ) -> Result<Self, Failure> {
        if many && out.format == Format::Shell {
            return Err(one_record_only());
        }
        let chosen = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let columns: Vec<String> = if out.columns.is_empty() && out.is_complete() {
            known.to_vec()
        } else if out.columns.is_empty() {
            chosen(if out.is_table() { table } else { plain })
        } else {
            checked_columns(&out.columns, known)?
        };
        Ok(Self {
            columns,
            many,
            only_columns: !out.columns.is_empty(),
            table: out.is_table().then(|| new_table(out)),
            written: 0,
        })
    }

    /// Writes one.
    pub fn push(&mut self, out: &mut Out, record: &Record) -> Result<(), Failure> {
        match out.format {
            Format::Table => self.push_row(out, record),
            Format::Plain => {
                let cells: Vec<String> = self.cells(record).map(Value::plain).collect();
                out.line(&cells.join("\t"))?;
            }
            Format::Csv => {
                self.put_csv_header(out)?;
                let cells = self.cells(record).map(Value::plain);
                out.put(&csv::line(cells.map(String::into_bytes)))?;
            }
            Format::Shell => {
                let mut text = Vec::new();
                for (name, value) in self.columns.iter().zip(self.cells(record)) {
                    let value = if out.raw { value.text() } else { value.plain() };
                    shell::put_assignment(&mut text, name, value.as_bytes());
                }
                out.put(&text)?;
            }
            Format::Json | Format::Jsonl => {
                let before = match (self.many && out.format == Format::Json, self.written) {
                    (false, _) => "",
                    (true, 0) => "[",
                    (true, _) => ",\n",
                };
                out.put(before.as_bytes())?;
                out.put(self.object(record).as_bytes())?;
                if !(self.many && out.format == Format::Json) {
                    out.put(b"\n")?;
                }
            }
        }
        self.written += 1;
        Ok(())
    }

    /// The lines of a table.
    pub fn into_lines(self) -> Vec<String> {
        let table = self.table.filter(|_| self.written > 0);
        table.map(|table| lines(&table).collect()).unwrap_or_default()
    }

    /// Ends the document and writes it out.
    pub fn finish(self, out: &mut Out) -> Result<(), Failure> {
        if let Some(table) = &self.table
            && self.written > 0
        {
            put_table(out, table)?;
        }
        if out.format == Format::Csv {
            self.put_csv_header(out)?;
        }
        if self.many && out.format == Format::Json {
            out.put(if self.written == 0 { b"[]\n" } else { b"]\n" })?;
        }
        out.flush()
    }

    /// Before the first record; also where there is none.
    fn put_csv_header(&self, out: &mut Out) -> Result<(), Failure> {
        if self.written > 0 || !out.header {
            return Ok(());
        }
        out.put(&csv::line(self.columns.iter().map(String::as_bytes)))
    }

    fn cells<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = &'a Value> {
        self.columns.iter().filter_map(|column| {
            let field = record.iter().find(|(name, _)| name == column);
            field.map(|(_, value)| value)
        })
    }

    fn object(&self, record: &Record) -> String {
        let mut object = Object::new();
        let all = record.iter().map(|(name, value)| (name, value));
        if self.only_columns {
            for (name, value) in self.columns.iter().zip(self.cells(record)) {
                value.json(name, &mut object);
            }
        } else {
            all.for_each(|(name, value)| value.json(name, &mut object));
        }
        object.finish()
    }

    fn push_row(&mut self, out: &Out, record: &Record) {
        let cells: Vec<(String, bool)> =
            self.cells(record).map(|value| (value.human(), value.is_number())).collect();
        let Some(table) = &mut self.table else {
            return;
        };
        if self.written == 0 {
            if out.header {
                table.set_header(self.columns.iter().map(|name| name.to_uppercase()));
            }
            table.add_row(cells.iter().map(|(text, _)| text));
            for (at, (_, number)) in cells.iter().enumerate() {
                if *number && let Some(column) = table.column_mut(at) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        } else {
            table.add_row(cells.iter().map(|(text, _)| text));
        }
    }
}

/// A table without lines, as `ps` and `kubectl` print them.
pub fn new_table(_out: &Out) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table
}

/// Writes a table.
pub fn put_table(out: &mut Out, table: &Table) -> Result<(), Failure> {
    lines(table).try_for_each(|line| out.line(&line))
}

/// The lines of a table without the spaces at its edges.
fn lines(table: &Table) -> impl Iterator<Item = String> {
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
}

/// The columns asked for, as they are named; `-` and `_` are the same.
pub fn checked_columns(asked: &[String], known: &[String]) -> Result<Vec<String>, Failure> {
    let find = |asked: &String| {
        let name = asked.trim().replace('-', "_").to_lowercase();
        if known.contains(&name) {
            return Ok(name);
        }
        let known = known.join(", ");
        Err(Failure::Usage(format!("unknown column {asked:?}; there are {known}")))
    };
    asked.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::display_width;

    fn record(name: &str, ready: u64) -> Record {
        vec![
            ("name".to_owned(), Value::Text(name.to_owned())),
            ("ready".to_owned(), Value::Count(ready)),
            ("max".to_owned(), Value::Bytes(u64::MAX)),
        ]
    }

    fn written(mut out: Out, many: bool, records: &[Record]) -> String {
        let known: Vec<String> = ["name", "ready", "max"].map(str::to_owned).to_vec();
        let mut writer =
            Records::new(&out, many, &known, &["name"], &["name", "ready", "max"]).unwrap();
        for record in records {
            writer.push(&mut out, record).unwrap();
        }
        writer.finish(&mut out).unwrap();
        out.text()
    }

    #[test]
    fn plain_lines_have_tabs_and_no_header() {
        let records = [record("a", 1), record("b", 20)];
        assert_eq!(written(Out::captured(Format::Plain), true, &records), "a\nb\n");
        let mut out = Out::captured(Format::Plain);
        out.columns = vec!["ready".to_owned(), "max".to_owned()];
        assert_eq!(written(out, true, &records), "1\tunlimited\n20\tunlimited\n");
    }

    #[test]
    fn json_is_one_document_and_jsonl_one_object_a_line() {
        let records = [record("a", 1), record("b", 20)];
        let a = r#"{"name":"a","ready":1,"max":null}"#;
        let b = r#"{"name":"b","ready":20,"max":null}"#;
        assert_eq!(written(Out::captured(Format::Json), true, &records), format!("[{a},\n{b}]\n"));
        assert_eq!(written(Out::captured(Format::Json), true, &[]), "[]\n");
        assert_eq!(written(Out::captured(Format::Jsonl), true, &records), format!("{a}\n{b}\n"));
        assert_eq!(written(Out::captured(Format::Json), false, &records[..1]), format!("{a}\n"));
    }

    #[test]
    fn csv_has_every_field_and_a_header() {
        let records = [record("a,b", 1), record("c", 20)];
        let rows = "\"a,b\",1,unlimited\nc,20,unlimited\n";
        let with_header = format!("name,ready,max\n{rows}");
        assert_eq!(written(Out::captured(Format::Csv), true, &records), with_header);
        let mut out = Out::captured(Format::Csv);
        out.header = false;
        assert_eq!(written(out, true, &records), rows);
        let mut out = Out::captured(Format::Csv);
        out.columns = vec!["ready".to_owned()];
        assert_eq!(written(out, true, &[]), "ready\n");
    }

    #[test]
    fn lists_and_names_have_a_form_for_everybody() {
        let list = Value::MillisList(vec![1_000, 120_000, 5]);
        assert_eq!(list.plain(), "1000,120000,5");
        assert_eq!(list.human(), "1s,2m,5ms");
        let mut object = Object::new();
        list.json("list", &mut object);
        Value::Name(None).json("none", &mut object);
        Value::Name(Some("jobs.dead".to_owned())).json("name", &mut object);
        assert_eq!(object.finish(), r#"{"list":[1000,120000,5],"none":null,"name":"jobs.dead"}"#);
        assert_eq!(Value::Name(None).plain(), "none");
    }

    #[test]
    fn tables_are_aligned() {
        let records = [record("alpha", 1), record("b", 200)];
        let text = written(Out::captured(Format::Table), true, &records);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("NAME"), "{text}");
        assert!(lines[2].contains("  200"), "{text}");
    }

    #[test]
    fn text_has_no_control_characters_in_any_form_that_is_shown() {
        let evil = "/tmp/\u{1b}[2J\n\u{9b}\tx";
        for (format, expected) in [
            (Format::Plain, "/tmp/\\x1b[2J\\n\\u{9b}\\tx\n"),
            (Format::Csv, "name\n/tmp/\\x1b[2J\\n\\u{9b}\\tx\n"),
            (Format::Table, "NAME\n/tmp/\\x1b[2J\\n\\u{9b}\\tx\n"),
            (Format::Json, "[{\"name\":\"/tmp/\\u001b[2J\\n\\u009b\\tx\"}]\n"),
        ] {
            let mut out = Out::captured(format);
            out.columns = vec!["name".to_owned()];
            assert_eq!(written(out, true, &[record(evil, 1)]), expected);
        }
        for (raw, expected) in [
            (true, format!("QCTL_NAME='{evil}'\n")),
            (false, "QCTL_NAME='/tmp/\\x1b[2J\\n\\u{9b}\\tx'\n".to_owned()),
        ] {
            let mut out = Out::captured(Format::Shell);
            (out.raw, out.columns) = (raw, vec!["name".to_owned()]);
            assert_eq!(written(out, false, &[record(evil, 1)]), expected);
        }
    }

    #[test]
    fn wide_and_combining_characters_keep_columns_in_their_places() {
        let names = ["漢字", "e\u{301}e\u{301}", "ab", "ﾊﾝ", "🦀"];
        let records: Vec<Record> = names.iter().map(|name| record(name, 7)).collect();
        let text = written(Out::captured(Format::Table), true, &records);
        let before = |line: &str| display_width(line.split_once("      7").unwrap().0);
        let places: Vec<usize> = text.lines().skip(1).map(before).collect();
        assert_eq!(places, [4; 5], "{text}");
    }

    #[test]
    fn unknown_column_is_a_usage_error_that_names_the_known_ones() {
        let mut out = Out::captured(Format::Plain);
        out.columns = vec!["nmae".to_owned()];
        let failure = Records::new(&out, true, &["name".to_owned()], &[], &[]).unwrap_err();
        assert_eq!(failure.exit().code(), 2);
        assert!(failure.to_string().contains("there are name"), "{failure}");
    }
}
