//! Places of calls, found by correlation id.
//!
//! Always true here: a place that waits for an answer is in exactly one order, that of the
//! numbered requests (by rising number) or that of the others; a place that has its answer is in
//! none. A correlation id is the index of its place and, above it, how often (modulo) the place
//! was used before, so that a cancel that crosses an answer does not hit the place's next call.

use std::task::Waker;

use bytes::{Bytes, BytesMut};

use super::ClientError;
use crate::frame::Frame;

/// Bits of a correlation id that hold the index.
const INDEX_BITS: u32 = 20;
/// Most places: calls in flight and calls whose answer nobody has picked up.
pub(super) const SLOTS_MAX: usize = 1 << INDEX_BITS;

/// What a call is waiting for, or has got.
#[derive(Debug, Default)]
pub(super) enum Progress {
    /// Nobody has this place.
    #[default]
    Free,
    /// Sent, or to be repeated.
    Waiting,
    /// The answer's frame, to be picked up.
    Answered(Frame),
    /// There will be no answer.
    Failed(Box<ClientError>),
}

/// What the client must know of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kind {
    /// Its number, of a verb that changes state.
    pub number: Option<u64>,
    /// See [`crate::verbs::Verb::REPEATABLE`].
    pub repeatable: bool,
    /// See [`crate::verbs::Verb::repeatable_elsewhere`].
    pub elsewhere: bool,
    /// See [`crate::verbs::Verb::parks`].
    pub parks: bool,
}

/// The place of one call.
#[derive(Debug, Default)]
pub(super) struct Slot {
    generation: u32,
    pub progress: Progress,
    pub kind: Kind,
    /// Whom to wake when the progress changes.
    pub waker: Option<Waker>,
    /// The caller has given up; the answer is to be thrown away.
    pub abandoned: bool,
    /// A cancel frame was sent, and is sent again behind a repeat.
    pub cancelled: bool,
    /// A server that shuts down refused the request; it waits to be repeated.
    pub deferred: bool,
    /// The node that may have carried it out.
    pub sent_to: Option<u64>,
    /// The frame, once written, if it may have to be repeated.
    pub frame: Bytes,
    /// Bytes of the frame that count as unanswered.
    pub bytes: usize,
    /// Of an answer that comes in several frames, the payloads that have come.
    pub parts: BytesMut,
    previous: Option<u32>,
    next: Option<u32>,
}

/// A chain of places in the order in which their requests were first sent.
#[derive(Debug, Default, Clone, Copy)]
struct Order {
    first: Option<u32>,
    last: Option<u32>,
}

/// All places.
#[derive(Debug, Default)]
pub(super) struct Slots {
    all: Vec<Slot>,
    free: Vec<u32>,
    numbered: Order,
    others: Order,
    waiting: usize,
}

impl Slots {
    /// Calls without an answer.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The lowest number without an answer.
    pub fn lowest_number(&self) -> Option<u64> {
        self.at(self.numbered.first)?.kind.number
    }

