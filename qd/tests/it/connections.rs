//! Connections that hang, with time limits short enough to wait for.
//!
//! The server is the daemon's own, in this process; the clients are raw sockets.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use qd::broker::{Broker, Engine};
use qd::clock::Clock;
use qd::log::SEGMENT_BYTES;
use qd::log::files::Directory;
use qd::net::{Listener, Server, Timeouts, serve};
use qd::replicator::Local;
use qd::shard::Machine;
use qd::store::Store;
use qd_protocol::frame::FLAG_REFUSED;
use qd_protocol::preamble::Status;
use qd_protocol::request::{put_request, read_answer};
use qd_protocol::verbs::{
    Create, Delete, Describe, IfExists, Ping, Receive, Send, SendEntry, Verb,
};
use qd_protocol::{Address, AttributeChanges, IN_FLIGHT_MAX, QueueName, Receipt, Statistics};
use qd_tests::raw::{preamble, request};
use qd_tests::wait::SOON;
use qd_tests::{Raw, wait_until};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

/// A server on a socket and with an engine of its own.
struct Served {
    directory: TempDir,
    _runtime: Runtime,
    tcp: Address,
    broker: Broker,
    stop: watch::Sender<bool>,
    /// `None`: requests are taken in and never carried out.
    engine: Option<Engine>,
    running: Option<JoinHandle<()>>,
}

impl Served {
    fn new(timeouts: Timeouts, connections_max: usize) -> Self {
        Self::with(|server| (server.timeouts, server.connections_max) = (timeouts, connections_max))
    }

    fn with(change: impl FnOnce(&mut Server)) -> Self {
        let directory = qd_tests::daemon::temporary_directory();
        let store = Store::open(&directory.path().join("state.redb"), 16 << 20, 1).unwrap();
        let (broker, mailbox) = Broker::new();
        let log = Directory::open(&directory.path().join("log")).unwrap();
        let machine = Machine::open(store).unwrap();
        let on_failure = mailbox.on_failure();
        let local = Local::open(machine, Box::new(log), SEGMENT_BYTES, on_failure).unwrap();
        let engine = Engine::new(local, Clock::System, mailbox).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut server = Server::new(broker.clone(), 1, 100);
        change(&mut server);
        let (stop, stopped) = watch::channel(false);
        let address = Address::Unix(directory.path().join("s"));
        let unix = runtime.block_on(Listener::bind(address, 0o600)).unwrap();
        let any_port = Address::Tcp("127.0.0.1:0".to_owned());
        let tcp = runtime.block_on(Listener::bind(any_port, 0)).unwrap();
        let tcp_address = tcp.address();
        runtime.spawn(serve(vec![unix, tcp], Arc::new(server), stopped));
        Self {
            directory,
            _runtime: runtime,
            tcp: tcp_address,
            broker,
            stop,
            engine: Some(engine),
            running: None,
        }
    }

    fn unix(&self) -> Address {
        Address::Unix(self.directory.path().join("s"))
    }

    /// Lets requests be carried out.
    fn run(mut self) -> Self {
        let engine = self.engine.take().unwrap();
        self.running = Some(std::thread::spawn(move || engine.run().unwrap()));
        self
    }

    fn raw(&self) -> Raw {
        raw_at(&self.unix())
    }

    /// Waits until there is room for one more connection.
    fn wait_for_room(&self) {
        wait_until("a connection's place is free", SOON, || {
            let status = Raw::connect(&self.unix()).preamble(&preamble(1, 1)).status;
            (status == Status::Ready).then_some(())
        });
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        self.broker.stop();
        if let Some(engine) = self.running.take() {
            let _ = engine.join();
        }
    }
}

