//! One file per verb: its flags and what it does.

pub mod apply;
pub mod attributes;
mod by_id;
pub mod complete;
pub mod completions;
mod confirm;
pub mod context;
pub mod create;
pub mod delete;
pub mod drop;
mod envelope;
pub mod export;
pub mod extend;
mod headers;
pub mod held;
pub mod info;
pub mod list;
mod meant;
mod message_flags;
mod paged;
pub mod pause;
pub mod peek;
pub mod ping;
pub mod purge;
pub mod receive;
pub mod redrive;
pub mod reject;
pub mod release;
pub mod reschedule;
mod seen;
pub mod send;
mod send_atomic;
mod send_input;
mod send_stream;
pub mod server;
mod settle;
pub mod stats;
pub mod update;
mod watch;
mod when;

pub use confirm::messages;
use meant::with_meant;

use crate::args::Verb;
use crate::exit::{Exit, Failure};
use crate::output::{FILE, PEEKED_FIELDS, RECEIVED_FIELDS};
use crate::session::Session;

/// Does what `verb` says, until a signal or `--timeout` ends it.
pub async fn run(verb: Verb, session: &mut Session) -> Result<Exit, Failure> {
    match run_to_its_end(verb, session).await {
        Err(failure) => Err(with_meant(session, failure).await),
        done => done,
    }
}

async fn run_to_its_end(verb: Verb, session: &mut Session) -> Result<Exit, Failure> {
    if ends_by_itself(&verb) {
        return dispatch(verb, session).await;
    }
    let verb = match verb {
        // It ends the document.
        Verb::Stats(verb) if verb.watches() => return verb.run(session).await,
        // It ends with a status of its own.
        Verb::Server(server) if server.is_check() => return server.run(session).await,
        verb => verb,
    };
    let stop = session.stop.clone();
    tokio::select! {
        biased;
        result = dispatch(verb, session) => result,
        failure = stop.stopped() => Err(failure),
    }
}

/// Whether a verb looks after signals itself: a benchmark drops its scratch queue, a receive gives back
/// what it holds, a worker lets its commands end, the others say how far they got.
fn ends_by_itself(verb: &Verb) -> bool {
    match verb {
        Verb::Delete(delete) => delete.settles(),
        Verb::Send(send) => send.streams(),
        Verb::Apply(_)
        | Verb::Bench(_)
        | Verb::Ping(_)
        | Verb::Receive(_)
        | Verb::Redrive(_)
        | Verb::Purge(_)
        | Verb::Work(_)
        | Verb::Extend(_)
        | Verb::Release(_)
        | Verb::Reject(_) => true,
        _ => false,
    }
}

/// What `--columns` of a verb may name; nothing for one whose records are not known beforehand.
pub fn columns(verb: &str) -> Vec<String> {
    let fields: &[&str] = match verb {
        "list" | "info" => return list::columns(),
        "stats" => return watch::columns(),
        // The file is that of --dir.
        "receive" => &[&RECEIVED_FIELDS[..], &[FILE]].concat(),
        "peek" => &PEEKED_FIELDS,
        "purge" => &purge::FIELDS,
        "pause" | "resume" => &pause::FIELDS,
        "create" => &create::FIELDS,
        "update" => &update::FIELDS,
        "send" => &send::FIELDS,
        "delete" => &["queue", delete::DONE],
        "release" => &["queue", release::DONE],
        "reject" => &["queue", reject::DONE],
        "reschedule" => &["queue", reschedule::DONE],
        "extend" => &extend::FIELDS,
        "redrive" => &redrive::FIELDS,
        "drop" => &drop::FIELDS,
        "apply" => &apply::FIELDS,
        "ping" => return ping::fields(),
        "server stop" => &server::STOP_FIELDS,
        "server info" => &server::INFO_FIELDS,
        "server check" => &server::CHECK_FIELDS,
        "context list" | "context show" => &context::FIELDS,
        "context add" => &context::ADDED,
        "context use" => &context::USED,
        "context remove" => &context::REMOVED,
        _ => &[],
    };
    fields.iter().map(|&name| name.to_owned()).collect()
}

async fn dispatch(verb: Verb, session: &mut Session) -> Result<Exit, Failure> {
    match verb {
        Verb::Create(verb) => verb.run(session).await,
        Verb::Send(verb) => verb.run(session).await,
        Verb::Receive(verb) => verb.run(session).await,
        Verb::Delete(verb) => verb.run(session).await,
        Verb::Extend(verb) => verb.run(session).await,
        Verb::Release(verb) => verb.run(session).await,
        Verb::Reject(verb) => verb.run(session).await,
        Verb::Reschedule(verb) => verb.run(session).await,
        Verb::Redrive(verb) => verb.run(session).await,
        Verb::Peek(verb) => verb.run(session).await,
        Verb::Purge(verb) => verb.run(session).await,
        Verb::Pause(verb) => verb.run(session).await,
        Verb::Resume(verb) => verb.run(session).await,
        Verb::Update(verb) => verb.run(session).await,
        Verb::Drop(verb) => verb.run(session).await,
        Verb::List(verb) => verb.run(session).await,
        Verb::Info(verb) => verb.run(session).await,
        Verb::Stats(verb) => verb.run(session).await,
        Verb::Export(verb) => verb.run(session).await,
        Verb::Apply(verb) => verb.run(session).await,
        Verb::Top(verb) => verb.run(session).await,
        Verb::Ping(verb) => verb.run(session).await,
        Verb::Server(verb) => verb.run(session).await,
        Verb::Work(verb) => verb.run(session).await,
        Verb::Bench(verb) => verb.run(session).await,
        Verb::Context(verb) => verb.run(session),
        Verb::Demo(verb) => verb.run(session).await,
        Verb::Completions(verb) => verb.run(session),
        Verb::Complete(verb) => verb.run().await,
    }
}
