//! A `qd` for the user, started by the first `qctl` that finds nobody.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use qd_tests::{Run, Running, Sandbox, programs};

#[test]
fn first_qctl_starts_a_daemon_and_says_so_in_one_line() {
    let sandbox = Sandbox::new();
    let done = sandbox.qctl("create jobs").run();
    assert_eq!((done.exit, done.text().as_str()), (0, ""), "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    let [pid] = sandbox.daemons()[..] else { panic!("one daemon: {:?}", sandbox.daemons()) };
    assert!(done.stderr.contains(&format!("pid {}", pid.as_raw_nonzero())), "{done:?}");
    assert!(done.stderr.contains(sandbox.data().to_str().unwrap()), "{done:?}");
    let done = sandbox.qctl("list").run();
    assert_eq!((done.text().as_str(), done.stderr.as_str()), ("jobs\n", ""), "the second is quiet");
    for file in ["qd.sock", "state.redb", "qd.log"] {
        let mode = fs::metadata(sandbox.data().join(file)).unwrap().mode() & 0o777;
        assert_eq!(mode & 0o007, 0, "{file} has mode {mode:o}");
    }
}

#[test]
fn fifty_first_qctl_at_once_end_up_with_one_daemon() {
    let sandbox = Sandbox::new();
    let all: Vec<Running> = (0..50).map(|_| sandbox.qctl("create jobs").start()).collect();
    let mut told = String::new();
    for running in all {
        let done = running.finish();
        assert_eq!(done.exit, 0, "{done:?}");
        told.push_str(&done.stderr);
    }
    let [pid] = sandbox.daemons()[..] else { panic!("one daemon: {:?}", sandbox.daemons()) };
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains(&format!("pid {},", pid.as_raw_nonzero())), "{told}");
    assert_eq!(sandbox.qctl("list").ok(), "jobs\n");
}

#[test]
fn command_substitution_ends_although_the_daemon_goes_on() {
    let sandbox = Sandbox::new();
    // The shell's pipe is inherited as 1, as 2, and as 9, the way scripts do it.
    let script =
        "exec 9>&1; qctl create jobs; id=$(qctl send jobs hello 9>&1 2>&1); echo \"id $id\"";
    let done = sandbox.run("sh").args(["-c", script]).limit(Duration::from_secs(30)).run();
    assert_eq!((done.exit, done.text().as_str()), (0, "id 1\n"), "{done:?}");
    sandbox.qctl("server stop").ok();
    sandbox.wait_until_stopped();
    let script = "out=$(qctl list 2>&1 9>&1); echo \"$out\" | wc -l";
    let done = sandbox.run("sh").args(["-c", script]).limit(Duration::from_secs(30)).run();
    assert_eq!((done.exit, done.text().trim()), (0, "2"), "started inside of it: {done:?}");
    assert_eq!(sandbox.daemons().len(), 1);
}

#[test]
fn started_daemon_stands_apart_from_who_started_it() {
    let sandbox = Sandbox::new();
    sandbox.qctl("ping").ok();
    let pid = sandbox.daemons()[0].as_raw_nonzero();
    let process = format!("/proc/{pid}");
    assert_eq!(fs::read_link(format!("{process}/cwd")).unwrap().to_str(), Some("/"));
    // Fields of proc(5) behind the name: state, ppid, pgrp, session.
    let stat = fs::read_to_string(format!("{process}/stat")).unwrap();
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap();
    assert_eq!(session, pid.to_string(), "it leads a session of its own");
    let descriptors = fs::read_dir(format!("{process}/fd")).unwrap().flatten();
    let open: Vec<_> = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    let inherited =
        |target: &str| open.iter().any(|path| path.to_str().unwrap().starts_with(target));
    assert!(!inherited("pipe:"), "{open:?}");
    assert!(open.iter().any(|path| path.ends_with("qd.log")), "{open:?}");
}

#[test]
fn server_stop_ends_it_and_never_starts_one() {
    let sandbox = Sandbox::new();
    let done = sandbox.qctl("server stop").run();
    assert_eq!(done.exit, 69, "{done:?}");
    assert!(sandbox.daemons().is_empty());
    sandbox.qctl("create jobs").ok();
    sandbox.qctl("send jobs kept").ok();
    sandbox.qctl("server stop").ok();
    assert!(sandbox.daemons().is_empty(), "it is gone when the command ends");
    assert!(!sandbox.data().join("qd.sock").exists());
    assert_eq!(sandbox.qctl("receive jobs --ack").ok(), "kept", "the next one finds the data");
}

#[test]
fn daemon_that_was_killed_is_started_again_on_its_data() {
    let sandbox = Sandbox::new();
    sandbox.qctl("create jobs").ok();
    sandbox.qctl("send jobs kept").ok();
    rustix::process::kill_process(sandbox.daemons()[0], rustix::process::Signal::KILL).unwrap();
    sandbox.wait_until_stopped();
    assert_eq!(sandbox.qctl("receive jobs --ack").ok(), "kept");
}

#[test]
fn daemon_that_cannot_start_is_told_with_its_own_words() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.data()).unwrap();
    fs::write(sandbox.data().join("state.redb"), "no database at all".repeat(1_000)).unwrap();
    let done = sandbox.qctl("list").run();
    assert_eq!(done.exit, 69, "{done:?}");
    assert!(done.stderr.contains("state.redb"), "{done:?}");
}

#[test]
fn socket_path_over_the_limit_is_told() {
    let sandbox = Sandbox::new();
    let long = sandbox.home().join("x".repeat(120));
    let done = sandbox.qctl("list").env("XDG_STATE_HOME", &long).run();
    assert_eq!(done.exit, 78, "{done:?}");
    assert!(done.stderr.contains("107"), "{done:?}");
    assert!(!long.exists());
}

#[test]
fn qctl_alone_in_a_directory_says_that_it_found_no_qd() {
    let sandbox = Sandbox::new();
    let copy = sandbox.home().join("qctl");
    programs::install(&programs::qctl(), &copy);
    let list: Run = sandbox.run(&copy).arg("list").env("PATH", "/nonexistent");
    let done = list.run();
    assert_eq!(done.exit, 69, "{done:?}");
    assert!(done.stderr.contains("PATH"), "{done:?}");
}
