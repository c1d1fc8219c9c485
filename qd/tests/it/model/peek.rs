//! Peek in the plain model, and the machine's pages against it.

use qd::shard::Machine;
use qd_protocol::message::Headers;
use qd_protocol::verbs::peek::State;
use qd_protocol::verbs::{Peek, PeekedMessage};
use qd_protocol::{Body, ErrorCode, QueueName};

use super::{Model, ModelMessage, ModelQueue};

/// Checks after which every peek was tried, where each tries a part: peeks take half the time of a
/// history otherwise.
const PARTS: usize = 6;
/// Bytes of an answer, about.
const PAGE_BYTES_MAX: usize = 1 << 20;

impl ModelQueue {
    fn peeked(&self, message: &ModelMessage) -> PeekedMessage {
        let (state, until_ms) = match (message.lease, message.due_ms) {
            _ if message.dead.is_some() => (State::Blocked, self.retry_ms.unwrap()),
            (Some((_, end_ms, _)), _) => (State::Leased, end_ms),
            (None, Some(due_ms)) => (State::Delayed, due_ms),
            (None, None) => (State::Ready, 0),
        };
        PeekedMessage {
            id: message.id,
            state,
            attempts: message.attempt,
            sent_at_ms: message.sent_at_ms,
            until_ms,
            fields: message.message.fields.clone(),
            body: Body { bytes: message.message.body.clone(), crc: message.message.crc },
        }
    }
}

impl Model {
    /// All messages that a peek means, however many.
    fn peek(&self, peek: &Peek) -> Result<Vec<PeekedMessage>, ErrorCode> {
        let number = self.find(&peek.queue).ok_or(ErrorCode::NoSuchQueue)?;
        let queue = &self.queues[&number];
        if peek.id.is_some_and(|id| queue.messages.iter().all(|message| message.id != id)) {
            return Err(ErrorCode::NoSuchMessage);
        }
        let is_meant = |message: &PeekedMessage| {
            let has = |(key, value): &(String, String)| {
                Headers::stored_have(&message.fields, key, value).unwrap()
            };
            let is_in_state = peek.state.is_none_or(|state| {
                message.state == state || (message.state, state) == (State::Blocked, State::Delayed)
            });
            message.id > peek.after
                && peek.id.is_none_or(|id| id == message.id)
                && is_in_state
                && peek.headers.0.iter().all(has)
        };
        let messages = queue.messages.iter().map(|message| queue.peeked(message));
        Ok(messages.filter(is_meant).collect())
    }

    /// Holds the machine's answers against the model's: to all peeks, or to every sixth one from
    /// `part` on.
    pub fn check_peek(&self, machine: &Machine, queue: &QueueName, max: u32, part: Option<usize>) {
        let all = Peek {
            queue: queue.clone(),
            max: 1_000,
            after: 0,
            state: None,
            id: None,
            headers: Headers::default(),
        };
        let header = Headers(vec![("key".to_owned(), "value".to_owned())]);
        let both = [header.0.clone(), vec![("key".to_owned(), "other".to_owned())]].concat();
        let mut peeks = vec![
            all.clone(),
            Peek { headers: header.clone(), ..all.clone() },
            Peek { headers: Headers(both), ..all.clone() },
            Peek { max, ..all.clone() },
            Peek { max, after: 3, ..all.clone() },
            Peek { after: u64::MAX, ..all.clone() },
        ];
        for state in [State::Ready, State::Delayed, State::Leased, State::Blocked] {
            peeks.push(Peek { state: Some(state), ..all.clone() });
            peeks.push(Peek { state: Some(state), max, headers: header.clone(), ..all.clone() });
        }
        for id in [0, 1, 2, 3, 7, 20, u64::MAX] {
            peeks.push(Peek { id: Some(id), ..all.clone() });
            peeks.push(Peek { id: Some(id), state: Some(State::Ready), after: 2, ..all.clone() });
        }
        let (first, step) = part.map_or((0, 1), |part| (part % PARTS, PARTS));
        for peek in peeks.into_iter().skip(first).step_by(step) {
            let actual = all_pages(machine, &peek).map(|pages| shortened(&pages));
            assert_eq!(actual, self.peek(&peek).map(|peeked| shortened(&peeked)), "{peek:?}");
        }
    }
}

/// Long bodies make a failure unreadable; the check sum stays.
fn shortened(messages: &[PeekedMessage]) -> Vec<PeekedMessage> {
    let shorten = |message: &PeekedMessage| {
        let mut message = message.clone();
        assert!(message.body.is_intact());
        message.body.bytes = format!("{} bytes", message.body.bytes.len()).into();
        message
    };
    messages.iter().map(shorten).collect()
}

fn all_pages(machine: &Machine, peek: &Peek) -> Result<Vec<PeekedMessage>, ErrorCode> {
    let mut peek = peek.clone();
    let mut messages: Vec<PeekedMessage> = Vec::new();
    loop {
        let page = machine.peek(&peek).unwrap().map_err(|refusal| refusal.code)?;
        assert!(page.messages.len() <= peek.max as usize, "{peek:?}");
        let bytes = |message: &PeekedMessage| message.body.bytes.len() + message.fields.len();
        let total: usize = page.messages.iter().map(bytes).sum();
        assert!(page.messages.len() < 2 || total <= 2 * PAGE_BYTES_MAX, "{peek:?}: {total} bytes");
        if let Some(last) = page.messages.last() {
            assert!(page.last >= last.id, "{peek:?}");
        }
        messages.extend(page.messages);
        if !page.more {
            return Ok(messages);
        }
        assert!(page.last > peek.after, "{peek:?}: there is more behind {}", page.last);
        peek.after = page.last;
    }
}
