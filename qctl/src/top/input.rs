//! Keys as they are pressed.
//!
//! Always true here: a thread reads what is typed, and has ended when [`Input`] is dropped, so that
//! nothing that is typed later is taken from whoever reads next.

use std::io::{PipeReader, PipeWriter, pipe};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdin;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::keys::{Key, Keys};
use crate::exit::Failure;

/// How long the rest of a sequence may take, also over a slow link, until an escape is the key.
const SEQUENCE_WITHIN: Duration = Duration::from_millis(100);

/// The keyboard at standard input.
#[derive(Debug)]
pub struct Input {
    typed: UnboundedReceiver<Result<Vec<u8>, Errno>>,
    keys: Keys,
    /// The thread ends when this is closed.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Input {
    /// Of a terminal, which sends every key at once.
    pub fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::Io(format!("cannot read from the terminal: {error}"));
        let (stopped, stop) = pipe().map_err(failed)?;
        let (sender, typed) = unbounded_channel();
        let thread = std::thread::Builder::new().name("keys".to_owned()).stack_size(64 << 10);
        let thread = thread.spawn(move || read_keys(&stopped, &sender)).map_err(failed)?;
        Ok(Self { typed, keys: Keys::default(), stop: Some(stop), thread: Some(thread) })
    }

    /// The next keys, at least one. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Vec<Key>, Failure> {
        loop {
            let typed = if self.keys.is_waiting() {
                match timeout(SEQUENCE_WITHIN, self.typed.recv()).await {
                    Ok(typed) => typed,
                    Err(_) => match self.keys.give_up() {
                        Some(key) => return Ok(vec![key]),
                        None => continue,
                    },
                }
            } else {
                self.typed.recv().await
            };
            let closed = || Failure::Io("the terminal was closed".to_owned());
            let bytes = typed.ok_or_else(closed)?.map_err(|error| {
                let error = std::io::Error::from(error);
                Failure::Io(format!("cannot read from the terminal: {error}"))
            })?;
            let keys = self.keys.take(&bytes);
            if !keys.is_empty() {
                return Ok(keys);
            }
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

/// Reads until nobody wants to know any more, the terminal is closed, or something fails.
fn read_keys(stopped: &PipeReader, keys: &UnboundedSender<Result<Vec<u8>, Errno>>) {
    let mut bytes = [0; 1_024];
    loop {
        let mut ready =
            [PollFd::new(stopped, PollFlags::IN), PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) if !ready[0].revents().is_empty() => return,
            Ok(_) | Err(Errno::INTR) if ready[1].revents().is_empty() => continue,
            Ok(_) => {}
            Err(error) => return drop(keys.send(Err(error))),
        }
        match rustix::io::read(stdin(), &mut bytes[..]) {
            Ok(0) => return,
            Ok(length) => {
                let typed = bytes.get(..length).unwrap_or_default().to_vec();
                if keys.send(Ok(typed)).is_err() {
                    return;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return drop(keys.send(Err(error))),
        }
    }
}
