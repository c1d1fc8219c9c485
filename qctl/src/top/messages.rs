//! Messages of a queue that was peeked at, a page at a time.
//!
//! Always true here: what is kept of a message for the terminal has no control characters, its body
//! neither.

use qd_protocol::verbs::Peeked;
use qd_protocol::{Body, QueueName};

use crate::exit::Failure;
use crate::output::{PEEKED_FIELDS, Shown, escape};

/// Messages of a page.
pub const PAGE: u32 = 100;
/// Bytes of a body that a line has room for, whatever the terminal.
const LINE_BYTES: usize = 1_000;
/// Bytes of a body that are shown.
pub const BODY_BYTES: usize = 64 << 10;

/// A message.
#[derive(Debug)]
pub struct Message {
    /// Names and values of all fields but the body.
    pub fields: Vec<(&'static str, String)>,
    /// The start of its body, as one line.
    pub line: String,
    body: Body,
}

impl Message {
    /// One field.
    pub fn field(&self, name: &str) -> &str {
        let field = self.fields.iter().find(|(field, _)| *field == name);
        field.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// The lines of its body, and how many bytes are not among them.
    pub fn body_lines(&self) -> (Vec<String>, usize) {
        let bytes = &self.body.bytes;
        let shown = bytes.get(..BODY_BYTES).unwrap_or(bytes);
        let lines = shown.split(|byte| *byte == b'\n').map(|line| escape(line, false));
        (lines.collect(), bytes.len() - shown.len())
    }

    /// Bytes of its body.
    pub fn body_bytes(&self) -> usize {
        self.body.bytes.len()
    }
}

/// A page of messages.
#[derive(Debug)]
pub struct Messages {
    /// Their queue.
    pub queue: QueueName,
    /// What was found.
    pub page: Vec<Message>,
    /// Whether more follow.
    pub more: bool,
    /// Why there is nothing.
    pub refused: Option<String>,
    /// Whether the page must be asked for.
    pub wanted: bool,
    /// Whether it was answered once.
    pub known: bool,
    /// The page begins behind this id, and those before it behind these.
    starts: Vec<u64>,
    /// Id of the last message that was looked at.
    last: u64,
    at: usize,
    top: usize,
    visible: usize,
}

impl Messages {
    /// The first page, to be asked for.
    pub fn new(queue: QueueName) -> Self {
        Self {
            queue,
            page: Vec::new(),
            more: false,
            refused: None,
            wanted: true,
            known: false,
            starts: vec![0],
            last: 0,
            at: 0,
            top: 0,
            visible: 1,
        }
    }

    /// The page begins behind this id.
    pub fn after(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Which page it is, counted from 1.
    pub fn number(&self) -> usize {
        self.starts.len()
    }

    /// Takes a page.
    pub fn take(&mut self, peeked: Result<Peeked, Failure>) -> Result<(), Failure> {
        (self.wanted, self.known) = (false, true);
        self.page.clear();
        self.more = false;
        self.refused = None;
        match peeked {
            Ok(peeked) => {
                for message in &peeked.messages {
                    let shown = Shown::peeked(&self.queue, message)?;
                    let names = PEEKED_FIELDS.into_iter().filter(|name| *name != "body");
                    let bytes = &message.body.bytes;
                    self.page.push(Message {
                        fields: names.map(|name| (name, shown.field(name))).collect(),
                        line: escape(bytes.get(..LINE_BYTES).unwrap_or(bytes), false),
                        body: message.body.clone(),
                    });
                }
                (self.more, self.last) = (peeked.more, peeked.last);
                // It looked at ids that are not there any more.
                if self.page.is_empty() && self.more && self.last > self.after() {
                    self.starts.pop();
                    self.starts.push(self.last);
                    self.wanted = true;
                }
            }
            Err(failure) => self.refused = Some(failure.to_string()),
        }
        self.at = self.at.min(self.page.len().saturating_sub(1));
        self.scroll();
        Ok(())
    }

    /// Asks for the page again.
    pub fn again(&mut self) {
        self.wanted = true;
    }

    /// Asks for the next page, if there is one.
    pub fn next_page(&mut self) {
        if self.more && !self.wanted && self.last > self.after() {
            self.starts.push(self.last);
            (self.wanted, self.at) = (true, 0);
        }
    }

    /// Asks for the page before.
    pub fn previous_page(&mut self) {
        if self.starts.len() > 1 && !self.wanted {
            self.starts.pop();
            (self.wanted, self.at) = (true, 0);
        }
    }

    /// Chooses another one of the page, so far down.
    pub fn move_by(&mut self, rows: isize) {
        let last = self.page.len().saturating_sub(1);
        self.at = self.at.saturating_add_signed(rows).min(last);
        self.scroll();
    }

    /// The chosen one.
    pub fn chosen(&self) -> Option<&Message> {
        self.page.get(self.at)
    }

    /// Those that there is room for, and whether each is the chosen one.
    pub fn visible(&self) -> impl Iterator<Item = (&Message, bool)> {
        let messages = self.page.iter().enumerate().skip(self.top).take(self.visible);
        messages.map(|(at, message)| (message, at == self.at))
    }

    /// How many there is room for.
    pub fn set_visible(&mut self, rows: usize) {
        self.visible = rows.max(1);
        self.scroll();
    }

    /// How many there is room for.
    pub fn rows(&self) -> usize {
        self.visible
    }

    fn scroll(&mut self) {
        let lowest = (self.at + 1).saturating_sub(self.visible);
        let highest = self.page.len().saturating_sub(self.visible);
        self.top = self.top.clamp(lowest, self.at).min(highest);
    }
}

#[cfg(test)]
pub mod testing {
    //! Messages out of nothing.

