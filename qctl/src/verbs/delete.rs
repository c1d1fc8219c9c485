//! `qctl delete`.

use clap::Args;
use qd_protocol::verbs::{self, delete::Statuses};
use qd_protocol::{BATCH_ENTRIES_MAX, QueueName, Receipt};

use crate::exit::{Exit, Failure};
use crate::input::{Ready, Records as Input, Source};
use crate::output::{Record, Records, Value, tell};
use crate::session::Session;

/// Receipts that one request of a stream deletes.
const BATCH: usize = 1_000;
/// Longest input line: a message of 16 MiB as JSON with every byte escaped in base64 or `\u0000`.
const LINE_BYTES_MAX: u64 = 100 << 20;

/// End the life of received messages
///
/// Status 1: a receipt was stale, so that its message is still there or with somebody else.
#[derive(Debug, Clone, Args)]
pub struct Delete {
    /// The queue
    queue: QueueName,
    /// Receipts; - reads them from standard input, one a line or JSON lines with a "receipt"
    #[arg(required = true, value_name = "RECEIPT")]
    receipts: Vec<String>,
}

/// What became of receipts, told as it comes.
#[derive(Debug, Default)]
pub struct Settlement {
    /// Messages deleted.
    pub deleted: u64,
    /// Receipts refused.
    pub refused: u64,
    /// Receipts that never were any.
    pub invalid: u64,
}

impl Settlement {
    /// Counts statuses and tells the refusals.
    pub fn take(&mut self, statuses: &Statuses, json: bool) {
        for status in statuses.entries() {
            match status {
                Ok(()) => self.deleted += 1,
                Err(refusal) => {
                    let failure = Failure::from(refusal.clone());
                    self.refused += 1;
                    self.invalid += u64::from(failure.exit() != Exit::Negative);
                    tell(&failure, json);
                }
            }
        }
    }
}

impl Delete {
    /// Deletes.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let mut settlement = Settlement::default();
        if self.receipts == ["-"] {
            session.stdin.refuse_unless_free()?;
            stream(session, &self.queue, &mut settlement).await?;
        } else {
            // All are looked at before the first one is deleted.
            let mut receipts = Vec::new();
            for text in &self.receipts {
                let receipt = text.parse::<Receipt>();
                receipts.push(receipt.map_err(|error| Failure::BadInput(error.to_string()))?);
            }
            if let [receipt] = receipts[..] {
                return delete_one(session, self.queue, receipt).await;
            }
            send(session, &self.queue, receipts, &mut settlement).await?;
        }
        report(session, &self.queue, settlement.deleted)?;
        Ok(if settlement.invalid > 0 {
            Exit::BadInput
        } else if settlement.refused > 0 {
            Exit::Negative
        } else {
            Exit::Done
        })
    }
}

/// One receipt: what is wrong with it is what is wrong with the command.
async fn delete_one(
    session: &mut Session,
    queue: QueueName,
    receipt: Receipt,
) -> Result<Exit, Failure> {
    let delete = verbs::Delete { queue: queue.clone(), receipts: vec![receipt] };
    let deleted = session.call(delete).await?;
    if let Some(Err(refusal)) = deleted.statuses.entries().next() {
        return Err(refusal.clone().into());
    }
    report(session, &queue, 1)?;
    Ok(Exit::Done)
}

fn report(session: &mut Session, queue: &QueueName, deleted: u64) -> Result<(), Failure> {
    let out = &mut session.out;
    if out.is_json() {
        let record: Record = vec![
            ("queue".to_owned(), Value::Text(queue.to_string())),
            ("deleted".to_owned(), Value::Count(deleted)),
        ];
        let mut records = Records::new(out, false, &[], &[], &[])?;
        records.push(out, &record)?;
        return records.finish(out);
    }
    if out.is_table() {
        out.line(&format!("deleted {deleted}"))?;
    }
    out.flush()
}

