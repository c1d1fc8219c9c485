//! The reading half of a connection: frames in, requests on their way to the engine.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use qd_protocol::frame::{FrameError, HEADER_BYTES};
use qd_protocol::verbs::{Hello, Pong, ShuttingDown, Welcome};
use qd_protocol::{ErrorCode, FRAME_BYTES_MAX, Frame, FrameCodec, Refusal, Request};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::Decoder;

use super::connection::{Closed, Ended, Input};
use super::{LARGE_FRAME_BYTES, Server};
use crate::broker::{Answer, Job, Peer, Reply, Slot, Work};
use crate::clock::wall_time;
use crate::shard::Origin;

/// Room made for one read: as much as a busy connection fills, as little as an idle one needs.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = LARGE_FRAME_BYTES;

/// Entries of unanswered requests of one connection past which it is not read from: two requests
/// with as many as one may have. Each may be refused with words of its own.
const ENTRIES_UNANSWERED_MAX: usize = 2 * qd_protocol::BATCH_ENTRIES_MAX as usize;
/// A request with no more entries than this is bounded well enough by its place.
const FEW_ENTRIES: usize = 16;

/// What a large frame has until it is handed on.
struct Room {
    /// All of it, with the length.
    frame_bytes: usize,
    /// Its place among the unanswered requests; `None` once it has been given to it.
    slot: Option<OwnedSemaphorePermit>,
    /// As many entries as a request may have; `None` once it has been given those that it has.
    entries: Option<OwnedSemaphorePermit>,
    /// Of [`Server::large_frames`].
    _bytes: OwnedSemaphorePermit,
}

/// The reading half of a connection.
pub(super) struct Reader<R> {
    input: R,
    buffer: BytesMut,
    /// Room made for the next read.
    read_bytes: usize,
    codec: FrameCodec,
    /// Of the frame that is being read, or handed on, when it is a large one.
    room: Option<Room>,
    /// Places for unanswered requests.
    slots: Arc<Semaphore>,
    /// Entries of unanswered requests with many.
    entries: Arc<Semaphore>,
    /// From hello; 0: its requests are not numbered.
    producer: Option<u64>,
    peer: Arc<Peer>,
    /// Closed when the writer has ended.
    outlet: UnboundedSender<Reply>,
    server: Arc<Server>,
    stop: watch::Receiver<bool>,
    /// A request of the client stops the daemon.
    pub asked_to_stop: bool,
}