    use super::*;
    use qd_protocol::verbs::peek::State;
    use qd_protocol::verbs::{PeekedMessage, SendEntry};

    /// An answer with one message for each body, with ids from `first` on.
    pub fn peeked(first: u64, bodies: &[&[u8]], more: bool) -> Peeked {
        let message = |(id, body): (u64, &&[u8])| {
            let mut entry = SendEntry::new(body.to_vec());
            entry.headers.0.push(("k\x1b".to_owned(), "v\u{9b}".to_owned()));
            PeekedMessage {
                id,
                state: State::Ready,
                attempts: 2,
                sent_at_ms: 0,
                until_ms: 0,
                fields: entry.stored_fields(),
                body: entry.body.clone(),
            }
        };
        let messages: Vec<_> = (first..).zip(bodies).map(message).collect();
        let last = messages.last().map_or(0, |message| message.id);
        Peeked { messages, more, last }
    }

    #[test]
    fn nothing_of_a_message_has_control_characters() {
        let mut messages = Messages::new(QueueName::new("jobs").unwrap());
        messages.take(Ok(peeked(1, &[b"a\x1b[2J\nb\x9b\xff"], false))).unwrap();
        let message = messages.chosen().unwrap();
        assert_eq!(message.line, "a\\x1b[2J\\nb\\x9b\\xff");
        assert_eq!(
            message.body_lines(),
            (vec!["a\\x1b[2J".to_owned(), "b\\x9b\\xff".to_owned()], 0)
        );
        assert_eq!(message.field("headers"), "k\\x1b=v\\u{9b}");
        assert_eq!((message.field("id"), message.field("state")), ("1", "ready"));
        let mut messages = Messages::new(QueueName::new("jobs").unwrap());
        messages.take(Ok(peeked(1, &[&vec![b'x'; BODY_BYTES + 5]], false))).unwrap();
        let (lines, left) = messages.chosen().unwrap().body_lines();
        assert_eq!((lines[0].len(), left), (BODY_BYTES, 5));
    }

    #[test]
    fn pages_are_asked_for_forwards_and_backwards() {
        let mut messages = Messages::new(QueueName::new("jobs").unwrap());
        assert!(messages.wanted);
        messages.take(Ok(peeked(1, &[b"a", b"b"], true))).unwrap();
        messages.previous_page();
        assert!(!messages.wanted, "there is none before the first");
        messages.move_by(1);
        messages.next_page();
        assert_eq!((messages.wanted, messages.after(), messages.number()), (true, 2, 2));
        messages.next_page();
        assert_eq!(messages.number(), 2, "it is on its way");
        messages.take(Ok(peeked(3, &[b"c"], false))).unwrap();
        assert_eq!(messages.chosen().map(|message| message.line.as_str()), Some("c"));
        messages.next_page();
        assert!(!messages.wanted, "it was the last one");
        messages.previous_page();
        assert_eq!((messages.wanted, messages.after()), (true, 0));
        messages.take(Ok(Peeked { last: 7, ..peeked(1, &[], true) })).unwrap();
        assert_eq!((messages.wanted, messages.after(), messages.number()), (true, 7, 1));
        let refusal = qd_protocol::ErrorCode::NoSuchQueue.refuse("gone");
        messages.take(Err(refusal.into())).unwrap();
        assert_eq!(messages.refused.as_deref(), Some("gone"));
        assert!(messages.chosen().is_none());
    }
}
