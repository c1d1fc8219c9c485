//! `ping` with losses, and ended from outside; `server check` against a server that hangs.

use std::time::Duration;

use qd_tests::wait::SOON;
use qd_tests::{Daemon, Sandbox, wait_until};
use rustix::process::Signal;

#[test]
fn interrupted_ping_tells_what_it_has_measured() {
    let daemon = Daemon::new();
    let mut ping = daemon.qctl("ping --interval 5ms -o table").start();
    ping.wait_for(0, "pong from ");
    ping.signal(Signal::INT);
    let done = ping.finish();
    assert_eq!(done.exit, 130);
    let text = String::from_utf8(done.stdout).unwrap();
    let mut last = text.lines().rev();
    let (figures, header) = (last.next().unwrap(), last.next().unwrap());
    assert!(header.starts_with("SERVER") && header.ends_with("SECONDS"), "{text}");
    assert!(figures.starts_with("unix:"), "{text}");
}

#[test]
fn pings_that_are_lost_are_counted_and_those_after_a_restart_are_answered() {
    let mut daemon = Daemon::new();
    let mut ping = daemon.qctl("ping -n 1000000 --interval 5ms -o table").start();
    let place = ping.wait_for(0, "pong from ");
    daemon.kill();
    let place = ping.wait_for(place, "lost: cannot connect to ");
    daemon.restart();
    ping.wait_for(place, "pong from ");
    ping.signal(Signal::TERM);
    let done = ping.finish();
    assert_eq!(done.exit, 143);
    let text = String::from_utf8(done.stdout).unwrap();
    let figures: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
    let number = |at: usize| figures[at].parse::<u64>().unwrap();
    let (sent, received, lost) = (number(1), number(2), number(3));
    assert_eq!(sent, received + lost, "{text}");
    assert!(received >= 2 && lost >= 1, "{text}");
}

#[test]
fn check_of_a_server_that_hangs_is_critical_in_time() {
    let daemon = Daemon::new();
    daemon.signal(Signal::STOP);
    let done = daemon.qctl("server check --timeout 200ms").limit(Duration::from_secs(30)).run();
    daemon.signal(Signal::CONT);
    assert_eq!(done.exit, 2, "{done:?}");
    let text = "QD CRITICAL - not done within 200ms (--timeout)\n";
    assert_eq!(String::from_utf8(done.stdout).unwrap(), text);
    assert_eq!(done.stderr, "");
}

#[test]
fn neither_check_nor_info_starts_a_server() {
    let sandbox = Sandbox::new();
    let done = sandbox.qctl("server check").run();
    assert_eq!(done.exit, 2);
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.starts_with("QD CRITICAL - cannot connect to "), "{text}");
    assert_eq!(sandbox.qctl("server info").run().exit, 69);
    assert!(sandbox.daemons().is_empty());
    // A ping may.
    assert!(sandbox.qctl("ping -n 2 --interval 0").ok().contains("\t2\t2\t0\t"));
    wait_until("it runs", SOON, || (sandbox.daemons().len() == 1).then_some(()));
}
