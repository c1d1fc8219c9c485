//! Stopping the daemon.

use std::time::Duration;

use qd_protocol::ErrorCode;
use qd_protocol::verbs::{Receive, Shutdown};
use qd_tests::{Daemon, Raw};
use rustix::process::Signal;

use crate::wire::{create, receive, send, statistics};

fn assert_graceful(stop: impl FnOnce(&Daemon)) {
    let mut daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    raw.call(&create("empty")).unwrap();
    raw.call(&send("jobs", &[b"kept"])).unwrap();
    let mut parked: Vec<Raw> = (0..3).map(|_| daemon.raw()).collect();
    let take = Receive { wait_ms: 60_000, ..receive("empty", 1) };
    for raw in &mut parked {
        raw.send(&take);
        raw.settle();
    }
    stop(&daemon);
    for raw in &mut parked {
        let refusal = raw.answer::<Receive>().1.unwrap_err();
        assert_eq!((refusal.code, refusal.retryable), (ErrorCode::Closing, true));
        raw.wait_for_close();
    }
    raw.wait_for_close();
    assert_eq!(daemon.wait_for_end().code(), Some(0), "{}", daemon.log());
    assert!(!daemon.socket().exists(), "the socket's file is left behind");
    daemon.restart();
    assert_eq!(statistics(&mut daemon.raw(), "jobs").ready, 1);
}

#[test]
fn sigterm_answers_parked_receives_removes_the_socket_and_exits_0() {
    assert_graceful(|daemon| daemon.signal(Signal::TERM));
}

#[test]
fn sigint_stops_like_sigterm() {
    assert_graceful(|daemon| daemon.signal(Signal::INT));
}

#[test]
fn shutdown_request_stops_like_sigterm() {
    assert_graceful(|daemon| {
        daemon.raw().call(&Shutdown).unwrap();
    });
}

#[test]
fn stop_under_load_answers_or_refuses_every_send_and_keeps_what_it_answered() {
    let mut daemon = Daemon::new();
    daemon.raw().call(&create("jobs")).unwrap();
    let producers: Vec<_> = (0..4)
        .map(|_| {
            let mut raw = daemon.raw();
            std::thread::spawn(move || {
                let mut stored = 0;
                loop {
                    let request = qd_tests::raw::request(1, None, &send("jobs", &[b"x"]));
                    if raw.write(&request).is_err() {
                        return stored;
                    }
                    match raw.frame() {
                        Ok(Some(frame)) if frame.has(qd_protocol::frame::FLAG_REFUSED) => {}
                        Ok(Some(_)) => stored += 1,
                        Ok(None) | Err(_) => return stored,
                    }
                }
            })
        })
        .collect();
    let mut observer = daemon.raw();
    qd_tests::wait_until("load", Duration::from_secs(20), || {
        (statistics(&mut observer, "jobs").sent > 50).then_some(())
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_for_end().code(), Some(0), "{}", daemon.log());
    let stored: u64 = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
    daemon.restart();
    let ready = statistics(&mut daemon.raw(), "jobs").ready;
    // A client may have gone on its last answer: at most one message each.
    assert!((stored..=stored + 4).contains(&ready), "{stored} answered, {ready} there");
}

#[test]
fn client_that_does_not_read_cannot_hold_up_the_stop() {
    let mut daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    raw.call(&send("jobs", &[&vec![b'x'; 1 << 20]])).unwrap();
    let mut rude = daemon.raw();
    let take = Receive { visibility_timeout_ms: Some(0), ..receive("jobs", 1) };
    for _ in 0..50 {
        rude.send(&take);
    }
    raw.settle();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_for_end().code(), Some(0), "{}", daemon.log());
}
