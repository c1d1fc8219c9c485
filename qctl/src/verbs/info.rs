//! `qctl info`.

use clap::Args;
use qd_protocol::QueueName;
use qd_protocol::verbs::Describe;

use super::list;
use crate::exit::{Exit, Failure};
use crate::output::{Record, Records, Value};
use crate::session::Session;

/// Show one queue's attributes and counters
#[derive(Debug, Clone, Args)]
pub struct Info {
    /// Its name
    queue: QueueName,
}

impl Info {
    /// Shows the queue: with `--columns` as one record, else one field a line.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        // Unknown columns are told before the server is asked.
        let out = &session.out;
        let mut whole = Records::new(out, false, &list::columns(), &[], &[])?;
        let by_field = out.columns.is_empty() && !out.is_json();
        let queue = session.call(Describe { queue: self.queue }).await?;
        let out = &mut session.out;
        let record = list::record(&queue);
        if !by_field {
            whole.push(out, &record)?;
            whole.finish(out)?;
            return Ok(Exit::Done);
        }
        out.header = false;
        let names: [String; 2] = ["field", "value"].map(str::to_owned);
        let mut fields = Records::new(out, true, &names, &["field", "value"], &["field", "value"])?;
        for (name, value) in record {
            let label = Value::Text(name);
            let field: Record = vec![("field".to_owned(), label), ("value".to_owned(), value)];
            fields.push(out, &field)?;
        }
        fields.finish(out)?;
        Ok(Exit::Done)
    }
}
