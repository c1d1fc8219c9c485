//! `qctl` on a terminal: the prompt, questions, and what bodies look like there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use qd_tests::terminal::{on_terminal, plain};
use qd_tests::{Daemon, Done, Run, Running, programs};

use crate::wire::statistics;

const PROMPT: &str = "qctl> ";

/// Runs `qctl` with these arguments on a terminal.
fn terminal(daemon: &Daemon, arguments: &str) -> Run {
    // A name that rustyline knows: on a dumb terminal it does not edit.
    on_terminal(&format!("exec '{}' {arguments}", programs::qctl().display()), |script| {
        Run::new(script)
    })
    .env("TERM", "xterm")
    .env("QCTL_SERVER", daemon.server())
    .env("HOME", daemon.directory())
    .env("XDG_STATE_HOME", daemon.directory().join("state"))
}

/// A prompt that is ready for its first line, and the place behind what it has shown.
fn prompt(daemon: &Daemon) -> (Running, usize) {
    let mut prompt = terminal(daemon, "").start();
    let place = prompt.wait_for(0, PROMPT);
    (prompt, place)
}

/// Types a line and waits until `shown`, and the next prompt behind it, are there.
fn enter(prompt: &mut Running, place: usize, line: &str, shown: &str) -> usize {
    prompt.write(format!("{line}\r").as_bytes());
    let place = prompt.wait_for(place, shown);
    prompt.wait_for(place, PROMPT)
}

/// Leaves by Ctrl-D.
fn leave(mut prompt: Running) -> Done {
    prompt.write(b"\x04");
    prompt.finish()
}

#[test]
fn lines_typed_are_commands_and_ctrl_d_leaves() {
    let daemon = Daemon::new();
    let (mut prompt, place) = prompt(&daemon);
    let place = enter(&mut prompt, place, "create jobs", "\n");
    let place = enter(&mut prompt, place, "send jobs 'two words'", "\n1\r\n");
    enter(&mut prompt, place, "receive jobs --ack", "\ntwo words");
    let done = leave(prompt);
    assert_eq!(done.exit, 0, "{done:?}");
    assert_eq!(statistics(&mut daemon.raw(), "jobs").deleted, 1);
}

#[test]
fn failed_command_is_told_and_the_prompt_goes_on() {
    let daemon = Daemon::new();
    let (mut prompt, place) = prompt(&daemon);
    let place = enter(&mut prompt, place, "send missing x", "no queue is named");
    let place = enter(&mut prompt, place, "nonsense", "unrecognized");
    enter(&mut prompt, place, "ping", "pong");
    assert_eq!(leave(prompt).exit, 0);
}

#[test]
fn tab_completes_verbs_flags_and_names_of_queues() {
    let daemon = Daemon::new();
    daemon.qctl("create a-queue-with-a-long-name").ok();
    let (mut prompt, place) = prompt(&daemon);
    prompt.write(b"rece\t");
    let place = prompt.wait_for(place, "receive");
    prompt.write(b"a-q\t");
    let place = prompt.wait_for(place, "a-queue-with-a-long-name");
    prompt.write(b" --delete-on\t");
    prompt.wait_for(place, "--delete-on-receive");
    daemon.qctl("send a-queue-with-a-long-name taken").ok();
    enter(&mut prompt, place, "", "\ntaken");
    assert_eq!(leave(prompt).exit, 0);
    assert_eq!(statistics(&mut daemon.raw(), "a-queue-with-a-long-name").deleted, 1);
}

#[test]
fn ctrl_c_ends_a_waiting_receive_and_keeps_the_prompt() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    daemon.qctl("send jobs first").ok();
    let (mut prompt, place) = prompt(&daemon);
    prompt.write(b"receive jobs --follow --ack\r");
    let place = prompt.wait_for(place, "\nfirst\r\n");
    prompt.write(b"\x03");
    let place = prompt.wait_for(place, PROMPT);
    daemon.qctl("send jobs second").ok();
    assert_eq!(statistics(&mut daemon.raw(), "jobs").ready, 1, "the receive is over");
    enter(&mut prompt, place, "ping", "pong");
    assert_eq!(leave(prompt).exit, 0);
}

/// What is ready and leased after a prompt in which one message was looked at and another deleted.
fn places_after_a_prompt(flags: &str) -> (Daemon, u64, u64) {
    let daemon = Daemon::new();
    daemon.qctl("create jobs --visibility-timeout 1h").ok();
    daemon.qctl("send jobs looked-at deleted elsewhere").ok();
    let mut prompt = terminal(&daemon, flags).start();
    let place = prompt.wait_for(0, PROMPT);
    let place = enter(&mut prompt, place, "receive jobs --body", "\nlooked-at");
    let place = enter(&mut prompt, place, "receive jobs --ack", "\ndeleted");
    daemon.qctl("receive jobs").ok();
    enter(&mut prompt, place, "ping", "pong");
    assert_eq!(leave(prompt).exit, 0);
    let statistics = statistics(&mut daemon.raw(), "jobs");
    (daemon, statistics.ready, statistics.leased)
}

#[test]
fn lease_taken_at_the_prompt_is_released_at_its_end_uncounted() {
    let (daemon, ready, leased) = places_after_a_prompt("");
    assert_eq!((ready, leased), (1, 1), "the one received elsewhere stays leased");
    assert_eq!(daemon.qctl("receive jobs --columns id,attempt").ok(), "1\t1\n");
}

