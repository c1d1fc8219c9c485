//! The client against servers played by the tests.

mod connecting;
mod elsewhere;
mod loss;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::Decoder;

use super::*;
use crate::attributes::Statistics;
use crate::error::ErrorCode;
use crate::frame::{Frame, FrameCodec};
use crate::message::Body;
use crate::name::QueueName;
use crate::preamble::{CLIENT_BYTES, Status};
use crate::receipt::Receipt;
use crate::request::{Numbering, Request, put_answer, put_part, put_refusal};
use crate::verbs::delete::Statuses;
use crate::verbs::{
    Cancel, Counted, Dropped, Hello, Ping, Pong, Receive, Received, ReceivedMessage, Shutdown,
    Stats,
};
use crate::wire::Payload;

/// No test waits longer for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("what must come does not come")
}

fn preamble() -> ServerPreamble {
    ServerPreamble {
        versions: VersionRange::OURS,
        chosen: 1,
        status: Status::Ready,
        frame_bytes_max: 1_000,
        in_flight_max: 8,
        message_bytes_max: 3,
        node: 4,
        time_ms: 5,
    }
}

/// A place to listen.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn address(&self) -> Address {
        Address::unix(self.directory.path().join("s")).unwrap()
    }

    fn listen(&self) -> UnixListener {
        let path = self.directory.path().join("s");
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(path).unwrap()
    }

    async fn connect(&self, options: Options) -> Result<Client, ClientError> {
        Client::connect(&[self.address()], options).await
    }
}

fn retrying(retry_for: Duration) -> Options {
    Options { retry_for, ..Options::default() }
}

/// The server's end of a connection.
struct Server {
    socket: UnixStream,
    buffer: BytesMut,
    producer: u64,
}

impl Server {
    /// Takes the next connection up to the answer to hello.
    async fn accept(listener: &UnixListener) -> Self {
        Self::accept_with(listener, preamble()).await
    }

    async fn accept_with(listener: &UnixListener, preamble: ServerPreamble) -> Self {
        let (mut socket, _) = soon(listener.accept()).await.unwrap();
        let mut bytes = [0; CLIENT_BYTES];
        soon(socket.read_exact(&mut bytes)).await.unwrap();
        socket.write_all(&preamble.to_bytes()).await.unwrap();
        let mut server = Self { socket, buffer: BytesMut::new(), producer: 0 };
        let (correlation, request, _) = server.next().await;
        let Request::Hello(hello) = request else { panic!("{request:?} is not hello") };
        server.producer = hello.producer;
        server.answer::<Hello>(correlation, &Welcome { server: "1.2.3".to_owned() }).await;
        server
    }

    async fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = FrameCodec::default().decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            if soon(self.socket.read_buf(&mut self.buffer)).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn next(&mut self) -> (u32, Request, Option<Numbering>) {
        let frame = self.next_frame().await.expect("a request");
        let correlation = frame.correlation;
        let (request, numbering) = Request::from_frame(frame).unwrap();
        (correlation, request, numbering)
    }

    /// The next request's correlation id, number and lowest number without an answer.
    async fn next_numbers(&mut self) -> (u32, u64, u64) {
        let (correlation, _, numbering) = self.next().await;
        let numbering = numbering.expect("a number");
        (correlation, numbering.number, numbering.answered_below)
    }

    async fn answer<V: Verb>(&mut self, correlation: u32, answer: &V::Answer) {
        let mut out = BytesMut::new();
        put_answer(&mut out, correlation, V::OPCODE, answer);
        self.socket.write_all(&out).await.unwrap();
    }

    /// A frame of an answer that comes in several.
    async fn answer_part<V: Verb>(&mut self, correlation: u32, part: &[u8], more: bool) {
        let mut out = BytesMut::new();
        put_part(&mut out, correlation, V::OPCODE, part, more);
        self.socket.write_all(&out).await.unwrap();
    }

    async fn refuse<V: Verb>(&mut self, correlation: u32, code: ErrorCode) {
        let mut out = BytesMut::new();
        put_refusal(&mut out, correlation, V::OPCODE, &code.refuse("no"));
        self.socket.write_all(&out).await.unwrap();
    }

    /// True when nothing comes for a while.
    async fn is_idle(&mut self) -> bool {
        self.buffer.is_empty()
            && timeout(Duration::from_millis(50), self.socket.readable()).await.is_err()
    }
}

/// A client and the server's end of its connection.
async fn pair(options: Options) -> (Place, UnixListener, Client, Server) {
    let place = Place::new();
    let listener = place.listen();
    let (client, server) = tokio::join!(place.connect(options), Server::accept(&listener));
    (place, listener, client.unwrap(), server)
}

type DropQueue = crate::verbs::Drop;

/// A verb that changes state.
fn change() -> DropQueue {
    DropQueue { queue: QueueName::new("q").unwrap(), only_if_empty: false }
}

fn parked() -> Receive {
    Receive {
        queues: vec![QueueName::new("q").unwrap()],
        max: 1,
        wait_ms: 60_000,
        visibility_timeout_ms: None,
        delete_on_receive: false,
        settle: Vec::new(),
    }
}

