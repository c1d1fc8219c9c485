//! `qctl context`.

use clap::{Args, Subcommand};

use crate::args::Format;
use crate::config::{self, Config, Context, DEFAULT, check_name};
use crate::exit::{Exit, Failure};
use crate::output::{Deeds, Record, Records, Value, say};
use crate::session::Session;

/// Of the record of a context.
pub const FIELDS: [&str; 5] = ["name", "current", "server", "timeout_ms", "output"];
/// Of the record of what was done.
pub const ADDED: [&str; 2] = ["context", "added"];
/// The same.
pub const USED: [&str; 2] = ["context", "used"];
/// The same.
pub const REMOVED: [&str; 2] = ["context", "removed"];

/// Name servers, and choose one
#[derive(Debug, Clone, Args)]
pub struct ContextVerb {
    #[command(subcommand)]
    action: Action,
}

/// What to do with contexts.
#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Keep --server, --timeout and --output of this command under a name
    Add {
        /// The name: 1 to 64 of A-Z a-z 0-9 . _ -
        #[arg(value_name = "NAME")]
        name: String,
        /// Change a context that exists
        #[arg(long)]
        or_update: bool,
    },
    /// Show the contexts
    List,
    /// Use a context from now on; default: none
    Use {
        /// Its name
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
    /// Show one context
    Show {
        /// Its name [default: the one that commands use]
        #[arg(value_name = "CONTEXT")]
        name: Option<String>,
    },
    /// Remove contexts
    Remove {
        /// Their names
        #[arg(value_name = "CONTEXT", required = true)]
        names: Vec<String>,
    },
}

impl ContextVerb {
    /// Does it.
    pub fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self.action {
            Action::Add { name, or_update } => add(session, &name, or_update),
            Action::List => list(session),
            Action::Use { name } => use_context(session, &name),
            Action::Show { name } => show(session, name),
            Action::Remove { names } => remove(session, &names),
        }
    }
}

fn add(session: &mut Session, name: &str, or_update: bool) -> Result<Exit, Failure> {
    let deeds = Deeds::new(&session.out, false, &ADDED)?;
    check_name(name).map_err(Failure::Usage)?;
    let given = &session.given;
    let context =
        Context { server: given.server.clone(), timeout: given.timeout, output: given.output };
    if context.server.is_empty() {
        let text = "a context needs a server: name it with -s";
        return Err(Failure::Usage(text.to_owned()));
    }
    let config = Config::load()?;
    let existing = config.contexts.get(name);
    let is_equal = existing == Some(&context);
    let what = match existing {
        None => "added",
        Some(_) if is_equal => "exists:",
        Some(_) if or_update => "updated",
        Some(existing) => {
            let text = format!(
                "context {name:?} exists with {}, not {} (--or-update changes it)",
                told(existing),
                told(&context)
            );
            return Err(Failure::Exists(text));
        }
    };
    let is_new = existing.is_none();
    if !is_equal {
        config::add(&config, name, &context)?;
    }
    done(session, deeds, &ADDED, name, is_new, &format!("{what} {name}"))
}

/// A context in a message.
fn told(context: &Context) -> String {
    let record = record("", false, context);
    let fields = record.into_iter().skip(2).filter(|(_, value)| *value != Value::NameOrEmpty(None));
    let fields = fields.map(|(name, value)| format!("{name} {}", value.plain()));
    fields.collect::<Vec<_>>().join(", ")
}

fn list(session: &mut Session) -> Result<Exit, Failure> {
    let mut records = Records::new(&session.out, true, &known(), &["name"], &FIELDS)?;
    let config = Config::load()?;
    for (name, context) in &config.contexts {
        let is_current = config.current.as_ref() == Some(name);
        records.push(&mut session.out, &record(name, is_current, context))?;
    }
    records.finish(&mut session.out)?;
    Ok(Exit::Done)
}

fn show(session: &mut Session, name: Option<String>) -> Result<Exit, Failure> {
    let mut records = Records::new(&session.out, false, &known(), &FIELDS, &FIELDS)?;
    let in_use = match name {
        Some(name) => Some(name),
        None => config::resolve(session.global.clone())?.of_context,
    };
    let Some(name) = in_use.filter(|name| name != DEFAULT) else {
        say("no context is in use");
        return Ok(Exit::Negative);
    };
    let config = Config::load()?;
    let context = config.find(&name).map_err(Failure::Missing)?;
    let is_current = config.current.as_ref() == Some(&name);
    records.push(&mut session.out, &record(&name, is_current, context))?;
    records.finish(&mut session.out)?;
    Ok(Exit::Done)
}

fn use_context(session: &mut Session, name: &str) -> Result<Exit, Failure> {
    let deeds = Deeds::new(&session.out, false, &USED)?;
    let config = Config::load()?;
    let named = Some(name).filter(|name| *name != DEFAULT);
    if let Some(name) = named {
        config.find(name).map_err(Failure::Missing)?;
    }
    if config.current.as_deref() != named {
        config::use_context(&config, name)?;
    }
    warn_of_environment();
    let sentence = match named {
        Some(name) => format!("using {name}"),
        None => "using the default server".to_owned(),
    };
    done(session, deeds, &USED, name, true, &sentence)
}

/// What is set in the environment goes before what was chosen here.
fn warn_of_environment() {
    for name in ["QCTL_SERVER", "QCTL_CONTEXT"] {
        if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
            say(&format!("{name} is set, and goes before the context"));
        }
    }
}

fn remove(session: &mut Session, names: &[String]) -> Result<Exit, Failure> {
    let mut deeds = Deeds::new(&session.out, names.len() > 1, &REMOVED)?;
    let config = Config::load()?;
    // All of them or none.
    for name in names {
        config.find(name).map_err(Failure::Missing)?;
    }
    config::remove(&config, names)?;
    for name in names {
        let is_current = config.current.as_ref() == Some(name);
        let now = if is_current { "; no context is in use now" } else { "" };
        let record = deed(&REMOVED, name, true);
        deeds.push(&mut session.out, &record, &format!("removed {name}{now}"))?;
    }
    deeds.finish(&mut session.out)?;
    Ok(Exit::Done)
}

fn done(
    session: &mut Session,
    mut deeds: Deeds,
    fields: &[&str; 2],
    name: &str,
    flag: bool,
    sentence: &str,
) -> Result<Exit, Failure> {
    deeds.push(&mut session.out, &deed(fields, name, flag), sentence)?;
    deeds.finish(&mut session.out)?;
    Ok(Exit::Done)
}

fn deed(fields: &[&str; 2], name: &str, flag: bool) -> Record {
    let values = [Value::Text(name.to_owned()), Value::Flag(flag)];
    fields.map(str::to_owned).into_iter().zip(values).collect()
}

fn known() -> Vec<String> {
    FIELDS.map(str::to_owned).to_vec()
}

fn record(name: &str, is_current: bool, context: &Context) -> Record {
    let servers: Vec<String> = context.server.iter().map(ToString::to_string).collect();
    let values = [
        Value::Text(name.to_owned()),
        Value::Flag(is_current),
        Value::Text(servers.join(",")),
        context.timeout.map_or(Value::NameOrEmpty(None), Value::Millis),
        Value::NameOrEmpty(context.output.map(Format::name)),
    ];
    FIELDS.map(str::to_owned).into_iter().zip(values).collect()
}
