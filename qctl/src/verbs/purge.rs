//! `qctl purge`.
//!
//! Always true here: without a filter it is one step. With one each request is carried out as a
//! whole or not at all, and what is told to be purged was answered to be purged.

use clap::Args;
use qd_protocol::verbs::purge::PURGE_HEADERS_MAX;
use qd_protocol::verbs::{self, Describe, Purged};
use qd_protocol::{Headers, QueueName};

use super::confirm::{confirm, held, may_ask, messages};
use super::headers::{check_headers_asked, parse_header};
use super::paged::ask;
use crate::exit::{Exit, Failure};
use crate::output::{Out, Record, Records, Value, say};
use crate::progress::Progress;
use crate::session::Session;
use crate::units;

/// Of the record.
pub const FIELDS: [&str; 4] = ["queue", "purged", "skipped", "dry_run"];

/// Remove the messages of a queue, all or some
///
/// All of them go in one step, leased ones too. With --older-than or --header only those that match
/// go, leased ones stay, and it is not one step: ended on the way, it has purged what it says.
#[derive(Debug, Clone, Args)]
pub struct Purge {
    /// The queue
    queue: QueueName,
    /// Only messages that were sent at least this long ago
    #[arg(long, value_name = "D", value_parser = units::delay_ms)]
    older_than: Option<u64>,
    /// Only messages with this header; repeated: with all of these
    #[arg(short = 'H', long, value_name = "K=V", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// Remove nothing, and tell how many would be removed
    #[arg(long)]
    dry_run: bool,
    /// Remove them without a question
    #[arg(long)]
    yes: bool,
}

/// What the answers say so far.
#[derive(Debug, Default)]
struct Total {
    purged: u64,
    skipped: u64,
    /// A request was sent whose answer did not come.
    unanswered: bool,
}

impl Purge {
    /// Purges, request by request.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        check_headers_asked(&self.header, PURGE_HEADERS_MAX)?;
        let known = FIELDS.map(str::to_owned);
        let records = Records::new(&session.out, false, &known, &["purged"], &FIELDS)?;
        if !self.dry_run && !self.yes {
            let stop = session.stop.clone();
            tokio::select! {
                biased;
                confirmed = self.confirm(session) => confirmed?,
                failure = stop.stopped() => return Err(failure),
            }
        }
        let mut total = Total::default();
        let mut progress = Progress::new();
        let result = self.all(session, &mut total, &mut progress).await;
        drop(progress);
        if let Err(failure) = result {
            return Err(total.after(failure, self.dry_run));
        }
        self.report(&mut session.out, records, &total)?;
        if total.skipped > 0 {
            let they = if total.skipped == 1 { "it is" } else { "they are" };
            say(&format!("{} skipped: {they} leased", messages(total.skipped)));
        }
        Ok(Exit::Done)
    }

    fn is_filtered(&self) -> bool {
        self.older_than.is_some() || !self.header.is_empty()
    }

    /// Asks a person; where there is none, nothing is done.
    async fn confirm(&self, session: &mut Session) -> Result<(), Failure> {
        let queue = &self.queue;
        let may_ask = may_ask(session);
        let description = session.call(Describe { queue: queue.clone() }).await?;
        let held = format!("queue \"{queue}\" holds {}", messages(held(&description.statistics)));
        let which = if self.is_filtered() { "those that match" } else { "all of them" };
        if may_ask {
            let question = format!("{held}; type the queue's name to remove {which}");
            return confirm(queue, &question, "purged").await;
        }
        let text = format!("{held}; nothing was purged (--yes removes {which})");
        Err(Failure::Usage(text).of(queue))
    }

    async fn all(
        &self,
        session: &mut Session,
        total: &mut Total,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let (mut after, mut through) = (0, 0);
        loop {
            let purge = verbs::Purge {
                queue: self.queue.clone(),
                older_than_ms: self.older_than,
                headers: Headers(self.header.clone()),
                dry_run: self.dry_run,
                after,
                through,
            };
            total.unanswered = true;
            let purged = ask(session, purge, |answer| total.take(answer)).await?;
            let verb = if self.dry_run { "counted" } else { "purged" };
            progress.show(total.purged, &format!("messages {verb}"), None);
            if !purged.more {
                return Ok(());
            }
            if purged.last <= after {
                return Err(Failure::Protocol("the answer to a purge does not get on".to_owned()));
            }
            (after, through) = (purged.last, purged.through);
        }
    }

    fn report(&self, out: &mut Out, mut records: Records, total: &Total) -> Result<(), Failure> {
        if out.is_table() && out.columns.is_empty() {
            let verb = if self.dry_run { "would purge" } else { "purged" };
            out.line(&format!("{verb} {} from {}", messages(total.purged), self.queue))?;
            return out.flush();
        }
        let values = [
            Value::Text(self.queue.to_string()),
            Value::Count(total.purged),
            Value::Count(total.skipped),
            Value::Flag(self.dry_run),
        ];
        let record: Record = FIELDS.map(str::to_owned).into_iter().zip(values).collect();
        records.push(out, &record)?;
        records.finish(out)
    }
}

impl Total {
    /// Counts an answer.
    fn take(&mut self, answer: Result<Purged, Failure>) -> Result<Purged, Failure> {
        match &answer {
            Ok(purged) => {
                self.unanswered = false;
                self.purged += purged.messages;
                self.skipped += purged.skipped;
            }
            Err(failure) => self.unanswered = failure.refusal().is_none(),
        }
        answer
    }

    /// The failure that ended the purge, with how far it got.
    fn after(&self, failure: Failure, dry_run: bool) -> Failure {
        let purged = messages(self.purged);
        match (self.purged, self.unanswered) {
            _ if dry_run => failure,
            (0, _) => failure,
            (_, true) => failure.after(format!("{purged} purged, or more")),
            (_, false) => failure.after(format!("{purged} purged")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qd_protocol::ErrorCode;

    fn purged(messages: u64, skipped: u64) -> Purged {
        Purged { messages, skipped, last: 1, through: 9, more: false }
    }

    #[test]
    fn failure_says_how_far_it_got() {
        let mut total = Total::default();
        let text = |total: &Total| total.after(Failure::Interrupted, false).to_string();
        assert_eq!(text(&total), "interrupted");
        total.take(Ok(purged(3, 1))).unwrap();
        total.take(Ok(purged(2, 0))).unwrap();
        assert_eq!((total.purged, total.skipped), (5, 1));
        assert_eq!(text(&total), "5 messages purged: interrupted");
        assert_eq!(total.after(Failure::Interrupted, true).to_string(), "interrupted");
        total.unanswered = true;
        assert_eq!(text(&total), "5 messages purged, or more: interrupted");
        assert!(total.take(Err(ErrorCode::Closing.refuse("closing").into())).is_err());
        assert_eq!(text(&total), "5 messages purged: interrupted");
    }
}
