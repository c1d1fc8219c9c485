//! The terminal, taken for a whole screen and given back.
//!
//! Always true here: once it is taken it is given back as it was: when [`Screen`] is dropped, by
//! the panic hook, and by whatever ends the process through [`give_back`].

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

use ratatui::Terminal;
use ratatui::layout::Rect;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::dup;
use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::stdout;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::backend::Quiet;
use crate::output::write_all;

/// The other screen, without a cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J";
/// Plain text, the cursor, and the screen that was there before.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";
/// A terminal that takes nothing for as long is left as it is.
const LEAVE_WITHIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

struct Taken {
    input: OwnedFd,
    output: OwnedFd,
    settings: Termios,
}

/// A terminal whose whole screen is ours, with every key as it is pressed.
#[derive(Debug)]
#[must_use = "dropping it gives the terminal back"]
pub struct Screen(());

impl Screen {
    /// Takes the terminal that is typed on at `input` and shows at `output`.
    pub fn take(input: BorrowedFd, output: BorrowedFd) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        let settings = tcgetattr(input)?;
        let mut raw = settings.clone();
        raw.make_raw();
        let taken = Taken { input: dup(input)?, output: dup(output)?, settings };
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
        let screen = Self(());
        tcsetattr(input, OptionalActions::Now, &raw)?;
        write_all(output, ENTER)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back as it was; nothing where it is not taken.
pub fn give_back() {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Taken { input, output, settings }) = taken else {
        return;
    };
    let mut wait = [PollFd::new(&output, PollFlags::OUT)];
    if poll(&mut wait, Some(&LEAVE_WITHIN)).is_ok_and(|ready| ready > 0) {
        // One that is gone needs nothing.
        let _ = write_all(output.as_fd(), LEAVE);
    }
    let _ = tcsetattr(&input, OptionalActions::Now, &settings);
}

/// Stops this process, as Ctrl-Z does, until the shell lets it go on.
pub fn suspend() {
    // That it cannot be sent leaves us running, which harms nobody.
    let _ = kill_process(getpid(), Signal::STOP);
}

/// What draws on standard output.
pub type Canvas = Terminal<Quiet<Output>>;

/// A canvas that knows nothing of what is there.
pub fn canvas() -> io::Result<Canvas> {
    Terminal::new(Quiet::new(Output::default()))
}

/// Clears the canvas, so that all of it is drawn next.
pub fn clear(canvas: &mut Canvas) -> io::Result<()> {
    let size = canvas.size()?;
    canvas.resize(Rect::new(0, 0, size.width, size.height))
}

/// Standard output, which gets one picture in one write.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = write_all(stdout(), &self.bytes);
        self.bytes.clear();
        Ok(result?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    /// Both ends of a terminal.
    fn pty() -> (OwnedFd, OwnedFd) {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&outer).unwrap();
        unlockpt(&outer).unwrap();
        let name = ptsname(&outer, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let inner = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        (outer, inner)
    }

    fn shown(outer: &OwnedFd) -> Vec<u8> {
        let mut bytes = [0; 256];
        let length = rustix::io::read(outer, &mut bytes).unwrap();
        bytes[..length].to_vec()
    }

    fn is_raw(inner: &OwnedFd) -> bool {
        !tcgetattr(inner).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    // One test: there is one terminal to a process.
    #[test]
    fn terminal_is_given_back_when_it_is_left_and_after_a_panic() {
        let (outer, inner) = pty();
        let screen = Screen::take(inner.as_fd(), inner.as_fd()).unwrap();
        assert_eq!((shown(&outer), is_raw(&inner)), (ENTER.to_vec(), true));
        drop(screen);
        assert_eq!((shown(&outer), is_raw(&inner)), (LEAVE.to_vec(), false));
        let panicking = std::panic::catch_unwind(|| {
            let screen = Screen::take(inner.as_fd(), inner.as_fd()).unwrap();
            // As where a panic aborts, nothing is dropped: the hook has to do it.
            std::mem::forget(screen);
            panic!("on purpose, by a test");
        });
        assert!(panicking.is_err());
        let mut bytes = shown(&outer);
        if bytes == ENTER {
            bytes.extend(shown(&outer));
        }
        assert_eq!((bytes, is_raw(&inner)), ([ENTER, LEAVE].concat(), false));
        give_back();
        let mut ready = [PollFd::new(&outer, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut ready, Some(&now)), Ok(0), "it was given back once");
    }
}
