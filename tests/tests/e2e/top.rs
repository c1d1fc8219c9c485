//! `qctl top` on a terminal: what it shows, what keys do, and the terminal that it leaves behind.

use std::fs;

use qd_tests::terminal::{Screen, on_terminal};
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Done, Run, Running, programs, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// `qctl top` on a terminal of 80 columns and 24 rows; when it has ended its status and the
/// terminal's settings are printed. Its pid and its terminal are in files of the daemon's directory.
fn top(daemon: &Daemon, flags: &str) -> Run {
    let program = programs::qctl();
    let command = format!(
        "tty > tty; sh -c 'echo $$ > pid; exec {} top --interval 100ms {flags}'; \
         echo \"status $?\"; stty -a",
        program.display()
    );
    on_terminal(&command, |script| Run::new(script))
        .env("TERM", "xterm")
        .env("QCTL_SERVER", daemon.server())
        .current_dir(daemon.directory())
}

fn file(daemon: &Daemon, name: &str) -> String {
    fs::read_to_string(daemon.directory().join(name)).unwrap().trim().to_owned()
}

/// Waits until the screen shows what is looked for.
fn wait_for(top: &mut Running, what: &str, is: impl Fn(&[String]) -> bool) -> Vec<String> {
    top.wait_until(what, |output| {
        let lines = Screen::after(80, 24, output).lines();
        is(&lines).then_some(lines)
    })
}

fn has(lines: &[String], text: &str) -> bool {
    lines.iter().any(|line| line.contains(text))
}

/// Types something and waits for what it makes the screen show.
fn type_and_wait(top: &mut Running, keys: &str, text: &str) -> Vec<String> {
    top.write(keys.as_bytes());
    wait_for(top, text, |lines| has(lines, text))
}

/// It has ended, and left the terminal as it was.
fn assert_left(done: &Done, status: u8) {
    let text = done.text();
    let screen = Screen::after(80, 24, &text);
    assert!(!screen.is_alternate() && screen.has_cursor(), "{text:?}");
    assert!(text.contains(&format!("status {status}\r\n")), "{text:?}");
    let settings: Vec<&str> = text.split("status ").last().unwrap().split_whitespace().collect();
    for setting in ["icanon", "echo", "isig", "opost"] {
        assert!(settings.contains(&setting), "{setting}: {settings:?}");
    }
}

fn daemon_with_messages() -> Daemon {
    let daemon = Daemon::new();
    for queue in ["jobs", "mail", "quick"] {
        daemon.qctl(&format!("create {queue}")).ok();
    }
    daemon.qctl("send jobs a b").ok();
    daemon.qctl("send mail a b c").ok();
    daemon
}

#[test]
fn queues_are_sorted_filtered_opened_and_left() {
    let daemon = daemon_with_messages();
    let mut top = top(&daemon, "").start();
    let lines = wait_for(&mut top, "rates", |lines| has(lines, " 0.0 "));
    assert!(lines[0].contains("3 queues  ready 5"), "{lines:#?}");
    assert!(lines[2].starts_with("mail ") && lines[3].starts_with("jobs "), "{lines:#?}");
    top.write(b"n");
    wait_for(&mut top, "names in order", |lines| lines[2].starts_with("jobs "));
    let lines = type_and_wait(&mut top, "/QUI", "1 of 3 queues");
    assert!(lines[2].starts_with("quick ") && lines[23] == "filter: QUI", "{lines:#?}");
    daemon.qctl("send quick now").ok();
    type_and_wait(&mut top, "\r\r", "sent                 1");
    let lines = type_and_wait(&mut top, "\x1b", "1 of 3 queues");
    assert!(lines[2].starts_with("quick "), "{lines:#?}");
    type_and_wait(&mut top, "?", "Keys (any key closes this)");
    top.write(b" q");
    assert_left(&top.finish(), 0);
}

#[test]
fn messages_are_peeked_at_and_nothing_in_them_reaches_the_terminal_as_it_is() {
    let daemon = daemon_with_messages();
    // A window's title, colours, a C1 control, and the cursor to the top.
    let evil = "\x1b]0;owned\x07\x1b[31m\u{9b}H\x1b[Hgone";
    Run::qctl(&daemon.server(), "send mail -H").arg(format!("k={evil}")).arg(evil).ok();
    let mut top = top(&daemon, "").start();
    wait_for(&mut top, "queues", |lines| has(lines, "mail "));
    let lines = type_and_wait(&mut top, "p", "\\x1b]0;owned\\x07\\x1b[31m\\u{9b}H\\x1b[Hgone");
    assert_eq!(lines[0], "messages of mail, page 1");
    top.write(b"G\r");
    let lines = wait_for(&mut top, "one message", |lines| lines[0] == "message 4 of mail");
    assert!(has(&lines, "k=\\x1b]0;owned"), "{lines:#?}");
    type_and_wait(&mut top, "\x1b[D", "message 3 of mail");
    // Nothing was taken.
    assert_eq!(daemon.qctl("stats mail --columns ready,received").ok(), "4\t0\n");
    top.write(b"\x03");
    let done = top.finish();
    assert!(!done.text().contains("\x1b]"), "{done:?}");
    assert_left(&done, 0);
}

