//! Bad input on the wire: each kind has its answer, nothing is lost, others are served.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use qd_protocol::frame::put_frame;
use qd_protocol::preamble::{Status, VersionRange};
use qd_protocol::verbs::{
    Create, Delete, Describe, Hello, IfExists, Ping, Receive, Send, SendEntry, Verb,
};
use qd_protocol::{
    AttributeChanges, BATCH_ENTRIES_MAX, Class, Client, ErrorCode, FRAME_BYTES_MAX, IN_FLIGHT_MAX,
    QueueName, Receipt, Statistics,
};
use qd_tests::raw::{preamble, request};
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Random, Raw, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub fn create(name: &str) -> Create {
    Create {
        queue: queue(name),
        if_exists: IfExists::Compare,
        attributes: AttributeChanges::default(),
        with: None,
    }
}

pub fn send(name: &str, bodies: &[&[u8]]) -> Send {
    let entries = bodies.iter().map(|body| SendEntry::new(body.to_vec())).collect();
    Send { queue: queue(name), entries }
}

pub fn receive(name: &str, max: u32) -> Receive {
    Receive {
        queues: vec![queue(name)],
        max,
        wait_ms: 0,
        visibility_timeout_ms: None,
        delete_on_receive: false,
        settle: Vec::new(),
    }
}

pub fn statistics(raw: &mut Raw, name: &str) -> Statistics {
    raw.call(&Describe { queue: queue(name) }).unwrap().statistics
}

/// The daemon serves a newcomer: a message goes through a queue of its own.
fn assert_serves(daemon: &Daemon) {
    let mut other = daemon.raw();
    other.limit(Duration::from_secs(5));
    let mut create = create("other");
    create.if_exists = IfExists::Keep;
    other.call(&create).unwrap();
    other.call(&send("other", &[b"through"])).unwrap();
    let mut take = receive("other", 1);
    take.delete_on_receive = true;
    assert_eq!(&other.call(&take).unwrap().messages[0].body.bytes[..], b"through");
}

#[test]
fn wrong_magic_is_told_what_speaks_here_and_closed() {
    let daemon = Daemon::with(&["--listen", "127.0.0.1:0"]);
    for address in [daemon.address(), daemon.tcp()] {
        let mut raw = Raw::connect(&address);
        let answer = raw.preamble(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(answer.status, Status::WrongMagic);
        assert_eq!(raw.wait_for_close(), 0);
    }
    assert_serves(&daemon);
}

#[test]
fn stranger_with_fewer_bytes_than_a_preamble_is_answered_too() {
    let daemon = Daemon::new();
    let mut raw = Raw::connect(&daemon.address());
    assert_eq!(raw.preamble(b"\r\n\r\n").status, Status::WrongMagic);
    raw.wait_for_close();
}

#[test]
fn future_version_is_told_the_range_spoken_here_and_closed() {
    let daemon = Daemon::new();
    let mut raw = Raw::connect(&daemon.address());
    let answer = raw.preamble(&preamble(7, 9));
    assert_eq!(answer.status, Status::NoCommonVersion);
    assert_eq!((answer.versions, answer.chosen), (VersionRange::OURS, 0));
    assert_eq!(raw.wait_for_close(), 0);
    let mut raw = Raw::connect(&daemon.address());
    let answer = raw.preamble(&preamble(1, 9));
    assert_eq!((answer.status, answer.chosen), (Status::Ready, 1), "a range with ours in it");
    raw.hello(0);
}

#[test]
fn oversized_frame_is_refused_before_it_is_sent_and_the_connection_closed() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    let mut header = BytesMut::new();
    put_frame(&mut header, 77, Send::OPCODE, 0, |_| ());
    header[..4].copy_from_slice(&(FRAME_BYTES_MAX + 1).to_le_bytes());
    raw.write(&header).unwrap();
    let refusal = raw.refusal::<Send>(77);
    assert_eq!((refusal.code, refusal.class), (ErrorCode::FrameTooLarge, Class::LimitReached));
    let limit = refusal.limit.unwrap();
    assert_eq!(limit.current, u64::from(FRAME_BYTES_MAX) + 1);
    assert_eq!(limit.maximum, u64::from(FRAME_BYTES_MAX));
    assert_eq!(raw.wait_for_close(), 0);
    assert_serves(&daemon);
}

