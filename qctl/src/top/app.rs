//! What is shown, what a key does, and what the server is asked for.
//!
//! Always true here: at most one request is under way; a new look begins when the interval is over
//! and at least as long as the last one took has gone by since it, so that a slow link is never
//! busy with looks alone.

use std::time::Duration;

use qd_protocol::verbs::{Listed, Peeked};
use qd_protocol::{QueueDescription, QueueName};
use tokio::time::Instant;

use super::keys::Key;
use super::messages::Messages;
use super::queues::{Column, Queues};
use crate::exit::Failure;

/// How soon a server that is away is asked again, at the latest.
const RETRY: Duration = Duration::from_secs(1);
/// An answer that takes longer is missed.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often a time that is shown changes.
const TICK: Duration = Duration::from_secs(1);
/// Rows that are not those of a table.
const CHROME_ROWS: usize = 3;
/// Longest text to filter by: that of a name.
const FILTER_CHARACTERS_MAX: usize = 128;

/// What the server is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The queues behind this one.
    Queues(Option<QueueName>),
    /// One queue.
    Queue(QueueName),
    /// Messages of a queue behind this id.
    Messages(QueueName, u64),
}

/// What it answers.
#[derive(Debug)]
pub enum Answer {
    /// A page of queues.
    Queues(Listed),
    /// One queue.
    Queue(Box<QueueDescription>),
    /// Messages.
    Messages(Peeked),
}

/// What a key does besides changing what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The end.
    Leave,
    /// Everything is drawn anew.
    Redraw,
    /// Ctrl-Z.
    Suspend,
}

/// What fills the screen.
#[derive(Debug)]
pub enum View {
    /// All queues.
    Queues,
    /// One of them.
    Queue {
        /// Its name.
        name: QueueName,
        /// The first line of its fields that is shown.
        top: usize,
    },
    /// Its messages.
    Messages(Messages),
    /// One of these.
    Message {
        /// The page that it is in.
        messages: Messages,
        /// The first line that is shown.
        top: usize,
    },
}

/// The server does not answer.
#[derive(Debug)]
pub struct Away {
    /// Since when.
    pub since: Instant,
    /// What it was told first.
    pub reason: String,
}

/// All of it.
#[derive(Debug)]
pub struct App {
    /// The server's address.
    pub server: String,
    /// Time between two looks.
    pub every: Duration,
    /// The queues.
    pub queues: Queues,
    /// What fills the screen.
    pub view: View,
    /// Whether the keys are shown above it.
    pub help: bool,
    /// Whether what is typed is the filter.
    pub typing: bool,
    /// Since when the server does not answer.
    pub away: Option<Away>,
    /// Since when a request is under way.
    asked: Option<Instant>,
    /// When the look that is under way has begun.
    began: Option<Instant>,
    /// When the next look is due.
    due: Instant,
}

impl App {
    /// Before the first look.
    pub fn new(server: String, every: Duration, now: Instant) -> Self {
        Self {
            server,
            every,
            queues: Queues::new(),
            view: View::Queues,
            help: false,
            typing: false,
            away: None,
            asked: None,
            began: None,
            due: now,
        }
    }

    /// The request that is to be made now, and counts as under way from then on.
    pub fn ask(&mut self, now: Instant) -> Option<Ask> {
        if self.asked.is_some() {
            return None;
        }
        let wanted = match &self.view {
            View::Messages(messages) | View::Message { messages, .. } if messages.wanted => {
                let retry = self.away.is_some() && now < self.due;
                (!retry).then(|| Ask::Messages(messages.queue.clone(), messages.after()))
            }
            View::Messages(messages) | View::Message { messages, .. } if now >= self.due => {
                Some(Ask::Queue(messages.queue.clone()))
            }
            View::Queue { name, .. } if now >= self.due => Some(Ask::Queue(name.clone())),
            View::Queues if self.began.is_some() || now >= self.due => {
                Some(Ask::Queues(self.queues.found_last().cloned()))
            }
            _ => None,
        };
        if wanted.is_some() {
            self.asked = Some(now);
            self.began.get_or_insert(now);
        }
        wanted
    }