fn delivery(crc_error: u32) -> Received {
    let mut body = Body::new("body");
    body.crc ^= crc_error;
    let message = ReceivedMessage {
        queue: 0,
        id: 77,
        receipt: Receipt { queue: 1, lease: 2, id: 77, secret: 4 },
        attempt: 1,
        sent_at_ms: 5,
        lease_until_ms: 6,
        fields: Bytes::new(),
        body,
    };
    Received { settled: Statuses::default(), messages: vec![message] }
}

/// Counters of a queue, and their payload.
fn counted() -> (Counted, Bytes) {
    let statistics = Statistics { ready: 3, ..Statistics::default() };
    let counted = Counted { queues: vec![(QueueName::new("q").unwrap(), statistics)] };
    let mut payload = BytesMut::new();
    counted.encode(&mut payload);
    (counted, payload.freeze())
}

#[tokio::test]
async fn answer_in_several_frames_is_put_together_between_others() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    let stats = client.start(Stats::default()).await.unwrap();
    let given_up = client.start(Stats::default()).await.unwrap();
    let ping = client.start(Ping).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(server.next().await.0);
    }
    let (counted, payload) = counted();
    server.answer_part::<Stats>(ids[0], &payload[..7], true).await;
    server.answer_part::<Stats>(ids[1], &payload[..9], true).await;
    server.answer::<Ping>(ids[2], &Pong { time_ms: 6 }).await;
    assert_eq!(soon(ping).await.unwrap().time_ms, 6);
    drop(given_up);
    server.answer_part::<Stats>(ids[1], &payload[9..], false).await;
    server.answer_part::<Stats>(ids[0], &payload[7..50], true).await;
    server.answer_part::<Stats>(ids[0], &payload[50..], false).await;
    assert_eq!(soon(stats).await.unwrap(), counted);
}

async fn answers_out_of_order_reach_their_calls() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    let calls = (0..4).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.call(change()).await.unwrap().messages })
    });
    let calls = join_all(calls.collect());
    let answers = async {
        let mut requests = Vec::new();
        for _ in 0..4 {
            requests.push(server.next_numbers().await);
        }
        for &(correlation, number, _) in requests.iter().rev() {
            server.answer::<DropQueue>(correlation, &Dropped { messages: number }).await;
        }
    };
    let (mut messages, ()) = tokio::join!(calls, answers);
    messages.sort_unstable();
    assert_eq!(messages, [1, 2, 3, 4]);
}

async fn join_all<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(soon(task).await.unwrap());
    }
    results
}

#[tokio::test]
async fn answers_out_of_order_on_one_thread() {
    answers_out_of_order_reach_their_calls().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_out_of_order_on_two_threads() {
    answers_out_of_order_reach_their_calls().await;
}

#[tokio::test]
async fn numbers_rise_and_answered_below_is_the_lowest_without_an_answer() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    let first = client.start(change()).await.unwrap();
    let second = client.start(change()).await.unwrap();
    let _ping = client.start(Ping).await.unwrap();
    let (first_id, number, below) = server.next_numbers().await;
    assert_eq!((number, below), (1, 1));
    let (second_id, number, below) = server.next_numbers().await;
    assert_eq!((number, below), (2, 1));
    let (_, request, numbering) = server.next().await;
    assert_eq!((request, numbering), (Request::Ping(Ping), None));
    server.answer::<DropQueue>(second_id, &Dropped { messages: 0 }).await;
    soon(second).await.unwrap();
    let _third = client.start(change()).await.unwrap();
    let (_, number, below) = server.next_numbers().await;
    assert_eq!((number, below), (3, 1));
    server.answer::<DropQueue>(first_id, &Dropped { messages: 0 }).await;
    soon(first).await.unwrap();
    let _fourth = client.start(change()).await.unwrap();
    let (_, number, below) = server.next_numbers().await;
    assert_eq!((number, below), (4, 3));
}

#[tokio::test]
async fn dropping_a_parked_receive_cancels_it_and_its_late_answer_is_discarded() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    let receive = client.call(parked());
    let id = tokio::select! {
        _ = receive => panic!("it is not answered"),
        (id, ..) = server.next_numbers() => id,
    };
    let (_, cancel, numbering) = server.next().await;
    assert_eq!((cancel, numbering), (Request::Cancel(Cancel { correlation: id }), None));
    server.answer::<Receive>(id, &delivery(0)).await;
    let ping = client.start(Ping).await.unwrap();
    let (ping_id, ..) = server.next().await;
    assert_ne!(ping_id, id);
    server.answer::<Ping>(ping_id, &Pong { time_ms: 1 }).await;
    soon(ping).await.unwrap();
}

#[tokio::test]
async fn dropping_another_call_sends_nothing() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    drop(client.start(change()).await.unwrap());
    drop(client.start(Receive { wait_ms: 0, ..parked() }).await.unwrap());
    server.next().await;
    server.next().await;
    assert!(server.is_idle().await);
}