#[test]
fn lease_taken_at_the_prompt_is_kept_when_asked_for() {
    let (_daemon, ready, leased) = places_after_a_prompt("--keep");
    assert_eq!((ready, leased), (0, 2));
}

#[test]
fn ctrl_c_on_a_line_drops_the_line() {
    let daemon = Daemon::new();
    let (mut prompt, place) = prompt(&daemon);
    prompt.write(b"create wrong\x03");
    let place = prompt.wait_for(place, PROMPT);
    enter(&mut prompt, place, "list", "\n");
    assert_eq!(leave(prompt).exit, 0);
    assert_eq!(daemon.qctl("list").ok(), "");
}

#[test]
fn open_quote_goes_on_over_the_next_line() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    let (mut prompt, place) = prompt(&daemon);
    prompt.write(b"send jobs 'line 1\rline 2'\r");
    let place = prompt.wait_for(place, "\n1\r\n");
    prompt.wait_for(place, PROMPT);
    assert_eq!(leave(prompt).exit, 0);
    assert_eq!(daemon.qctl("receive jobs --ack").ok(), "line 1\nline 2");
}

#[test]
fn history_is_kept_for_the_user_alone_without_lines_that_start_with_a_space() {
    let daemon = Daemon::new();
    let (mut prompt, place) = prompt(&daemon);
    let place = enter(&mut prompt, place, " list secret", "\n");
    let place = enter(&mut prompt, place, "ping", "pong");
    // Arrow up: the line before.
    prompt.write(b"\x1b[A");
    let place = prompt.wait_for(place, "ping");
    enter(&mut prompt, place, "", "pong");
    assert_eq!(leave(prompt).exit, 0);
    let history = daemon.directory().join("state/qctl/history");
    assert_eq!(fs::metadata(&history).unwrap().mode() & 0o777, 0o600);
    let lines = fs::read_to_string(&history).unwrap();
    assert!(lines.contains("ping") && !lines.contains("secret"), "{lines:?}");
}

#[test]
fn prompt_ends_well_when_the_server_is_gone() {
    let mut daemon = Daemon::new();
    let (mut prompt, place) = prompt(&daemon);
    daemon.kill();
    let place = enter(&mut prompt, place, "ping", "qctl: ");
    daemon.restart();
    enter(&mut prompt, place, "ping", "pong");
    assert_eq!(leave(prompt).exit, 0);
}

#[test]
fn drop_of_messages_asks_for_the_queues_name() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    daemon.qctl("send jobs hello").ok();
    for (answer, there) in [("", true), ("yes", true), ("jobs", false)] {
        let mut drop = terminal(&daemon, "drop jobs").start();
        drop.wait_for(0, "jobs");
        drop.write(format!("{answer}\r").as_bytes());
        let done = drop.finish();
        let exists = daemon.qctl("list").ok() == "jobs\n";
        assert_eq!(exists, there, "{answer:?}: {done:?}");
        assert_eq!(done.exit == 0, !there, "{answer:?}: {done:?}");
    }
}

#[test]
fn purge_asks_for_the_queues_name_and_can_be_left_by_ctrl_c() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    daemon.qctl("send jobs hello").ok();
    for (answer, left) in [("\r", 1), ("yes\r", 1), ("\x03", 1), ("jobs\r", 0)] {
        let mut purge = terminal(&daemon, "purge jobs").start();
        purge.wait_for(0, "name to remove all of them: ");
        purge.write(answer.as_bytes());
        let done = purge.finish();
        assert_eq!(statistics(&mut daemon.raw(), "jobs").ready, left, "{answer:?}: {done:?}");
        assert_eq!(done.exit == 0, left == 0, "{answer:?}: {done:?}");
    }
}

#[test]
fn control_characters_reach_a_terminal_only_when_asked_for() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs --visibility-timeout 0").ok();
    Run::qctl(&daemon.server(), "send jobs").stdin(&b"\x1b[2Jgone\x07"[..]).ok();
    let escaped = terminal(&daemon, "receive jobs --body").run_typed();
    assert!(!escaped.text().contains("\x1b[2J"), "{escaped:?}");
    assert!(escaped.text().contains("gone"), "{escaped:?}");
    let raw = terminal(&daemon, "receive jobs --body --raw").run_typed();
    assert!(raw.text().contains("\x1b[2Jgone\x07"), "{raw:?}");
}

#[test]
fn list_is_a_table_on_a_terminal_and_no_color_is_respected() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    let done = terminal(&daemon, "list").env("NO_COLOR", "1").run_typed();
    assert!(!done.text().contains('\x1b'), "{done:?}");
    let shown = plain(&done.text());
    let header = shown.lines().next().unwrap();
    assert!(header.starts_with("NAME") && header.contains("READY"), "{done:?}");
    let wide = shown.lines().map(str::len).max().unwrap();
    assert!(wide <= 80, "{wide} columns: {shown}");
}

/// Runs a program on a terminal on which nothing is typed.
trait RunTyped {
    fn run_typed(self) -> Done;
}

impl RunTyped for Run {
    fn run_typed(self) -> Done {
        self.start().finish()
    }
}

#[test]
fn dumb_terminal_still_has_a_prompt() {
    let daemon = Daemon::new();
    let mut prompt = terminal(&daemon, "").env("TERM", "dumb").start();
    let place = prompt.wait_for(0, PROMPT);
    prompt.write(b"ping\r");
    prompt.wait_for(place, "pong");
    prompt.write(b"\x04");
    let done = prompt.finish();
    assert_eq!(done.exit, 0, "{done:?}");
    assert!(Path::new(&daemon.socket()).exists());
}