    /// Takes what came of a request.
    pub fn take(
        &mut self,
        ask: Ask,
        answer: Result<Answer, Failure>,
        now: Instant,
    ) -> Result<(), Failure> {
        self.asked = None;
        match answer {
            Err(failure) if failure.is_absence() => {
                let reason = failure.to_string();
                self.away.get_or_insert(Away { since: now, reason });
                self.queues.abandon_look();
                self.began = None;
                self.due = now + self.every.min(RETRY);
                return Ok(());
            }
            _ => self.away = None,
        }
        match (ask, answer) {
            (Ask::Queues(_), Ok(Answer::Queues(_))) if !matches!(self.view, View::Queues) => {
                self.queues.abandon_look();
                self.look_at_once(now);
                return Ok(());
            }
            (Ask::Queues(_), Ok(Answer::Queues(page))) => {
                let more = page.more && !page.queues.is_empty();
                self.queues.take(page.queues, now);
                if more {
                    return Ok(());
                }
                self.queues.end_look();
            }
            (Ask::Queue(name), answer) => {
                match answer {
                    Ok(Answer::Queue(queue)) => self.queues.take_one(*queue, now),
                    Err(failure) if failure.refusal().is_some() => self.queues.lose(&name),
                    Err(failure) => return Err(failure),
                    Ok(_) => return Err(other_answer()),
                }
                if self.queue() != Some(&name) {
                    self.look_at_once(now);
                    return Ok(());
                }
            }
            (Ask::Messages(queue, after), answer) => {
                return self.take_messages(&queue, after, answer);
            }
            (Ask::Queues(_), Err(failure)) => return Err(failure),
            (Ask::Queues(_), Ok(_)) => return Err(other_answer()),
        }
        // The next one is due when the interval is over, and half of the time has gone to waiting.
        let began = self.began.take().unwrap_or(now);
        let took = now.saturating_duration_since(began);
        self.due = (began + self.every).max(now + took);
        Ok(())
    }

    /// What was looked at is not what is shown by now.
    fn look_at_once(&mut self, now: Instant) {
        self.began = None;
        self.due = now;
    }

    /// The queue that is shown by itself, or whose messages are.
    pub fn queue(&self) -> Option<&QueueName> {
        match &self.view {
            View::Queues => None,
            View::Queue { name, .. } => Some(name),
            View::Messages(messages) | View::Message { messages, .. } => Some(&messages.queue),
        }
    }

    fn take_messages(
        &mut self,
        queue: &QueueName,
        after: u64,
        answer: Result<Answer, Failure>,
    ) -> Result<(), Failure> {
        self.began = None;
        let peeked = match answer {
            Ok(Answer::Messages(peeked)) => Ok(peeked),
            Ok(_) => return Err(other_answer()),
            Err(failure) if failure.refusal().is_some() => Err(failure),
            Err(failure) => return Err(failure),
        };
        match &mut self.view {
            View::Messages(messages) | View::Message { messages, .. }
                if messages.queue == *queue && messages.after() == after =>
            {
                messages.take(peeked)
            }
            // Nobody looks at them any more.
            _ => Ok(()),
        }
    }

    /// When something is to be done or drawn although nothing has happened.
    pub fn wake(&self, now: Instant) -> Instant {
        let ticks = self.away.is_some() || self.asked.is_some();
        let due = if self.asked.is_none() { self.due } else { now + TICK };
        if ticks { due.min(now + TICK) } else { due }
    }

    /// How long an answer has been missed for.
    pub fn missed_for(&self, now: Instant) -> Option<Duration> {
        let since = self.asked.map(|asked| now.saturating_duration_since(asked));
        since.filter(|since| *since >= ANSWER_WITHIN)
    }

