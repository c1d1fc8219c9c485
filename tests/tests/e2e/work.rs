//! `qctl work`: what becomes of messages, leases and commands when something ends one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use qd_protocol::attributes::Statistics;
use qd_tests::terminal::{on_terminal, plain};
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Run, programs, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::wire::statistics;

fn jobs(daemon: &Daemon, flags: &str, count: u32) {
    daemon.qctl(&format!("create jobs {flags}")).ok();
    let lines: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
    daemon.qctl("send jobs --lines").stdin(lines.join("\n")).ok();
}

/// `qctl work jobs FLAGS -- sh -c SCRIPT` in the daemon's directory.
fn work(daemon: &Daemon, flags: &str, script: &str) -> Run {
    daemon.qctl(&format!("work jobs {flags} -- sh -c")).arg(script).current_dir(daemon.directory())
}

fn of_jobs(daemon: &Daemon) -> Statistics {
    statistics(&mut daemon.raw(), "jobs")
}

/// Waits until so many commands have made a file `begun.*` and written their pid there.
fn wait_for_begun(daemon: &Daemon, count: usize) -> Vec<Pid> {
    wait_until("the commands run", SOON, || {
        let entries = fs::read_dir(daemon.directory()).unwrap().flatten();
        let begun = entries.filter(|entry| entry.file_name().to_string_lossy().contains("begun."));
        let pids = begun.filter_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
        });
        let pids: Vec<Pid> = pids.collect();
        (pids.len() >= count).then_some(pids)
    })
}

const BEGIN: &str = "read -r x; echo $$ > begun.$x;";

/// Lets the commands that wait for it end.
fn release(directory: &Path) {
    fs::write(directory.join("go"), "").unwrap();
}

const WAIT: &str = "until [ -e go ]; do sleep 0.02; done;";

fn is_there(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

#[test]
fn sigterm_lets_commands_end_and_gives_back_the_rest() {
    let daemon = Daemon::new();
    jobs(&daemon, "", 10);
    let worker = work(&daemon, "-P 3", &format!("{BEGIN} {WAIT} echo done")).start();
    wait_for_begun(&daemon, 3);
    worker.signal(Signal::TERM);
    wait_until("all that was not started is given back", SOON, || {
        (of_jobs(&daemon).ready == 7).then_some(())
    });
    release(daemon.directory());
    let done = worker.finish();
    assert_eq!((done.exit, done.text().as_str()), (143, "done\ndone\ndone\n"), "{done:?}");
    assert!(done.stderr.contains("3 done, 0 failed"), "{done:?}");
    let after = of_jobs(&daemon);
    assert_eq!((after.ready, after.leased, after.deleted), (7, 0, 3));
    let body = daemon.qctl("receive jobs -o json").ok();
    assert!(body.contains("\"attempt\":1"), "{body}");
}

#[test]
fn second_signal_ends_the_commands_and_third_one_kills_them() {
    let daemon = Daemon::new();
    jobs(&daemon, "", 2);
    // The first one ends on SIGTERM, the second one does not, and has a child of its own.
    let script = format!("{BEGIN} [ $x = 1 ] || trap '' TERM; sleep 60 & wait; sleep 60");
    let worker = work(&daemon, "-P 2", &script).start();
    let pids = wait_for_begun(&daemon, 2);
    worker.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(100));
    assert!(pids.iter().all(|pid| is_there(*pid)));
    worker.signal(Signal::INT);
    wait_until("one of them ends", SOON, || {
        (pids.iter().filter(|pid| is_there(**pid)).count() == 1).then_some(())
    });
    worker.signal(Signal::INT);
    let done = worker.finish();
    assert_eq!(done.exit, 130, "{done:?}");
    assert!(done.stderr.contains("2 released, 0 lost"), "{done:?}");
    assert!(!pids.iter().any(|pid| is_there(*pid)), "the commands are reaped");
    let after = of_jobs(&daemon);
    assert_eq!((after.ready, after.leased), (2, 0));
}

