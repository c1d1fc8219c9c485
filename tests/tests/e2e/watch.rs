//! `qctl stats --watch`: what ends it, a server that goes away, and tables on a terminal.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use qd_tests::terminal::{Screen, on_terminal};
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Run, Running, programs, wait_until};
use rustix::process::Signal;

fn daemon_with(queues: &[&str]) -> Daemon {
    let daemon = Daemon::new();
    for queue in queues {
        daemon.qctl(&format!("create {queue}")).ok();
    }
    daemon
}

#[test]
fn signals_end_it_quietly_and_leave_a_whole_document() {
    let daemon = daemon_with(&["jobs"]);
    for (signal, exit) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let flags = "stats --watch 100ms -o json --columns name";
        let mut watch = daemon.qctl(flags).start();
        watch.wait_for(0, ",\n{\"name\":\"jobs\"}");
        watch.signal(signal);
        let done = watch.finish();
        assert_eq!((done.exit, done.stderr.as_str()), (exit, ""), "{done:?}");
        let text = done.text();
        assert!(text.starts_with("[{") && text.ends_with("}]\n"), "{text}");
    }
}

#[test]
fn it_goes_on_when_the_server_is_back() {
    let mut daemon = daemon_with(&["jobs"]);
    let mut watch = daemon.qctl("stats --watch 100ms --columns name,sent").start();
    watch.wait_for(0, "jobs\t0\n");
    daemon.kill();
    daemon.restart();
    daemon.qctl("send jobs x").ok();
    watch.wait_for(0, "jobs\t1\n");
    watch.signal(Signal::INT);
    let done = watch.finish();
    assert_eq!(done.exit, 130, "{done:?}");
    let told: Vec<&str> = done.stderr.lines().collect();
    // The time without a server may have been one between two looks.
    if let [away, back] = told[..] {
        assert!(away.ends_with("; the server is tried again"), "{done:?}");
        assert_eq!(back, "qctl: the server answers again");
    } else {
        assert!(told.is_empty(), "{done:?}");
    }
}

#[test]
fn it_ends_when_nobody_reads() {
    let daemon = daemon_with(&["jobs"]);
    let mut watch = Command::new(programs::qctl())
        .args(["--server", &daemon.server(), "stats", "--watch", "10m"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\tjobs\t"), "{line}");
    let status = wait_until("it ends", SOON, || watch.try_wait().unwrap());
    let mut told = String::new();
    watch.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!((status.code(), told.as_str()), (Some(141), ""));
}

fn on_terminal_with(daemon: &Daemon, term: &str, flags: &str) -> Running {
    let program = programs::qctl();
    let command = format!("exec '{}' stats --watch 100ms {flags}", program.display());
    on_terminal(&command, |script| Run::new(script))
        .env("TERM", term)
        .env("QCTL_SERVER", daemon.server())
        .start()
}

fn screen(output: &str) -> Screen {
    Screen::after(80, 24, output)
}

#[test]
fn table_takes_the_place_of_the_one_before_and_fits() {
    let daemon = daemon_with(&[]);
    let long = "x".repeat(120);
    let names: Vec<String> = (10..40).map(|number| format!("a{number}")).collect();
    let script: Vec<String> =
        [&long].into_iter().chain(&names).map(|name| format!("create {name}\n")).collect();
    daemon.qctl("").stdin(script.concat()).ok();
    let mut watch = on_terminal_with(&daemon, "xterm", "a10 x* a*");
    // Rates: the second table, in the place of the first.
    let shown = watch.wait_until("second table", |output| {
        let lines = screen(output).lines();
        (lines.len() == 23 && lines[2].contains("  0.0  ")).then_some(lines)
    });
    assert!(shown[0].ends_with("Z  every 100ms"), "{shown:#?}");
    assert!(shown[1].starts_with("NAME ") && shown[1].ends_with(" DEAD_LETTERED"), "{shown:#?}");
    assert!(shown[2].starts_with("a10 ") && shown[3].starts_with("xxxx"), "{shown:#?}");
    assert!(shown[3].contains("x… "), "{shown:#?}");
    assert_eq!(shown[22], "... and 11 more", "{shown:#?}");
    let place = watch.stdout().len();
    watch.wait_for(place, "\x1b[J");
    watch.write(b"\x03");
    let done = watch.finish();
    assert_eq!(done.exit, 130, "{done:?}");
    let lines = screen(&done.text()).lines();
    assert_eq!((lines.len(), lines[22].as_str()), (23, "... and 11 more"), "no echo of Ctrl-C");
}

#[test]
fn server_that_is_away_is_told_below_the_table() {
    let mut daemon = daemon_with(&["jobs"]);
    let mut watch = on_terminal_with(&daemon, "xterm", "");
    watch.wait_until("table", |output| screen(output).text().contains("jobs ").then_some(()));
    daemon.kill();
    let shown = watch.wait_until("word about the server", |output| {
        let lines = screen(output).lines();
        (lines.len() == 4).then_some(lines)
    });
    assert!(shown[2].starts_with("jobs "), "{shown:#?}");
    assert!(
        shown[3].starts_with("cannot connect") || shown[3].starts_with("connection"),
        "{shown:#?}"
    );
    daemon.restart();
    watch.wait_until("table alone", |output| (screen(output).lines().len() == 3).then_some(()));
}

#[test]
fn dumb_terminal_gets_one_table_behind_the_other() {
    let daemon = daemon_with(&["jobs"]);
    let done = {
        let mut watch = on_terminal_with(&daemon, "dumb", "--count 2");
        watch.wait_for(0, "\r\n\r\nNAME");
        watch.finish()
    };
    assert_eq!(done.exit, 0, "{done:?}");
    assert!(!done.text().contains('\x1b'), "{done:?}");
    assert_eq!(done.text().lines().count(), 5, "{done:?}");
}
