//! `qctl redrive`.
//!
//! Always true here: each request is carried out as a whole or not at all, and what is told to be
//! moved was answered to be moved. So a redrive may be ended at any time, and started again.

use std::time::Duration;

use clap::Args;
use qd_protocol::verbs::redrive::{REDRIVE_HEADERS_MAX, REDRIVE_MAX};
use qd_protocol::verbs::{self, Redriven};
use qd_protocol::{Headers, QueueName, Refusal};
use tokio::time::{Instant, sleep_until};

use super::confirm::messages;
use super::headers::{check_headers_asked, parse_header};
use super::paged::ask;
use crate::exit::{Exit, Failure};
use crate::output::{Out, Record, Records, Value, say, tell};
use crate::progress::Progress;
use crate::session::Session;
use crate::units;

/// Requests a second with --rate, where that many messages are moved in it.
const PACES: u64 = 10;

/// Of the record.
pub const FIELDS: [&str; 5] = ["queue", "to", "moved", "skipped", "dry_run"];

/// Move messages out of a dead-letter queue, back to where they came from
///
/// They start anew: new ids, no attempts, and nothing says any more that they were dead letters.
/// Ended on the way, it has moved what it says. Status 1: some could not be moved.
#[derive(Debug, Clone, Args)]
pub struct Redrive {
    /// The queue that they are in
    queue: QueueName,
    /// The queue to move them to [default: each to the one that it came from]
    #[arg(long, value_name = "QUEUE")]
    to: Option<QueueName>,
    /// Most messages [default: all that are there now]
    #[arg(long, value_name = "N", value_parser = units::whole::<u64>(1, u64::MAX))]
    max: Option<u64>,
    /// At most this many messages a second
    #[arg(long, value_name = "N/s", value_parser = units::rate_per_second)]
    rate: Option<u64>,
    /// Only messages with this header; repeated: with all of these
    #[arg(short = 'H', long, value_name = "K=V", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// Move nothing, and tell how many would be moved
    #[arg(long)]
    dry_run: bool,
}

/// What the answers say so far.
#[derive(Debug, Default)]
struct Total {
    moved: u64,
    skipped: u64,
    /// Why the first one was skipped.
    refusal: Option<Box<Refusal>>,
    /// A request was sent whose answer did not come.
    unanswered: bool,
}

impl Redrive {
    /// Moves the messages, request by request.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        self.check()?;
        let known = FIELDS.map(str::to_owned);
        let records = Records::new(&session.out, false, &known, &["moved"], &FIELDS)?;
        let mut total = Total::default();
        let mut progress = Progress::new();
        let result = self.all(session, &mut total, &mut progress).await;
        drop(progress);
        if let Err(failure) = result {
            return Err(total.after(failure, self.dry_run));
        }
        self.report(&mut session.out, records, &total)?;
        if total.skipped == 0 {
            return Ok(Exit::Done);
        }
        total.tell_skipped(session.out.is_json());
        Ok(Exit::Negative)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.to.as_ref() == Some(&self.queue) {
            let text = format!("--to {} is the queue that the messages are in", self.queue);
            return Err(Failure::Usage(text));
        }
        check_headers_asked(&self.header, REDRIVE_HEADERS_MAX)
    }

    fn headers(&self) -> Headers {
        Headers(self.header.clone())
    }

    async fn all(
        &self,
        session: &mut Session,
        total: &mut Total,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let (mut after, mut through) = (0, 0);
        loop {
            let left = self.max.unwrap_or(u64::MAX) - total.moved;
            let redrive = verbs::Redrive {
                queue: self.queue.clone(),
                to: self.to.clone(),
                after,
                through,
                max: u32::try_from(left.min(self.page())).unwrap_or(REDRIVE_MAX),
                headers: self.headers(),
                dry_run: self.dry_run,
            };
            total.unanswered = true;
            let redriven = ask(session, redrive, |answer| total.take(answer)).await?;
            let verb = if self.dry_run { "counted" } else { "moved" };
            progress.show(
                total.moved,
                &format!("messages {verb}"),
                self.max.map(|max| (total.moved, max)),
            );
            if !redriven.more || self.max.is_some_and(|max| total.moved >= max) {
                return Ok(());
            }
            if redriven.last <= after {
                let text = "the answer to a redrive does not get on".to_owned();
                return Err(Failure::Protocol(text));
            }
            (after, through) = (redriven.last, redriven.through);
            self.pace(session, total, progress.start()).await?;
        }
    }

    /// Most messages of one request.
    fn page(&self) -> u64 {
        let rate = self.rate.filter(|_| !self.dry_run);
        rate.map_or(u64::from(REDRIVE_MAX), |rate| (rate / PACES).clamp(1, REDRIVE_MAX.into()))
    }

    /// Waits until what was moved is within the rate.
    async fn pace(&self, session: &Session, total: &Total, start: Instant) -> Result<(), Failure> {
        let Some(rate) = self.rate.filter(|_| !self.dry_run) else {
            return Ok(());
        };
        let due_ms = u128::from(total.moved) * 1_000 / u128::from(rate);
        let due = Duration::from_millis(u64::try_from(due_ms).unwrap_or(u64::MAX));
        tokio::select! {
            biased;
            failure = session.stop.stopped() => Err(failure),
            () = sleep_until(start + due) => Ok(()),
        }
    }

    fn report(&self, out: &mut Out, mut records: Records, total: &Total) -> Result<(), Failure> {
        if out.is_table() && out.columns.is_empty() {
            out.line(&self.sentence(total))?;
            return out.flush();
        }
        let to = self.to.as_ref().map(ToString::to_string);
        let values = [
            Value::Text(self.queue.to_string()),
            Value::NameOrEmpty(to),
            Value::Count(total.moved),
            Value::Count(total.skipped),
            Value::Flag(self.dry_run),
        ];
        let record: Record = FIELDS.map(str::to_owned).into_iter().zip(values).collect();
        records.push(out, &record)?;
        records.finish(out)
    }

    fn sentence(&self, total: &Total) -> String {
        let verb = if self.dry_run { "would move" } else { "moved" };
        let messages = messages(total.moved);
        let to = match (&self.to, total.moved) {
            (Some(to), _) => format!("to {to}"),
            (None, 1) => "back to where it came from".to_owned(),
            (None, _) => "back to where they came from".to_owned(),
        };
        let skipped = match total.skipped {
            0 => String::new(),
            skipped => format!("; {skipped} skipped"),
        };
        format!("{verb} {messages} from {} {to}{skipped}", self.queue)
    }
}