    /// A place for a new call, behind all others; `None` when [`SLOTS_MAX`] are taken.
    pub fn insert(&mut self, kind: Kind) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.all.len() < SLOTS_MAX => {
                self.all.push(Slot::default());
                self.all.len() as u32 - 1
            }
            None => return None,
        };
        let last = self.order(kind).last.replace(index);
        match last {
            Some(last) => {
                if let Some(last) = self.all.get_mut(last as usize) {
                    last.next = Some(index);
                }
            }
            None => self.order(kind).first = Some(index),
        }
        self.waiting += 1;
        let slot = self.all.get_mut(index as usize)?;
        *slot = Slot {
            generation: slot.generation,
            progress: Progress::Waiting,
            kind,
            previous: last,
            ..Slot::default()
        };
        Some(slot.generation << INDEX_BITS | index)
    }

    /// The place of a call, if the id is of this use of the place.
    pub fn get(&mut self, correlation: u32) -> Option<&mut Slot> {
        let slot = self.all.get_mut(index(correlation) as usize)?;
        let taken = !matches!(slot.progress, Progress::Free);
        (taken && slot.generation == correlation >> INDEX_BITS).then_some(slot)
    }

    /// Takes a waiting call out of its order, with an answer or an error; gives whom to wake. The
    /// place of an abandoned call becomes free.
    pub fn settle(&mut self, correlation: u32, progress: Progress) -> Option<Waker> {
        let slot = self.get(correlation)?;
        if !matches!(slot.progress, Progress::Waiting) {
            return None;
        }
        slot.progress = progress;
        slot.frame = Bytes::new();
        let (waker, abandoned) = (slot.waker.take(), slot.abandoned);
        self.unlink(index(correlation));
        if abandoned {
            self.forget(correlation);
        }
        waker
    }

    /// Takes back the insertion of a call that was not sent.
    pub fn remove(&mut self, correlation: u32) {
        self.unlink(index(correlation));
        self.forget(correlation);
    }

    /// Makes the place of a call that is settled free.
    pub fn forget(&mut self, correlation: u32) {
        if let Some(slot) = self.get(correlation) {
            let generation = (slot.generation + 1) & (u32::MAX >> INDEX_BITS);
            *slot = Slot { generation, ..Slot::default() };
            self.free.push(index(correlation));
        }
    }

    /// Correlation ids of all waiting calls, in the order of their numbers, those without a number
    /// first.
    pub fn in_order(&self) -> Vec<u32> {
        let mut all = Vec::with_capacity(self.waiting);
        for order in [self.others, self.numbered] {
            let mut next = order.first;
            while let (Some(index), Some(slot)) = (next, self.at(next)) {
                all.push(slot.generation << INDEX_BITS | index);
                next = slot.next;
            }
        }
        all
    }

    fn at(&self, index: Option<u32>) -> Option<&Slot> {
        self.all.get(index? as usize)
    }

    fn order(&mut self, kind: Kind) -> &mut Order {
        if kind.number.is_some() { &mut self.numbered } else { &mut self.others }
    }

    fn unlink(&mut self, index: u32) {
        let Some(slot) = self.all.get_mut(index as usize) else {
            return;
        };
        let (kind, previous, next) = (slot.kind, slot.previous.take(), slot.next.take());
        match previous.and_then(|previous| self.all.get_mut(previous as usize)) {
            Some(previous) => previous.next = next,
            None => self.order(kind).first = next,
        }
        match next.and_then(|next| self.all.get_mut(next as usize)) {
            Some(next) => next.previous = previous,
            None => self.order(kind).last = previous,
        }
        self.waiting -= 1;
    }
}

fn index(correlation: u32) -> u32 {
    correlation & (SLOTS_MAX as u32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: u64) -> Kind {
        Kind { number: Some(number), ..Kind::default() }
    }

    fn answer(slots: &mut Slots, correlation: u32) {
        let frame = Frame { correlation, opcode: 0, flags: 0, payload: Bytes::new() };
        slots.settle(correlation, Progress::Answered(frame));
    }

    #[test]
    fn lowest_number_is_that_of_the_first_without_an_answer() {
        let mut slots = Slots::default();
        let ids: Vec<u32> = (1..=4).map(|n| slots.insert(numbered(n)).unwrap()).collect();
        let other = slots.insert(Kind::default()).unwrap();
        assert_eq!(slots.in_order(), [other, ids[0], ids[1], ids[2], ids[3]]);
        answer(&mut slots, ids[1]);
        assert_eq!(slots.lowest_number(), Some(1));
        answer(&mut slots, ids[0]);
        assert_eq!(slots.lowest_number(), Some(3));
        answer(&mut slots, ids[3]);
        assert_eq!(slots.in_order(), [other, ids[2]]);
        answer(&mut slots, ids[2]);
        assert_eq!((slots.lowest_number(), slots.waiting()), (None, 1));
    }

    #[test]
    fn place_used_again_has_another_correlation_id() {
        let mut slots = Slots::default();
        let first = slots.insert(Kind::default()).unwrap();
        answer(&mut slots, first);
        slots.forget(first);
        let second = slots.insert(Kind::default()).unwrap();
        assert_eq!(index(first), index(second));
        assert_ne!(first, second);
        assert!(slots.get(first).is_none() && slots.get(second).is_some());
    }
}