#[test]
fn oversized_frame_that_follows_anyway_does_not_hide_its_refusal() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    let mut frame = BytesMut::new();
    put_frame(&mut frame, 78, Send::OPCODE, 0, |out| out.resize(12 + (18 << 20), b'x'));
    // The daemon may close while this is being written.
    let _ = raw.write(&frame);
    assert_eq!(raw.refusal::<Send>(78).code, ErrorCode::FrameTooLarge);
    assert_serves(&daemon);
}

#[test]
fn frame_shorter_than_its_header_ends_the_connection() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.write(&7u32.to_le_bytes()).unwrap();
    raw.wait_for_close();
    assert_serves(&daemon);
}

#[test]
fn unknown_opcode_is_refused_and_the_connection_goes_on() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    let mut frame = BytesMut::new();
    put_frame(&mut frame, 1234, 9999, 0, |_| ());
    raw.write(&frame).unwrap();
    let answer = raw.frame().unwrap().unwrap();
    assert_eq!((answer.correlation, answer.opcode), (1234, 9999));
    assert!(answer.has(qd_protocol::frame::FLAG_REFUSED));
    let mut input = qd_protocol::wire::Reader::new(answer.payload);
    let refusal = <qd_protocol::Refusal as qd_protocol::wire::Payload>::decode(&mut input).unwrap();
    assert_eq!(refusal.code, ErrorCode::UnknownVerb);
    assert!(refusal.text.contains("9999"), "{refusal}");
    raw.settle();
}

#[test]
fn request_that_ends_early_is_refused_and_the_connection_goes_on() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let whole = request(1, None, &send("jobs", &[b"hello"]));
    for length in 12..whole.len() {
        let mut cut = whole.clone();
        cut.truncate(length);
        let counted = u32::try_from(length - 4).unwrap();
        cut[..4].copy_from_slice(&counted.to_le_bytes());
        raw.write(&cut).unwrap();
        assert_eq!(raw.refusal::<Send>(1).code, ErrorCode::MalformedRequest, "{length} bytes");
    }
    assert_eq!(statistics(&mut raw, "jobs"), Statistics::default());
}

#[test]
fn garbage_harms_nobody() {
    let mut daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    raw.call(&send("jobs", &[b"kept"])).unwrap();
    let mut random = Random::of_environment("garbage_harms_nobody");
    for _ in 0..300 {
        let mut rude = Raw::connect(&daemon.address());
        let length = random.below(400) as usize;
        let bytes = random.bytes(length);
        match random.below(3) {
            // From the first byte on.
            0 => drop(rude.write(&bytes)),
            // Behind the handshake.
            1 => {
                rude.greet();
                rude.hello(random.number());
                // The daemon may close in the middle of it.
                let _ = rude.write(&bytes);
            }
            // In a frame that is whole.
            _ => {
                rude.greet();
                rude.hello(random.number());
                for opcode in [2, 3, 16, 17, 18, 19, 32, 33, 34] {
                    let mut frame = BytesMut::new();
                    let flags = random.below(2) as u16;
                    put_frame(&mut frame, 1, opcode, flags, |out| out.extend_from_slice(&bytes));
                    let _ = rude.write(&frame);
                }
            }
        }
        rude.end_output();
        rude.wait_for_close();
    }
    assert!(daemon.log().lines().all(|line| !line.contains("panicked")), "{}", daemon.log());
    assert_eq!(statistics(&mut raw, "jobs").ready, 1);
    assert_serves(&daemon);
    daemon.kill();
}

#[test]
fn slow_clients_are_cut_off_after_their_time_and_patient_ones_are_not() {
    let daemon = Daemon::new();
    let mut idle = daemon.raw();
    let mut silent = Raw::connect(&daemon.address());
    let mut no_hello = Raw::connect(&daemon.address());
    no_hello.greet();
    let mut half = daemon.raw();
    half.call(&create("jobs")).unwrap();
    let frame = request(9, None, &send("jobs", &[b"never whole"]));
    half.write(&frame[..frame.len() / 2]).unwrap();
    let start = tokio::time::Instant::now();
    for (raw, seconds) in [(&mut silent, 10), (&mut no_hello, 10), (&mut half, 30)] {
        raw.limit(Duration::from_secs(seconds + 20));
        raw.wait_for_close();
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(seconds - 1), "closed after {took:?}, not {seconds} s");
    }
    idle.settle();
    assert_eq!(statistics(&mut idle, "jobs"), Statistics::default());
}

#[test]
fn request_before_hello_is_refused_and_the_connection_closed() {
    let daemon = Daemon::new();
    let mut raw = Raw::connect(&daemon.address());
    raw.greet();
    assert_eq!(raw.refused(&Ping), ErrorCode::HelloExpected);
    raw.wait_for_close();
}

