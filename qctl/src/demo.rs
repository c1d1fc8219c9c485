//! `qctl demo`: the main job on a private server, every step through the real programs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use clap::Args;
use qd_protocol::{Address, Client};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::exit::{Exit, Failure};
use crate::output::Out;
use crate::server::{log_tail, qd_binary, sever_descriptors};
use crate::session::{Session, options};

/// How long the private server may take to come up, and to end.
const SERVER_WITHIN: Duration = Duration::from_secs(10);

/// Show the main job on a private server, with every command and its output
#[derive(Debug, Clone, Args)]
pub struct Demo {}

impl Demo {
    /// Walks create, send, receive, delete and drop.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let mut server = PrivateServer::start().await?;
        walk(&mut session.out, &server).await?;
        server.wait_until_gone().await?;
        session.out.line("# the private server and its data are gone")?;
        session.out.flush()?;
        Ok(Exit::Done)
    }
}

/// A `qd` in a directory of its own; both are gone when this is dropped.
struct PrivateServer {
    child: Child,
    address: Address,
    log: PathBuf,
    // Removed last.
    _directory: TempDir,
}

impl PrivateServer {
    async fn start() -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::Io(format!("cannot start a demo: {error}"));
        let directory = tempfile::Builder::new().prefix("qctl-demo-").tempdir().map_err(failed)?;
        let socket = directory.path().join("qd.sock");
        let address =
            Address::unix(socket).map_err(|error| Failure::Config(format!("{error} (TMPDIR)")))?;
        let log = directory.path().join("qd.log");
        let file = std::fs::File::create(&log).map_err(failed)?;
        sever_descriptors();
        let child = Command::new(qd_binary()?)
            .arg("--data")
            .arg(directory.path().join("data"))
            .arg("--listen")
            .arg(address.to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file)
            .spawn()
            .map_err(failed)?;
        let mut server = Self { child, address, log, _directory: directory };
        server.wait_until_up().await?;
        Ok(server)
    }

    async fn wait_until_up(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + SERVER_WITHIN;
        let addresses = [self.address.clone()];
        while Client::connect(&addresses, options(Duration::ZERO)).await.is_err() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = log_tail(&self.log, 0);
                let text = format!("the private qd did not come up:\n{}", log.trim_end());
                return Err(Failure::NotStarted(text));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn wait_until_gone(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + SERVER_WITHIN;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(unexpected("qctl server stop", &format!("qd: {status}")));
                }
                _ if Instant::now() > deadline => {
                    return Err(unexpected("qctl server stop", "qd does not end"));
                }
                _ => sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Interrupted on the way: nothing in it is worth a graceful end.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The commands, each with what it must print.
async fn walk(out: &mut Out, server: &PrivateServer) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::Io(format!("cannot find qctl itself: {error}")))?;
    let mut walk = Walk { out, program, address: server.address.to_string() };
    walk.expect(&["create", "jobs", "--visibility-timeout", "5m"], "").await?;
    walk.expect(&["send", "jobs", "resize cat.jpg", "resize dog.jpg"], "1\n2\n").await?;
    walk.expect(&["list", "--columns", "name,ready,leased"], "jobs\t2\t0\n").await?;
    walk.note("a message received is leased: it comes back in 5 minutes unless it is deleted")?;
    let received = walk.step(&["receive", "jobs"]).await?;
    let receipt = match received.split_once('\t') {
        Some((receipt, "resize cat.jpg")) => receipt.to_owned(),
        _ => return Err(unexpected("qctl receive jobs", &received)),
    };
    walk.expect(&["delete", "jobs", &receipt], "").await?;
    walk.note("with --ack it is deleted as soon as it is printed")?;
    walk.expect(&["receive", "jobs", "--ack"], "resize dog.jpg").await?;
    walk.expect(&["info", "jobs", "--columns", "sent,received,deleted,ready"], "2\t2\t2\t0\n")
        .await?;
    walk.expect(&["drop", "jobs"], "").await?;
    walk.expect(&["server", "stop"], "").await?;
    Ok(())
}

struct Walk<'a> {
    out: &'a mut Out,
    program: PathBuf,
    address: String,
}

impl Walk<'_> {
    fn note(&mut self, text: &str) -> Result<(), Failure> {
        self.out.line(&format!("# {text}"))
    }

    /// Runs one command, shows it with its output, and compares that.
    async fn expect(&mut self, words: &[&str], expected: &str) -> Result<(), Failure> {
        let output = self.step(words).await?;
        if output == expected {
            return Ok(());
        }
        Err(unexpected(&show(words), &output))
    }

    /// Runs one command and shows it with its output.
    async fn step(&mut self, words: &[&str]) -> Result<String, Failure> {
        let command = show(words);
        self.out.line(&format!("$ {command}"))?;
        self.out.flush()?;
        let output = run(&self.program, words, &self.address).await?;
        self.out.put(&output.stdout)?;
        if !output.stdout.is_empty() && !output.stdout.ends_with(b"\n") {
            self.out.put(b"\n")?;
        }
        self.out.flush()?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(unexpected(&command, errors.trim_end()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

async fn run(program: &Path, words: &[&str], address: &str) -> Result<Output, Failure> {
    let mut command = Command::new(program);
    command.args(words).env("QCTL_SERVER", address).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    match output {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(Failure::Io(format!("cannot run {}: {error}", program.display()))),
        Err(error) => Err(Failure::Internal(error.to_string())),
    }
}

/// The command line as a person would type it.
fn show(words: &[&str]) -> String {
    let quoted = words
        .iter()
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() });
    format!("qctl {}", quoted.collect::<Vec<_>>().join(" "))
}

fn unexpected(command: &str, output: &str) -> Failure {
    Failure::Internal(format!("{command}: not as it must be: {output}"))
}
