//! `qctl delete`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use clap::{ArgAction, ArgGroup, Args};
use qd_protocol::verbs::{self, delete::Statuses};
use qd_protocol::{MESSAGE_BYTES_MAX, QueueName, Receipt};

use super::by_id;
use super::message_flags::MessageFlags;
use super::send::id_records;
use super::send_atomic::Step;
use super::send_input::Body;
use super::settle::{Receipts, Report, Settling};
use crate::exit::{Exit, Failure};
use crate::input::{Source, too_large};
use crate::session::Session;
use crate::units;

/// The field that counts.
pub const DONE: &str = "deleted";

/// End the life of received messages, or of messages that nobody holds
///
/// Status 1: a receipt was stale, so that its message is still there or with somebody else; or
/// there is no message with an id.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["receipts", "ids"])))]
// clap would put the queue behind the receipts.
#[command(override_usage = "qctl delete [OPTIONS] <QUEUE> <RECEIPT|--id <ID>...>")]
pub struct Delete {
    /// The queue
    queue: QueueName,
    /// Receipts; - reads them from standard input, one a line or JSON lines with a "receipt"
    #[arg(value_name = "RECEIPT")]
    receipts: Vec<String>,
    /// Delete messages that are ready or delayed, by their ids
    #[arg(long = "id", value_name = "ID", num_args = 1.., value_parser = units::whole::<u64>(1, u64::MAX))]
    ids: Vec<u64>,
    /// Send BODY to a queue in the same step, both or neither; - is standard input
    #[arg(
        long,
        value_names = ["QUEUE", "BODY"],
        num_args = 2,
        action = ArgAction::Append,
        allow_hyphen_values = true,
        conflicts_with = "ids"
    )]
    and_send: Vec<OsString>,
    #[command(flatten)]
    message: MessageFlags,
}

impl Delete {
    /// Whether it ends leases, and nothing else.
    pub fn settles(&self) -> bool {
        self.ids.is_empty() && self.and_send.is_empty()
    }

    /// Deletes.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        if !self.and_send.is_empty() {
            return self.and_send(session).await;
        }
        if self.message.any() {
            let text = "the flags of a message go with --and-send";
            return Err(Failure::Usage(text.to_owned()).of(&self.queue));
        }
        let report = Report::new(session, DONE)?;
        let queue = &self.queue;
        let settlement = if self.ids.is_empty() {
            let receipts = Receipts { receipts: self.receipts };
            receipts.settle(session, &mut Deleting { queue }).await?
        } else {
            let request = |ids| verbs::Discard { queue: queue.clone(), ids };
            by_id::change(session, &self.ids, request).await?
        };
        report.finish(session, queue, settlement)
    }

    /// Deletes the messages and sends others in one step, or does neither.
    async fn and_send(self, session: &mut Session) -> Result<Exit, Failure> {
        // A column of ids needs no name.
        session.out.header &= !session.out.is_table() || !session.out.columns.is_empty();
        let pairs: Vec<(QueueName, Body)> =
            self.and_send.chunks(2).map(message_to_send).collect::<Result<_, _>>()?;
        if self.message.is_unique() && !self.message.has_dedup_id() {
            return Err(Failure::Usage("--unique needs --dedup-id".to_owned()).of(&self.queue));
        }
        let common = self.message.common().map_err(|failure| failure.of(&self.queue))?;
        let records = id_records(&session.out, pairs.len() > 1, common.may_repeat())?;
        let Some(receipts) = Receipts { receipts: self.receipts }.check(session)? else {
            let text = "with --and-send receipts come from the arguments, not from standard input";
            return Err(Failure::Usage(text.to_owned()));
        };
        let stdin = |body: &Body| matches!(body, Body::Read(_));
        match pairs.iter().filter(|(_, body)| stdin(body)).count() {
            0 => {}
            1 => session.stdin.refuse_unless_free()?,
            _ => {
                let text = "standard input can be the body of one message only".to_owned();
                return Err(Failure::Usage(text));
            }
        }
        let mut step = Step::default();
        step.delete(self.queue, receipts)?;
        for (queue, body) in pairs {
            let body = body.read().await?;
            if body.len() as u64 > MESSAGE_BYTES_MAX {
                return Err(too_large("the body"));
            }
            step.add(&queue, common.entry(body))?;
        }
        step.run(session, records).await
    }
}

/// A queue and a body, as `--and-send` has them.
fn message_to_send(pair: &[OsString]) -> Result<(QueueName, Body), Failure> {
    let [queue, body] = pair else {
        return Err(Failure::Usage("--and-send needs a QUEUE and a BODY".to_owned()));
    };
    let queue = QueueName::new(queue.to_string_lossy());
    let queue = queue.map_err(|error| Failure::Usage(format!("--and-send: {error}")))?;
    let body = if body == "-" {
        Body::Read(Source::Stdin)
    } else {
        Body::Given(Bytes::copy_from_slice(body.as_bytes()))
    };
    Ok((queue, body))
}

struct Deleting<'a> {
    queue: &'a QueueName,
}

impl Settling for Deleting<'_> {
    async fn settle(
        &mut self,
        session: &mut Session,
        receipts: &[Receipt],
    ) -> Result<Statuses, Failure> {
        let delete = verbs::Delete { queue: self.queue.clone(), receipts: receipts.to_vec() };
        Ok(session.call(delete).await?.statuses)
    }
}
