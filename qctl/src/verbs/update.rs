//! `qctl update`.

use clap::Args;
use qd_protocol::verbs;
use qd_protocol::{AttributeChanges, QueueName};

use super::attributes::AttributeFlags;
use crate::exit::{Exit, Failure};
use crate::output::{Deeds, Record, Value};
use crate::session::Session;

/// Of the record.
pub const FIELDS: [&str; 2] = ["queue", "changed"];

/// Change attributes of a queue
///
/// Attributes that are not given stay as they are.
#[derive(Debug, Clone, Args)]
#[command(mut_args(without_default))]
pub struct Update {
    /// The queue
    queue: QueueName,
    #[command(flatten)]
    attributes: AttributeFlags,
}

/// The flags are those of `create`; what is not given keeps its value, not a default.
fn without_default(arg: clap::Arg) -> clap::Arg {
    let help = arg.get_help().map(ToString::to_string);
    match help.as_deref().and_then(|help| help.split_once(" [default: ")) {
        Some((help, _)) => {
            let help = help.to_owned();
            arg.help(help)
        }
        None => arg,
    }
}

impl Update {
    /// Changes them.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let of = |failure: Failure| failure.of(&self.queue);
        let attributes = self.attributes.changes().map_err(of)?;
        if attributes == AttributeChanges::default() {
            let text = "no attribute is given; help update shows them".to_owned();
            return Err(of(Failure::Usage(text)));
        }
        let mut deeds = Deeds::new(&session.out, false, &FIELDS)?;
        let update = verbs::Update { queue: self.queue.clone(), attributes };
        let answer = session.call(update).await?;
        let record: Record = vec![
            ("queue".to_owned(), Value::Text(self.queue.to_string())),
            ("changed".to_owned(), Value::Flag(answer.changed)),
        ];
        let what = if answer.changed { "updated" } else { "unchanged:" };
        deeds.push(&mut session.out, &record, &format!("{what} {}", self.queue))?;
        deeds.finish(&mut session.out)?;
        Ok(Exit::Done)
    }
}