#[test]
fn messages_of_a_killed_worker_come_back_when_their_leases_end() {
    let daemon = Daemon::new();
    jobs(&daemon, "--visibility-timeout 2s", 4);
    let worker = work(&daemon, "-P 2", &format!("{BEGIN} {WAIT}")).start();
    wait_for_begun(&daemon, 2);
    assert_eq!(of_jobs(&daemon).leased, 2, "no more than can be worked on");
    worker.signal(Signal::KILL);
    assert_eq!(worker.finish().exit, 137);
    let done = work(&daemon, "--max-messages 4", "echo \"$(cat) $QCTL_ATTEMPT\"").run();
    assert_eq!(done.exit, 0, "{done:?}");
    let got: BTreeSet<String> = done.text().lines().map(str::to_owned).collect();
    let expected = ["1 2", "2 2", "3 1", "4 1"].map(str::to_owned);
    assert_eq!(got, BTreeSet::from(expected));
    release(daemon.directory());
}

#[test]
fn lease_is_renewed_for_as_long_as_the_command_runs() {
    let daemon = Daemon::new();
    jobs(&daemon, "--visibility-timeout 1s", 1);
    let worker = work(&daemon, "--exit-when-empty", &format!("{BEGIN} {WAIT}")).start();
    wait_for_begun(&daemon, 1);
    let until = Instant::now() + Duration::from_millis(3_500);
    while Instant::now() < until {
        assert_eq!(of_jobs(&daemon).leased, 1);
        std::thread::sleep(Duration::from_millis(50));
    }
    release(daemon.directory());
    let done = worker.finish();
    assert_eq!(done.exit, 0, "{done:?}");
    assert_eq!(of_jobs(&daemon).redelivered, 0);
}

#[test]
fn lost_lease_ends_the_command_and_is_told() {
    let daemon = Daemon::new();
    jobs(&daemon, "--visibility-timeout 1s", 1);
    let worker = work(&daemon, "--max-messages 1", &format!("{BEGIN} {WAIT}")).start();
    let pids = wait_for_begun(&daemon, 1);
    // As a machine that is suspended.
    worker.signal(Signal::STOP);
    wait_until("the lease ends", SOON, || (of_jobs(&daemon).ready == 1).then_some(()));
    worker.signal(Signal::CONT);
    let done = worker.finish();
    assert_eq!(done.exit, 1, "{done:?}");
    assert!(done.stderr.contains("attempt 1: lost: "), "{done:?}");
    assert!(done.stderr.contains("0 released, 1 lost"), "{done:?}");
    assert!(!is_there(pids[0]));
    assert_eq!(of_jobs(&daemon).ready, 1);
}

#[test]
fn message_that_came_while_the_worker_stood_still_is_not_begun_under_a_lease_that_is_over() {
    let daemon = Daemon::new();
    jobs(&daemon, "--visibility-timeout 1s", 0);
    let worker = work(&daemon, "--max-messages 1", "echo \"$QCTL_ATTEMPT\"").start();
    // It waits by then; where it does not yet, this proves less.
    std::thread::sleep(Duration::from_millis(700));
    worker.signal(Signal::STOP);
    let received = of_jobs(&daemon).received;
    daemon.qctl("send jobs x").ok();
    wait_until("its lease ends", SOON, || {
        let now = of_jobs(&daemon);
        (now.received > received && now.ready == 1).then_some(())
    });
    worker.signal(Signal::CONT);
    let done = worker.finish();
    assert_eq!((done.exit, done.text().as_str()), (0, "2\n"), "{done:?}");
}

#[test]
fn commands_go_on_while_the_daemon_is_restarted() {
    let mut daemon = Daemon::new();
    jobs(&daemon, "", 5);
    let script = format!("{BEGIN} {WAIT} echo \"$x $QCTL_ATTEMPT\"");
    let worker = work(&daemon, "-P 2 --exit-when-empty", &script).start();
    wait_for_begun(&daemon, 2);
    daemon.kill();
    release(daemon.directory());
    std::thread::sleep(Duration::from_millis(300));
    daemon.restart();
    let done = worker.finish();
    assert_eq!(done.exit, 0, "{done:?}");
    let lines: BTreeSet<String> = done.text().lines().map(str::to_owned).collect();
    assert_eq!(lines, (1..=5).map(|number| format!("{number} 1")).collect());
    assert_eq!(of_jobs(&daemon).deleted, 5);
}