#[tokio::test]
async fn cancelled_receive_still_gets_the_messages_of_a_crossing_answer() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    let mut receive = client.start(parked()).await.unwrap();
    let (id, ..) = server.next_numbers().await;
    receive.cancel();
    receive.cancel();
    server.answer::<Receive>(id, &delivery(0)).await;
    assert_eq!(soon(receive).await.unwrap(), delivery(0));
    let (_, cancel, _) = server.next().await;
    assert_eq!(cancel, Request::Cancel(Cancel { correlation: id }));
    assert!(server.is_idle().await);
}

#[tokio::test]
async fn damaged_body_is_a_protocol_error_that_names_the_message() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    let receive = client.start(parked()).await.unwrap();
    let (id, ..) = server.next_numbers().await;
    server.answer::<Receive>(id, &delivery(1)).await;
    let error = soon(receive).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }));
    assert!(error.to_string().contains("message 77 of queue 0"), "{error}");
}

#[tokio::test]
async fn request_over_the_frame_limit_is_refused_without_sending_anything() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    let queue = QueueName::new("q").unwrap();
    let entries = vec![crate::verbs::SendEntry::new(vec![0; 1_000])];
    let error = soon(client.call(crate::verbs::Send { queue, entries })).await.unwrap_err();
    let ClientError::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal.code, ErrorCode::FrameTooLarge);
    let limit = refusal.limit.unwrap();
    assert_eq!((limit.name.as_str(), limit.current, limit.maximum), ("frame", 1_043, 1_000));
    assert!(server.is_idle().await);
    let _next = client.start(change()).await.unwrap();
    assert_eq!(server.next_numbers().await.1, 1);
}

#[tokio::test]
async fn requests_in_flight_are_held_to_the_limit_of_the_server() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call(Ping).await.unwrap() })
        })
        .collect();
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(server.next().await.0);
    }
    assert!(server.is_idle().await);
    for _ in 0..12 {
        server.answer::<Ping>(ids.remove(0), &Pong { time_ms: 1 }).await;
        ids.push(server.next().await.0);
        assert!(server.is_idle().await);
    }
    for id in ids {
        server.answer::<Ping>(id, &Pong { time_ms: 1 }).await;
    }
    join_all(calls).await;
}

#[tokio::test]
async fn answer_to_nothing_is_a_protocol_error() {
    let (_place, _listener, client, mut server) = pair(retrying(PATIENCE)).await;
    let call = client.start(Ping).await.unwrap();
    let (id, ..) = server.next().await;
    server.answer::<Ping>(id + 1, &Pong { time_ms: 1 }).await;
    assert!(matches!(soon(call).await, Err(ClientError::Protocol { .. })));
}

#[tokio::test]
async fn close_writes_what_waits_and_refuses_later_calls() {
    let (_place, _listener, client, mut server) = pair(retrying(PATIENCE)).await;
    let pending = client.start(change()).await.unwrap();
    let clone = client.clone();
    let closing = tokio::spawn(client.close());
    let (id, ..) = server.next_numbers().await;
    server.answer::<DropQueue>(id, &Dropped { messages: 4 }).await;
    assert!(server.next_frame().await.is_none());
    drop(server);
    soon(closing).await.unwrap();
    assert_eq!(soon(pending).await.unwrap().messages, 4);
    assert!(matches!(soon(clone.call(Ping)).await, Err(ClientError::Lost { .. })));
}

#[tokio::test]
async fn connection_ends_with_the_last_handle() {
    let (_place, _listener, client, mut server) = pair(retrying(PATIENCE)).await;
    let pending = client.start(Ping).await.unwrap();
    drop(client);
    let (id, ..) = server.next().await;
    assert!(server.is_idle().await);
    server.answer::<Ping>(id, &Pong { time_ms: 9 }).await;
    assert_eq!(soon(pending).await.unwrap().time_ms, 9);
    assert!(server.next_frame().await.is_none());
}

#[tokio::test]
async fn bytes_waiting_to_be_written_are_bounded() {
    let place = Place::new();
    let listener = place.listen();
    let large = ServerPreamble {
        frame_bytes_max: crate::FRAME_BYTES_MAX,
        in_flight_max: 1_024,
        ..preamble()
    };
    let connecting = place.connect(Options::default());
    let (client, mut server) = tokio::join!(connecting, Server::accept_with(&listener, large));
    let client = client.unwrap();
    let send = || {
        let queue = QueueName::new("q").unwrap();
        let entries = vec![crate::verbs::SendEntry::new(vec![0; 1 << 20])];
        crate::verbs::Send { queue, entries }
    };
    let mut calls = Vec::new();
    while let Ok(call) = timeout(Duration::from_millis(100), client.start(send())).await {
        calls.push(call.unwrap());
        assert!(calls.len() < 30, "nothing holds the calls up");
    }
    // One piece being written, and the buffer behind it.
    assert!(calls.len() >= OUTGOING_BYTES_MAX >> 20, "{}", calls.len());
    let next = tokio::spawn(async move { client.start(send()).await });
    for _ in 0..calls.len() {
        server.next().await;
    }
    let _pending = soon(next).await.unwrap().unwrap();
}
