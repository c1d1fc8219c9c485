//! What `delete`, `extend`, `release` and `reject` share: receipts from the command line or standard input,
//! settled in batches, and one status each. Verbs that name messages by id share the counting.
//!
//! Always true here: of several entries each one that is refused is told with its receipt or id;
//! what is wrong with a single one is what is wrong with the command.

use clap::Args;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{BATCH_ENTRIES_MAX, QueueName, Receipt};

use super::envelope::{LINE_BYTES_MAX, what_is_wrong};
use super::paged::answered;
use crate::exit::{Exit, Failure};
use crate::input::{Cut, Ready, Records as Input, Source};
use crate::output::{Deeds, Record, Value, tell};
use crate::progress::Progress;
use crate::session::Session;

/// Receipts that one request of a stream settles.
const BATCH: usize = 1_000;

/// Receipts as they are given to a verb.
#[derive(Debug, Clone, Args)]
pub struct Receipts {
    /// Receipts; - reads them from standard input, one a line or JSON lines with a "receipt"
    #[arg(required = true, value_name = "RECEIPT")]
    pub receipts: Vec<String>,
}

/// What a verb does with a batch of receipts.
pub trait Settling {
    /// Asks the server; one status each, in order.
    async fn settle(
        &mut self,
        session: &mut Session,
        receipts: &[Receipt],
    ) -> Result<Statuses, Failure>;
}

/// What became of the entries, told as it comes.
#[derive(Debug, Default)]
pub struct Settlement {
    /// Entries carried out.
    pub done: u64,
    /// Entries refused.
    pub refused: u64,
    /// Of these, the ones that never were a receipt of this queue.
    pub invalid: u64,
    /// How the command would end for the first refused one alone, while all of them are alike.
    alike: Option<Exit>,
    /// What is wrong with the only entry, which is told as what is wrong with the command.
    single: Option<Failure>,
}

impl Settlement {
    /// Counts statuses and tells the refusals; `label` names the entry at a place where the
    /// server does not.
    pub fn take(
        &mut self,
        statuses: &Statuses,
        json: bool,
        label: impl Fn(usize) -> Option<String>,
    ) {
        for (at, status) in statuses.entries().enumerate() {
            let failure = match status {
                Ok(()) => {
                    self.done += 1;
                    continue;
                }
                Err(refusal) => Failure::from(refusal.clone()),
            };
            match label(at) {
                Some(label) => self.refuse(&failure.after(label), json),
                None => self.refuse(&failure, json),
            }
        }
    }

    /// Counts the status of the only entry.
    pub fn take_single(&mut self, statuses: &Statuses) {
        match statuses.entries().next() {
            Some(Err(refusal)) => self.single = Some(refusal.clone().into()),
            _ => self.done = 1,
        }
    }

    fn refuse(&mut self, failure: &Failure, json: bool) {
        let exit = failure.exit();
        self.alike = match self.alike {
            None if self.refused == 0 => Some(exit),
            alike => alike.filter(|alike| *alike == exit),
        };
        self.refused += 1;
        self.invalid += u64::from(exit == Exit::BadInput);
        tell(failure, json);
    }

    /// How the command ends: for several entries that all failed alike as for one of them.
    pub fn exit(&self) -> Exit {
        match self.alike {
            _ if self.refused == 0 => Exit::Done,
            Some(alike) if self.done == 0 => alike,
            _ if self.invalid > 0 => Exit::BadInput,
            _ => Exit::Negative,
        }
    }
}

impl Settlement {
    /// [`Self::exit`], or the failure of the only entry.
    pub fn end(mut self) -> Result<Exit, Failure> {
        self.single.take().map_or_else(|| Ok(self.exit()), Err)
    }
}

impl Receipts {
    /// `-`, or words that all are receipts.
    pub fn check(&self, session: &Session) -> Result<Option<Vec<Receipt>>, Failure> {
        if self.receipts == ["-"] {
            session.stdin.refuse_unless_free()?;
            return Ok(None);
        }
        if self.receipts.iter().any(|receipt| receipt == "-") {
            let text = "- stands alone: receipts come from standard input or from the arguments";
            return Err(Failure::Usage(text.to_owned()));
        }
        let parse = |text: &String| text.parse::<Receipt>();
        let receipts: Result<_, _> = self.receipts.iter().map(parse).collect();
        receipts.map(Some).map_err(|error| Failure::BadInput(error.to_string()))
    }

    /// Settles them; of receipts among the arguments all are looked at before the first one is.
    pub async fn settle(
        &self,
        session: &mut Session,
        verb: &mut impl Settling,
    ) -> Result<Settlement, Failure> {
        let mut settlement = Settlement::default();
        match self.check(session)? {
            None => stream(session, verb, &mut settlement).await?,
            Some(receipts) => {
                let stop = session.stop.clone();
                let all = async {
                    if let [receipt] = receipts[..] {
                        let statuses = verb.settle(session, &[receipt]).await?;
                        settlement.take_single(&statuses);
                        return Ok(());
                    }
                    settle(session, verb, &receipts, &mut settlement).await
                };
                tokio::select! {
                    biased;
                    result = all => result?,
                    failure = stop.stopped() => return Err(failure),
                }
            }
        }
        Ok(settlement)
    }
}