async fn send(
    session: &mut Session,
    queue: &QueueName,
    receipts: Vec<Receipt>,
    settlement: &mut Settlement,
) -> Result<(), Failure> {
    for receipts in receipts.chunks(BATCH_ENTRIES_MAX as usize) {
        let delete = verbs::Delete { queue: queue.clone(), receipts: receipts.to_vec() };
        let deleted = session.call(delete).await?;
        settlement.take(&deleted.statuses, session.out.is_json());
    }
    Ok(())
}

/// Deletes the receipts on standard input; what has arrived is not kept waiting.
async fn stream(
    session: &mut Session,
    queue: &QueueName,
    settlement: &mut Settlement,
) -> Result<(), Failure> {
    let mut input = Input::start(vec![Source::Stdin], b'\n', LINE_BYTES_MAX)?;
    let mut batch = Vec::new();
    loop {
        let ready = input.ready()?;
        if let Ready::Record(line) = &ready {
            match parse_line(line) {
                Ok(receipt) => batch.extend(receipt),
                Err(reason) => {
                    settlement.invalid += 1;
                    let text = format!("input line {}: {reason}", input.count);
                    tell(&Failure::BadInput(text), session.out.is_json());
                }
            }
        }
        let pause = !matches!(ready, Ready::Record(_));
        if !batch.is_empty() && (pause || batch.len() >= BATCH) {
            send(session, queue, std::mem::take(&mut batch), settlement).await?;
        }
        match ready {
            Ready::Record(_) => {}
            Ready::Over => return Ok(()),
            Ready::Paused => {
                input.arrive().await?;
            }
        }
    }
}

/// The receipt on a line; an empty line has none.
fn parse_line(line: &[u8]) -> Result<Option<Receipt>, String> {
    let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let receipt = if text.starts_with('{') {
        let object: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("bad JSON: {error}"))?;
        let receipt = object.get("receipt").and_then(serde_json::Value::as_str);
        let missing = "the JSON object has no \"receipt\" that is a string";
        receipt.ok_or_else(|| missing.to_owned())?.parse()
    } else {
        text.parse()
    };
    receipt.map(Some).map_err(|error: qd_protocol::receipt::ReceiptError| error.to_string())
}

/// Deletes receipts of several queues; tells `outcome` the place of each and whether it was
/// refused, which is also told on standard error.
pub async fn delete_receipts(
    session: &mut Session,
    queues: &[QueueName],
    receipts: &[(usize, Receipt)],
    mut outcome: impl FnMut(usize, bool),
) -> Result<(), Failure> {
    for (index, queue) in queues.iter().enumerate() {
        let mine: Vec<usize> = (0..receipts.len())
            .filter(|&at| receipts.get(at).is_some_and(|(queue, _)| *queue == index))
            .collect();
        for places in mine.chunks(BATCH_ENTRIES_MAX as usize) {
            let batch = places.iter().filter_map(|&at| receipts.get(at));
            let delete = verbs::Delete {
                queue: queue.clone(),
                receipts: batch.map(|&(_, receipt)| receipt).collect(),
            };
            let deleted = session.call(delete).await?;
            for (&at, status) in places.iter().zip(deleted.statuses.entries()) {
                outcome(at, status.is_err());
            }
            Settlement::default().take(&deleted.statuses, session.out.is_json());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIPT: Receipt = Receipt { queue: 1, lease: 2, id: 3, secret: 4 };

    #[test]
    fn receipts_are_read_from_lines_and_json_lines() {
        let text = RECEIPT.to_string();
        assert_eq!(parse_line(text.as_bytes()), Ok(Some(RECEIPT)));
        assert_eq!(parse_line(format!(" {text}\r").as_bytes()), Ok(Some(RECEIPT)));
        let json = format!(r#"{{"id":"1","receipt":"{text}","body":"x"}}"#);
        assert_eq!(parse_line(json.as_bytes()), Ok(Some(RECEIPT)));
        assert_eq!(parse_line(b"  "), Ok(None));
        for bad in ["x", "{", "{}", r#"{"receipt":1}"#, r#"{"receipt":"x"}"#] {
            assert!(parse_line(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse_line(b"\xff").is_err());
    }
}