impl<R: Input> Reader<R> {
    /// A reader in front of hello; `outlet` is that of `peer`.
    pub fn new(
        input: R,
        peer: Arc<Peer>,
        outlet: UnboundedSender<Reply>,
        server: Arc<Server>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            input,
            buffer: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            codec: FrameCodec::default(),
            room: None,
            slots: Arc::new(Semaphore::new(qd_protocol::IN_FLIGHT_MAX as usize)),
            entries: Arc::new(Semaphore::new(ENTRIES_UNANSWERED_MAX)),
            producer: None,
            peer,
            outlet,
            server,
            stop,
            asked_to_stop: false,
        }
    }

    /// Ends everything but the socket.
    pub fn into_input(self) -> R {
        self.input
    }

    /// Reads requests until the client closes, takes no answers, or breaks the rules, or the
    /// daemon stops.
    pub async fn read(&mut self) -> Result<(), Ended> {
        let hello_until = Instant::now() + self.server.timeouts.handshake;
        let mut frame_until = None;
        loop {
            if let Some(length) = self.large_frame() {
                if self.producer.is_some() {
                    self.make_room(length).await?;
                } else {
                    let room = self.make_room(length);
                    timeout_at(hello_until, room).await.map_err(|_| Ended::TooSlow("hello"))??;
                }
                // The wait was not the client's fault.
                frame_until = Some(Instant::now() + self.server.timeouts.frame);
            }
            match self.codec.decode(&mut self.buffer) {
                Ok(Some(frame)) => {
                    frame_until = None;
                    self.take(frame).await?;
                    self.room = None;
                    continue;
                }
                Ok(None) => {}
                Err(error) => return Err(self.refuse_frame(error).await),
            }
            if self.buffer.is_empty() {
                // A new one: this may be the end of what was made for a large frame.
                self.buffer = BytesMut::new();
            } else if frame_until.is_none() {
                frame_until = Some(Instant::now() + self.server.timeouts.frame);
            }
            let deadline = match self.producer {
                None => Some((hello_until, "hello")),
                Some(_) => frame_until.map(|until| (until, "a frame")),
            };
            if self.read_more(deadline).await? == 0 {
                return if self.buffer.is_empty() { Ok(()) } else { Err(Ended::CutOff) };
            }
        }
    }

    /// Reads once. Returns how many bytes came: 0 at the end.
    async fn read_more(
        &mut self,
        deadline: Option<(Instant, &'static str)>,
    ) -> Result<usize, Ended> {
        let room = if let Some(room) = &self.room {
            // Nothing of the next frame is to share the memory of a large one, which is not whole
            // yet: the codec has just said so.
            room.frame_bytes - self.buffer.len()
        } else {
            self.buffer.reserve(self.read_bytes);
            self.buffer.capacity() - self.buffer.len()
        };
        let mut buffer = (&mut self.buffer).limit(room);
        let more = self.input.read_buf(&mut buffer);
        let read = async {
            match deadline {
                Some((until, what)) => {
                    timeout_at(until, more).await.map_err(|_| Ended::TooSlow(what))
                }
                None => Ok(more.await),
            }
        };
        let read = tokio::select! {
            read = read => read??,
            _ = self.stop.changed() => return Err(Ended::Stopping),
            () = self.outlet.closed() => return Err(Ended::NobodyReads),
        };
        if read == room {
            self.read_bytes = (self.read_bytes * 4).min(READ_BYTES_MAX);
        } else if read < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        Ok(read)
    }

    /// The announced length of a frame that is to have room before it is read on.
    fn large_frame(&self) -> Option<u32> {
        // The codec looks at whole headers only: a frame that it refuses needs no room.
        let mut header = self.buffer.get(..HEADER_BYTES)?;
        let length = header.get_u32_le();
        let is_large = length as usize > LARGE_FRAME_BYTES && length <= FRAME_BYTES_MAX;
        (is_large && self.room.is_none()).then_some(length)
    }

    /// Waits for room for a frame that announces `length`.
    ///
    /// Its place among the unanswered requests and its entries come first: a client could let
    /// receives wait in all places for a day, or take its answers slowly, and must not keep the room
    /// of others as long.
    async fn make_room(&mut self, length: u32) -> Result<(), Ended> {
        let slot = self.slot().await?;
        let entries = self.entries(qd_protocol::BATCH_ENTRIES_MAX as usize).await?;
        let large_frames = Arc::clone(&self.server.large_frames);
        // The semaphore is never closed.
        let bytes = self.hold(large_frames.acquire_many_owned(length)).await?;
        let bytes = bytes.map_err(|_| Ended::Stopping)?;
        let frame_bytes = length as usize + 4;
        self.buffer.reserve(frame_bytes.saturating_sub(self.buffer.len()));
        let (slot, entries) = (Some(slot), Some(entries));
        self.room = Some(Room { frame_bytes, slot, entries, _bytes: bytes });
        Ok(())
    }

    /// Tells the client why its frame cannot be read.
    async fn refuse_frame(&mut self, error: FrameError) -> Ended {
        if let FrameError::TooLarge { correlation, opcode, length, maximum } = error {
            let refusal = ErrorCode::FrameTooLarge.refuse(error.to_string()).with_limit(
                "frame",
                u64::from(length),
                u64::from(maximum),
            );
            if let Err(ended) = self.answer(correlation, opcode, Answer::Refused(refusal)).await {
                return ended;
            }
        }
        error.into()
    }

    async fn answer(&mut self, correlation: u32, opcode: u16, answer: Answer) -> Result<(), Ended> {
        let slot = Slot::new(self.slot().await?, None);
        self.peer.reply(correlation, opcode, answer, slot);
        Ok(())
    }

    /// A place among the unanswered requests.
    async fn slot(&mut self) -> Result<OwnedSemaphorePermit, Ended> {
        if let Some(slot) = self.room.as_mut().and_then(|room| room.slot.take()) {
            return Ok(slot);
        }
        let slots = Arc::clone(&self.slots);
        // The semaphore is never closed.
        self.hold(slots.acquire_owned()).await?.map_err(|_| Ended::Stopping)
    }

    /// Entries of unanswered requests.
    async fn entries(&mut self, count: usize) -> Result<OwnedSemaphorePermit, Ended> {
        let most = count.min(ENTRIES_UNANSWERED_MAX) as u32;
        let entries = Arc::clone(&self.entries);
        // The semaphore is never closed.
        self.hold(entries.acquire_many_owned(most)).await?.map_err(|_| Ended::Stopping)
    }

    /// Waits for `room` to go on. Nothing is read meanwhile; that the connection ends is noticed
    /// all the same.
    async fn hold<T>(&mut self, room: impl Future<Output = T>) -> Result<T, Ended> {
        let mut room = pin!(room);
        let mut half_closed = false;
        loop {
            tokio::select! {
                biased;
                done = &mut room => return Ok(done),
                _ = self.stop.changed() => return Err(Ended::Stopping),
                () = self.outlet.closed() => return Err(Ended::NobodyReads),
                closed = self.input.closed(), if !half_closed => match closed {
                    Closed::Both => return Err(Ended::HungUp),
                    Closed::Sending => {
                        // What it sent before is still carried out, when the receives that wait
                        // have made room: they end with the sending side.
                        half_closed = true;
                        self.server.broker.gone(self.peer.id());
                    }
                },
            }
        }
    }

    /// Takes a request in. An error ends the connection; the answer says why.
    async fn take(&mut self, frame: Frame) -> Result<(), Ended> {
        let Frame { correlation, opcode, .. } = frame;
        let bytes = frame.payload.len();
        let (request, numbering) = match Request::from_frame(frame) {
            Ok(decoded) => decoded,
            Err(error) => {
                return self.answer(correlation, opcode, Answer::Refused(error.into())).await;
            }
        };
        if let Err(refusal) = self.check_hello(&request) {
            self.answer(correlation, opcode, Answer::Refused(refusal)).await?;
            return Err(Ended::Refused("hello was not the first request, or not the only one"));
        }
        let origin = self.producer.filter(|producer| *producer != 0).zip(numbering).map(
            |(producer, numbering)| Origin {
                producer,
                number: numbering.number,
                answered_below: numbering.answered_below,
                continued: false,
            },
        );
        let work = match request {
            Request::Create(create) => Ok(Work::create(create)),
            Request::Drop(drop) => Ok(Work::drop(drop)),
            Request::Describe(describe) => Ok(Work::Describe(describe)),
            Request::List(list) => Ok(Work::List(list)),
            Request::Send(send) => Work::send(send),
            Request::Receive(receive) => Work::receive(receive),
            Request::Delete(delete) => Work::delete(delete),
            Request::Update(update) => Ok(Work::update(update)),
            Request::Extend(extend) => Work::extend(extend),
            Request::Release(release) => Work::release(release),
            Request::Discard(discard) => Work::discard(discard),
            Request::Reschedule(reschedule) => Work::reschedule(reschedule),
            Request::Reject(reject) => Work::reject(reject),
            Request::Redrive(redrive) => Work::redrive(redrive),
            Request::Peek(peek) => Work::peek(peek),
            Request::Stats(stats) => Work::stats(stats),
            Request::Purge(purge) => Work::purge(purge),
            Request::Transact(transact) => Work::transact(transact),
            Request::Cancel(cancel) => {
                let (server, id) = (Arc::clone(&self.server), self.peer.id());
                return self
                    .hold(async move { server.broker.cancel(id, cancel.correlation).await })
                    .await;
            }
            Request::Hello(_) | Request::Ping(_) | Request::Shutdown(_) => {
                return self.answer_at_once(correlation, opcode, request).await;
            }
        };
        match work {
            Ok(work) => self.submit(correlation, origin, work, bytes).await,
            Err(refusal) => self.answer(correlation, opcode, Answer::Refused(refusal)).await,
        }
    }

    /// Answers what needs no engine.
    async fn answer_at_once(
        &mut self,
        correlation: u32,
        opcode: u16,
        request: Request,
    ) -> Result<(), Ended> {
        let answer = match request {
            Request::Hello(hello) => {
                tracing::debug!("hello from {:?}", hello.client);
                Answer::Hello(Welcome { server: env!("CARGO_PKG_VERSION").to_owned() })
            }
            Request::Shutdown(_) => Answer::Shutdown(ShuttingDown),
            _ => Answer::Ping(Pong { time_ms: wall_time().as_millis() as u64 }),
        };
        let shutdown = matches!(answer, Answer::Shutdown(_));
        self.answer(correlation, opcode, answer).await?;
        if shutdown {
            self.asked_to_stop = true;
            self.server.shutdown.notify_one();
        }
        Ok(())
    }

    fn check_hello(&mut self, request: &Request) -> Result<(), Refusal> {
        match (self.producer, request) {
            (None, Request::Hello(Hello { producer, .. })) => {
                self.producer = Some(*producer);
                Ok(())
            }
            (None, _) => Err(ErrorCode::HelloExpected.refuse("the first request must be hello")),
            (Some(_), Request::Hello(_)) => {
                let text = "hello comes once, as the first request";
                Err(ErrorCode::HelloExpected.refuse(text))
            }
            (Some(_), _) => Ok(()),
        }
    }

    /// Hands a request of `bytes` to the engine.
    async fn submit(
        &mut self,
        correlation: u32,
        origin: Option<Origin>,
        work: Work,
        bytes: usize,
    ) -> Result<(), Ended> {
        let place = self.slot().await?;
        // What a large frame has too many of is given back here.
        let reserved = self.room.as_mut().and_then(|room| room.entries.take());
        let entries = match work.entries() {
            0..=FEW_ENTRIES => None,
            count => match reserved.and_then(|mut reserved| reserved.split(count)) {
                Some(entries) => Some(entries),
                None => Some(self.entries(count).await?),
            },
        };
        let slot = Slot::new(place, entries);
        let job = Job { peer: Arc::clone(&self.peer), correlation, slot, origin, work };
        let server = Arc::clone(&self.server);
        let is_last = self.buffer.is_empty();
        self.hold(async move { server.broker.submit(job, bytes, is_last).await }).await
    }
}
