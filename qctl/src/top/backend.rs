//! ratatui's terminal, writing nothing where nothing has changed.

use std::io::{self, Write};

use ratatui::backend::{Backend, ClearType, CrosstermBackend, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use rustix::stdio::stdout;
use rustix::termios::tcgetwinsize;

/// Of a terminal that does not say how large it is.
const SIZE: Size = Size { width: 80, height: 24 };

/// A picture without a change costs no byte, so that a slow link has room for those with one.
#[derive(Debug)]
pub struct Quiet<W: Write> {
    inner: CrosstermBackend<W>,
    cursor_shown: bool,
}

impl<W: Write> Quiet<W> {
    /// Draws to `output`, whose cursor is hidden.
    pub fn new(output: W) -> Self {
        Self { inner: CrosstermBackend::new(output), cursor_shown: false }
    }

    fn show_or_hide(&mut self, show: bool) -> io::Result<()> {
        match (show, std::mem::replace(&mut self.cursor_shown, show)) {
            (true, false) => self.inner.show_cursor(),
            (false, true) => self.inner.hide_cursor(),
            _ => Ok(()),
        }
    }
}

impl<W: Write> Backend for Quiet<W> {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut content = content.peekable();
        if content.peek().is_none() { Ok(()) } else { self.inner.draw(content) }
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.show_or_hide(false)
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.show_or_hide(true)
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        // The terminal would answer among the keys; nobody asks on a whole screen.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.inner.set_cursor_position(position)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.inner.clear()
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        self.inner.clear_region(region)
    }

    fn size(&self) -> io::Result<Size> {
        let size = tcgetwinsize(stdout()).map(|size| Size::new(size.ws_col, size.ws_row));
        Ok(size.ok().filter(|size| size.width > 0 && size.height > 0).unwrap_or(SIZE))
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::default() })
    }

    fn flush(&mut self) -> io::Result<()> {
        Write::flush(&mut self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    use ratatui::{Frame, Terminal};

    #[derive(Clone, Default)]
    struct Written(Rc<RefCell<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_what_has_changed_is_written() {
        let written = Written::default();
        let mut terminal = Terminal::new(Quiet::new(written.clone())).unwrap();
        let mut draw = |text: &str, cursor: bool| {
            let draw = |frame: &mut Frame| {
                frame.render_widget(text, frame.area());
                if cursor {
                    frame.set_cursor_position((3, 0));
                }
            };
            terminal.draw(draw).unwrap();
            String::from_utf8(std::mem::take(&mut *written.0.borrow_mut())).unwrap()
        };
        assert!(draw("some text", false).contains("some"));
        assert_eq!(draw("some text", false), "");
        let changed = draw("some test", false);
        assert!(changed.contains('s') && !changed.contains("some"), "{changed:?}");
        assert!(draw("some test", true).contains("\x1b[?25h"));
        assert!(!draw("some test", true).contains("\x1b[?25"));
        assert_eq!(draw("some test", false), "\x1b[?25l");
    }
}