#[test]
fn what_can_no_longer_be_settled_is_told() {
    let mut daemon = Daemon::new();
    jobs(&daemon, "", 1);
    let worker = work(&daemon, "", &format!("{BEGIN} {WAIT}")).start();
    wait_for_begun(&daemon, 1);
    daemon.kill();
    worker.signal(Signal::TERM);
    release(daemon.directory());
    let done = worker.finish();
    assert_eq!(done.exit, 143, "{done:?}");
    assert!(done.stderr.contains("done, but could not be deleted, and comes again"), "{done:?}");
    assert!(done.stderr.contains("1 lost"), "{done:?}");
    daemon.restart();
}

#[test]
fn command_that_takes_too_long_is_ended_with_all_that_it_has_started() {
    let daemon = Daemon::new();
    jobs(&daemon, "--retry-delay 1h", 2);
    let script = format!("{BEGIN} [ $x = 1 ] || trap '' TERM; sleep 61; sleep 61");
    let start = Instant::now();
    let worker = work(&daemon, "-P 2 --exit-when-empty --kill-after 300ms", &script).start();
    let pids = wait_for_begun(&daemon, 2);
    let done = worker.finish();
    assert_eq!(done.exit, 1, "{done:?}");
    assert!(start.elapsed() < Duration::from_secs(30));
    let told = "took longer than --kill-after, and the command was killed by";
    assert!(done.stderr.contains(&format!("{told} SIGTERM")), "{done:?}");
    assert!(done.stderr.contains(&format!("{told} SIGKILL")), "{done:?}");
    assert_eq!(of_jobs(&daemon).delayed, 2);
    for pid in pids {
        let group = |fields: &[&str]| fields[0] != "Z" && fields[2] == pid.to_string();
        wait_until("nothing is left of it", SOON, || processes(group).is_empty().then_some(()));
    }
}

#[test]
fn many_small_jobs_are_done_once_each_and_leave_no_process_behind() {
    let daemon = Daemon::new();
    jobs(&daemon, "", 2_000);
    let worker = work(&daemon, "-P 8", "cat; echo").start();
    wait_until("all are done", Duration::from_secs(50), || {
        let children = children(worker.pid());
        assert!(children.len() <= 8 + 1, "{children:?}");
        (of_jobs(&daemon).deleted == 2_000).then_some(())
    });
    wait_until("all are reaped", SOON, || children(worker.pid()).is_empty().then_some(()));
    worker.signal(Signal::TERM);
    let done = worker.finish();
    assert_eq!(done.exit, 143, "{done:?}");
    assert!(done.stderr.contains("2000 done, 0 failed"), "{done:?}");
    let mut count = BTreeMap::new();
    for line in done.text().lines().filter(|line| !line.is_empty()) {
        *count.entry(line.to_owned()).or_insert(0) += 1;
    }
    assert_eq!(count.len(), 2_000);
    assert!(count.values().all(|count| *count == 1), "{count:?}");
    assert_eq!(of_jobs(&daemon).redelivered, 0);
}

/// The lines of proc(5) `stat` whose fields behind the name (state, parent, process group) are so.
fn processes(are: impl Fn(&[&str]) -> bool) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let stats = all.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let fits = |stat: &String| {
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
        fields.is_some_and(|fields| fields.len() > 2 && are(&fields))
    };
    stats.filter(fits).collect()
}

/// Its children, zombies too.
fn children(parent: Pid) -> Vec<String> {
    processes(|fields| fields[1] == parent.to_string())
}

#[test]
fn groups_of_an_ordered_queue_are_never_worked_on_side_by_side() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs --ordered --retry-delay 0").ok();
    let line = |number| format!("{{\"body\":\"g{} {number}\\n\",\"group\":\"g{0}\"}}", number % 4);
    let lines: Vec<String> = (0..40).map(line).collect();
    daemon.qctl("send jobs --jsonl").stdin(lines.join("\n")).ok();
    // A directory of the group's name is there as long as one of its messages is worked on. Each message
    // fails once.
    let script = "read -r group number; mkdir $group || exit 1; sleep 0.01; rmdir $group; \
                  [ $QCTL_ATTEMPT = 2 ] || exit 1; echo $group $number";
    let done = work(&daemon, "-P 6 --exit-when-empty", script).run();
    assert_eq!(done.exit, 1, "each failed once: {done:?}");
    assert!(!done.stderr.contains("mkdir"), "{done:?}");
    assert!(done.stderr.contains("40 done, 40 failed"), "{done:?}");
    for group in ["g0", "g1", "g2", "g3"] {
        let numbers: Vec<u32> = done
            .text()
            .lines()
            .filter_map(|line| line.strip_prefix(group)?.trim().parse().ok())
            .collect();
        assert_eq!(numbers.len(), 10);
        assert!(numbers.is_sorted(), "{group}: {numbers:?}");
    }
}