#[test]
fn second_hello_is_refused_and_the_connection_closed() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    let hello = Hello { producer: 1, client: "again".to_owned() };
    assert_eq!(raw.refused(&hello), ErrorCode::HelloExpected);
    raw.wait_for_close();
    assert_serves(&daemon);
}

#[test]
fn connection_cut_in_the_middle_of_a_send_stores_nothing_of_it() {
    let daemon = Daemon::new();
    let mut other = daemon.raw();
    other.call(&create("jobs")).unwrap();
    let bodies: Vec<Vec<u8>> = (0..100).map(|at| vec![at; 1000]).collect();
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let frame = request(1, None, &send("jobs", &bodies));
    for cut in [1, 11, 12, 40, frame.len() / 2, frame.len() - 1] {
        let mut raw = daemon.raw();
        raw.write(&frame[..cut]).unwrap();
        raw.end_output();
        assert_eq!(raw.wait_for_close(), 0, "an answer to {cut} bytes of {}", frame.len());
    }
    assert_eq!(statistics(&mut other, "jobs"), Statistics::default());
}

#[test]
fn body_over_the_queues_limit_is_refused_alone_with_both_values() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    let mut small = create("small");
    small.attributes.max_message_size = Some(100);
    raw.call(&small).unwrap();
    let sent = raw.call(&send("small", &[&[b'a'; 100], &[b'b'; 101], b""])).unwrap();
    let fates: Vec<_> = sent.entries().collect();
    assert!(fates[0].is_ok() && fates[2].is_ok());
    let refusal = fates[1].unwrap_err();
    assert_eq!(refusal.code, ErrorCode::MessageTooLarge);
    assert_eq!(refusal.queue.as_deref(), Some("small"));
    let limit = refusal.limit.as_ref().unwrap();
    assert_eq!((limit.name.as_str(), limit.current, limit.maximum), ("max-message-size", 101, 100));
    assert_eq!(statistics(&mut raw, "small").ready, 2);
}

#[test]
fn body_damaged_on_the_way_is_refused() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let mut damaged = send("jobs", &[b"hello"]);
    damaged.entries[0].body.crc ^= 1;
    assert_eq!(raw.refused(&damaged), ErrorCode::BodyCorrupt);
    assert_eq!(statistics(&mut raw, "jobs").sent, 0);
}

#[test]
fn batch_over_its_limit_is_refused_whole() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let many = BATCH_ENTRIES_MAX as usize + 1;
    let bodies: Vec<&[u8]> = vec![b"x"; many];
    assert_eq!(raw.refused(&send("jobs", &bodies)), ErrorCode::BatchTooLarge);
    assert_eq!(raw.refused(&receive("jobs", BATCH_ENTRIES_MAX + 1)), ErrorCode::BatchTooLarge);
    let receipt = Receipt { queue: 1, lease: 1, id: 1, secret: 1 };
    let delete = Delete { queue: queue("jobs"), receipts: vec![receipt; many] };
    assert_eq!(raw.refused(&delete), ErrorCode::BatchTooLarge);
    assert_eq!(statistics(&mut raw, "jobs"), Statistics::default());
    let sent = raw.call(&send("jobs", &bodies[1..])).unwrap();
    assert_eq!(sent.entries().flatten().count(), many - 1, "the largest one is taken");
}

#[test]
fn client_that_reads_no_messages_costs_bounded_memory_and_nobody_else() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    let mut large = create("large");
    large.attributes.max_message_size = Some(2 << 20);
    raw.call(&large).unwrap();
    let body = vec![b'x'; 1 << 20];
    for _ in 0..8 {
        raw.call(&send("large", &[&body])).unwrap();
    }
    let before = daemon.resident_bytes();
    let mut rude = daemon.raw();
    // Each is to be answered with 1 MiB: a message is visible again at once.
    let mut take = receive("large", 1);
    take.visibility_timeout_ms = Some(0);
    take.wait_ms = 60_000;
    for _ in 0..IN_FLIGHT_MAX {
        rude.send(&take);
    }
    // Whatever the daemon does for the rude client it has begun when this has been through.
    for _ in 0..20 {
        assert_serves(&daemon);
        raw.call(&take).unwrap();
    }
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
    // It only had to read.
    for at in 0..20 {
        let (_, answer) = rude.answer::<Receive>();
        assert_eq!(answer.unwrap().messages.len(), 1, "answer {at}");
    }
}

