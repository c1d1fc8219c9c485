//! `qctl top`: all queues on a whole screen.
//!
//! What is shown ([`app`], [`queues`], [`messages`]) knows neither the terminal nor the server; how
//! it looks ([`draw`]) decides nothing; the loop below is all that waits.
//!
//! ```text
//! keys ──► App ◄── answers          App ──► Ask ──► server, one at a time
//!           └────► draw ──► terminal, only what has changed
//! ```

mod app;
mod backend;
mod draw;
mod input;
mod keys;
mod messages;
mod queues;
mod show;
mod terminal;

use std::io::IsTerminal;
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use qd_protocol::verbs::list::PAGE_MAX;
use qd_protocol::verbs::{self, Describe};
use qd_protocol::{Client, Headers};
use rustix::stdio::{stdin, stdout};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::output::can_move_cursor;
use crate::session::Session;
use crate::units;
use app::{Answer, App, Ask, Effect};
use draw::Theme;
use input::Input;
use terminal::{Canvas, Screen};

pub use terminal::give_back;

/// Watch all queues on the whole screen
///
/// With rates, filter and order, and what is in each queue. Needs a terminal; ? shows the keys.
#[derive(Debug, Clone, Args)]
pub struct Top {
    /// Time between two looks
    #[arg(long, value_name = "D", default_value = "2s", value_parser = units::interval_ms)]
    interval: u64,
}

type Call = Pin<Box<dyn Future<Output = (Ask, Result<Answer, Failure>)>>>;

impl Top {
    /// Shows the queues until a key or a signal ends it.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        check(session)?;
        let client = session.own_client().await?;
        let every = Duration::from_millis(self.interval);
        let app = App::new(client.address().to_string(), every, Instant::now());
        let mut input = Input::new()?;
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let screen = Some(take_screen()?);
        let canvas = terminal::canvas().map_err(|error| cannot_draw(&error))?;
        let mut top = Running { client, app, canvas, theme: Theme::new(colours), screen };
        top.all(&mut input).await
    }
}

/// Refuses where it cannot be used, before anything is done.
fn check(session: &Session) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    let given = &session.given;
    let forms = given.output.is_some_and(|form| form != Format::Table);
    if forms || !given.columns.is_empty() || given.no_header || given.raw {
        return usage("top is a screen: --output, --columns, --no-header and --raw are not for it");
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return usage("top needs a terminal; elsewhere use: qctl stats --watch 2s");
    }
    if !can_move_cursor() {
        return usage(
            "top needs a terminal that can move its cursor, and TERM says that this one cannot; \
             use: qctl stats --watch 2s",
        );
    }
    Ok(())
}

fn take_screen() -> Result<Screen, Failure> {
    Screen::take(stdin(), stdout())
        .map_err(|error| Failure::Io(format!("cannot take the terminal: {error}")))
}

fn cannot_draw(error: &std::io::Error) -> Failure {
    Failure::Io(format!("cannot write to the terminal: {error}"))
}

/// What one `top` works with.
struct Running {
    client: Client,
    app: App,
    canvas: Canvas,
    theme: Theme,
    /// Nothing while this process is stopped. Dropped, and given back, last.
    screen: Option<Screen>,
}

impl Running {
    async fn all(&mut self, input: &mut Input) -> Result<Exit, Failure> {
        let failed = |error| Failure::Io(format!("cannot take signals: {error}"));
        let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
        let mut call: Option<Call> = None;
        loop {
            let now = Instant::now();
            if let Some(ask) = self.app.ask(now) {
                call = Some(Box::pin(carry_out(self.client.clone(), ask)));
            }
            self.draw(now)?;
            let wake = self.app.wake(Instant::now());
            tokio::select! {
                keys = input.next() => {
                    for key in keys? {
                        match self.app.on_key(key, Instant::now()) {
                            Effect::None => {}
                            Effect::Leave => return Ok(Exit::Done),
                            Effect::Redraw => self.clear()?,
                            Effect::Suspend => self.suspend()?,
                        }
                    }
                }
                (ask, answer) = answered(&mut call) => {
                    call = None;
                    self.app.take(ask, answer, Instant::now())?;
                }
                () = sleep_until(wake) => {}
                _ = resized.recv() => {}
            }
        }
    }

    fn draw(&mut self, now: Instant) -> Result<(), Failure> {
        let Self { app, canvas, theme, .. } = self;
        let size = canvas.size().map_err(|error| cannot_draw(&error))?;
        let lines = draw::line_count(app, size.width.into());
        app.set_rows(size.height.into(), lines);
        let drawn = canvas.draw(|frame| draw::draw(frame, app, *theme, now));
        drawn.map(drop).map_err(|error| cannot_draw(&error))
    }

    fn clear(&mut self) -> Result<(), Failure> {
        terminal::clear(&mut self.canvas).map_err(|error| cannot_draw(&error))
    }

    fn suspend(&mut self) -> Result<(), Failure> {
        self.screen = None;
        terminal::suspend();
        self.screen = Some(take_screen()?);
        self.clear()
    }
}

/// What the request that is under way ends with.
async fn answered(call: &mut Option<Call>) -> (Ask, Result<Answer, Failure>) {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

async fn carry_out(client: Client, ask: Ask) -> (Ask, Result<Answer, Failure>) {
    let answer = match ask.clone() {
        Ask::Queues(after) => {
            let list = verbs::List { pattern: None, after, limit: PAGE_MAX };
            client.call(list).await.map(Answer::Queues)
        }
        Ask::Queue(queue) => {
            let described = client.call(Describe { queue }).await;
            described.map(|queue| Answer::Queue(Box::new(queue)))
        }
        Ask::Messages(queue, after) => {
            let headers = Headers::default();
            let max = messages::PAGE;
            let peek = verbs::Peek { queue, max, after, state: None, id: None, headers };
            client.call(peek).await.map(Answer::Messages)
        }
    };
    (ask, answer.map_err(Failure::from))
}
