//! `qctl completions`.

use clap::Args;
use clap_complete::Shell;

use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Print a completion script for a shell
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn run(&self, session: &mut Session) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::args::command(), "qctl", &mut script);
        session.out.put(&script)?;
        session.out.flush()?;
        Ok(Exit::Done)
    }
}
