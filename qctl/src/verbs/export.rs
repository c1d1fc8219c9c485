//! `qctl export`.

use clap::Args;
use qd_protocol::QueueName;
use qd_protocol::verbs::Describe;

use super::list::{self, pattern};
use crate::args::Format;
use crate::definitions::{Queues, write};
use crate::document::Form;
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Write queues and their attributes as a file for apply
#[derive(Debug, Clone, Args)]
pub struct Export {
    /// Names, or patterns as for list [default: all queues]
    #[arg(value_name = "QUEUE", value_parser = pattern)]
    queues: Vec<String>,
    /// Every attribute, not only those that differ from their defaults
    #[arg(long)]
    all: bool,
}

impl Export {
    /// Writes them once all are known: half of a file would be another one.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let form = form(session)?;
        let mut queues = Queues::new();
        if self.queues.is_empty() {
            add_matching(session, None, &mut queues).await?;
        }
        for asked in self.queues {
            if asked.contains(['*', '?']) {
                add_matching(session, Some(asked), &mut queues).await?;
                continue;
            }
            let queue = QueueName::new(asked).map_err(|error| Failure::Usage(error.to_string()))?;
            let queue = session.call(Describe { queue }).await?;
            queues.insert(queue.name, queue.attributes);
        }
        session.out.put(write(&queues, form, self.all).as_bytes())?;
        session.out.flush()?;
        Ok(Exit::Done)
    }
}

/// TOML, or JSON where that was asked for.
fn form(session: &Session) -> Result<Form, Failure> {
    if !session.out.columns.is_empty() {
        return Err(Failure::Usage("--columns has no meaning for export".to_owned()));
    }
    match session.out.format {
        Format::Json => Ok(Form::Json),
        Format::Table | Format::Plain => Ok(Form::Toml),
        Format::Jsonl | Format::Csv | Format::Shell => {
            Err(Failure::Usage("export writes TOML, or JSON with -o json".to_owned()))
        }
    }
}

async fn add_matching(
    session: &mut Session,
    pattern: Option<String>,
    queues: &mut Queues,
) -> Result<(), Failure> {
    let client = session.client().await?;
    let mut pages = list::Pages::new(pattern);
    while let Some(page) = pages.next(&client).await? {
        queues.extend(page.into_iter().map(|queue| (queue.name, queue.attributes)));
    }
    Ok(())
}