/// A connection after hello.
fn raw_at(address: &Address) -> Raw {
    let mut raw = Raw::connect(address);
    raw.greet();
    raw.hello(0);
    raw
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn create(name: &str) -> Create {
    let attributes =
        AttributeChanges { max_message_size: Some(16 << 20), ..AttributeChanges::default() };
    Create { queue: queue(name), if_exists: IfExists::Compare, attributes, with: None }
}

fn send(name: &str, body: Vec<u8>) -> Send {
    Send { queue: queue(name), entries: vec![SendEntry::new(body)] }
}

fn receive(name: &str, wait_ms: u64) -> Receive {
    Receive {
        queues: vec![queue(name)],
        max: 1,
        wait_ms,
        visibility_timeout_ms: None,
        delete_on_receive: false,
        settle: Vec::new(),
    }
}

fn statistics(raw: &mut Raw, name: &str) -> Statistics {
    raw.call(&Describe { queue: queue(name) }).unwrap().statistics
}

#[test]
fn client_that_takes_no_answers_for_its_time_is_cut_off_and_leases_nothing_more() {
    let write = Duration::from_millis(300);
    let served = Served::new(Timeouts { write, ..Timeouts::default() }, 2).run();
    let mut other = served.raw();
    other.call(&create("large")).unwrap();
    other.call(&create("jobs")).unwrap();
    other.call(&send("large", vec![b'x'; 4 << 20])).unwrap();
    let mut rude = served.raw();
    rude.send(&receive("jobs", 3_600_000));
    rude.send(&receive("large", 0));
    // Its reader waits for more requests and its parked receive for a message.
    served.wait_for_room();
    other.call(&send("jobs", b"for nobody".to_vec())).unwrap();
    let after = statistics(&mut other, "jobs");
    assert_eq!((after.ready, after.leased), (1, 0));
    let came = rude.wait_for_close();
    assert!(came < 4 << 20, "{came} bytes came");
}

#[test]
fn client_that_breaks_the_rules_and_reads_nothing_is_closed_all_the_same() {
    let served = Served::new(Timeouts::default(), 2).run();
    let mut other = served.raw();
    other.call(&create("large")).unwrap();
    other.call(&send("large", vec![b'x'; 4 << 20])).unwrap();
    let mut rude = served.raw();
    rude.send(&receive("large", 0));
    // Shorter than a frame can be.
    rude.write(&7u32.to_le_bytes()).unwrap();
    served.wait_for_room();
    let came = rude.wait_for_close();
    assert!(came < 4 << 20, "{came} bytes came");
}

#[test]
fn client_that_hangs_up_behind_unread_requests_leases_nothing_more() {
    let served = Served::new(Timeouts::default(), 2).run();
    let mut other = served.raw();
    for (name, address) in [("unix", served.unix()), ("tcp", served.tcp.clone())] {
        other.call(&create(name)).unwrap();
        let mut gone = raw_at(&address);
        // All its places are taken by receives that wait, and more requests are on the way.
        for _ in 0..IN_FLIGHT_MAX + 100 {
            gone.send(&receive(name, 3_600_000));
        }
        drop(gone);
        served.wait_for_room();
        other.call(&send(name, b"for nobody".to_vec())).unwrap();
        let after = statistics(&mut other, name);
        assert_eq!((after.ready, after.leased), (1, 0), "{name}");
    }
}

#[test]
fn client_that_closes_its_sending_side_behind_unread_requests_gets_their_answers() {
    let served = Served::new(Timeouts::default(), 10).run();
    let mut other = served.raw();
    for (name, address) in [("unix", served.unix()), ("tcp", served.tcp.clone())] {
        other.call(&create(name)).unwrap();
        let mut half = raw_at(&address);
        for _ in 0..IN_FLIGHT_MAX {
            half.send(&receive(name, 3_600_000));
        }
        half.send(&Ping);
        half.send(&send(name, b"stored".to_vec()));
        half.end_output();
        let mut answered = Vec::new();
        while let Some(frame) = half.frame().unwrap() {
            // A receive that waits already ends without an answer, one on its way as cancelled.
            if frame.opcode != Receive::OPCODE || !frame.has(FLAG_REFUSED) {
                answered.push((frame.opcode, frame.has(FLAG_REFUSED)));
            }
        }
        assert_eq!(answered, [(Ping::OPCODE, false), (Send::OPCODE, false)], "{name}");
        assert_eq!(statistics(&mut other, name).ready, 1, "{name}");
    }
}

#[test]
fn client_that_hangs_up_while_the_mailbox_is_full_is_noticed() {
    let served = Served::new(Timeouts::default(), 1);
    let mut gone = served.raw();
    gone.limit(Duration::from_secs(1));
    let frame = request(1, None, &send("jobs", vec![b'x'; 16 << 20]));
    // Nothing takes them out of the mailbox of 64 MiB.
    let blocked = (0..6).find_map(|_| gone.write(&frame).err());
    assert!(blocked.is_some(), "the server stops reading");
    drop(gone);
    served.wait_for_room();
}

/// Half of a frame that announces a message of 16 MiB. True when the server took it.
fn write_half_a_frame(raw: &mut Raw) -> bool {
    raw.limit(Duration::from_millis(200));
    let frame = request(1, None, &send("jobs", vec![b'x'; 16 << 20]));
    raw.write(&frame[..frame.len() / 2]).is_ok()
}

#[test]
fn half_frames_take_bounded_room_and_hold_up_nobody_with_small_ones() {
    let served = Served::with(|server| {
        server.timeouts.frame = Duration::from_secs(2);
        server.large_frames = Arc::new(Semaphore::new(40 << 20));
    })
    .run();
    let mut other = served.raw();
    other.call(&create("jobs")).unwrap();
    let mut hostile: Vec<Raw> = (0..4).map(|_| served.raw()).collect();
    let taken = hostile.iter_mut().map(write_half_a_frame).filter(|taken| *taken).count();
    // Two have room at a time, and are cut off after their time; it goes to the next ones.
    assert!((1..4).contains(&taken), "{taken} half frames of 8 MiB were taken");
    for _ in 0..10 {
        other.call(&Ping).unwrap();
        other.call(&send("jobs", vec![b's'; 100_000])).unwrap();
    }
    // Behind the other ones, each of which has its time.
    other.call(&send("jobs", vec![b'l'; 16 << 20])).unwrap();
    assert_eq!(statistics(&mut other, "jobs").ready, 11);
    for raw in &mut hostile {
        raw.limit(SOON);
        raw.wait_for_close();
    }
}

#[test]
fn client_without_a_place_for_its_large_frame_keeps_no_room_from_others() {
    let served = Served::with(|server| {
        server.large_frames = Arc::new(Semaphore::new(17 << 20));
    })
    .run();
    let mut other = served.raw();
    other.call(&create("jobs")).unwrap();
    other.call(&create("empty")).unwrap();
    let mut hostile = served.raw();
    for _ in 0..IN_FLIGHT_MAX {
        hostile.send(&receive("empty", 3_600_000));
    }
    assert!(!write_half_a_frame(&mut hostile), "it has no place left");
    for _ in 0..3 {
        other.call(&send("jobs", vec![b'l'; 16 << 20])).unwrap();
    }
}

/// Receipts of queue `jobs` that are refused by turns as over and as never given out, so that no
/// two neighbours have the same status.
fn refused_by_turns(raw: &mut Raw) -> Vec<Receipt> {
    raw.call(&create("jobs")).unwrap();
    raw.call(&send("jobs", b"one".to_vec())).unwrap();
    let stale = raw.call(&receive("jobs", 0)).unwrap().messages[0].receipt;
    raw.call(&Delete { queue: queue("jobs"), receipts: vec![stale] }).unwrap();
    (0..10_000).map(|at| Receipt { id: 1 + at % 2, ..stale }).collect()
}

#[test]
fn receives_that_wait_keep_no_entries_of_the_receipts_that_they_settled() {
    let served = Served::new(Timeouts::default(), 10).run();
    let mut client = served.raw();
    let settle = refused_by_turns(&mut client);
    for _ in 0..3 {
        client.send(&Receive { settle: settle.clone(), ..receive("jobs", 24 * 3_600_000) });
    }
    // Behind them a request with many entries of its own.
    let delete = Delete { queue: queue("jobs"), receipts: settle };
    assert_eq!(client.call(&delete).unwrap().statuses.runs.len(), 10_000);
    // Those that wait have their message and all of their statuses.
    client.send(&send("jobs", b"two".to_vec()));
    let answer = loop {
        let frame = client.frame().unwrap().unwrap();
        if frame.opcode == Receive::OPCODE {
            break read_answer::<Receive>(frame).unwrap();
        }
    };
    assert_eq!((answer.messages.len(), answer.settled.runs.len()), (1, 10_000));
}

#[test]
fn receives_that_wait_keep_bounded_statuses() {
    let served = Served::new(Timeouts::default(), 10).run();
    let mut client = served.raw();
    let settle = refused_by_turns(&mut client);
    let waits = Receive { settle, ..receive("jobs", 24 * 3_600_000) };
    for _ in 0..25 {
        client.send(&waits);
    }
    let answer = client.call(&waits).unwrap();
    assert_eq!((answer.messages.len(), answer.settled.runs.len()), (0, 10_000));
}

#[test]
fn client_without_entries_for_its_large_frame_keeps_no_room_from_others() {
    let served = Served::with(|server| {
        server.large_frames = Arc::new(Semaphore::new(17 << 20));
    })
    .run();
    let mut other = served.raw();
    let mut hostile = served.raw();
    let receipts = refused_by_turns(&mut hostile);
    let delete = request(1, None, &Delete { queue: queue("jobs"), receipts });
    // Their answers are not read, and have all entries; then comes a large frame with some more.
    hostile.write(&delete).unwrap();
    hostile.write(&delete).unwrap();
    let entries = vec![SendEntry::new(vec![b'x'; 900_000]); 17];
    hostile.limit(Duration::from_secs(1));
    let taken = hostile.write(&request(2, None, &Send { queue: queue("jobs"), entries }));
    assert!(taken.is_err(), "it has no entries left");
    for _ in 0..3 {
        other.call(&send("jobs", vec![b'l'; 16 << 20])).unwrap();
    }
}

#[test]
fn stranger_who_says_nothing_does_not_hold_up_the_stop() {
    let served = Served::new(Timeouts::default(), 100).run();
    let mut silent = Raw::connect(&served.unix());
    let mut no_hello = Raw::connect(&served.unix());
    no_hello.greet();
    served.raw().settle();
    served.stop.send(true).unwrap();
    for raw in [&mut silent, &mut no_hello] {
        // Well below the 5 s that others have for their last answers.
        raw.limit(Duration::from_secs(3));
        raw.wait_for_close();
    }
}

#[test]
fn client_that_reads_no_answers_is_not_read_from_past_a_number_of_entries() {
    let served = Served::new(Timeouts::default(), 10).run();
    let mut rude = served.raw();
    let receipts = refused_by_turns(&mut rude);
    let delete = Delete { queue: queue("jobs"), receipts };
    let mut request = BytesMut::new();
    put_request(&mut request, 1, None, &delete);
    rude.limit(Duration::from_millis(500));
    let mut taken = 0;
    while taken < 100 && rude.write(&request).is_ok() {
        taken += 1;
    }
    // Two are in the engine's hands or answered, the others in buffers of the sockets.
    assert!((2..20).contains(&taken), "{taken} of 100 requests were taken");
    // Others are served meanwhile.
    let mut other = served.raw();
    other.call(&send("jobs", b"other".to_vec())).unwrap();
    assert_eq!(statistics(&mut other, "jobs").ready, 1);
}
