//! One file per verb: its flags and what it does.

pub mod completions;
pub mod create;
pub mod delete;
pub mod drop;
pub mod info;
pub mod list;
pub mod ping;
pub mod receive;
pub mod send;
mod send_stream;
pub mod server;

use crate::args::Verb;
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Does what `verb` says, until a signal or `--timeout` ends it.
pub async fn run(verb: Verb, session: &mut Session) -> Result<Exit, Failure> {
    // A benchmark ends by itself, to drop its scratch queue.
    if let Verb::Bench(bench) = verb {
        return bench.run(session).await;
    }
    let stop = session.stop.clone();
    tokio::select! {
        biased;
        result = dispatch(verb, session) => result,
        failure = stop.stopped() => Err(failure),
    }
}

async fn dispatch(verb: Verb, session: &mut Session) -> Result<Exit, Failure> {
    match verb {
        Verb::Create(verb) => verb.run(session).await,
        Verb::Send(verb) => verb.run(session).await,
        Verb::Receive(verb) => verb.run(session).await,
        Verb::Delete(verb) => verb.run(session).await,
        Verb::Drop(verb) => verb.run(session).await,
        Verb::List(verb) => verb.run(session).await,
        Verb::Info(verb) => verb.run(session).await,
        Verb::Ping(verb) => verb.run(session).await,
        Verb::Server(verb) => verb.run(session).await,
        Verb::Bench(verb) => verb.run(session).await,
        Verb::Demo(verb) => verb.run(session).await,
        Verb::Completions(verb) => verb.run(session),
    }
}
