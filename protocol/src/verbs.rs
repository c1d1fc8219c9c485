//! One file per verb: its opcode, request, answer, and how both look on the wire.

pub mod cancel;
pub mod create;
pub mod delete;
pub mod describe;
pub mod discard;
pub mod drop;
pub mod extend;
pub mod hello;
pub mod list;
pub mod peek;
pub mod ping;
pub mod purge;
pub mod receive;
pub mod redrive;
pub mod reject;
pub mod release;
pub mod reschedule;
pub mod send;
pub mod shutdown;
pub mod stats;
pub mod transact;
pub mod update;

pub use cancel::Cancel;
pub use create::{Create, Created, IfExists};
pub use delete::{Delete, Settled};
pub use describe::Describe;
pub use discard::Discard;
pub use drop::{Drop, Dropped};
pub use extend::{Extend, Extended, Until};
pub use hello::{Hello, Welcome};
pub use list::{List, Listed};
pub use peek::{Peek, Peeked, PeekedMessage};
pub use ping::{Ping, Pong};
pub use purge::{Purge, Purged};
pub use receive::{Receive, Received, ReceivedMessage};
pub use redrive::{Redrive, Redriven};
pub use reject::Reject;
pub use release::Release;
pub use reschedule::Reschedule;
pub use send::{Due, Send, SendEntry, Sent, SentRun, Stored};
pub use shutdown::{Shutdown, ShuttingDown};
pub use stats::{Counted, Stats};
pub use transact::{Transact, Transacted};
pub use update::{Update, Updated};

use crate::wire::{DecodeError, Payload};

/// A verb: the request, and the type of its answer.
pub trait Verb: Payload {
    /// The number in the frame's header; never reused.
    const OPCODE: u16;
    /// True when the verb changes state, so that its requests are numbered
    /// ([`crate::Numbering`]) and can be repeated safely after a lost answer.
    const CHANGES: bool;
    /// True when a client may repeat the request after a lost answer.
    const REPEATABLE: bool = true;
    /// What a request that is not refused is answered with.
    type Answer: Payload;

    /// True when the server may keep the request until something happens, so that it is worth
    /// ending it by a [`Cancel`] when nobody waits for the answer any more.
    fn parks(&self) -> bool {
        false
    }

    /// True when a client may repeat the request at a server with other data after the answer of the
    /// first one was lost, although that one may have carried it out: both would have done it.
    fn repeatable_elsewhere(&self) -> bool {
        !Self::CHANGES
    }

    /// What a client checks of an answer beyond its encoding.
    fn check_answer(answer: &Self::Answer) -> Result<(), DecodeError> {
        let _ = answer;
        Ok(())
    }
}
