//! Records of what a command has done.

use super::{Out, Record, Records};
use crate::exit::Failure;

/// Writes what was done: an object in JSON, a record in CSV, a sentence in a table, nothing in plain form. With
/// `--columns` the fields asked for, in every form.
#[derive(Debug)]
pub struct Deeds {
    records: Records,
    /// The form of people, who did not ask for fields.
    sentences: bool,
    /// Nobody asked for anything.
    silent: bool,
}

impl Deeds {
    /// For records with the fields `known`; with `many` the JSON document is an array. To be made
    /// before the deed: a column that is not among them is a usage error.
    pub fn new(out: &Out, many: bool, known: &[&str]) -> Result<Self, Failure> {
        let known: Vec<String> = known.iter().map(|&name| name.to_owned()).collect();
        let records = Records::new(out, many, &known, &[], &[])?;
        let unasked = out.columns.is_empty() && !out.is_complete();
        let sentences = unasked && out.is_table();
        Ok(Self { records, sentences, silent: unasked && !sentences })
    }

    /// Writes one, which people see as `sentence`.
    pub fn push(&mut self, out: &mut Out, record: &Record, sentence: &str) -> Result<(), Failure> {
        if self.sentences {
            out.line(sentence)
        } else if self.silent {
            Ok(())
        } else {
            self.records.push(out, record)
        }
    }

    /// Ends the document and writes it out.
    pub fn finish(self, out: &mut Out) -> Result<(), Failure> {
        self.records.finish(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;
    use crate::output::Value;

    fn written(mut out: Out, columns: &[&str]) -> String {
        out.columns = columns.iter().map(|&name| name.to_owned()).collect();
        let mut deeds = Deeds::new(&out, false, &["queue", "created"]).unwrap();
        let record = vec![
            ("queue".to_owned(), Value::Text("jobs".to_owned())),
            ("created".to_owned(), Value::Flag(true)),
        ];
        deeds.push(&mut out, &record, "created jobs").unwrap();
        deeds.finish(&mut out).unwrap();
        out.text()
    }

    #[test]
    fn deed_is_a_sentence_for_people_and_silent_in_a_pipe() {
        assert_eq!(written(Out::captured(Format::Table), &[]), "created jobs\n");
        assert_eq!(written(Out::captured(Format::Plain), &[]), "");
        let object = "{\"queue\":\"jobs\",\"created\":true}\n";
        assert_eq!(written(Out::captured(Format::Json), &[]), object);
        assert_eq!(written(Out::captured(Format::Csv), &[]), "queue,created\njobs,true\n");
    }

    #[test]
    fn columns_are_the_same_in_every_form() {
        assert_eq!(written(Out::captured(Format::Plain), &["created", "queue"]), "true\tjobs\n");
        assert_eq!(written(Out::captured(Format::Jsonl), &["created"]), "{\"created\":true}\n");
        let table = written(Out::captured(Format::Table), &["created"]);
        assert_eq!(table, "CREATED\ntrue\n");
        for format in [Format::Table, Format::Plain, Format::Json, Format::Jsonl] {
            let mut out = Out::captured(format);
            out.columns = vec!["nonsense".to_owned()];
            let failure = Deeds::new(&out, false, &["queue", "created"]).unwrap_err();
            assert!(failure.to_string().ends_with("there are queue, created"), "{failure}");
        }
    }
}
