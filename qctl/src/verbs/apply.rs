//! `qctl apply`.
//!
//! Always true here: nothing is changed before all of the file was read and found good.

use std::path::PathBuf;

use clap::Args;
use qd_protocol::verbs::{self, IfExists};
use qd_protocol::{ErrorCode, QueueName};

use super::confirm::{confirm, may_ask, messages};
use super::list::Pages;
use super::paged::ask;
use crate::definitions::{Change, Definitions, Kind, Plan, plan, read};
use crate::document::{Document, Form};
use crate::exit::{Exit, Failure};
use crate::input::Source;
use crate::output::{Out, Record, Records, Value, tell};
use crate::session::Session;

/// Of a record.
pub const FIELDS: [&str; 5] = ["change", "queue", "attribute", "old", "new"];
/// Largest file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most mistakes of a file that are told.
const MISTAKES_TOLD: usize = 20;
/// Most names of queues in a message.
const NAMES_TOLD: usize = 10;

/// Make the queues what a file says
///
/// Shows what differs, creates queues that are missing and changes attributes. An attribute that
/// the file does not have gets its default. Nothing is done before all of the file was found good.
#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// The file, as export writes it, in TOML or JSON; - is standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    file: PathBuf,
    /// Change nothing, and show what would change
    #[arg(long)]
    dry_run: bool,
    /// The same, with status 1 when anything would change
    #[arg(long, conflicts_with = "dry_run")]
    check: bool,
    /// Drop queues that the file does not have
    #[arg(long)]
    prune: bool,
    /// Drop queues that hold messages without a question
    #[arg(long, requires = "prune")]
    yes: bool,
}

impl Apply {
    /// Applies the file.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let known = FIELDS.map(str::to_owned);
        let records = Records::new(&session.out, true, &known, &FIELDS, &FIELDS)?;
        let stop = session.stop.clone();
        let plan = tokio::select! {
            biased;
            plan = self.prepare(session, records) => plan?,
            failure = stop.stopped() => return Err(failure),
        };
        if self.check {
            return Ok(if plan.changes.is_empty() { Exit::Done } else { Exit::Negative });
        }
        if !self.dry_run {
            self.carry_out(session, &plan).await?;
        }
        Ok(Exit::Done)
    }

    /// What is to be done, shown and agreed to.
    async fn prepare(&self, session: &mut Session, records: Records) -> Result<Plan, Failure> {
        let definitions = self.read(session).await?;
        let mut existing = Vec::new();
        let client = session.client().await?;
        let mut pages = Pages::new(None);
        while let Some(queues) = pages.next(&client).await? {
            existing.extend(queues);
        }
        let json = session.out.is_json();
        let plan = plan(&definitions, &existing, self.prune)
            .map_err(|mistakes| told_but_one(mistakes, json))?;
        show(&mut session.out, records, &plan)?;
        refuse_order_of_messages(&plan)?;
        if self.prune && !self.yes && !self.check && !self.dry_run {
            agree(session, &plan).await?;
        }
        Ok(plan)
    }

    async fn read(&self, session: &Session) -> Result<Definitions, Failure> {
        let source = Source::from_path(self.file.clone());
        if source == Source::Stdin {
            session.stdin.refuse_unless_free()?;
        }
        let name = source.to_string();
        let bytes = source.read_up_to(FILE_BYTES_MAX).await?.ok_or_else(|| {
            Failure::BadInput(format!("{name} is over 64 MiB, the limit of a file of definitions"))
        })?;
        let form = Form::of(&bytes);
        let document = Document::parse(name.clone(), bytes, form).map_err(bad)?;
        let definitions =
            read(document).map_err(|mistakes| told_but_one(mistakes, session.out.is_json()))?;
        if self.prune && !definitions.has_queues {
            return Err(bad(format!(
                "{name}: there is no section \"queues\": with --prune every queue of the server \
                 would go; an empty section says that this is meant"
            )));
        }
        Ok(definitions)
    }

    async fn carry_out(&self, session: &mut Session, plan: &Plan) -> Result<(), Failure> {
        let mut done: Vec<&QueueName> = Vec::new();
        for change in plan.in_order() {
            let mut unanswered = true;
            let answered = match self.make(session, change).await {
                Ok(()) => Ok(()),
                Err(failure) => {
                    unanswered = failure.refusal().is_none();
                    Err(failure)
                }
            };
            if let Err(failure) = answered {
                let text = how_far(&done, plan.changes.len(), &change.queue, unanswered);
                return Err(failure.after(text));
            }
            done.push(&change.queue);
        }
        Ok(())
    }

    async fn make(&self, session: &mut Session, change: &Change) -> Result<(), Failure> {
        let (queue, attributes) = (change.queue.clone(), change.attributes());
        match change.kind {
            Kind::New { .. } => {
                let if_exists = IfExists::Update;
                let create = verbs::Create { queue, if_exists, attributes, with: None };
                ask(session, create, |answer| answer).await.map(drop)
            }
            Kind::Changed { .. } => {
                let update = verbs::Update { queue, attributes };
                ask(session, update, |answer| answer).await.map(drop)
            }
            Kind::Gone { held } => {
                // Nobody was asked about messages that came meanwhile.
                let drop_it = verbs::Drop { queue, only_if_empty: !self.yes && held == 0 };
                match ask(session, drop_it, |answer| answer).await {
                    // It is gone, as it was to be.
                    Err(failure) if is_missing(&failure) => Ok(()),
                    other => other.map(drop),
                }
            }
        }
    }
}