#[test]
fn server_that_restarts_is_told_and_connected_to_again() {
    let mut daemon = daemon_with_messages();
    let mut top = top(&daemon, "").start();
    wait_for(&mut top, "queues", |lines| has(lines, "mail "));
    daemon.kill();
    let lines = wait_for(&mut top, "word about it", |lines| has(lines, "no server for "));
    assert!(has(&lines, "mail "), "what was known stays: {lines:#?}");
    daemon.restart();
    daemon.qctl("create anew").ok();
    let lines = wait_for(&mut top, "new queue", |lines| has(lines, "anew "));
    assert!(!has(&lines, "no server for "), "{lines:#?}");
    top.write(b"q");
    assert_left(&top.finish(), 0);
}

#[test]
fn sigterm_and_the_time_limit_give_the_terminal_back() {
    let daemon = daemon_with_messages();
    let mut run = top(&daemon, "").start();
    wait_for(&mut run, "queues", |lines| has(lines, "mail "));
    let pid = Pid::from_raw(file(&daemon, "pid").parse().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_left(&run.finish(), 143);
    let done = top(&daemon, "--timeout 1s").start().finish();
    assert_left(&done, 124);
    assert!(done.text().contains("qctl: not done within 1s (--timeout)"), "{done:?}");
}

#[test]
fn screen_follows_the_size_of_the_terminal() {
    let daemon = daemon_with_messages();
    let mut top = top(&daemon, "").start();
    wait_for(&mut top, "queues", |lines| has(lines, "mail "));
    let terminal = file(&daemon, "tty");
    Run::new("stty").args(["-F", &terminal, "cols", "60", "rows", "8"]).ok();
    let lines = top.wait_until("smaller screen", |output| {
        // What was drawn before does not count: as at the beginning everything was cleared.
        let last = output.rfind("\x1b[2J").filter(|_| output.matches("\x1b[2J").count() > 1)?;
        let lines = Screen::after(60, 8, &output[last..]).lines();
        (lines.len() == 8 && has(&lines, "quick ")).then_some(lines)
    });
    assert!(lines[7].starts_with("?: keys") && lines[7].ends_with('…'), "{lines:#?}");
    top.write(b"q");
    let done = top.finish();
    assert!(done.text().contains("status 0"), "{done:?}");
}

#[test]
fn ctrl_z_gives_the_terminal_back_until_it_goes_on() {
    let daemon = daemon_with_messages();
    let mut top = top(&daemon, "").start();
    wait_for(&mut top, "queues", |lines| has(lines, "mail "));
    let pid = Pid::from_raw(file(&daemon, "pid").parse().unwrap()).unwrap();
    top.write(b"\x1a");
    top.wait_until("main screen", |output| {
        (!Screen::after(80, 24, output).is_alternate()).then_some(())
    });
    wait_until("it stops", SOON, || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
        stat.contains(") T ").then_some(())
    });
    kill_process(pid, Signal::CONT).unwrap();
    let lines = wait_for(&mut top, "queues again", |lines| has(lines, "mail "));
    assert!(has(&lines, "?: keys"), "{lines:#?}");
    top.write(b"q");
    assert_left(&top.finish(), 0);
}

#[test]
fn no_colour_is_used_where_none_is_wanted_and_a_dumb_terminal_is_refused() {
    let daemon = daemon_with_messages();
    for (no_color, coloured) in [("", true), ("1", false)] {
        let mut top = top(&daemon, "").env("NO_COLOR", no_color).start();
        wait_for(&mut top, "queues", |lines| has(lines, "mail "));
        top.write(b"q");
        let done = top.finish();
        assert_eq!(done.text().contains("\x1b[38;"), coloured, "{done:?}");
        assert_left(&done, 0);
    }
    let done = top(&daemon, "").env("TERM", "dumb").start().finish();
    assert!(
        done.text().contains("qctl: top needs a terminal that can move its cursor"),
        "{done:?}"
    );
    assert!(done.text().contains("status 2\r\n") && !done.text().contains('\x1b'), "{done:?}");
}

#[test]
fn prompt_goes_on_behind_it() {
    let daemon = daemon_with_messages();
    let program = programs::qctl();
    let mut prompt =
        on_terminal(&format!("exec '{}'", program.display()), |script| Run::new(script))
            .env("TERM", "xterm")
            .env("QCTL_SERVER", daemon.server())
            .env("XDG_STATE_HOME", daemon.directory().join("state"))
            .start();
    let place = prompt.wait_for(0, "qctl> ");
    prompt.write(b"top\r");
    let place = prompt.wait_for(place, "quick");
    prompt.write(b"q");
    let place = prompt.wait_for(place, "\x1b[?1049l");
    let place = prompt.wait_for(place, "qctl> ");
    prompt.write(b"ping\r");
    let place = prompt.wait_for(place, "pong");
    prompt.wait_for(place, "qctl> ");
    prompt.write(b"\x04");
    assert_eq!(prompt.finish().exit, 0);
}
