//! Completion in the shells themselves, and what it does without a server.

use std::path::Path;
use std::time::Duration;

use qd_tests::terminal::on_terminal;
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Run, Running, Sandbox, cases, wait_until};
use rustix::process::Signal;

const PROMPT: &str = "ready> ";
/// How often completion may have no time.
const TRIES: usize = 20;

/// A program of the machine; a test without it tells, and tests nothing.
fn has(program: &str) -> bool {
    let found = Run::new("sh").args(["-c", "command -v \"$1\"", "sh", program]).run().exit == 0;
    if !found {
        println!("{program} is not here; its completion was not tried");
    }
    found
}

/// Queues to be completed.
fn daemon() -> Daemon {
    let daemon = Daemon::new();
    for queue in ["images", "jobs", "jobs.dead"] {
        daemon.qctl(&format!("create {queue}")).ok();
    }
    daemon.qctl("send jobs a b").ok();
    daemon
}

fn surrounded(run: Run, server: &str, home: &Path) -> Run {
    run.env("PATH", cases::path_with_programs())
        .env("QCTL_SERVER", server)
        .env("HOME", home)
        .env("ZDOTDIR", home)
        .env("TERM", "xterm")
        .current_dir(home)
}

/// A shell that waits for its first line.
fn shell(daemon: &Daemon, command: &str) -> (Running, usize) {
    let run = on_terminal(&format!("exec {command}"), |script| Run::new(script));
    let mut shell = surrounded(run, &daemon.server(), daemon.directory()).start();
    let place = shell.wait_for(0, PROMPT);
    (shell, place)
}

/// What is typed before a TAB, and what is there behind it.
const LINES: [(&str, &str); 8] = [
    ("qctl rec", "qctl receive "),
    ("qctl list --colu", "qctl list --columns "),
    ("qctl send ima", "qctl send images "),
    ("qctl receive images,ima", "qctl receive images,images "),
    ("qctl redrive jobs.dead --to=ima", "qctl redrive jobs.dead --to=images "),
    ("qctl peek jobs --state le", "qctl peek jobs --state leased "),
    ("qctl send jobs -f a-fi", "qctl send jobs -f a-file "),
    ("qctl work jobs -- qct", "qctl work jobs -- qctl "),
];

#[test]
fn bash_completes() {
    let daemon = daemon();
    std::fs::write(daemon.directory().join("a-file"), "").unwrap();
    let rc = format!("PS1='{PROMPT}'; eval \"$(qctl completions bash)\"\n");
    std::fs::write(daemon.directory().join("rc"), rc).unwrap();
    let (shell, place) = shell(&daemon, "bash --noprofile --rcfile rc -i");
    complete_all(shell, place);
}

#[test]
fn zsh_completes() {
    if !has("zsh") {
        return;
    }
    let daemon = daemon();
    std::fs::write(daemon.directory().join("a-file"), "").unwrap();
    let rc = format!(
        "PS1='{PROMPT}'; zle_highlight=(none); autoload -Uz compinit; compinit -D -u\n\
         source <(qctl completions zsh)\n"
    );
    std::fs::write(daemon.directory().join(".zshrc"), rc).unwrap();
    let (shell, place) = shell(&daemon, "zsh -i");
    complete_all(shell, place);
}

fn complete_all(mut shell: Running, mut place: usize) {
    for (typed, completed) in LINES {
        shell.write(typed.as_bytes());
        place = completed_at(&mut shell, place, completed.trim_end());
        // Ctrl-U drops the line: nothing is run.
        shell.write(b"\x15");
    }
    shell.write(b"exit\r");
    let _ = shell.finish();
}

/// Presses TAB until the line is completed: a machine with other work to do may not know the queues
/// within a tenth of a second, and then says nothing.
fn completed_at(shell: &mut Running, place: usize, completed: &str) -> usize {
    for _ in 0..TRIES {
        shell.write(b"\t");
        if let Some(place) = shell.shows(place, completed, Duration::from_secs(1)) {
            return place;
        }
    }
    panic!("{completed:?} is not completed: {:?}", shell.stdout());
}

#[test]
fn fish_completes() {
    if !has("fish") {
        return;
    }
    let daemon = daemon();
    std::fs::write(daemon.directory().join("a-file"), "").unwrap();
    let complete = |line: &str| {
        let script = format!("qctl completions fish | source; complete -C '{line}'");
        let run = Run::new("fish").args(["--no-config", "-c", &script]);
        surrounded(run, &daemon.server(), daemon.directory()).ok()
    };
    for (typed, completed) in LINES {
        let word = completed.split_whitespace().last().unwrap();
        wait_until(completed, SOON, || {
            let found = complete(typed);
            let first = found.lines().next().unwrap_or_default();
            (first.split('\t').next() == Some(word)).then_some(())
        });
    }
    wait_until("queues with what they hold", SOON, || {
        (complete("qctl info job") == "jobs\t2 ready\njobs.dead\t0 ready\n").then_some(())
    });
}

/// What is offered at the end of a line, whose last word is the last one.
fn offered(run: Run, line: &str) -> String {
    let word = line.rsplit(' ').next().unwrap_or_default();
    run.args(["__complete", "bash", line, word]).ok()
}

#[test]
fn completion_without_a_server_offers_what_is_known_and_starts_nothing() {
    let sandbox = Sandbox::new();
    assert_eq!(offered(sandbox.qctl(""), "qctl pu"), "purge\n");
    assert_eq!(offered(sandbox.qctl(""), "qctl send jo"), "");
    assert_eq!(offered(sandbox.qctl(""), "qctl -s nonsense send jo"), "");
    assert!(sandbox.daemons().is_empty());
    let config = sandbox.home().join(".config/qctl");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.toml"), "nonsense").unwrap();
    assert_eq!(offered(sandbox.qctl(""), "qctl pu"), "purge\n");
    assert_eq!(offered(sandbox.qctl(""), "qctl send jo"), "");
}

#[test]
fn completion_asks_the_server_of_the_line_or_of_its_context() {
    let (daemon, sandbox) = (daemon(), Sandbox::new());
    let server = daemon.server();
    let offers = |line: &str, expected: &str| {
        wait_until(line, SOON, || (offered(sandbox.qctl(""), line) == expected).then_some(()));
    };
    offers(&format!("qctl -s {server} info im"), "images\n");
    sandbox.qctl(&format!("context add here -s {server}")).ok();
    assert_eq!(offered(sandbox.qctl(""), "qctl info im"), "");
    offers("qctl --context here info im", "images\n");
    assert_eq!(offered(sandbox.qctl(""), "qctl context use he"), "here\n");
    sandbox.qctl("context use here").ok();
    offers("qctl info im", "images\n");
}

#[test]
fn server_that_hangs_does_not_hold_completion_up() {
    let daemon = daemon();
    daemon.signal(Signal::STOP);
    // An answer would never come.
    let found = offered(daemon.qctl(""), "qctl info im");
    daemon.signal(Signal::CONT);
    assert_eq!(found, "");
}
