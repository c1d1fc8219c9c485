//! The daemon `qd`, and the tools for its data: see `qd(8)`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use qd::config::{Cli, LogLevel, Settings};
use qd::daemon::{self, DaemonError};
use qd::offline;
use tracing::Level;

fn main() -> ExitCode {
    let Cli { daemon: args, tool } = Cli::parse();
    if let Some(tool) = tool {
        return ExitCode::from(offline::run(&tool));
    }
    if args.new_session {
        // It fails only when this process leads a session already, which is what is wanted.
        let _ = rustix::process::setsid();
    }
    let level = match args.log_level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        // A log that cannot be written, on a full disk say, is no reason to end.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let end =
        Settings::new(&args).map_err(DaemonError::from).and_then(|settings| daemon::run(&settings));
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
