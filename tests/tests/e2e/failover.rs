//! Several servers: the next one is taken when the first is not there, and when it goes away.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use qd_tests::daemon::temporary_directory;
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Run, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::wire::statistics;

/// Two servers that have nothing to do with each other, both with a queue.
fn two() -> (Daemon, Daemon, String) {
    let (first, second) = (Daemon::new(), Daemon::new());
    for daemon in [&first, &second] {
        daemon.qctl("create jobs").ok();
    }
    let servers = format!("{},{}", first.server(), second.server());
    (first, second, servers)
}

fn ready(daemon: &Daemon) -> u64 {
    statistics(&mut daemon.raw(), "jobs").ready
}

#[test]
fn server_that_is_not_there_is_passed_over() {
    let (mut first, second, servers) = two();
    assert_eq!(Run::qctl(&servers, "send jobs a").ok(), "1\n");
    assert_eq!((ready(&first), ready(&second)), (1, 0));
    first.kill();
    assert_eq!(Run::qctl(&servers, "send jobs b").ok(), "1\n");
    assert_eq!(ready(&second), 1);
    first.restart();
    assert_eq!(Run::qctl(&servers, "receive jobs --ack").ok(), "a");
}

#[test]
fn all_servers_that_are_not_there_are_told() {
    let done = Run::qctl("unix:/nowhere/a,unix:/nowhere/b", "ping").run();
    assert_eq!(done.exit, 69);
    let text = "qctl: cannot connect to unix:/nowhere/b: no such socket; cannot connect to \
                unix:/nowhere/a: no such socket\n";
    assert_eq!(done.stderr, text);
}

#[test]
fn receive_that_follows_goes_on_at_the_next_server() {
    for signal in [Signal::TERM, Signal::KILL] {
        let (mut first, second, servers) = two();
        let mut follow = Run::qctl(&servers, "receive jobs --follow --ack").start();
        first.qctl("send jobs one").ok();
        follow.wait_for(0, "one\n");
        wait_until("it is deleted", SOON, || {
            (statistics(&mut first.raw(), "jobs").deleted == 1).then_some(())
        });
        first.signal(signal);
        first.wait_for_end();
        second.qctl("send jobs two").ok();
        follow.wait_for(0, "one\ntwo\n");
        wait_until("it is deleted there", SOON, || {
            (statistics(&mut second.raw(), "jobs").deleted == 1).then_some(())
        });
        follow.signal(Signal::TERM);
        let done = follow.finish();
        assert_eq!(done.exit, 143);
        let told = "message 1 was written, and may come back: the connection to ";
        assert!(done.stderr.contains(told), "{done:?}");
    }
}

#[test]
fn worker_goes_on_at_the_next_server() {
    let (mut first, second, servers) = two();
    let work = Run::new(qd_tests::programs::qctl()).env("QCTL_SERVER", &servers);
    let mut work = work.args(["work", "jobs", "--", "sh", "-c", "cat; echo"]).start();
    first.qctl("send jobs one").ok();
    work.wait_for(0, "one\n");
    wait_until("it is deleted", SOON, || {
        (statistics(&mut first.raw(), "jobs").deleted == 1).then_some(())
    });
    first.kill();
    second.qctl("send jobs two").ok();
    work.wait_for(0, "one\ntwo\n");
    wait_until("it is deleted there", SOON, || {
        (statistics(&mut second.raw(), "jobs").deleted == 1).then_some(())
    });
    work.signal(Signal::TERM);
    assert_eq!(work.finish().exit, 143);
}

#[test]
fn drain_takes_messages_of_the_next_server_for_new_ones() {
    let (first, second, _) = two();
    let relay = Relay::new(first.socket());
    let servers = format!("unix:{},{}", relay.path.display(), second.server());
    first.qctl("send jobs one").ok();
    second.qctl("send jobs uno due").ok();
    // The first receive is answered, the second is not.
    let mut drain = Run::qctl(&servers, "receive jobs --drain --body --wait 1h -n 3").start();
    drain.wait_for(0, "one\n");
    relay.lose_an_answer();
    first.qctl("send jobs two").ok();
    drain.wait_for(0, "one\nuno\ndue\n");
    assert_eq!(drain.finish().exit, 0);
}

#[test]
fn stream_goes_on_at_the_next_server_behind_what_is_confirmed() {
    let (mut first, second, servers) = two();
    let mut send = Run::qctl(&servers, "send jobs --lines").keep_stdin().start();
    send.write(b"one\n");
    send.wait_for(0, "1\n");
    assert_eq!(ready(&first), 1);
    first.kill();
    send.write(b"two\nthree\n");
    send.wait_for(0, "1\n1\n2\n");
    send.close_stdin();
    assert_eq!(send.finish().exit, 0);
    assert_eq!(ready(&second), 2);
}

/// Hands a connection through to a server, until it loses one answer and is gone.
struct Relay {
    loses: Arc<AtomicBool>,
    _directory: TempDir,
    path: PathBuf,
}

impl Relay {
    fn new(server: PathBuf) -> Self {
        let directory = temporary_directory();
        let path = directory.path().join("relay");
        let listener = UnixListener::bind(&path).unwrap();
        let loses = Arc::new(AtomicBool::new(false));
        let (relay_path, relay_loses) = (path.clone(), Arc::clone(&loses));
        thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = UnixStream::connect(server).unwrap();
            let (mut from_client, to_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut from_client, &mut &to_server));
            let mut answer = [0; 4 << 10];
            while let Ok(length @ 1..) = (&server).read(&mut answer) {
                if relay_loses.load(Ordering::SeqCst) {
                    break;
                }
                (&client).write_all(&answer[..length]).unwrap();
            }
            fs::remove_file(relay_path).unwrap();
            client.shutdown(Shutdown::Both).unwrap();
        });
        Self { loses, _directory: directory, path }
    }

    /// The next answer does not arrive, and the client loses its connection.
    fn lose_an_answer(&self) {
        self.loses.store(true, Ordering::SeqCst);
    }
}

#[test]
fn send_that_the_first_server_may_have_taken_is_not_sent_to_the_second() {
    let (first, second, _) = two();
    let relay = Relay::new(first.socket());
    let servers = format!("unix:{},{}", relay.path.display(), second.server());
    let mut send = Run::qctl(&servers, "send jobs --lines").keep_stdin().start();
    send.write(b"one\n");
    send.wait_for(0, "1\n");
    relay.lose_an_answer();
    send.write(b"two\n");
    let done = send.finish();
    assert_eq!(done.exit, 69, "{done:?}");
    assert!(
        done.stderr.contains("1 message confirmed, first unconfirmed input line 2"),
        "{done:?}"
    );
    assert!(done.stderr.contains("may have been carried out, and is not repeated by"), "{done:?}");
    assert_eq!((ready(&first), ready(&second)), (2, 0));
}

#[test]
fn answer_that_is_lost_is_asked_for_again_at_another_address_of_the_same_server() {
    let (first, ..) = two();
    let relay = Relay::new(first.socket());
    let servers = format!("unix:{},{}", relay.path.display(), first.server());
    let mut send = Run::qctl(&servers, "send jobs --lines").keep_stdin().start();
    send.write(b"one\n");
    send.wait_for(0, "1\n");
    relay.lose_an_answer();
    send.write(b"two\n");
    send.wait_for(0, "1\n2\n");
    send.close_stdin();
    assert_eq!(send.finish().exit, 0);
    assert_eq!(ready(&first), 2, "it was sent once");
}
