//! One record with many fields: for people a field a line.

use super::{Out, Record, Records, Value};
use crate::exit::Failure;

/// Writes one record: a field a line, or with `--columns`, in JSON and in CSV as one record.
#[derive(Debug)]
pub struct Sheet {
    whole: Records,
    by_field: bool,
}

impl Sheet {
    /// For a record with the fields `known`. To be made before the server is asked: a column that is
    /// not among them is a usage error.
    pub fn new(out: &Out, known: &[String]) -> Result<Self, Failure> {
        let whole = Records::new(out, false, known, &[], &[])?;
        Ok(Self { whole, by_field: out.columns.is_empty() && !out.is_complete() })
    }

    /// True when it is a field a line.
    pub fn is_by_field(&self) -> bool {
        self.by_field
    }

    /// Writes it.
    pub fn write(mut self, out: &mut Out, record: Record) -> Result<(), Failure> {
        if !self.by_field {
            self.whole.push(out, &record)?;
            return self.whole.finish(out);
        }
        let header = std::mem::replace(&mut out.header, false);
        let names: [String; 2] = ["field", "value"].map(str::to_owned);
        let mut fields = Records::new(out, true, &names, &["field", "value"], &["field", "value"])?;
        for (name, value) in record {
            let label = Value::Text(name);
            let field: Record = vec![("field".to_owned(), label), ("value".to_owned(), value)];
            fields.push(out, &field)?;
        }
        let written = fields.finish(out);
        out.header = header;
        written
    }
}
