//! Settings: flags, environment, defaults.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Parser, Subcommand, ValueEnum};
use etcetera::BaseStrategy;
use qd_protocol::Address;

/// What holds when nothing is said.
const DEFAULTS: &str = "Without flags the data is in $STATE_DIRECTORY or /var/lib/qd and the socket \
is /run/qd/qd.sock, for root and under systemd; for any other user both are in $XDG_STATE_HOME/qd \
(~/.local/state/qd). See qd(8).";

/// The daemon of the qd message queue, and tools for its data
#[derive(Debug, Clone, Parser)]
#[command(
    name = "qd",
    version,
    max_term_width = 100,
    after_help = DEFAULTS,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Flags of the daemon.
    #[command(flatten)]
    pub daemon: Args,
    /// Instead of the daemon.
    #[command(subcommand)]
    pub tool: Option<Tool>,
}

/// What is done with the data of a daemon that does not run.
#[derive(Debug, Clone, Subcommand)]
pub enum Tool {
    /// Look whether log and state are sound; nothing is changed
    Check {
        /// The data.
        #[command(flatten)]
        data: Data,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Let the data take as little room on disk as it can
    Compact {
        /// The data.
        #[command(flatten)]
        data: Data,
    },
}

/// Whose data.
#[derive(Debug, Clone, clap::Args)]
pub struct Data {
    /// Directory of the data [default: as the daemon's]
    #[arg(long, value_name = "DIR", env = "QD_DATA")]
    pub data: Option<PathBuf>,
}

/// Flags of the daemon.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Directory of the data; made if it is not there
    #[arg(long, value_name = "DIR", env = "QD_DATA")]
    pub data: Option<PathBuf>,
    /// Where to listen; may be repeated
    #[arg(
        long,
        help = "Where to listen: unix:/PATH or HOST:PORT (loopback only); may be repeated",
        value_name = "ADDR",
        env = "QD_LISTEN",
        value_delimiter = ','
    )]
    pub listen: Vec<Address>,
    /// Least important messages that are logged
    #[arg(long, value_name = "LEVEL", env = "QD_LOG_LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// Most connections at a time
    #[arg(long, value_name = "N", env = "QD_MAX_CONNECTIONS", default_value_t = 10_000)]
    pub max_connections: usize,
    /// Free room on the disk below which sends are refused
    #[arg(
        long,
        help = "Free room on the disk below which sends are refused, such as 1GiB \
                [default: 5 % of the disk, at least 256MiB, at most 2GiB]",
        value_name = "SIZE",
        env = "QD_DISK_RESERVE"
    )]
    pub disk_reserve: Option<ByteSize>,
    /// Memory for pages of the state
    #[arg(
        long,
        help = "Memory for pages of the state, such as 64MiB [default: an eighth of the memory that \
                there is or that the control group allows, at most 128MiB]",
        value_name = "SIZE",
        env = "QD_CACHE_SIZE"
    )]
    pub cache_size: Option<ByteSize>,
    /// Become the leader of a session of its own, apart from the terminal
    #[arg(long)]
    pub new_session: bool,
}

/// Importance of a log message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// The daemon cannot go on.
    Error,
    /// Something needs attention.
    Warn,
    /// Start, stop, and what an operator wants to know.
    Info,
    /// Connections and their ends.
    Debug,
}

/// Settings in force.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of the data.
    pub data: PathBuf,
    /// Where to listen.
    pub listen: Vec<Address>,
    /// Permissions of Unix sockets: 0660 for the system's daemon, 0600 for a user's.
    pub socket_mode: u32,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Free bytes on the disk below which sends are refused; `None`: the default.
    pub disk_reserve: Option<u64>,
    /// Bytes of memory for pages of the state; `None`: the default.
    pub cache_bytes: Option<usize>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No directory to fall back to.
    #[error("no home directory is known: say where the data is with --data DIR")]
    NoHome,
    /// The default address cannot be used.
    #[error("{0}; say where to listen with --listen ADDR")]
    Address(#[from] qd_protocol::address::AddressError),
}

impl Settings {
    /// Fills what was not given.
    pub fn new(args: &Args) -> Result<Self, ConfigError> {
        let system = is_system();
        let data = data_directory(args.data.as_deref())?;
        let listen = match &args.listen[..] {
            [] if system => vec![Address::unix("/run/qd/qd.sock")?],
            [] => vec![Address::unix(user_directory()?.join("qd.sock"))?],
            given => given.to_vec(),
        };
        let socket_mode = if system { 0o660 } else { 0o600 };
        let max_connections = args.max_connections;
        let disk_reserve = args.disk_reserve.map(|size| size.as_u64());
        let cache_bytes = args.cache_size.map(|size| size.as_u64() as usize);
        Ok(Self { data, listen, socket_mode, max_connections, disk_reserve, cache_bytes })
    }
}

/// True for root and under systemd.
fn is_system() -> bool {
    std::env::var_os("STATE_DIRECTORY").is_some() || rustix::process::geteuid().is_root()
}

/// The data directory, where this one or none was given.
pub fn data_directory(given: Option<&Path>) -> Result<PathBuf, ConfigError> {
    match given {
        Some(data) => Ok(data.to_owned()),
        None if is_system() => {
            let directory = std::env::var_os("STATE_DIRECTORY");
            Ok(directory.map_or_else(|| PathBuf::from("/var/lib/qd"), PathBuf::from))
        }
        None => user_directory(),
    }
}

/// `$XDG_STATE_HOME/qd`.
fn user_directory() -> Result<PathBuf, ConfigError> {
    let base = etcetera::base_strategy::Xdg::new().map_err(|_| ConfigError::NoHome)?;
    Ok(base.state_dir().ok_or(ConfigError::NoHome)?.join("qd"))
}
