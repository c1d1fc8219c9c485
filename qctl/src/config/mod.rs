//! `$XDG_CONFIG_HOME/qctl/config.toml`: contexts, which are servers with a name, and how to talk to
//! them.
//!
//! ```text
//! current = "prod"
//!
//! [contexts.prod]
//! server = ["10.0.0.1:7655", "10.0.0.2:7655"]
//! timeout = "30s"
//! output = "json"
//! ```
//!
//! Always true here: an unknown key or a bad value is told with its place, and nothing of the file
//! is used then; the comments of the file survive every change.

mod edit;
mod read;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use qd_protocol::Address;

use crate::args::{Format, Global};
use crate::exit::Failure;
use crate::suggest::did_you_mean;

pub use edit::{add, remove, use_context};

/// The name that stands for no context: the server that is found without any.
pub const DEFAULT: &str = "default";
/// Longest name of a context in characters.
const NAME_CHARACTERS_MAX: usize = 64;
/// Largest file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A server with a name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Context {
    /// Its addresses, tried in turn; at least one.
    pub server: Vec<Address>,
    /// `--timeout` in milliseconds.
    pub timeout: Option<u64>,
    /// `--output`.
    pub output: Option<Format>,
}

/// The file.
#[derive(Debug)]
pub struct Config {
    /// Where it is, or would be.
    path: PathBuf,
    /// What is in it; empty where there is none.
    text: String,
    /// The context in use unless something else is said.
    pub current: Option<String>,
    /// All of them.
    pub contexts: BTreeMap<String, Context>,
}

impl Config {
    /// Reads it. That there is none is as if it were empty.
    pub fn load() -> Result<Self, Failure> {
        Self::load_from(path()?)
    }

    fn load_from(path: PathBuf) -> Result<Self, Failure> {
        let Some(bytes) = read_file(&path)? else {
            let (text, contexts) = (String::new(), BTreeMap::new());
            return Ok(Self { path, text, current: None, contexts });
        };
        read::read(path, bytes).map_err(Failure::Config)
    }

    /// The context with this name.
    pub fn find(&self, name: &str) -> Result<&Context, String> {
        self.contexts.get(name).ok_or_else(|| {
            let known = self.contexts.keys().map(String::as_str).chain([DEFAULT]);
            let meant = did_you_mean(name, known);
            format!("no context is named {name:?} in {}{meant}", self.path.display())
        })
    }
}

/// Where the file is.
fn path() -> Result<PathBuf, Failure> {
    let missing = || {
        let text =
            "neither XDG_CONFIG_HOME nor a home directory is known, so that there are no contexts";
        Failure::Config(text.to_owned())
    };
    let strategy = etcetera::base_strategy::Xdg::new().map_err(|_| missing())?;
    let directory = strategy.config_dir();
    if directory.is_absolute() {
        Ok(directory.join("qctl").join("config.toml"))
    } else {
        Err(missing())
    }
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let failed =
        |error: std::io::Error| Failure::Config(format!("cannot read {}: {error}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text = format!("{} is over 1 MiB, the limit of a configuration", path.display());
        return Err(Failure::Config(text));
    }
    Ok(Some(bytes))
}

/// Checks the name of a context.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    if name == DEFAULT {
        return Err(format!("{DEFAULT} is the name for no context"));
    }
    if name.is_empty() || name.len() > NAME_CHARACTERS_MAX || !name.chars().all(allowed) {
        return Err(format!(
            "{name:?} is no name for a context: 1 to {NAME_CHARACTERS_MAX} of A-Z a-z 0-9 . _ -"
        ));
    }
    Ok(())
}

/// The names there are, for completion; none where the file cannot be read.
pub fn names() -> Vec<String> {
    let names = Config::load().map(|config| config.contexts.into_keys().collect());
    names.unwrap_or_default()
}

/// The flags, and where these say nothing what the context says: that of `--context`; else, unless
/// `--server` or `QCTL_SERVER` names the server, that of `QCTL_CONTEXT`, or the current one.
pub fn resolve(global: Global) -> Result<Global, Failure> {
    resolve_with(global, |name| std::env::var_os(name), Config::load)
}

