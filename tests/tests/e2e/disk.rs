//! A disk that fills up: sends are refused in time, everything else goes on, and so do sends when
//! there is room again.

use std::path::PathBuf;
use std::process::Command;

use qd_tests::daemon::temporary_directory;
use qd_tests::wait::SOON;
use qd_tests::{Daemon, wait_until};

/// A small file system in memory, unmounted in the end.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if unmounted.is_ok_and(|status| status.success()) {
            // Whoever looks after the temporary directory next removes what is left.
            let _ = std::fs::remove_dir(&self.0);
        }
    }
}

/// A daemon on a file system of its own; `None`: only root can make one, if anybody.
fn daemon_on_a_disk_of(size: &str, flags: &[&str]) -> Option<(Disk, Daemon)> {
    if !rustix::process::geteuid().is_root() {
        println!("only root can make a file system; this test was left out");
        return None;
    }
    let directory = temporary_directory();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(directory.path());
    if !mount.status().is_ok_and(|status| status.success()) {
        println!("no file system can be mounted here; this test was left out");
        return None;
    }
    let disk = Disk(directory.path().to_owned());
    Some((disk, Daemon::within(directory, flags)))
}

#[test]
fn low_disk_refuses_sends_and_nothing_else_and_recovers() {
    let on_a_disk = daemon_on_a_disk_of("160m", &["--disk-reserve", "32MiB"]);
    let Some((_disk, daemon)) = on_a_disk else { return };
    let qctl = |line: &str| daemon.qctl(line).run();
    assert_eq!(qctl("create jobs --max-message-size 4MiB").exit, 0);
    let send =
        |flags: &str| daemon.qctl(&format!("send jobs {flags}")).stdin(vec![b'x'; 2 << 20]).run();
    let mut taken = 0;
    let refused = loop {
        let done = send("");
        if done.exit != 0 {
            break done;
        }
        taken += 1;
        assert!(taken < 80, "sends are never refused");
    };
    assert_eq!(refused.exit, 75, "{refused:?}");
    assert!(refused.stderr.contains("disk is low"), "{refused:?}");
    assert!(taken > 2, "{taken}");
    let refused = send("-o json");
    assert!(refused.stderr.contains("\"code\":\"disk_low\""), "{refused:?}");
    assert!(refused.stderr.contains("\"limit\":\"disk-reserve\""), "{refused:?}");
    // All else goes on.
    assert_eq!(qctl("receive jobs --ack").exit, 0);
    assert_eq!(qctl("create other").exit, 0);
    assert_eq!(qctl("info jobs").exit, 0);
    assert_eq!(qctl("drop jobs --yes").exit, 0);
    assert_eq!(qctl("create jobs --max-message-size 4MiB").exit, 0);
    wait_until("there is room again", SOON, || (send("").exit == 0).then_some(()));
}

#[test]
fn disk_that_is_full_to_the_last_block_ends_the_daemon_and_loses_nothing() {
    let Some((_disk, mut daemon)) = daemon_on_a_disk_of("128m", &[]) else { return };
    assert_eq!(daemon.qctl("create jobs --max-message-size 4MiB").run().exit, 0);
    let send = |daemon: &Daemon| daemon.qctl("send jobs").stdin(vec![b'x'; 2 << 20]).run().exit;
    let mut taken = 0;
    while send(&daemon) == 0 {
        taken += 1;
        assert!(taken < 80, "the disk is never full");
    }
    assert_eq!(qd_tests::run::exit_number(daemon.wait_for_end()), 74);
    assert!(daemon.log().contains("No space left on device"), "{}", daemon.log());
    // With a little room it starts again, with all that was answered.
    std::fs::remove_file(daemon.directory().join("qd.log")).expect("the log of this test");
    let room = format!("remount,size={}m", 192);
    let path = daemon.directory().to_owned();
    let mounted = Command::new("mount").args(["-o", &room]).arg(&path).status();
    assert!(mounted.expect("mount runs").success());
    daemon.restart();
    let ready = daemon.qctl("list jobs --columns ready").ok();
    let ready: u64 = ready.trim().parse().expect("a number");
    assert!(ready >= taken, "{ready} of {taken}");
}