#[test]
fn client_that_reads_no_answers_is_not_read_from() {
    let daemon = Daemon::new();
    let mut rude = daemon.raw();
    let before = daemon.resident_bytes();
    let mut pings = BytesMut::new();
    for at in 0..10_000 {
        pings.extend_from_slice(&request(at, None, &Ping));
    }
    rude.limit(Duration::from_secs(2));
    // 120 kB a turn; the buffers of both sockets hold less than 2 MB.
    let blocked = (0..100).find_map(|_| rude.write(&pings).err());
    let kind = blocked.expect("the daemon stops reading").kind();
    assert!(matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{kind}");
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "memory grew by {grown} bytes");
    assert_serves(&daemon);
}

#[test]
fn thousand_idle_connections_are_kept_and_leave_room_for_others() {
    allow_descriptors(4_096);
    let daemon = Daemon::new();
    let before = daemon.resident_bytes();
    let mut idle: Vec<Raw> = (0..1_000).map(|_| daemon.raw()).collect();
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "memory grew by {grown} bytes");
    assert_serves(&daemon);
    for raw in &mut idle {
        raw.settle();
    }
}

#[test]
fn connection_over_the_limit_is_told_so_and_room_is_given_back() {
    let daemon = Daemon::with(&["--max-connections", "3"]);
    let mut held: Vec<Raw> = (0..2).map(|_| daemon.raw()).collect();
    let status = |daemon: &Daemon| {
        let mut raw = Raw::connect(&daemon.address());
        (raw.preamble(&preamble(1, 1)).status, raw)
    };
    let third = wait_until("the probe's place is free", SOON, || {
        let (status, raw) = status(&daemon);
        (status == Status::Ready).then_some(raw)
    });
    let (full, mut turned_away) = status(&daemon);
    assert_eq!(full, Status::TooManyConnections);
    turned_away.wait_for_close();
    held.iter_mut().for_each(Raw::settle);
    drop(third);
    wait_until("there is room again", SOON, || (status(&daemon).0 == Status::Ready).then_some(()));
}

#[test]
fn tcp_is_served_like_the_socket_and_only_on_loopback() {
    let daemon = Daemon::with(&["--listen", "127.0.0.1:0"]);
    let mut raw = Raw::connect(&daemon.tcp());
    raw.greet();
    raw.hello(0);
    raw.call(&create("jobs")).unwrap();
    raw.call(&send("jobs", &[b"over tcp"])).unwrap();
    let messages = daemon.raw().call(&receive("jobs", 1)).unwrap().messages;
    assert_eq!(&messages[0].body.bytes[..], b"over tcp");
    let data = daemon.directory().join("second");
    let done =
        qd_tests::daemon::run_qd(&["--data", data.to_str().unwrap(), "--listen", "0.0.0.0:0"]);
    assert_eq!(done.exit, 78, "{done:?}");
    assert!(done.stderr.contains("loopback"), "{done:?}");
}

#[test]
fn many_clients_side_by_side_get_each_message_once() {
    let daemon = Daemon::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut seen = runtime.block_on(async {
        let client = daemon.client().await;
        client.call(create("jobs")).await.unwrap();
        let producers = (0..4).map(|producer: u8| {
            let client = client.clone();
            tokio::spawn(async move {
                for at in 0..50u8 {
                    client.call(send("jobs", &[&[producer, at]])).await.unwrap();
                }
            })
        });
        let producers: Vec<_> = producers.collect();
        let mut consumers = Vec::new();
        for _ in 0..4 {
            let client: Client = daemon.client().await;
            consumers.push(tokio::spawn(async move {
                let mut seen = Vec::new();
                loop {
                    let mut take = receive("jobs", 3);
                    take.wait_ms = 1_000;
                    take.delete_on_receive = true;
                    let messages = client.call(take).await.unwrap().messages;
                    if messages.is_empty() {
                        return seen;
                    }
                    seen.extend(messages.into_iter().map(|message| message.body.bytes));
                }
            }));
        }
        for producer in producers {
            producer.await.unwrap();
        }
        let mut seen = Vec::new();
        for consumer in consumers {
            seen.extend(consumer.await.unwrap());
        }
        seen
    });
    seen.sort();
    let all: Vec<_> = (0..4u8).flat_map(|p| (0..50u8).map(move |at| vec![p, at])).collect();
    assert_eq!(seen, all);
}

/// Raises the limit of open files of this process.
fn allow_descriptors(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let maximum = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), ..limit }).unwrap();
    }
}
