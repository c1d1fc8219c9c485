//! What a client's calls and tasks share under its lock: a state machine without time and tasks.
//! What has to happen outside of the lock comes back as [`Effects`].

use std::task::{Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};

use super::ClientError;
use super::connect::Peer;
use super::slots::{Kind, Progress, SLOTS_MAX, Slots};
use crate::error::{ErrorCode, Refusal};
use crate::frame::{FLAG_MORE, FLAG_REFUSED, Frame, HEADER_BYTES};
use crate::request::{Numbering, put_request};
use crate::verbs::{Cancel, Hello, Verb};

/// Bytes waiting to be written past which a call waits: 8 MiB.
pub const OUTGOING_BYTES_MAX: usize = 8 << 20;
/// Bytes of unanswered requests, kept to be repeated, past which a call waits: 64 MiB.
pub const UNANSWERED_BYTES_MAX: usize = 64 << 20;

/// Room that the outgoing buffer starts with.
const OUTGOING_BYTES: usize = 64 << 10;
/// What is written in one piece of more than this is not kept whole for the sake of a frame of
/// less than a sixteenth of it.
const SHARED_BYTES: usize = 256 << 10;
/// Where a numbered frame has its `answered_below`: behind the number.
const ANSWERED_BELOW_AT: usize = HEADER_BYTES + 8;

/// How the client stands.
#[derive(Debug)]
enum Phase {
    /// Requests are taken.
    Up,
    /// The supervisor connects; calls wait.
    Connecting,
    /// Nobody connects; the next call starts the supervisor.
    Down(ClientError),
    /// Closed by its user.
    Closed,
}

/// What is to be done once the lock is free.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Places in flight that became free.
    pub permits: usize,
    /// Calls that are over.
    pub wakers: Vec<Waker>,
    /// Of nobody any more; dropped outside of the lock, for it may hold a whole task.
    pub stale: Option<Waker>,
    /// Calls that wait for room or for a connection may look again.
    pub changed: bool,
    /// There is something to write.
    pub write: bool,
}

/// What became of an attempt to send a request.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is in the outgoing buffer, with this correlation id.
    Sent(u32),
    /// It cannot be sent.
    Failed(ClientError),
    /// Not now.
    Wait,
    /// Not now, and a supervisor has to be started.
    Reconnect,
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    /// Who answered last.
    pub peer: Peer,
    phase: Phase,
    /// False while there is no connection on which answers may come.
    connected: bool,
    /// True when requests may be repeated.
    repeats: bool,
    outgoing: BytesMut,
    /// Calls in the outgoing buffer, where their frames begin and how long they are; only when
    /// they may be repeated.
    unwritten: Vec<(u32, usize, usize)>,
    slots: Slots,
    number_last: u64,
    unanswered_bytes: usize,
    waits_for_room: bool,
    /// Calls refused by the server because it shuts down.
    deferred: usize,
    /// True when an answer came over this connection.
    answered: bool,
}

impl State {
    /// Before the first connection is handed to the supervisor.
    pub fn new(peer: Peer, repeats: bool) -> Self {
        Self {
            peer,
            phase: Phase::Connecting,
            connected: false,
            repeats,
            outgoing: BytesMut::with_capacity(OUTGOING_BYTES),
            unwritten: Vec::new(),
            slots: Slots::default(),
            number_last: 0,
            unanswered_bytes: 0,
            waits_for_room: false,
            deferred: 0,
            answered: false,
        }
    }

    /// Puts a request into the outgoing buffer, if it can be now. `tried`: the call has waited for
    /// a connection already.
    pub fn begin<V: Verb>(&mut self, verb: &V, tried: &mut bool, effects: &mut Effects) -> Begun {
        match &self.phase {
            Phase::Up if self.has_room() => self.encode(verb, effects),
            Phase::Up => {
                self.waits_for_room = true;
                Begun::Wait
            }
            Phase::Connecting => {
                *tried = true;
                Begun::Wait
            }
            Phase::Down(error) if *tried => Begun::Failed(error.clone()),
            Phase::Down(_) => {
                *tried = true;
                self.phase = Phase::Connecting;
                Begun::Reconnect
            }
            Phase::Closed => Begun::Failed(self.lost_error("closed by this client")),
        }
    }