fn resolve_with(
    mut global: Global,
    environment: impl Fn(&str) -> Option<OsString>,
    load: impl FnOnce() -> Result<Config, Failure>,
) -> Result<Global, Failure> {
    let variable = |name| environment(name).filter(|value| !value.is_empty());
    let named = match &global.context {
        Some(name) => Some(name.clone()),
        None if !global.server.is_empty() || variable("QCTL_SERVER").is_some() => {
            return Ok(global);
        }
        None => variable("QCTL_CONTEXT").map(|name| name.to_string_lossy().into_owned()),
    };
    if named.as_deref() == Some(DEFAULT) {
        global.default_server = true;
        return Ok(global);
    }
    let config = match load() {
        Ok(config) => config,
        // Without a home there is no current context either.
        Err(_) if named.is_none() && path().is_err() => return Ok(global),
        Err(failure) => return Err(failure),
    };
    let Some(name) = named.or_else(|| config.current.clone()) else {
        return Ok(global);
    };
    let context = config.find(&name).map_err(Failure::Config)?;
    if global.server.is_empty() {
        global.server.clone_from(&context.server);
    }
    global.timeout = global.timeout.or(context.timeout);
    global.output = global.output.or(context.output);
    global.of_context = Some(name);
    Ok(global)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn config() -> Config {
        let context = |server: &str, timeout| Context {
            server: vec![address(server)],
            timeout,
            output: Some(Format::Json),
        };
        Config {
            path: "/c".into(),
            text: String::new(),
            current: Some("prod".to_owned()),
            contexts: BTreeMap::from([
                ("prod".to_owned(), context("p:1", Some(5))),
                ("test".to_owned(), context("t:1", None)),
            ]),
        }
    }

    /// Server, timeout and context that come out.
    fn resolved(
        global: Global,
        environment: &[(&str, &str)],
    ) -> Result<(String, Option<u64>, Option<String>), Failure> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let global = resolve_with(global, variable, || Ok(config()))?;
        let mut server: String = global.server.iter().map(ToString::to_string).collect();
        if global.default_server {
            server.push_str("the default");
        }
        Ok((server, global.timeout, global.of_context))
    }

    #[test]
    fn flags_go_before_the_environment_and_that_before_the_file() {
        let flags = |server: Option<&str>, context: Option<&str>| Global {
            server: server.map(address).into_iter().collect(),
            context: context.map(str::to_owned),
            ..Global::default()
        };
        let (server, context) = (("QCTL_SERVER", "e:1"), ("QCTL_CONTEXT", "test"));
        let is = |global: Global, environment: &[_], server: &str, context: Option<&str>| {
            let found = resolved(global, environment).unwrap();
            assert_eq!((found.0.as_str(), found.2.as_deref()), (server, context));
        };
        is(flags(None, None), &[], "p:1", Some("prod"));
        is(flags(None, None), &[context], "t:1", Some("test"));
        is(flags(None, None), &[("QCTL_CONTEXT", "")], "p:1", Some("prod"));
        is(flags(None, None), &[("QCTL_CONTEXT", "default")], "the default", None);
        is(flags(None, None), &[server, context], "", None);
        is(flags(None, Some("prod")), &[server, context], "p:1", Some("prod"));
        is(flags(None, Some("default")), &[server, context], "the default", None);
        is(flags(Some("s:1"), None), &[context], "s:1", None);
        is(flags(Some("s:1"), Some("test")), &[server], "s:1", Some("test"));
    }

    #[test]
    fn context_gives_what_no_flag_gives() {
        let found = resolved(Global::default(), &[]).unwrap();
        assert_eq!(found.1, Some(5));
        let global = Global { timeout: Some(7), ..Global::default() };
        assert_eq!(resolved(global, &[]).unwrap().1, Some(7));
    }

    #[test]
    fn context_that_is_not_there_is_told_with_what_was_meant() {
        let failure = resolved(Global::default(), &[("QCTL_CONTEXT", "prd")]).unwrap_err();
        assert_eq!(failure.exit().code(), 78);
        let text = "no context is named \"prd\" in /c; did you mean \"prod\"?";
        assert_eq!(failure.to_string(), text);
    }

    #[test]
    fn names_are_held_to_the_rule() {
        for good in ["prod", "a.b_c-9", "-x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "default", "a b", "é", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
