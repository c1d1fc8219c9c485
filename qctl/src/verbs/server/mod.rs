//! `qctl server`: the server itself. None of it ever starts one.

mod check;
mod info;
mod stop;

use clap::{Args, Subcommand};

pub use check::{FIELDS as CHECK_FIELDS, is_asked, unknown};
pub use info::FIELDS as INFO_FIELDS;
pub use stop::FIELDS as STOP_FIELDS;

use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Manage the server
#[derive(Debug, Clone, Args)]
#[command(arg_required_else_help = false)]
pub struct Server {
    #[command(subcommand)]
    action: Action,
}

/// What to do with the server.
#[derive(Debug, Clone, Subcommand)]
enum Action {
    Info(info::Info),
    Check(Box<check::Check>),
    /// End the server as SIGTERM does, and wait until it is gone
    Stop,
}

impl Server {
    /// Does it.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        session.global.no_autostart = true;
        match self.action {
            Action::Info(info) => info.run(session).await,
            Action::Check(check) => check.run(session).await,
            Action::Stop => stop::stop(session).await,
        }
    }

    /// Whether it is a check, which ends with a status of its own.
    pub fn is_check(&self) -> bool {
        matches!(self.action, Action::Check(_))
    }
}