#[test]
fn output_that_nobody_reads_ends_the_worker_and_is_nobodys_failure() {
    let daemon = Daemon::new();
    jobs(&daemon, "", 3);
    for flags in [&["-P", "1"], &["-P", "2"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = Command::new(programs::qctl())
            .args(["--server", &daemon.server(), "work", "jobs"])
            .args(flags)
            .args(["--", "yes"])
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(done.status.code(), Some(141), "{done:?}");
        assert_eq!((of_jobs(&daemon).ready, of_jobs(&daemon).delayed), (3, 0), "{done:?}");
    }
}

#[test]
fn output_that_is_not_read_for_a_while_loses_no_lease() {
    let daemon = Daemon::new();
    jobs(&daemon, "--visibility-timeout 1s", 2);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut worker = Command::new(programs::qctl())
        .args(["--server", &daemon.server(), "work", "jobs", "-P", "2", "--exit-when-empty"])
        .args(["--", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"])
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(of_jobs(&daemon).leased, 2, "both commands wait for their reader");
    let text = std::io::read_to_string(reader).unwrap();
    assert_eq!(text.bytes().filter(|byte| *byte == b'x').count(), 6_000_000);
    assert!(worker.wait().unwrap().success());
    assert_eq!(of_jobs(&daemon).redelivered, 0);
}

#[test]
fn process_in_the_background_keeps_nobody_waiting() {
    let daemon = Daemon::new();
    jobs(&daemon, "", 2);
    let start = Instant::now();
    let script = "sleep 20 & echo $! >> background; echo fine";
    let (reader, writer) = std::io::pipe().unwrap();
    let status = Command::new(programs::qctl())
        .args(["--server", &daemon.server(), "work", "jobs", "-P", "2", "--exit-when-empty"])
        .args(["--", "sh", "-c", script])
        .current_dir(daemon.directory())
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::io::read_to_string(reader).unwrap(), "fine\nfine\n");
    assert!(start.elapsed() < Duration::from_secs(15));
    for pid in fs::read_to_string(daemon.directory().join("background")).unwrap().lines() {
        let _ = kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL);
    }
}

#[test]
fn messages_that_no_command_is_free_for_are_left_to_others() {
    let daemon = Daemon::new();
    jobs(&daemon, "", 60);
    // Short ones make the worker hold some in advance, before a long one.
    let script = format!("read -r x; [ $x -lt 40 ] || {{ {WAIT} }}");
    let worker = work(&daemon, "", &script).start();
    wait_until("nothing idles under a lease", SOON, || {
        let now = of_jobs(&daemon);
        (now.deleted == 39 && now.leased == 1).then_some(())
    });
    worker.signal(Signal::TERM);
    release(daemon.directory());
    assert_eq!(worker.finish().exit, 143);
}

#[test]
fn interrupt_key_reaches_the_worker_and_not_its_commands() {
    let daemon = Daemon::new();
    jobs(&daemon, "", 3);
    let command = format!(
        "'{}' work jobs -- sh -c '{BEGIN} {WAIT} echo done $x'",
        programs::qctl().display()
    );
    let mut worker = on_terminal(&format!("exec {command}"), |script| Run::new(script))
        .env("QCTL_SERVER", daemon.server())
        .current_dir(daemon.directory())
        .start();
    wait_for_begun(&daemon, 1);
    worker.write(b"\x03");
    worker.wait_for(0, "the next signal ends them");
    release(daemon.directory());
    let done = worker.finish();
    assert_eq!(done.exit, 130, "{done:?}");
    assert!(plain(&done.text()).contains("done 1\n"), "{done:?}");
    assert_eq!((of_jobs(&daemon).ready, of_jobs(&daemon).deleted), (2, 1));
}
