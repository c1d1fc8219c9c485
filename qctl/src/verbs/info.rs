//! `qctl info`.

use clap::Args;
use qd_protocol::verbs::Describe;
use qd_protocol::{QueueDescription, QueueName};

use super::list;
use crate::exit::{Exit, Failure};
use crate::output::Sheet;
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
        let sheet = Sheet::new(&session.out, &list::columns())?;
        let by_field = sheet.is_by_field();
        let queue = session.call(Describe { queue: self.queue }).await?;
        let out = &mut session.out;
        sheet.write(out, list::record(&queue))?;
        if by_field && out.is_table() {
            for warning in [paused(&queue), blocked(&queue)].into_iter().flatten() {
                out.line(&warning)?;
            }
            out.flush()?;
        }
        Ok(Exit::Done)
    }
}

/// What a person should know who wonders why nothing is received.
fn paused(queue: &QueueDescription) -> Option<String> {
    let text = || format!("deliveries are paused; they go on with: qctl resume {}", queue.name);
    queue.attributes.paused.then(text)
}

/// What a person should know about dead letters that cannot go where they should.
fn blocked(queue: &QueueDescription) -> Option<String> {
    let blocked = queue.statistics.dead_letter_blocked;
    let target = queue.attributes.dead_letter.queue_of(&queue.name);
    let target = target.map(|target| format!(" \"{target}\"")).unwrap_or_default();
    let (subject, are) = match blocked {
        0 => return None,
        1 => ("1 message waits".to_owned(), "it is"),
        more => (format!("{more} messages wait"), "they are"),
    };
    Some(format!(
        "{subject} because the dead-letter queue{target} is missing or full; {are} tried again \
         every minute"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use qd_protocol::{Attributes, Statistics};

    #[test]
    fn blocked_dead_letters_are_told_with_their_queue() {
        let mut queue = QueueDescription {
            name: QueueName::new("jobs").unwrap(),
            created_at_ms: 0,
            attributes: Attributes::default(),
            statistics: Statistics::default(),
        };
        assert_eq!((blocked(&queue), paused(&queue)), (None, None));
        queue.attributes.paused = true;
        assert!(paused(&queue).unwrap().ends_with("qctl resume jobs"));
        queue.statistics.dead_letter_blocked = 1;
        let text = "1 message waits because the dead-letter queue \"jobs.dead\" is missing or full; \
                    it is tried again every minute";
        assert_eq!(blocked(&queue).as_deref(), Some(text));
        queue.statistics.dead_letter_blocked = 2;
        assert!(blocked(&queue).unwrap().starts_with("2 messages wait because"));
    }
}
