//! `qctl completions`.

use clap::Args;
use clap_complete::Shell;

use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Those that ask `qctl` itself for what may stand at the cursor.
const BASH: &str = include_str!("../shell/bash.sh");
const ZSH: &str = include_str!("../shell/zsh.zsh");
const FISH: &str = include_str!("../shell/fish.fish");

/// Print a completion script for a shell
///
/// Those for bash, zsh and fish complete the names of queues too, without starting a server.
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn run(&self, session: &mut Session) -> Result<Exit, Failure> {
        let script = match self.shell {
            Shell::Bash => BASH.into(),
            Shell::Zsh => ZSH.into(),
            Shell::Fish => FISH.into(),
            shell => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut visible(), "qctl", &mut script);
                script
            }
        };
        session.out.put(&script)?;
        session.out.flush()?;
        Ok(Exit::Done)
    }
}

/// The grammar without what is hidden.
fn visible() -> clap::Command {
    let all = crate::args::command();
    let shown = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    clap::Command::new("qctl").args(all.get_arguments().cloned()).subcommands(shown)
}
