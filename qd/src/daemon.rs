//! The daemon's life: open the data, listen, serve, stop.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::broker::{Broker, Engine, Space};
use crate::clock::{Clock, random_u64};
use crate::config::{ConfigError, Settings};
use crate::data_dir::{DataDir, DataDirError};
use crate::log::files::Directory;
use crate::log::{LogError, SEGMENT_BYTES};
use crate::memory;
use crate::net::{ListenError, Listener, Server, serve};
use crate::replicator::{Local, ReplicatorError};
use crate::shard::Machine;
use crate::store::{Store, StoreError};

/// File descriptors that are not connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The state cannot be read.
    #[error("{path}: {error}")]
    Open {
        /// The state file.
        path: PathBuf,
        /// Why.
        error: StoreError,
    },
    /// The log cannot be read, or does not belong to the state.
    #[error("{path}: {error}")]
    Recover {
        /// The data directory.
        path: PathBuf,
        /// Why.
        error: ReplicatorError,
    },
    /// The disk gives back other bytes than were written.
    #[error("stopped serving: {path}: {error}")]
    Damaged {
        /// The data directory.
        path: PathBuf,
        /// What is damaged.
        error: StoreError,
    },
    /// Nothing can be saved any more; nothing unsaved was acknowledged.
    #[error("stopped serving, because what is not on disk may not be acknowledged: {0}")]
    Replicator(ReplicatorError),
    /// The engine's thread ended by a fault in the program.
    #[error("the engine ended unexpectedly")]
    Engine,
    /// The operating system refused.
    #[error("{action}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl DaemonError {
    /// Exit status as in `sysexits.h`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::DataDir(DataDirError::Locked { .. } | DataDirError::Read { .. })
            | Self::Listen(ListenError::InUse(_))
            | Self::Open { error: StoreError::InUse, .. } => 75,
            Self::Config(_)
            | Self::Listen(ListenError::NotLoopback(_))
            | Self::Open {
                error: StoreError::Format { .. } | StoreError::Plain | StoreError::Foreign,
                ..
            }
            | Self::Recover { error: ReplicatorError::Log(LogError::Format { .. }), .. } => 78,
            Self::Engine => 70,
            Self::DataDir(_)
            | Self::Listen(_)
            | Self::Open { .. }
            | Self::Recover { .. }
            | Self::Damaged { .. }
            | Self::Replicator(_)
            | Self::Io { .. } => 74,
        }
    }
}

/// Runs the daemon until a signal or a client stops it.
pub fn run(settings: &Settings) -> Result<(), DaemonError> {
    let failed = |action| move |error| DaemonError::Io { action, error };
    // Whatever is made without a mode of its own is for this user alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let connections_max = raise_descriptors(settings.max_connections);
    let dir = DataDir::open(&settings.data)?;
    let path = dir.state_file();
    let cache_bytes = settings.cache_bytes.unwrap_or_else(memory::cache_bytes);
    tracing::info!("{} for pages of the state", bytesize::ByteSize(cache_bytes as u64));
    let open = || Machine::open(Store::open(&path, cache_bytes, random_u64())?);
    let machine = open().map_err(|error| DaemonError::Open { path: path.clone(), error })?;
    let node = machine.node();
    let files = Directory::open(&dir.log()).map_err(failed("make the directory of the log"))?;
    dir.sync()?;
    let (broker, mailbox) = Broker::new();
    let local = Local::open(machine, Box::new(files), SEGMENT_BYTES, mailbox.on_failure())
        .map_err(|error| DaemonError::Recover { path: dir.path().to_owned(), error })?;
    let applied = local.machine().position().applied;
    tracing::info!("data in {}, {applied} records so far", dir.path().display());
    let in_use = local.live();
    let engine = Engine::new(local, Clock::System, mailbox)
        .map_err(|error| DaemonError::Open { path: path.clone(), error })?;
    let space = Space::new(dir.path(), dir.state_file(), in_use, settings.disk_reserve);
    let broker = broker.watching(space.map_err(failed("ask the disk for its free room"))?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build()
        .map_err(failed("start the runtime"))?;
    let server = Arc::new(Server::new(broker, node, connections_max));
    // Sockets that are to stay open until the process ends are closed with it, not before.
    std::mem::forget(Arc::clone(&server));
    runtime.block_on(live(settings, server, engine))
}

async fn live(settings: &Settings, server: Arc<Server>, engine: Engine) -> Result<(), DaemonError> {
    let failed = |action| move |error| DaemonError::Io { action, error };
    // Before anybody is told where to connect, so that a stop is never missed.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("handle SIGINT"))?;
    let mut listeners = Vec::new();
    for address in &settings.listen {
        listeners.push(Listener::bind(address.clone(), settings.socket_mode).await?);
    }
    let (ended, mut engine_end) = oneshot::channel();
    let engine = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            // The receiver is dropped only when the process ends anyway.
            let _ = ended.send(engine.run());
        })
        .map_err(failed("start the engine"))?;
    for listener in &listeners {
        tracing::info!("listening on {}", listener.address());
    }
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(serve(listeners, Arc::clone(&server), stopped));
    let reason = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = server.shutdown.notified() => "a client's request",
        end = &mut engine_end => return Err(engine_failure(settings, end)),
    };
    tracing::info!("stopping on {reason}");
    let _ = stop.send(true);
    server.broker.stop();
    match engine_end.await {
        Ok(Ok(())) => {}
        end => return Err(engine_failure(settings, end)),
    }
    let _ = serving.await;
    let _ = engine.join();
    tracing::info!("stopped");
    Ok(())
}

fn engine_failure(
    settings: &Settings,
    end: Result<Result<(), ReplicatorError>, oneshot::error::RecvError>,
) -> DaemonError {
    match end {
        Ok(Err(ReplicatorError::Store(error @ StoreError::Damaged(_)))) => {
            DaemonError::Damaged { path: settings.data.clone(), error }
        }
        Ok(Err(error)) => DaemonError::Replicator(error),
        // It ends well only when it is asked to, and silently only by a panic.
        Ok(Ok(())) | Err(_) => DaemonError::Engine,
    }
}

/// Threads that serve connections. The engine has one of its own; while one of these does its work
/// another one goes on.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4))
}

/// Raises the limit of open files as far as allowed. Returns how many connections fit.
fn raise_descriptors(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let target = wanted as u64 + OTHER_DESCRIPTORS;
    let raised = limit.maximum.map_or(target, |maximum| maximum.min(target));
    let mut current = limit.current.unwrap_or(u64::MAX);
    if raised > current
        && setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }).is_ok()
    {
        current = raised;
    }
    let fit = current.saturating_sub(OTHER_DESCRIPTORS).max(1);
    wanted.min(usize::try_from(fit).unwrap_or(usize::MAX))
}
