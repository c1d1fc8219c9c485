//! Every verb with an output that takes nothing: a pipe that nobody reads, and a full disk.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::process::{Command, Stdio};

use qd_tests::{Daemon, Run, cases, programs, run};

/// A command of each verb that writes something, in a shell that has a leased message's receipt in
/// `R`; what ends the server is the last one that needs it.
const COMMANDS: &[&str] = &[
    "help",
    "help send",
    "send --help",
    "--version",
    "create anew -o json",
    "update jobs --delay 1s -o json",
    "send jobs x",
    "send jobs --lines -f lines",
    "receive jobs",
    "receive jobs -n 5 -o table",
    "delete jobs $R -o json",
    "extend jobs $R --by 1m",
    "release jobs $R -o json",
    "reject jobs $R --reason x -o json",
    "reschedule jobs --id 2 --delay 1m -o json",
    "redrive other --to jobs -o json",
    "peek jobs",
    "purge jobs --yes -o json",
    "pause jobs -o json",
    "resume jobs -o json",
    "list",
    "info jobs",
    "stats",
    "stats --watch 1h",
    "export",
    "apply -f wanted --dry-run",
    "ping",
    "ping -n 2 --interval 1ms",
    "context list",
    "bench send --messages 10",
    "work jobs -P 2 --exit-when-empty -- echo x",
    "completions bash",
    "drop jobs --yes -o json",
    "server info",
    "server check",
    "server stop -o json",
    "demo",
];

/// Verbs whose output is no stream.
const SCREENS: &[&str] = &["top"];

/// How a command ends, and what it tells.
struct Ended {
    exit: i32,
    stderr: String,
}

/// Runs the command, after everything that it needs was made anew.
fn end(daemon: &Daemon, command: &str, stdout: Stdio, stderr: Option<File>) -> Ended {
    let script = format!(
        "{{
            qctl drop jobs jobs.dead other anew --yes --if-exists
            qctl create jobs --visibility-timeout 1h
            qctl create other
            qctl send jobs a b c
            qctl send other a
            printf 'x\\ny\\n' > lines
            printf 'version = 1\\n[queues.anew]\\n' > wanted
            qctl context add here -s unix:/nowhere --or-update
        }} > /dev/null 2>&1
        R=$(qctl receive jobs --columns receipt 2> /dev/null)
        exec qctl {command}"
    );
    let stderr_file = daemon.directory().join("stderr");
    let stderr = stderr.unwrap_or_else(|| File::create(&stderr_file).unwrap());
    let status = Command::new("sh")
        .args(["-c", &script])
        .env("PATH", cases::path_with_programs())
        .env("QCTL_SERVER", daemon.server())
        .env("HOME", daemon.directory())
        .env_remove("XDG_CONFIG_HOME")
        .current_dir(daemon.directory())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .status()
        .unwrap();
    let stderr = fs::read_to_string(&stderr_file).unwrap_or_default();
    Ended { exit: run::exit_number(status), stderr }
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[test]
fn every_verb_is_among_the_commands() {
    let help = Run::new(programs::qctl()).arg("help").ok();
    let verbs = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let verbs = verbs.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs: BTreeSet<&str> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
    let tried = COMMANDS.iter().filter_map(|command| command.split(' ').next());
    let tried = tried.filter(|word| !word.starts_with('-')).chain(SCREENS.iter().copied());
    assert!(verbs.len() > 20, "{help}");
    assert_eq!(tried.collect::<BTreeSet<_>>(), verbs);
}

#[test]
fn pipe_that_nobody_reads_ends_every_verb_quietly() {
    let daemon = Daemon::new();
    for command in COMMANDS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let Ended { exit, stderr } = end(&daemon, command, writer.into(), None);
        assert_eq!(exit, 141, "{command}: {stderr}");
        // A worker says what became of its messages.
        if !command.starts_with("work") {
            assert_eq!(stderr, "", "{command}");
        }
    }
}

#[test]
fn full_disk_is_74_in_every_verb_and_told() {
    let daemon = Daemon::new();
    for command in COMMANDS {
        let Ended { exit, stderr } = end(&daemon, command, full().into(), None);
        if *command == "server check" {
            // Whoever reads its status knows no other one.
            assert_eq!(exit, 3, "{stderr}");
            continue;
        }
        assert_eq!(exit, 74, "{command}: {stderr}");
        let why = "cannot write to standard output: No space left on device (os error 28)";
        // Some say first how far they got.
        let told: Vec<&str> = stderr.lines().filter(|line| line.ends_with(why)).collect();
        assert!(told.len() == 1 && told[0].starts_with("qctl: "), "{command}: {stderr}");
    }
}

#[test]
fn standard_error_that_takes_nothing_changes_nothing() {
    let daemon = Daemon::new();
    let more =
        ["info missing", "work jobs --exit-when-empty -- false", "purge jobs --header a=b --yes"];
    for command in COMMANDS.iter().chain(&more) {
        if command.starts_with("server stop") || command.contains("--watch") {
            continue;
        }
        let told = end(&daemon, command, Stdio::null(), None);
        let untold = end(&daemon, command, Stdio::null(), Some(full()));
        assert_eq!(untold.exit, told.exit, "{command}: {}", told.stderr);
    }
}