fn bad(text: String) -> Failure {
    Failure::BadInput(text)
}

fn is_missing(failure: &Failure) -> bool {
    failure.refusal().is_some_and(|refusal| refusal.code == ErrorCode::NoSuchQueue)
}

/// Tells all mistakes but the last, which is for the one who asked.
fn told_but_one(mut mistakes: Vec<String>, json: bool) -> Failure {
    let more = mistakes.len().saturating_sub(MISTAKES_TOLD);
    mistakes.truncate(MISTAKES_TOLD);
    let last = mistakes.pop().unwrap_or_default();
    for mistake in mistakes {
        tell(&bad(mistake), json);
    }
    if more > 0 {
        return bad(format!("{last}; and {more} more like these"));
    }
    bad(last)
}

/// A line a change; of a queue that is there one for each attribute.
fn show(out: &mut Out, mut records: Records, plan: &Plan) -> Result<(), Failure> {
    let for_people = out.columns.is_empty() && !out.is_complete();
    for change in &plan.changes {
        if for_people {
            for line in lines(change) {
                out.line(&line)?;
            }
        } else {
            for record in records_of(change) {
                records.push(out, &record)?;
            }
        }
    }
    if for_people {
        return out.flush();
    }
    records.finish(out)
}

fn lines(change: &Change) -> Vec<String> {
    let queue = &change.queue;
    let differences = change.differences();
    let mut lines = match &change.kind {
        Kind::New { .. } => vec![format!("+ {queue}")],
        Kind::Changed { .. } => Vec::new(),
        Kind::Gone { held: 0 } => vec![format!("- {queue}")],
        Kind::Gone { held } => vec![format!("- {queue} with {}", messages(*held))],
    };
    let is_new = matches!(change.kind, Kind::New { .. });
    lines.extend(differences.into_iter().map(|difference| {
        let (name, old, new) = (difference.name, difference.old, difference.new);
        if is_new {
            format!("+ {queue} {name} {new}")
        } else {
            format!("~ {queue} {name} {old} -> {new}")
        }
    }));
    lines
}

