//! What the completion scripts of shells ask; hidden, for its form may change with them.
//!
//! Always true here: it takes at most a tenth of a second, starts nothing, and says nothing of what
//! fails: a key press is no time for errors.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use clap_complete::Shell;
use qd_protocol::Client;
use qd_protocol::client::Options;
use qd_protocol::verbs::List;
use qd_protocol::verbs::list::PAGE_MAX;
use tokio::time::timeout;

use crate::args::{Global, command};
use crate::complete::{Asked, Others};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::server;
use crate::session::options;
use crate::words;

/// What connecting and asking for the queues may take; the rest takes a few milliseconds.
const ASK_WITHIN: Duration = Duration::from_millis(60);

/// Say what may stand at the cursor of a shell
#[derive(Debug, Clone, Args)]
pub struct Complete {
    /// The shell
    shell: Shell,
    /// The command up to the cursor
    #[arg(allow_hyphen_values = true)]
    line: String,
    /// The last word of it, as the shell cuts words
    #[arg(allow_hyphen_values = true)]
    word: String,
}

impl Complete {
    /// Prints a candidate a line, with a TAB and a description for shells that show it; or with a
    /// colon what the shell itself is to look for.
    pub async fn run(self) -> Result<Exit, Failure> {
        let command = command();
        let arguments = self.arguments();
        let asked = Asked::in_shell(&command, arguments);
        let mut found: Vec<(String, Option<String>)> =
            asked.words.iter().map(|word| (word.clone(), asked.about(word))).collect();
        match asked.others {
            Others::None => {}
            Others::Queues => found.extend(queues(arguments, asked.prefix).await),
            Others::Files => found.push((":files".to_owned(), None)),
            Others::Directories => found.push((":directories".to_owned(), None)),
            Others::Programs => found.push((":programs".to_owned(), None)),
        }
        let mut out = String::new();
        for (candidate, about) in found {
            if candidate.starts_with(':') {
                out.push_str(&candidate);
            } else if candidate.starts_with(asked.prefix) {
                out.push_str(&self.in_place(&candidate, asked.prefix));
            } else {
                continue;
            }
            if let Some(about) = about.filter(|_| self.shell != Shell::Bash) {
                out.push('\t');
                out.push_str(&about);
            }
            out.push('\n');
        }
        // Nobody may be there to read it.
        let _ = std::io::stdout().write_all(out.as_bytes());
        Ok(Exit::Done)
    }

    /// The line behind the name of the program, before which others may stand.
    fn arguments(&self) -> &str {
        let mut at = 0;
        let mut behind = None;
        for word in self.line.split_inclusive([' ', '\t', '\n']) {
            at += word.len();
            let name = word.trim_end().rsplit('/').next();
            // The last word is the one at the cursor.
            if at < self.line.len() || word.ends_with([' ', '\t', '\n']) {
                if name == Some("qctl") {
                    behind = Some(at);
                    break;
                }
                behind = behind.or(Some(at));
            }
        }
        self.line.get(behind.unwrap_or(0)..).unwrap_or_default()
    }

    /// A candidate for the part `prefix` as the shell is to put it in the place of its word, which
    /// may begin before that part or within it.
    fn in_place(&self, candidate: &str, prefix: &str) -> String {
        if let Some(before) = self.word.strip_suffix(prefix) {
            return format!("{before}{candidate}");
        }
        let known = prefix.len().saturating_sub(self.word.len());
        candidate.get(known..).unwrap_or(candidate).to_owned()
    }
}

/// The queues whose names begin so, and how many messages they have.
async fn queues(arguments: &str, prefix: &str) -> Vec<(String, Option<String>)> {
    let ask = async {
        let global = config::resolve(named_server(arguments)).ok()?;
        let addresses = server::target(&global).ok()?.addresses;
        let options = Options { connect_timeout: ASK_WITHIN, ..options(Duration::ZERO) };
        let client = Client::connect(&addresses, options).await.ok()?;
        let list = List { pattern: Some(format!("{prefix}*")), after: None, limit: PAGE_MAX };
        client.call(list).await.ok()
    };
    let Ok(Some(page)) = timeout(ASK_WITHIN, ask).await else {
        return Vec::new();
    };
    let queue = |queue: qd_protocol::QueueDescription| {
        let ready = format!("{} ready", queue.statistics.ready);
        (queue.name.to_string(), Some(ready))
    };
    page.queues.into_iter().map(queue).collect()
}

/// The flags of the line that say which server.
fn named_server(arguments: &str) -> Global {
    let mut global = Global::default();
    let Ok(words) = words::split(arguments.as_bytes()) else {
        return global;
    };
    let mut words = words.iter().map(|word| String::from_utf8_lossy(word).into_owned());
    while let Some(word) = words.next() {
        let mut value = |short: &str, long: &str| {
            if word == short || word == long {
                return words.next();
            }
            let attached = word.strip_prefix(&format!("{long}="));
            let attached =
                attached.or_else(|| word.strip_prefix(short).filter(|_| !short.is_empty()));
            attached.map(str::to_owned)
        };
        if word == "--" {
            break;
        } else if let Some(server) = value("-s", "--server") {
            global.server = server.split(',').filter_map(|text| text.parse().ok()).collect();
        } else if word.starts_with("--context") {
            global.context = value("--context", "--context");
        }
    }
    global
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str, word: &str) -> Complete {
        Complete { shell: Shell::Bash, line: line.to_owned(), word: word.to_owned() }
    }

    #[test]
    fn arguments_begin_behind_the_program() {
        for (line, arguments) in [
            ("qctl send jo", "send jo"),
            ("./target/debug/qctl  list ", " list "),
            ("A=1 sudo qctl -s x ", "-s x "),
            ("qctl ", ""),
            ("q send qctl", "send qctl"),
            ("qctl", "qctl"),
        ] {
            assert_eq!(complete(line, "").arguments(), arguments, "{line}");
        }
    }

    #[test]
    fn candidate_takes_the_place_of_the_word_of_the_shell() {
        for (word, prefix, candidate, in_place) in [
            ("jo", "jo", "jobs", "jobs"),
            ("a,jo", "jo", "jobs", "a,jobs"),
            ("--to=jo", "jo", "jobs", "--to=jobs"),
            ("jo", "jo", "jobs", "jobs"),
            ("", "", "jobs", "jobs"),
            // Cut within the part.
            ("c", "a:b:c", "a:b:cd", "cd"),
        ] {
            assert_eq!(complete("", word).in_place(candidate, prefix), in_place, "{word} {prefix}");
        }
    }

    #[test]
    fn server_of_the_line_is_the_one_that_is_asked() {
        let named = |line: &str| {
            let global = named_server(line);
            let servers: Vec<_> = global.server.iter().map(ToString::to_string).collect();
            (servers.join(","), global.context)
        };
        let prod = Some("prod".to_owned());
        assert_eq!(named("send "), (String::new(), None));
        for line in [
            "-s unix:/a,h:1 send ",
            "send --server unix:/a,h:1 ",
            "-sunix:/a,h:1 send ",
            "--server=unix:/a,h:1 ",
        ] {
            assert_eq!(named(line), ("unix:/a,h:1".to_owned(), None), "{line}");
        }
        for line in ["--context prod send ", "send --context=prod "] {
            assert_eq!(named(line), (String::new(), prod.clone()), "{line}");
        }
        assert_eq!(named("work a -- x -s unix:/a "), (String::new(), None));
        assert_eq!(named("send 'a"), (String::new(), None));
    }
}
