//! Starting a `qd` for this user.
//!
//! Always true here: the daemon inherits no descriptor of ours but `/dev/null` and its log, so
//! that `$(qctl send …)` ends; any number of first `qctl` at once end up connected to the one
//! daemon that got the data directory's lock.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use qd_protocol::client::Options;
use qd_protocol::{Client, ClientError};
use tokio::time::{Instant, sleep};

use super::find::{OwnServer, Target, qd_binary};
use crate::exit::Failure;
use crate::output::say;

/// How long all of starting and connecting may take.
const START_WITHIN: Duration = Duration::from_secs(10);
/// Status of a `qd` that found the data directory locked by another one.
const LOCKED: i32 = 75;
/// How much of the log is shown when the daemon ends at once.
const LOG_TAIL_BYTES: u64 = 2_000;

/// Connects to the target; starts the user's own server if nobody listens there.
pub async fn connect(
    target: &Target,
    options: Options,
) -> Result<(Client, Option<Child>), Failure> {
    let error = match Client::connect(&target.addresses, options.clone()).await {
        Ok(client) => return Ok((client, None)),
        Err(error) => error,
    };
    match &target.start {
        Some(own) if nobody_listens(&error) => start_and_connect(own, target, options).await,
        _ => Err(error.into()),
    }
}

/// True when there is no socket, or one that a dead daemon left.
fn nobody_listens(error: &ClientError) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, ClientError::Unreachable { kind: NotFound | ConnectionRefused, .. })
}

async fn start_and_connect(
    own: &OwnServer,
    target: &Target,
    options: Options,
) -> Result<(Client, Option<Child>), Failure> {
    let deadline = Instant::now() + START_WITHIN;
    let mut log_start = log_length(&own.log);
    let mut child = spawn(own)?;
    let mut pause = Duration::from_millis(2);
    // Set when our daemon lost the race for the lock: whoever won it will listen soon, unless it
    // is about to end; then it is our turn again.
    let mut lost_at: Option<Instant> = None;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
        let error = match Client::connect(&target.addresses, options.clone()).await {
            Ok(client) => {
                let running = lost_at.is_none() && matches!(child.try_wait(), Ok(None));
                if running && !held_by_another(&own.data, child.id()) {
                    announce(&child, own);
                }
                return Ok((client, running.then_some(child)));
            }
            Err(error) if nobody_listens(&error) || matches!(error, ClientError::Lost { .. }) => {
                error
            }
            Err(error) => return Err(error.into()),
        };
        if lost_at.is_none()
            && let Ok(Some(status)) = child.try_wait()
        {
            if status.code() != Some(LOCKED) {
                return Err(died(own, &format!("{status}"), log_start));
            }
            lost_at = Some(Instant::now());
        }
        if lost_at.is_some_and(|at| at.elapsed() > Duration::from_secs(1)) {
            log_start = log_length(&own.log);
            child = spawn(own)?;
            lost_at = None;
        }
        if Instant::now() >= deadline {
            let text = format!(
                "qd was started but does not answer after 10 s ({error}); its log is {}",
                own.log.display()
            );
            return Err(Failure::NotStarted(text));
        }
    }
}

/// True when the data directory's lock names another process than `pid`: our daemon has lost the
/// race for it, and does not know yet. Where the lock names nobody its disk was full.
fn held_by_another(data: &Path, pid: u32) -> bool {
    let holder = std::fs::read_to_string(data.join("lock")).unwrap_or_default();
    holder.trim().parse::<u32>().is_ok_and(|holder| holder != pid)
}

fn announce(child: &Child, own: &OwnServer) {
    say(&format!(
        "started a qd for this user (pid {}, data in {}; end it with: qctl server stop)",
        child.id(),
        own.data.display()
    ));
}

fn died(own: &OwnServer, status: &str, log_start: u64) -> Failure {
    let tail = log_tail(&own.log, log_start);
    let text = format!("qd was started and ended at once ({status})");
    let tail = tail.trim_end();
    Failure::NotStarted(if tail.is_empty() {
        format!("{text}; its log is {}", own.log.display())
    } else {
        format!("{text}:\n{tail}")
    })
}

fn spawn(own: &OwnServer) -> Result<Child, Failure> {
    let binary = qd_binary()?;
    let failed = |what: &str, path: &Path, error: std::io::Error| {
        Failure::Io(format!("cannot {what} {}: {error}", path.display()))
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&own.data)
        .map_err(|error| failed("make", &own.data, error))?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&own.log)
        .map_err(|error| failed("open", &own.log, error))?;
    let errors = log.try_clone().map_err(|error| failed("open", &own.log, error))?;
    let mut listen = std::ffi::OsString::from("unix:");
    listen.push(&own.socket);
    sever_descriptors();
    Command::new(&binary)
        .arg("--data")
        .arg(&own.data)
        .arg("--listen")
        .arg(listen)
        .arg("--new-session")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|error| failed("start", &binary, error))
}

/// Keeps every descriptor above 2 from programs started after this: what a shell left open for
/// us (`3>&1` inside `$(…)`) would otherwise stay open for the life of a daemon.
pub fn sever_descriptors() {
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
}

fn log_length(log: &Path) -> u64 {
    log.metadata().map_or(0, |data| data.len())
}

/// The last lines of the log, as far as they were written behind `start`.
pub fn log_tail(log: &Path, start: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        let from = start.max(end.saturating_sub(LOG_TAIL_BYTES)).min(end);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn tail_of_the_log_is_what_was_written_since() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        assert_eq!(log_tail(&log, 0), "");
        std::fs::write(&log, "old\nnew\n").unwrap();
        assert_eq!(log_tail(&log, 4), "new\n");
        assert_eq!(log_tail(&log, 100), "");
        std::fs::write(&log, "x".repeat(5_000)).unwrap();
        assert_eq!(log_tail(&log, 0).len(), 2_000);
    }

    #[test]
    fn lock_of_another_daemon_is_told_from_our_own() {
        let data = tempfile::tempdir().unwrap();
        assert!(!held_by_another(data.path(), 17));
        for (content, another) in [("17\n", false), ("", false), ("18\n", true), ("1", true)] {
            std::fs::write(data.path().join("lock"), content).unwrap();
            assert_eq!(held_by_another(data.path(), 17), another, "{content:?}");
        }
    }

    #[test]
    fn only_absence_of_a_listener_starts_a_server() {
        let error = |kind| ClientError::Unreachable {
            address: "unix:/x".parse().unwrap(),
            kind,
            reason: String::new(),
        };
        assert!(nobody_listens(&error(ErrorKind::NotFound)));
        assert!(nobody_listens(&error(ErrorKind::ConnectionRefused)));
        assert!(!nobody_listens(&error(ErrorKind::PermissionDenied)));
        assert!(!nobody_listens(&error(ErrorKind::TimedOut)));
    }
}