async fn settle(
    session: &mut Session,
    verb: &mut impl Settling,
    receipts: &[Receipt],
    settlement: &mut Settlement,
) -> Result<(), Failure> {
    for batch in receipts.chunks(BATCH_ENTRIES_MAX as usize) {
        let statuses = verb.settle(session, batch).await?;
        settlement.take(&statuses, session.out.is_json(), |at| label(batch, at));
    }
    Ok(())
}

/// A receipt in a line for people: whole, since its beginning is the same for a whole queue.
fn label(receipts: &[Receipt], at: usize) -> Option<String> {
    receipts.get(at).map(|receipt| format!("receipt {receipt}"))
}

/// Settles the receipts on standard input; what has arrived is not kept waiting. What ends it on the
/// way says how far it got.
async fn stream(
    session: &mut Session,
    verb: &mut impl Settling,
    settlement: &mut Settlement,
) -> Result<(), Failure> {
    let mut input = Input::start(vec![Source::Stdin], Cut::At(b'\n'), LINE_BYTES_MAX)?;
    // Lines whose receipts were looked at, whatever became of them.
    let mut settled = 0;
    let result = lines(session, verb, settlement, &mut input, &mut settled).await;
    result.map_err(|failure| {
        let receipts = if settlement.done == 1 { "receipt" } else { "receipts" };
        let text = format!(
            "{} {receipts} confirmed, first unconfirmed input line {}",
            settlement.done,
            settled + 1
        );
        if failure.exit() == Exit::Pipe { failure } else { failure.after(text) }
    })
}

async fn lines(
    session: &mut Session,
    verb: &mut impl Settling,
    settlement: &mut Settlement,
    input: &mut Input,
    settled: &mut u64,
) -> Result<(), Failure> {
    let stop = session.stop.clone();
    let mut progress = Progress::beside_data();
    let mut batch = Vec::new();
    loop {
        let ready = input.ready()?;
        if let Ready::Record(line) = &ready {
            match parse_line(line) {
                Ok(receipt) => batch.extend(receipt),
                Err(reason) => {
                    let text = format!("input line {}: {reason}", input.count);
                    settlement.refuse(&Failure::BadInput(text), session.out.is_json());
                }
            }
        }
        let pause = !matches!(ready, Ready::Record(_));
        if !batch.is_empty() && (pause || batch.len() >= BATCH) {
            let request = settle(session, verb, &batch, settlement);
            let (answer, stopped) = answered(&stop, request).await;
            if let Some(answer) = answer {
                answer?;
                batch.clear();
                *settled = input.count;
            }
            if let Some(failure) = stopped {
                return Err(failure);
            }
            progress.show(settlement.done + settlement.refused, "receipts", input.part());
        }
        if batch.is_empty() {
            *settled = input.count;
        }
        match ready {
            Ready::Record(_) => {}
            Ready::Over => return Ok(()),
            Ready::Paused => tokio::select! {
                arrived = input.arrive() => drop(arrived?),
                failure = stop.stopped() => return Err(failure),
            },
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
            serde_json::from_str(text).map_err(|error| what_is_wrong(&error))?;
        let receipt = object.get("receipt").and_then(serde_json::Value::as_str);
        let missing = "the JSON object has no \"receipt\" that is a string";
        receipt.ok_or_else(|| missing.to_owned())?.parse()
    } else {
        text.parse()
    };
    receipt.map(Some).map_err(|error: qd_protocol::receipt::ReceiptError| error.to_string())
}

/// Says how many: `deleted 3`, or an object with that field.
#[derive(Debug)]
pub struct Report {
    deeds: Deeds,
    what: &'static str,
}

impl Report {
    /// For a verb that is done when it is `what`.
    pub fn new(session: &Session, what: &'static str) -> Result<Self, Failure> {
        Ok(Self { deeds: Deeds::new(&session.out, false, &["queue", what])?, what })
    }

    /// Says it, and how the command ends.
    pub fn finish(
        mut self,
        session: &mut Session,
        queue: &QueueName,
        settlement: Settlement,
    ) -> Result<Exit, Failure> {
        let record: Record = vec![
            ("queue".to_owned(), Value::Text(queue.to_string())),
            (self.what.to_owned(), Value::Count(settlement.done)),
        ];
        let sentence = format!("{} {}", self.what, settlement.done);
        self.deeds.push(&mut session.out, &record, &sentence)?;
        self.deeds.finish(&mut session.out)?;
        settlement.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qd_protocol::ErrorCode;

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

    #[test]
    fn entries_that_all_fail_alike_end_as_one_of_them() {
        let exit = |codes: &[Option<ErrorCode>]| {
            let mut statuses = Statuses::default();
            for code in codes {
                statuses.push(code.map(|code| code.refuse("x")));
            }
            let mut settlement = Settlement::default();
            settlement.take(&statuses, false, |at| Some(format!("entry {at}")));
            settlement.exit()
        };
        let leased = Some(ErrorCode::MessageLeased);
        let stale = Some(ErrorCode::ReceiptExpired);
        let invalid = Some(ErrorCode::ReceiptInvalid);
        assert_eq!(exit(&[None, None]), Exit::Done);
        assert_eq!(exit(&[leased, leased]), Exit::TryAgain);
        assert_eq!(exit(&[leased, None]), Exit::Negative);
        assert_eq!(exit(&[leased, stale, leased]), Exit::Negative);
        assert_eq!(exit(&[stale, None]), Exit::Negative);
        assert_eq!(exit(&[stale, invalid, None]), Exit::BadInput);
    }
}