    /// Shares the rows of the screen out; `lines` is how many lines there are to scroll through.
    pub fn set_rows(&mut self, rows: usize, lines: usize) {
        // The title, the names of the columns, and the last line.
        let room = rows.saturating_sub(CHROME_ROWS);
        self.queues.set_visible(room);
        match &mut self.view {
            View::Queues => {}
            View::Messages(messages) => messages.set_visible(room),
            View::Queue { top, .. } | View::Message { top, .. } => {
                *top = (*top).min(lines.saturating_sub(1));
            }
        }
    }

    /// Does what a key stands for.
    pub fn on_key(&mut self, key: Key, now: Instant) -> Effect {
        match key {
            Key::Ctrl('c') => return Effect::Leave,
            Key::Ctrl('l') => return Effect::Redraw,
            Key::Ctrl('z') => return Effect::Suspend,
            _ if self.help => {
                self.help = false;
                return if key == Key::Char('q') { Effect::Leave } else { Effect::None };
            }
            _ if self.typing => {
                self.type_filter(key);
                return Effect::None;
            }
            Key::Char('q') => return Effect::Leave,
            Key::Char('?') => self.help = true,
            _ => self.on_key_of_view(key, now),
        }
        Effect::None
    }

    fn type_filter(&mut self, key: Key) {
        let mut filter = self.queues.filter().to_owned();
        match key {
            Key::Char(character) if filter.chars().count() < FILTER_CHARACTERS_MAX => {
                filter.push(character);
            }
            Key::Backspace => {
                self.typing = filter.pop().is_some();
            }
            Key::Ctrl('u') => filter.clear(),
            Key::Escape => {
                filter.clear();
                self.typing = false;
            }
            Key::Enter => self.typing = false,
            Key::Up => self.queues.move_by(-1),
            Key::Down => self.queues.move_by(1),
            _ => {}
        }
        self.queues.set_filter(filter);
    }

    fn on_key_of_view(&mut self, key: Key, now: Instant) {
        match std::mem::replace(&mut self.view, View::Queues) {
            View::Queues => self.on_key_of_queues(key, now),
            View::Queue { name, top } => match key {
                Key::Escape | Key::Backspace | Key::Left => self.due = now,
                Key::Enter | Key::Right | Key::Char('p') => {
                    self.view = View::Messages(Messages::new(name));
                }
                _ => {
                    let top = scrolled(top, key, self.queues.page());
                    self.view = View::Queue { name, top };
                }
            },
            View::Messages(mut messages) => match key {
                Key::Escape | Key::Backspace | Key::Left => {
                    self.view = View::Queue { name: messages.queue, top: 0 };
                    self.due = now;
                }
                Key::Enter | Key::Right if messages.chosen().is_some() => {
                    self.view = View::Message { messages, top: 0 };
                }
                _ => {
                    on_key_of_messages(&mut messages, key);
                    self.view = View::Messages(messages);
                }
            },
            View::Message { mut messages, top } => match key {
                Key::Escape | Key::Backspace => self.view = View::Messages(messages),
                Key::Left | Key::Right => {
                    messages.move_by(if key == Key::Left { -1 } else { 1 });
                    self.view = View::Message { messages, top: 0 };
                }
                _ => {
                    let top = scrolled(top, key, messages.rows());
                    self.view = View::Message { messages, top };
                }
            },
        }
    }

    fn on_key_of_queues(&mut self, key: Key, now: Instant) {
        if let Key::Char(letter) = key
            && let Some((column, _)) = Column::ALL.into_iter().find(|(_, own)| *own == letter)
        {
            return self.queues.sort_by(column);
        }
        match key {
            Key::Enter | Key::Right | Key::Char('p') => {
                if let Some(row) = self.queues.chosen() {
                    let name = row.queue.name.clone();
                    self.view = match key {
                        Key::Char(_) => View::Messages(Messages::new(name)),
                        _ => View::Queue { name, top: 0 },
                    };
                    self.due = now;
                }
            }
            Key::Char('/') => self.typing = true,
            Key::Escape => self.queues.set_filter(String::new()),
            Key::Char(' ') => self.due = now,
            _ => self.queues.move_by(steps(key, self.queues.page())),
        }
    }
}

