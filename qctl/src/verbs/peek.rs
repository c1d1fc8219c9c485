//! `qctl peek`.
//!
//! Always true here: nothing is changed. Messages are shown in the order of their ids, page by page,
//! until there are enough.

use clap::{Args, ValueEnum};
use qd_protocol::verbs::peek::{self, PEEK_HEADERS_MAX};
use qd_protocol::verbs::{self, PeekedMessage};
use qd_protocol::{BATCH_ENTRIES_MAX, Headers, QueueName};

use super::headers::{check_headers_asked, parse_header};
use crate::exit::{Exit, Failure};
use crate::output::{MessagePrinter, Parting, Shape, Shown, Way};
use crate::session::Session;
use crate::units;

/// Messages shown by default.
const MESSAGES: u64 = 10;

/// Look at messages without taking them
///
/// Nothing changes: no lease, no delivery, no place in the order. The messages come in the order of
/// their ids, which need not be that of delivery. Status 1: none was found.
#[derive(Debug, Clone, Args)]
pub struct Peek {
    /// The queue
    queue: QueueName,
    /// Most messages [default: 10]
    #[arg(short = 'n', long = "max", value_name = "N", value_parser = units::whole::<u64>(1, u64::MAX))]
    max: Option<u64>,
    /// Only messages in this state; to delayed belong dead letters whose queue cannot take them
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<State>,
    /// Only messages behind this id
    #[arg(long, value_name = "ID", value_parser = units::whole::<u64>(0, u64::MAX))]
    after: Option<u64>,
    /// Only the message with this id
    #[arg(long, value_name = "ID", value_parser = units::whole::<u64>(1, u64::MAX))]
    id: Option<u64>,
    /// Only messages with this header; repeated: with all of these
    #[arg(short = 'H', long, value_name = "K=V", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// Print the body without the id
    #[arg(long)]
    body: bool,
    /// End each record with NUL instead of a newline
    #[arg(short = '0', long)]
    null: bool,
}

/// Where a message may be.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    /// Visible and held by nobody
    Ready,
    /// Not visible yet
    Delayed,
    /// Held by a consumer
    Leased,
}

impl From<State> for peek::State {
    fn from(state: State) -> Self {
        match state {
            State::Ready => Self::Ready,
            State::Delayed => Self::Delayed,
            State::Leased => Self::Leased,
        }
    }
}

/// Writes what was found.
struct Found {
    printer: MessagePrinter,
    count: u64,
    unwritten: u64,
}

impl Peek {
    /// Looks.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        check_headers_asked(&self.header, PEEK_HEADERS_MAX)?;
        let shape = Shape {
            way: Way::Peeked,
            single: self.id.is_some() || self.max == Some(1),
            body_only: self.body,
            parting: Parting::of(self.null, false),
            endless: false,
        };
        let printer = MessagePrinter::new(&session.out, shape)?;
        let mut found = Found { printer, count: 0, unwritten: 0 };
        let result = self.all(session, &mut found).await;
        // What was found before a failure is shown all the same.
        found.printer.finish(&mut session.out)?;
        result?;
        Ok(match found {
            Found { unwritten: 1.., .. } => Exit::BadInput,
            Found { count: 0, .. } => Exit::Negative,
            Found { .. } => Exit::Done,
        })
    }

    async fn all(&self, session: &mut Session, found: &mut Found) -> Result<(), Failure> {
        let most = self.max.unwrap_or(MESSAGES);
        let mut after = self.after.unwrap_or(0);
        while found.count < most {
            let left = most - found.count;
            let request = verbs::Peek {
                queue: self.queue.clone(),
                max: u32::try_from(left).unwrap_or(BATCH_ENTRIES_MAX).min(BATCH_ENTRIES_MAX),
                after,
                state: self.state.map(peek::State::from),
                id: self.id,
                headers: Headers(self.header.clone()),
            };
            let page = session.call(request).await?;
            for message in &page.messages {
                found.push(session, &self.queue, message)?;
            }
            session.out.flush()?;
            if !page.more {
                break;
            }
            if page.last <= after {
                return Err(Failure::Protocol("the answer to a peek does not get on".to_owned()));
            }
            after = page.last;
        }
        Ok(())
    }
}

impl Found {
    fn push(
        &mut self,
        session: &mut Session,
        queue: &QueueName,
        message: &PeekedMessage,
    ) -> Result<(), Failure> {
        self.count += 1;
        let shown = Shown::peeked(queue, message)?;
        if self.printer.can_write(&session.out, &message.body.bytes) {
            return self.printer.push(&mut session.out, &shown);
        }
        self.unwritten += 1;
        self.printer.tell_unwritable(&session.out, &shown, "");
        Ok(())
    }
}