fn records_of(change: &Change) -> Vec<Record> {
    let record =
        |change_is: &str, attribute: Option<&str>, old: Option<String>, new: Option<String>| {
            let values = [
                Value::Text(change_is.to_owned()),
                Value::Text(change.queue.to_string()),
                Value::NameOrEmpty(attribute.map(str::to_owned)),
                Value::NameOrEmpty(old),
                Value::NameOrEmpty(new),
            ];
            FIELDS.map(str::to_owned).into_iter().zip(values).collect::<Record>()
        };
    let (kind, whole, is_new) = match &change.kind {
        Kind::New { .. } => ("new", true, true),
        Kind::Changed { .. } => ("changed", false, false),
        Kind::Gone { .. } => ("gone", true, false),
    };
    let whole = whole.then(|| record(kind, None, None, None));
    let attributes = change.differences().into_iter().map(|difference| {
        let old = Some(difference.old).filter(|_| !is_new);
        record(kind, Some(difference.name), old, Some(difference.new))
    });
    whole.into_iter().chain(attributes).collect()
}

/// Refuses what the server would, before anything is done.
fn refuse_order_of_messages(plan: &Plan) -> Result<(), Failure> {
    for Change { queue, kind } in &plan.changes {
        if let Kind::Changed { from, to, held: held @ 1.. } = kind
            && from.ordered != to.ordered
        {
            let text = format!(
                "queue \"{queue}\" is not empty: it holds {}; ordered can change only while it is \
                 empty; nothing was changed",
                messages(*held)
            );
            return Err(ErrorCode::QueueNotEmpty.refuse(text).with_queue(queue.as_str()).into());
        }
    }
    Ok(())
}

/// Asks a person about each queue that would go with messages; where there is none, nothing is done.
async fn agree(session: &mut Session, plan: &Plan) -> Result<(), Failure> {
    let may_ask = may_ask(session);
    for Change { queue, kind } in &plan.changes {
        let Kind::Gone { held: held @ 1.. } = kind else {
            continue;
        };
        let holds = format!("queue \"{queue}\" holds {}", messages(*held));
        if !may_ask {
            let text = format!("{holds}; nothing was changed (--yes drops it with them)");
            return Err(Failure::Usage(text).of(queue));
        }
        let question = format!("{holds}; type the queue's name to drop it with them");
        confirm(queue, &question, "dropped, and nothing was changed").await?;
    }
    Ok(())
}

/// What was done before a failure.
fn how_far(done: &[&QueueName], all: usize, failed: &QueueName, unanswered: bool) -> String {
    let mut names: Vec<&str> = done.iter().take(NAMES_TOLD).map(|name| name.as_str()).collect();
    if done.len() > NAMES_TOLD {
        names.push("…");
    }
    let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    let count = done.len();
    let maybe = if unanswered { format!(", and perhaps {failed}") } else { String::new() };
    format!("{count} of {all} queues are as the file says{names}{maybe}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_half_way_tells_what_was_done() {
        let names: Vec<QueueName> =
            (0..12).map(|n| QueueName::new(format!("q{n}")).unwrap()).collect();
        let done: Vec<&QueueName> = names.iter().collect();
        let text = how_far(&done[..2], 5, done[2], false);
        assert_eq!(text, "2 of 5 queues are as the file says (q0, q1)");
        let text = how_far(&[], 5, done[2], true);
        assert_eq!(text, "0 of 5 queues are as the file says, and perhaps q2");
        let text = how_far(&done, 20, done[2], false);
        assert!(text.ends_with("q8, q9, …)"), "{text}");
    }

    #[test]
    fn mistakes_beyond_a_page_are_counted() {
        let mistakes = |count: usize| (0..count).map(|at| format!("f:{at}:1: x")).collect();
        assert_eq!(told_but_one(mistakes(20), false).to_string(), "f:19:1: x");
        let failure = told_but_one(mistakes(25), false);
        assert_eq!(failure.to_string(), "f:19:1: x; and 5 more like these");
        assert_eq!(failure.exit(), Exit::BadInput);
    }
}
