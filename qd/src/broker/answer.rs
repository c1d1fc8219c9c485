//! Answers of all verbs, and how outcomes become them.

use bytes::{Bytes, BytesMut};
use qd_protocol::request::{put_answer, put_part, put_refusal};
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{
    Created, Dropped, Extended, Listed, Peeked, Pong, Purged, Received, Redriven, Sent, SentRun,
    Settled, ShuttingDown, Transacted, Updated, Welcome,
};
use qd_protocol::{QueueDescription, Refusal};

use crate::shard::Outcome;

macro_rules! answers {
    ($($verb:ident($answer:ident)),+) => {
        /// The answer to a request of any verb.
        #[derive(Debug)]
        pub enum Answer {
            $(
                #[doc = concat!("Answers `", stringify!($verb), "`.")]
                $verb($answer),
            )+
            /// Answers `Stats`: the payload, or, when it is long, a part of it; true: others follow.
            Stats(Bytes, bool),
            /// The request was not carried out.
            Refused(Refusal),
        }

        impl Answer {
            /// Appends the answer's frame.
            pub fn put(&self, out: &mut BytesMut, correlation: u32, opcode: u16) {
                match self {
                    $(Self::$verb(answer) => put_answer(out, correlation, opcode, answer),)+
                    Self::Stats(part, more) => put_part(out, correlation, opcode, part, *more),
                    Self::Refused(refusal) => put_refusal(out, correlation, opcode, refusal),
                }
            }
        }
    };
}

answers! {
    Hello(Welcome), Ping(Pong), Shutdown(ShuttingDown), Create(Created), Drop(Dropped),
    Describe(QueueDescription), List(Listed), Send(Sent), Receive(Received),
    Update(Updated), Extend(Extended), Settle(Settled), Redrive(Redriven), Peek(Peeked),
    Purge(Purged), Transact(Transacted)
}

impl Answer {
    /// About the memory that the answer holds, in bytes.
    pub fn bytes(&self) -> usize {
        64 + match self {
            Self::Receive(received) => {
                let message = |message: &qd_protocol::verbs::ReceivedMessage| {
                    message.body.bytes.len() + message.fields.len() + 128
                };
                let messages: usize = received.messages.iter().map(message).sum();
                messages + statuses_bytes(&received.settled)
            }
            Self::List(listed) => listed.queues.len() * 1_024,
            Self::Stats(part, _) => part.len(),
            Self::Send(sent) => sent.runs.iter().map(sent_bytes).sum(),
            Self::Transact(transacted) => {
                transacted.sent.iter().flat_map(|sent| &sent.runs).map(sent_bytes).sum()
            }
            Self::Peek(peeked) => {
                let message = |message: &qd_protocol::verbs::PeekedMessage| {
                    message.body.bytes.len() + message.fields.len() + 128
                };
                peeked.messages.iter().map(message).sum()
            }
            Self::Settle(settled) => statuses_bytes(&settled.statuses),
            Self::Extend(extended) => {
                statuses_bytes(&extended.statuses) + extended.lease_until_ms.len() * 8
            }
            _ => 512,
        }
    }
}

/// About the memory that a refusal takes with its texts.
pub(super) const REFUSAL_BYTES: usize = 512;

fn statuses_bytes(statuses: &Statuses) -> usize {
    let bytes = |refused: bool| 32 + if refused { REFUSAL_BYTES } else { 0 };
    statuses.runs.iter().map(|(_, refusal)| bytes(refusal.is_some())).sum()
}

fn sent_bytes(run: &SentRun) -> usize {
    match run {
        SentRun::Stored { .. } | SentRun::Duplicate { .. } => 32,
        SentRun::Refused { .. } => 32 + REFUSAL_BYTES,
    }
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Created(created) => Self::Create(Created { created }),
            Outcome::Dropped(messages) => Self::Drop(Dropped { messages }),
            Outcome::Sent(runs) => Self::Send(Sent { runs }),
            Outcome::Received(received) => {
                Self::Receive(Received { settled: received.settled, messages: received.messages })
            }
            Outcome::Settled(statuses) => Self::Settle(Settled { statuses }),
            Outcome::Extended(statuses, lease_until_ms) => {
                Self::Extend(Extended { statuses, lease_until_ms })
            }
            Outcome::Updated(changed) => Self::Update(Updated { changed }),
            Outcome::Redriven(redriven) => Self::Redrive(redriven),
            Outcome::Purged(purged) => Self::Purge(purged),
            Outcome::Transacted(sent) => Self::Transact(Transacted { sent }),
            Outcome::Refused(refusal) => Self::Refused(refusal),
        }
    }
}