    fn encode<V: Verb>(&mut self, verb: &V, effects: &mut Effects) -> Begun {
        if V::OPCODE == Cancel::OPCODE || V::OPCODE == Hello::OPCODE {
            let text = "the client itself sends hello and cancel";
            return Begun::Failed(refused(ErrorCode::MalformedRequest.refuse(text)));
        }
        let number = V::CHANGES.then_some(self.number_last + 1);
        let lowest = self.slots.lowest_number();
        let kind = Kind {
            number,
            repeatable: V::REPEATABLE,
            elsewhere: verb.repeatable_elsewhere(),
            parks: verb.parks(),
        };
        let Some(correlation) = self.slots.insert(kind) else {
            let text = "too many answers wait to be picked up";
            let refusal = ErrorCode::BatchTooLarge.refuse(text);
            let (now, most) = (SLOTS_MAX as u64 + 1, SLOTS_MAX as u64);
            return Begun::Failed(refused(refusal.with_limit("pending calls", now, most)));
        };
        let numbering =
            number.map(|number| Numbering { number, answered_below: lowest.unwrap_or(number) });
        let at = self.outgoing.len();
        put_request(&mut self.outgoing, correlation, numbering, verb);
        let bytes = self.outgoing.len() - at;
        let maximum = self.peer.server.frame_bytes_max;
        if bytes - 4 > maximum as usize {
            self.outgoing.truncate(at);
            if at == 0 {
                self.outgoing = BytesMut::with_capacity(OUTGOING_BYTES);
            }
            self.slots.remove(correlation);
            return Begun::Failed(refused(frame_too_large(bytes, maximum)));
        }
        self.number_last += u64::from(V::CHANGES);
        if self.repeats {
            self.unwritten.push((correlation, at, bytes));
            self.unanswered_bytes += bytes;
            if let Some(slot) = self.slots.get(correlation) {
                slot.bytes = bytes;
            }
        }
        effects.write = true;
        Begun::Sent(correlation)
    }

    fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING_BYTES_MAX
            && self.unanswered_bytes < UNANSWERED_BYTES_MAX
            // Places are given out by the limit of the first server; this one may have less.
            && self.slots.waiting() < in_flight_max(&self.peer)
    }

    fn tell_of_room(&mut self, effects: &mut Effects) {
        if self.waits_for_room && self.has_room() {
            self.waits_for_room = false;
            effects.changed = true;
        }
    }

    /// True when more than one call is on its way, so that more may come soon.
    pub fn is_busy(&self) -> bool {
        self.slots.waiting() > 1
    }

    /// What is to be written next; `None` when nothing is and the client is closed.
    pub fn take_outgoing(&mut self, effects: &mut Effects) -> Option<Bytes> {
        if self.outgoing.is_empty() && matches!(self.phase, Phase::Closed) {
            return None;
        }
        let taken = self.cut_outgoing(Some(self.peer.server.node));
        self.tell_of_room(effects);
        Some(taken)
    }

    /// Takes the outgoing buffer, and keeps its frames for repeats without copying them. They are
    /// about to be written to a node, or are not written.
    fn cut_outgoing(&mut self, sent_to: Option<u64>) -> Bytes {
        let taken = self.outgoing.split().freeze();
        if taken.len() > SHARED_BYTES {
            self.outgoing = BytesMut::with_capacity(OUTGOING_BYTES);
        }
        for (correlation, at, bytes) in self.unwritten.drain(..) {
            let (Some(slot), Some(frame)) =
                (self.slots.get(correlation), taken.get(at..at + bytes))
            else {
                continue;
            };
            slot.sent_to = sent_to;
            // What is kept for long, or is a small part, must not keep all the rest in memory.
            let small = taken.len() > SHARED_BYTES && bytes < taken.len() / 16;
            slot.frame = if slot.kind.parks || small {
                Bytes::copy_from_slice(frame)
            } else {
                taken.slice(at..at + bytes)
            };
        }
        taken
    }

    fn settle(&mut self, correlation: u32, progress: Progress, effects: &mut Effects) {
        let Some(slot) = self.slots.get(correlation) else {
            return;
        };
        self.unanswered_bytes -= slot.bytes;
        self.deferred -= usize::from(slot.deferred);
        effects.wakers.extend(self.slots.settle(correlation, progress));
        effects.permits += 1;
        self.tell_of_room(effects);
    }

    /// Takes an answer in, or a part of one. An error: it answers nothing that was asked.
    pub fn complete(&mut self, mut frame: Frame, effects: &mut Effects) -> Result<(), String> {
        let correlation = frame.correlation;
        let waiting =
            self.slots.get(correlation).filter(|slot| matches!(slot.progress, Progress::Waiting));
        let Some(slot) = waiting else {
            return Err(format!("an answer to no request (correlation id {correlation})"));
        };
        if frame.has(FLAG_MORE) || !slot.parts.is_empty() {
            if !slot.abandoned {
                slot.parts.extend_from_slice(&frame.payload);
            }
            if frame.has(FLAG_MORE) {
                return Ok(());
            }
            frame.payload = std::mem::take(&mut slot.parts).freeze();
        }
        if !(self.repeats && slot.kind.repeatable && is_closing(&frame)) {
            self.answered = true;
            self.settle(correlation, Progress::Answered(frame), effects);
            return Ok(());
        }
        // The request was not carried out; the next server will do it.
        if slot.abandoned || slot.cancelled {
            self.settle(correlation, cancelled(), effects);
        } else if !slot.deferred {
            slot.deferred = true;
            // What a receive settles is done before it waits.
            if slot.kind.elsewhere || !slot.kind.parks {
                slot.sent_to = None;
            }
            self.deferred += 1;
        }
        if matches!(self.phase, Phase::Up) {
            self.phase = Phase::Connecting;
        }
        Ok(())
    }

    /// True when the server shuts down, and nothing more is to come from it.
    pub fn is_drained(&self) -> bool {
        self.is_draining() && self.slots.waiting() == self.deferred
    }

    /// True when the server shuts down.
    pub fn is_draining(&self) -> bool {
        self.connected && matches!(self.phase, Phase::Connecting)
    }

    /// The answer, if it has come.
    pub fn pick_up(
        &mut self,
        correlation: u32,
        waker: &Waker,
        effects: &mut Effects,
    ) -> Poll<Result<Frame, ClientError>> {
        let Some(slot) = self.slots.get(correlation) else {
            return Poll::Ready(Err(self.lost_error("the call is not known any more")));
        };
        let result = match std::mem::take(&mut slot.progress) {
            Progress::Answered(frame) => Ok(frame),
            Progress::Failed(error) => Err(*error),
            progress @ (Progress::Waiting | Progress::Free) => {
                slot.progress = progress;
                if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                    effects.stale = slot.waker.replace(waker.clone());
                }
                return Poll::Pending;
            }
        };
        self.slots.forget(correlation);
        Poll::Ready(result)
    }

    /// Sends a cancel frame for a parked receive.
    pub fn cancel(&mut self, correlation: u32, effects: &mut Effects) {
        let Some(slot) = self.slots.get(correlation) else {
            return;
        };
        if !slot.kind.parks || slot.cancelled || !matches!(slot.progress, Progress::Waiting) {
            return;
        }
        slot.cancelled = true;
        if slot.deferred {
            self.settle(correlation, cancelled(), effects);
        } else if self.connected {
            put_cancel(&mut self.outgoing, correlation);
            effects.write = true;
        }
    }

    /// The caller does not wait for the answer any more.
    pub fn abandon(&mut self, correlation: u32, effects: &mut Effects) {
        let connected = self.connected;
        let Some(slot) = self.slots.get(correlation) else {
            return;
        };
        if !matches!(slot.progress, Progress::Waiting) {
            self.slots.forget(correlation);
            return;
        }
        slot.abandoned = true;
        effects.stale = slot.waker.take();
        if !connected || slot.deferred {
            self.settle(correlation, cancelled(), effects);
        } else {
            self.cancel(correlation, effects);
        }
    }

    /// A connection is there: repeats what has no answer, as far as this server may have it twice.
    /// False when the client was closed.
    pub fn up(&mut self, peer: Peer, effects: &mut Effects) -> bool {
        if matches!(self.phase, Phase::Closed) {
            return false;
        }
        self.phase = Phase::Up;
        self.connected = true;
        self.answered = false;
        self.fail_what_another_may_have_done(&peer, effects);
        self.peer = peer;
        let lowest = self.slots.lowest_number().unwrap_or(0);
        let maximum = self.peer.server.frame_bytes_max;
        for correlation in self.slots.in_order() {
            let Some(slot) = self.slots.get(correlation) else {
                continue;
            };
            let bytes = slot.frame.len();
            if bytes > maximum as usize + 4 {
                let refusal = refused(frame_too_large(bytes, maximum));
                self.settle(correlation, Progress::Failed(Box::new(refusal)), effects);
                continue;
            }
            slot.sent_to = Some(self.peer.server.node);
            let at = self.outgoing.len() + ANSWERED_BELOW_AT;
            self.outgoing.extend_from_slice(&slot.frame);
            if slot.kind.number.is_some()
                && let Some(answered_below) = self.outgoing.get_mut(at..at + 8)
            {
                answered_below.copy_from_slice(&lowest.to_le_bytes());
            }
            if slot.cancelled {
                put_cancel(&mut self.outgoing, correlation);
            }
        }
        effects.write = true;
        effects.changed = true;
        true
    }

    /// Numbers tell a repeat only to the node, or nodes with the same data, that has seen them.
    fn fail_what_another_may_have_done(&mut self, next: &Peer, effects: &mut Effects) {
        let reason = format!(
            "the request may have been carried out, and is not repeated by {}, which has other data",
            next.address
        );
        let error = self.lost_error(reason);
        for correlation in self.slots.in_order() {
            let Some(slot) = self.slots.get(correlation) else {
                continue;
            };
            let by_another = slot.sent_to.is_some_and(|node| node != next.server.node);
            if by_another && !slot.kind.elsewhere {
                self.settle(correlation, Progress::Failed(Box::new(error.clone())), effects);
            }
        }
    }

    /// The connection is lost. True when its requests are to be repeated.
    pub fn lost(&mut self, reason: &str, repeat: bool, effects: &mut Effects) -> bool {
        self.connected = false;
        drop(self.cut_outgoing(None));
        let closed = matches!(self.phase, Phase::Closed);
        let repeat = repeat && self.repeats && !closed;
        let error = self.lost_error(reason);
        for correlation in self.slots.in_order() {
            let Some(slot) = self.slots.get(correlation) else {
                continue;
            };
            // What is repeated is answered from the start.
            slot.parts = BytesMut::new();
            if !repeat || slot.abandoned || !slot.kind.repeatable {
                self.settle(correlation, Progress::Failed(Box::new(error.clone())), effects);
            } else if std::mem::take(&mut slot.deferred) {
                self.deferred -= 1;
            }
        }
        if !closed {
            self.phase = if repeat { Phase::Connecting } else { Phase::Down(error) };
        }
        effects.changed = true;
        repeat
    }

    /// No connection could be made in time: `error` for calls that were not sent, and `in_flight`
    /// for those that were.
    pub fn give_up(&mut self, error: ClientError, in_flight: &ClientError, effects: &mut Effects) {
        self.connected = false;
        drop(self.cut_outgoing(None));
        for correlation in self.slots.in_order() {
            self.settle(correlation, Progress::Failed(Box::new(in_flight.clone())), effects);
        }
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Down(error);
        }
        effects.changed = true;
    }

    /// True when an answer came over this connection.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// Takes no more requests.
    pub fn close(&mut self, effects: &mut Effects) {
        self.phase = Phase::Closed;
        effects.changed = true;
        effects.write = true;
    }

    /// A [`ClientError::Lost`] for `reason`.
    pub fn lost_error(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Lost { address: self.peer.address.clone(), reason: reason.into() }
    }
}

/// Most requests in flight to `peer`: its limit, held to what the client has places for.
pub(super) fn in_flight_max(peer: &Peer) -> usize {
    (peer.server.in_flight_max as usize).clamp(1, SLOTS_MAX / 2)
}

fn put_cancel(out: &mut BytesMut, correlation: u32) {
    // A cancel has no answer, so that its own correlation id does not matter.
    put_request(out, correlation, None, &Cancel { correlation });
}

fn is_closing(frame: &Frame) -> bool {
    let number = frame.payload.get(..2).map(|mut number| number.get_u16_le());
    frame.has(FLAG_REFUSED) && number == Some(ErrorCode::Closing.number())
}

fn refused(refusal: Refusal) -> ClientError {
    ClientError::Refused(Box::new(refusal))
}

fn cancelled() -> Progress {
    Progress::Failed(Box::new(refused(ErrorCode::Cancelled.refuse("the request was cancelled"))))
}

fn frame_too_large(bytes: usize, maximum: u32) -> Refusal {
    let length = bytes as u64 - 4;
    let text = format!("frame of {length} bytes is over the limit of {maximum} bytes");
    ErrorCode::FrameTooLarge.refuse(text).with_limit("frame", length, u64::from(maximum))
}