impl Total {
    /// Counts an answer.
    fn take(&mut self, answer: Result<Redriven, Failure>) -> Result<Redriven, Failure> {
        match &answer {
            Ok(redriven) => {
                self.unanswered = false;
                self.moved += redriven.moved;
                self.skipped += redriven.skipped;
                if self.refusal.is_none() {
                    self.refusal.clone_from(&redriven.refusal);
                }
            }
            Err(failure) => self.unanswered = failure.refusal().is_none(),
        }
        answer
    }

    /// The failure that ended the redrive, with how far it got.
    fn after(&self, failure: Failure, dry_run: bool) -> Failure {
        let moved = messages(self.moved);
        match (self.moved, self.unanswered) {
            _ if dry_run => failure,
            (0, _) => failure,
            (_, true) => failure.after(format!("{moved} moved, or more")),
            (_, false) => failure.after(format!("{moved} moved")),
        }
    }

    fn tell_skipped(&self, json: bool) {
        let more = if self.skipped > 1 { "; the first" } else { "" };
        let text = format!("{} skipped{more}", messages(self.skipped));
        match &self.refusal {
            Some(refusal) => tell(&Failure::Refused(refusal.clone()).after(text), json),
            None => say(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qd_protocol::ErrorCode;

    fn redrive() -> Redrive {
        Redrive {
            queue: QueueName::new("jobs.dead").unwrap(),
            to: None,
            max: None,
            rate: None,
            header: Vec::new(),
            dry_run: false,
        }
    }

    fn redriven(moved: u64, skipped: u64, reason: &str) -> Redriven {
        let refusal = Some(Box::new(ErrorCode::QueueFull.refuse(reason))).filter(|_| skipped > 0);
        Redriven { moved, skipped, last: 1, through: 9, more: false, refusal }
    }

    #[test]
    fn pages_follow_the_rate() {
        let page = |rate| Redrive { rate, ..redrive() }.page();
        assert_eq!(page(None), 1_000);
        assert_eq!([Some(1), Some(55), Some(1_000_000)].map(page), [1, 5, 1_000]);
        assert_eq!(Redrive { rate: Some(10), dry_run: true, ..redrive() }.page(), 1_000);
    }

    #[test]
    fn answers_are_added_up_and_the_first_reason_is_kept() {
        let mut total = Total { unanswered: true, ..Total::default() };
        for answer in [redriven(5, 0, ""), redriven(2, 1, "first"), redriven(0, 3, "second")] {
            total.take(Ok(answer)).unwrap();
        }
        assert_eq!((total.moved, total.skipped, total.unanswered), (7, 4, false));
        assert_eq!(total.refusal.as_ref().unwrap().text, "first");
        assert_eq!(
            redrive().sentence(&total),
            "moved 7 messages from jobs.dead back to where they came from; 4 skipped"
        );
        let dry = Redrive { to: QueueName::new("other").ok(), dry_run: true, ..redrive() };
        total = Total { moved: 1, ..Total::default() };
        assert_eq!(dry.sentence(&total), "would move 1 message from jobs.dead to other");
    }

    #[test]
    fn failure_says_how_far_it_got() {
        let mut total = Total::default();
        let text = |total: &Total| total.after(Failure::Interrupted, false).to_string();
        assert_eq!(text(&total), "interrupted");
        total.take(Ok(redriven(3, 0, ""))).unwrap();
        assert_eq!(text(&total), "3 messages moved: interrupted");
        assert_eq!(total.after(Failure::Interrupted, true).to_string(), "interrupted");
        total.unanswered = true;
        assert_eq!(text(&total), "3 messages moved, or more: interrupted");
        assert!(total.take(Err(ErrorCode::Closing.refuse("closing").into())).is_err());
        assert_eq!(text(&total), "3 messages moved: interrupted");
    }

    #[test]
    fn queue_is_not_moved_into_itself() {
        let flags = Redrive { to: QueueName::new("jobs.dead").ok(), ..redrive() };
        assert_eq!(flags.check().unwrap_err().exit(), Exit::Usage);
        let header = vec![("k".to_owned(), "v".to_owned()); 17];
        assert_eq!(Redrive { header, ..redrive() }.check().unwrap_err().exit(), Exit::Usage);
    }
}
