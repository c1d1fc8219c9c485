//! Connections that hang, with time limits short enough to wait for.
//!
//! The server is the daemon's own, in this process; the clients are raw sockets.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use qd::broker::{Broker, Engine};
use qd::clock::Clock;
use qd::net::{Listener, Server, Timeouts, serve};
use qd::replicator::Local;
use qd::shard::Machine;
use qd::store::{CACHE_BYTES, Store};
use qd_protocol::preamble::Status;
use qd_protocol::verbs::{Create, Describe, IfExists, Receive, Send, SendEntry};
use qd_protocol::{Address, AttributeChanges, QueueName, Statistics};
use qd_tests::raw::preamble;
use qd_tests::wait::SOON;
use qd_tests::{Raw, wait_until};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A server on a socket and with an engine of its own.
struct Served {
    directory: TempDir,
    _runtime: Runtime,
    broker: Broker,
    stop: watch::Sender<bool>,
    engine: Option<JoinHandle<()>>,
}

impl Served {
    fn new(timeouts: Timeouts, connections_max: usize) -> Self {
        let directory = qd_tests::daemon::temporary_directory();
        let store = Store::open(&directory.path().join("state.redb"), CACHE_BYTES, 1).unwrap();
        let (broker, mailbox) = Broker::new();
        let local = Local::new(Machine::open(store).unwrap());
        let engine = Engine::new(local, Clock::System, mailbox).unwrap();
        let engine = std::thread::spawn(move || engine.run().unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut server = Server::new(broker.clone(), 1, connections_max);
        server.timeouts = timeouts;
        let (stop, stopped) = watch::channel(false);
        let address = Address::Unix(directory.path().join("s"));
        let listener = runtime.block_on(Listener::bind(address, 0o600)).unwrap();
        runtime.spawn(serve(vec![listener], Arc::new(server), stopped));
        Self { directory, _runtime: runtime, broker, stop, engine: Some(engine) }
    }

    fn stranger(&self) -> Raw {
        Raw::connect(&Address::Unix(self.directory.path().join("s")))
    }

    fn raw(&self) -> Raw {
        let mut raw = self.stranger();
        raw.greet();
        raw.hello(0);
        raw
    }

    /// Waits until there is room for one more connection.
    fn wait_for_room(&self) {
        wait_until("a connection's place is free", SOON, || {
            (self.stranger().preamble(&preamble(1, 1)).status == Status::Ready).then_some(())
        });
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        self.broker.stop();
        if let Some(engine) = self.engine.take() {
            let _ = engine.join();
        }
    }
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn create(name: &str) -> Create {
    let attributes =
        AttributeChanges { max_message_size: Some(16 << 20), ..AttributeChanges::default() };
    Create { queue: queue(name), if_exists: IfExists::Compare, attributes }
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
    let served = Served::new(Timeouts { write, ..Timeouts::default() }, 2);
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
    let served = Served::new(Timeouts::default(), 2);
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