fn other_answer() -> Failure {
    Failure::Internal("an answer to something else".to_owned())
}

fn on_key_of_messages(messages: &mut Messages, key: Key) {
    match key {
        Key::Char('n') => messages.next_page(),
        Key::Char('b') => messages.previous_page(),
        Key::Char('r' | ' ') => messages.again(),
        _ => messages.move_by(steps(key, messages.rows())),
    }
}

/// How far down a key goes.
fn steps(key: Key, page: usize) -> isize {
    let page = isize::try_from(page).unwrap_or(isize::MAX);
    match key {
        Key::Up | Key::Char('k') => -1,
        Key::Down | Key::Char('j') => 1,
        Key::PageUp => -page,
        Key::PageDown => page,
        Key::Home | Key::Char('g') => isize::MIN,
        Key::End | Key::Char('G') => isize::MAX,
        _ => 0,
    }
}

/// The first line that is shown, behind a key; whoever draws knows where the end is.
fn scrolled(top: usize, key: Key, page: usize) -> usize {
    top.saturating_add_signed(steps(key, page))
}

#[cfg(test)]
pub mod testing {
    //! An application without a server.

    use super::*;
    use crate::top::messages::testing::peeked;
    use crate::top::queues::testing::{names, queue};
    use qd_protocol::{Address, ClientError, ErrorCode};

    /// The queues of one page, with so many messages each.
    pub fn page(queues: &[(&str, u64)], more: bool) -> Answer {
        let queues = queues.iter().map(|(name, ready)| queue(name, *ready, *ready)).collect();
        Answer::Queues(Listed { queues, more })
    }

