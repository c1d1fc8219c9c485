//! The tools for the data of a daemon that does not run, through the real programs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use qd_tests::daemon::{run_qd, temporary_directory};
use qd_tests::run::exit_number;
use qd_tests::{Daemon, Done, Run, programs};
use rustix::process::Signal;

mod check;
mod compact;

/// `qd` with these words, and the data directory behind them.
fn tool(words: &str, data: &Path) -> Run {
    Run::new(programs::qd()).args(words.split_whitespace()).arg("--data").arg(data)
}

/// A daemon with messages in every place, which was stopped in good order.
fn stopped() -> Daemon {
    let mut daemon = filled();
    daemon.signal(Signal::TERM);
    assert!(daemon.wait_for_end().success());
    daemon
}

/// A daemon with messages in every place.
fn filled() -> Daemon {
    let daemon = Daemon::new();
    for line in [
        "create jobs --visibility-timeout 1h --retention 30d",
        "create ordered --ordered --dedup-window 1h --visibility-timeout 1h",
        "create stuck --dead-letter missing",
    ] {
        daemon.qctl(line).ok();
    }
    let lines =
        |from: u32, to: u32| (from..to).map(|n| format!("body {n}\n")).collect::<Vec<_>>().concat();
    let send = |line: &str, input: String| daemon.qctl(&format!("send {line}")).stdin(input).ok();
    send("jobs --lines", lines(0, 500));
    send("jobs --lines --priority 3 --group g", lines(0, 20));
    send("jobs --lines --delay 2h -H k=v -H z=1 -H k=w --ttl 3h", lines(0, 20));
    send("jobs", "large".repeat(60_000));
    send("ordered --group a --dedup-id d1", "first".to_owned());
    send("ordered --lines --group a", lines(0, 20));
    send("ordered --lines --group b", lines(0, 20));
    send("stuck --lines", lines(0, 3));
    daemon.qctl("receive jobs -n 30").ok();
    daemon.qctl("receive ordered -n 3").ok();
    let receipt = daemon.qctl("receive stuck").ok();
    let receipt = receipt.split('\t').next().unwrap();
    daemon.qctl(&format!("reject stuck {receipt} --reason no-such-customer")).ok();
    let receipt = daemon.qctl("receive jobs").ok();
    let receipt = receipt.split('\t').next().unwrap();
    daemon.qctl(&format!("reject jobs {receipt} --reason bad")).ok();
    daemon
}

/// Exit status and standard error of a tool whose standard output is `output`.
fn tool_into(words: &str, data: &Path, output: impl Into<Stdio>) -> (i32, String) {
    let mut command = Command::new(programs::qd());
    command.args(words.split_whitespace()).arg("--data").arg(data).env_remove("QD_DATA");
    let done = command.stdout(output).stderr(Stdio::piped()).output().unwrap();
    (exit_number(done.status), String::from_utf8(done.stderr).unwrap())
}

/// What writes into a pipe that nobody reads, and onto a full disk, is told: exit status and standard error.
fn told_of_output(words: &str, data: &Path) -> [(i32, String); 2] {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    [tool_into(words, data, writer), tool_into(words, data, full)]
}

/// Bytes and time of change of every file.
fn content(directory: &Path) -> BTreeMap<String, (Vec<u8>, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.path().display().to_string();
        if entry.path().is_dir() {
            found.extend(content(&entry.path()));
        } else {
            let file = entry.metadata().unwrap();
            found.insert(name, (fs::read(entry.path()).unwrap(), file.mtime(), file.mtime_nsec()));
        }
    }
    found
}