    /// The server is away.
    pub fn lost() -> Result<Answer, Failure> {
        let address = Address::Tcp("localhost:1".to_owned());
        Err(ClientError::Lost { address, reason: "on purpose".to_owned() }.into())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// After one look at these queues, and when that was.
    pub fn looked(queues: &[(&str, u64)]) -> (App, Instant) {
        let now = Instant::now();
        let mut app = App::new("unix:/s".to_owned(), seconds(2), now);
        app.set_rows(24, 0);
        let ask = app.ask(now).unwrap();
        app.take(ask, Ok(page(queues, false)), now).unwrap();
        app.set_rows(24, 0);
        (app, now)
    }

    /// Presses these keys, each a character but `\r` and `\x1b`.
    pub fn press(app: &mut App, keys: &str, now: Instant) -> Effect {
        let mut effect = Effect::None;
        for key in keys.chars() {
            let key = match key {
                '\r' => Key::Enter,
                '\x1b' => Key::Escape,
                other => Key::Char(other),
            };
            effect = app.on_key(key, now);
        }
        effect
    }

    #[test]
    fn one_request_is_under_way_and_pages_follow_at_once() {
        let now = Instant::now();
        let mut app = App::new("unix:/s".to_owned(), seconds(2), now);
        let first = app.ask(now).unwrap();
        assert_eq!(first, Ask::Queues(None));
        assert_eq!(app.ask(now + seconds(60)), None);
        app.take(first, Ok(page(&[("a", 1), ("b", 1)], true)), now).unwrap();
        let second = app.ask(now).unwrap();
        assert!(matches!(&second, Ask::Queues(Some(name)) if name.as_str() == "b"));
        assert!(!app.queues.is_known());
        app.take(second, Ok(page(&[("c", 1)], false)), now).unwrap();
        assert_eq!(app.queues.count(), 3);
        assert_eq!(app.ask(now + seconds(1)), None);
        assert_eq!(app.wake(now), now + seconds(2));
        assert_eq!(app.ask(now + seconds(2)), Some(Ask::Queues(None)));
    }

    #[test]
    fn slow_look_is_followed_by_as_long_a_rest() {
        let (mut app, start) = looked(&[("a", 1)]);
        let ask = app.ask(start + seconds(2)).unwrap();
        assert_eq!(app.missed_for(start + seconds(3)), None);
        assert_eq!(app.missed_for(start + seconds(5)), Some(seconds(3)));
        app.take(ask, Ok(page(&[("a", 1)], false)), start + seconds(12)).unwrap();
        assert_eq!(app.ask(start + seconds(21)), None);
        assert!(app.ask(start + seconds(22)).is_some());
    }

    #[test]
    fn server_that_is_away_is_tried_again_and_what_was_known_stays() {
        let (mut app, start) = looked(&[("a", 1)]);
        let ask = app.ask(start + seconds(2)).unwrap();
        app.take(ask, lost(), start + seconds(2)).unwrap();
        let away = app.away.as_ref().unwrap();
        assert!(away.reason.contains("on purpose"), "{away:?}");
        assert_eq!((app.queues.count(), app.ask(start + seconds(2))), (1, None));
        let ask = app.ask(start + seconds(3)).unwrap();
        app.take(ask, lost(), start + seconds(3)).unwrap();
        assert_eq!(app.away.as_ref().map(|away| away.since), Some(start + seconds(2)));
        let ask = app.ask(start + seconds(4)).unwrap();
        app.take(ask, Ok(page(&[("b", 1)], false)), start + seconds(4)).unwrap();
        assert!(app.away.is_none());
        assert_eq!(names(&app.queues), ["[b]"]);
    }

    #[test]
    fn failure_that_no_repeat_can_mend_ends_it() {
        let (mut app, start) = looked(&[("a", 1)]);
        let ask = app.ask(start + seconds(2)).unwrap();
        let failure = Failure::Protocol("nonsense".to_owned());
        assert!(app.take(ask, Err(failure), start).is_err());
    }

    #[test]
    fn queue_is_opened_looked_at_by_itself_and_left() {
        let (mut app, now) = looked(&[("a", 1), ("b", 2)]);
        press(&mut app, "j\r", now);
        let name = QueueName::new("a").unwrap();
        let ask = app.ask(now).unwrap();
        assert_eq!(ask, Ask::Queue(name.clone()));
        app.take(ask, Ok(Answer::Queue(Box::new(queue("a", 7, 7)))), now).unwrap();
        assert_eq!(app.queues.get(&name).unwrap().depths, [1, 7]);
        let ask = app.ask(now + seconds(2)).unwrap();
        let refusal = ErrorCode::NoSuchQueue.refuse("gone");
        app.take(ask, Err(refusal.into()), now + seconds(2)).unwrap();
        assert!(app.queues.get(&name).unwrap().gone);
        press(&mut app, "\x1b", now + seconds(2));
        assert!(matches!(app.view, View::Queues));
        assert_eq!(app.ask(now + seconds(2)), Some(Ask::Queues(None)));
    }

    #[test]
    fn look_that_nobody_waits_for_any_more_is_abandoned() {
        let (mut app, now) = looked(&[("a", 1)]);
        let later = now + seconds(2);
        let ask = app.ask(later).unwrap();
        press(&mut app, "\r", later);
        app.take(ask, Ok(page(&[("a", 1)], true)), later).unwrap();
        let ask = app.ask(later).unwrap();
        assert!(matches!(ask, Ask::Queue(_)), "{ask:?}");
        press(&mut app, "\x1b", later);
        app.take(ask, Ok(Answer::Queue(Box::new(queue("a", 7, 7)))), later).unwrap();
        assert_eq!(app.ask(later), Some(Ask::Queues(None)), "from its beginning");
    }

    #[test]
    fn messages_are_asked_for_once_and_their_queue_goes_on() {
        let (mut app, now) = looked(&[("a", 1)]);
        press(&mut app, "p", now);
        let name = QueueName::new("a").unwrap();
        let ask = app.ask(now).unwrap();
        assert_eq!(ask, Ask::Messages(name.clone(), 0));
        app.take(ask, Ok(Answer::Messages(peeked(1, &[b"x", b"y"], true))), now).unwrap();
        assert_eq!(app.ask(now), Some(Ask::Queue(name.clone())));
        app.take(Ask::Queue(name.clone()), Ok(Answer::Queue(Box::new(queue("a", 2, 2)))), now)
            .unwrap();
        press(&mut app, "n", now);
        let ask = app.ask(now).unwrap();
        assert_eq!(ask, Ask::Messages(name.clone(), 2));
        // The server is away: the page stays wanted.
        app.take(ask, lost(), now).unwrap();
        assert_eq!(app.ask(now), None);
        assert_eq!(app.ask(now + seconds(1)), Some(Ask::Messages(name, 2)));
        press(&mut app, "\x1b\x1b", now);
        let late = Ok(Answer::Messages(peeked(3, &[b"z"], false)));
        app.take(Ask::Messages(QueueName::new("a").unwrap(), 2), late, now).unwrap();
        assert!(matches!(app.view, View::Queues));
    }

    #[test]
    fn message_is_opened_and_the_next_one_is_an_arrow_away() {
        let (mut app, now) = looked(&[("a", 1)]);
        press(&mut app, "p\r", now);
        assert!(matches!(app.view, View::Messages(_)), "there is none to open yet");
        let ask = app.ask(now).unwrap();
        app.take(ask, Ok(Answer::Messages(peeked(1, &[b"x", b"y"], false))), now).unwrap();
        press(&mut app, "\r", now);
        app.on_key(Key::Right, now);
        app.on_key(Key::End, now);
        app.set_rows(24, 9);
        let View::Message { messages, top } = &app.view else { panic!("{:?}", app.view) };
        assert_eq!((messages.chosen().unwrap().field("id"), *top), ("2", 8));
    }

    #[test]
    fn what_is_typed_filters_at_once() {
        let (mut app, now) = looked(&[("jobs", 1), ("mail", 2), ("quick", 3)]);
        press(&mut app, "/q", now);
        assert_eq!(names(&app.queues), ["[quick]"], "q does not leave");
        app.on_key(Key::Backspace, now);
        press(&mut app, "JO\r", now);
        assert_eq!((names(&app.queues), app.typing), (vec!["[jobs]".to_owned()], false));
        press(&mut app, "\x1b", now);
        assert_eq!(names(&app.queues).len(), 3);
        press(&mut app, "/x", now);
        app.on_key(Key::Ctrl('u'), now);
        assert_eq!((app.queues.filter(), app.typing), ("", true));
        app.on_key(Key::Backspace, now);
        assert!(!app.typing);
        press(&mut app, "/", now);
        press(&mut app, &"y".repeat(200), now);
        assert_eq!(app.queues.filter().len(), 128);
    }

    #[test]
    fn keys_that_leave_do_so_everywhere() {
        for before in ["", "\r", "p", "?", "\rp"] {
            let (mut app, now) = looked(&[("a", 1)]);
            press(&mut app, before, now);
            assert_eq!(press(&mut app, "q", now), Effect::Leave, "{before:?}");
        }
        let (mut app, now) = looked(&[("a", 1)]);
        press(&mut app, "/", now);
        assert_eq!(app.on_key(Key::Ctrl('c'), now), Effect::Leave);
        assert_eq!(app.on_key(Key::Ctrl('z'), now), Effect::Suspend);
        assert_eq!(app.on_key(Key::Ctrl('l'), now), Effect::Redraw);
    }

    #[test]
    fn keys_are_shown_until_the_next_key() {
        let (mut app, now) = looked(&[("a", 1), ("b", 2)]);
        press(&mut app, "?", now);
        assert!(app.help);
        press(&mut app, "j", now);
        assert_eq!((app.help, names(&app.queues)[0].as_str()), (false, "[b]"));
    }
}
