//! What a terminal has room for, and lines on it that take the place of others.
//!
//! Always true here: no line is wider than the terminal, and there are fewer of them than it has
//! rows, so that the cursor gets back to where they began.

use std::ffi::OsStr;
use std::fmt::Write;

use rustix::stdio::stdout;
use rustix::termios::tcgetwinsize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::Out;
use crate::exit::Failure;

/// Of a terminal that does not say how large it is.
const SIZE: Size = Size { columns: 80, rows: 24 };

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Characters in a row, wide ones counted twice.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

impl Size {
    /// Of the terminal at standard output, unless `COLUMNS` and `LINES` say otherwise.
    pub fn of_terminal() -> Self {
        let size = tcgetwinsize(stdout()).ok();
        let (columns, rows) = size.map_or((0, 0), |size| (size.ws_col, size.ws_row));
        let or = |variable: &str, known: u16, otherwise: usize| {
            let said = std::env::var_os(variable).and_then(|value| number(&value));
            said.or(Some(usize::from(known)).filter(|known| *known > 0)).unwrap_or(otherwise)
        };
        let columns = or("COLUMNS", columns, SIZE.columns);
        Self { columns, rows: or("LINES", rows, SIZE.rows) }
    }
}

fn number(value: &OsStr) -> Option<usize> {
    value.to_str()?.parse().ok().filter(|number| *number > 0)
}

/// Whether the terminal can move its cursor: its kind is known, and is not `dumb`.
pub fn can_move_cursor() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// How many columns a line of text takes.
pub fn display_width(text: &str) -> usize {
    text.width()
}

/// As much of `text` as fits into so many columns, with `…` where it was cut.
pub fn clipped(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut left = columns.saturating_sub(1);
    for character in text.chars() {
        let width = character.width().unwrap_or(0);
        if width > left {
            break;
        }
        left -= width;
        out.push(character);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// Lines that are drawn again and again at one place.
#[derive(Debug, Default)]
pub struct Region {
    /// How many are there now, and how large the terminal was then.
    drawn: Option<(usize, Size)>,
}

impl Region {
    /// Draws `lines` where those before are, as many as there is room for.
    pub fn draw(&mut self, out: &mut Out, size: Size, lines: &[String]) -> Result<(), Failure> {
        let mut text = String::new();
        match self.drawn {
            None => {}
            // Up, and to the left, where Ctrl-C leaves its echo.
            Some((0, before)) if before == size => text.push('\r'),
            Some((count, before)) if before == size => {
                let _ = write!(text, "\r\u{1b}[{count}A");
            }
            // It may have wrapped what is there by another width: clear it, and begin at the top.
            Some(_) => text.push_str("\u{1b}[H\u{1b}[2J"),
        }
        // The cursor stays on the row behind the last line.
        let room = size.rows.saturating_sub(1);
        for line in lines.iter().take(room) {
            let line = clipped(line, size.columns);
            text.push_str(&line);
            // Behind a full row this would clear its last character.
            text.push_str(if line.width() < size.columns { "\u{1b}[K\n" } else { "\n" });
        }
        text.push_str("\u{1b}[J");
        self.drawn = Some((lines.len().min(room), size));
        out.put(text.as_bytes())?;
        out.flush()
    }

    /// Leaves the cursor on an empty line behind the last one.
    pub fn leave(&self, out: &mut Out) -> Result<(), Failure> {
        if self.drawn.is_some() {
            out.put(b"\r\x1b[K")?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    #[test]
    fn text_is_cut_at_the_width_of_its_characters() {
        assert_eq!(clipped("abc", 3), "abc");
        assert_eq!(clipped("abcd", 3), "ab…");
        assert_eq!(clipped("漢字", 4), "漢字");
        assert_eq!(clipped("漢字", 3), "漢…");
        assert_eq!(clipped("漢字字", 4), "漢…");
        assert_eq!(clipped("e\u{301}e\u{301}", 2), "e\u{301}e\u{301}");
        assert_eq!(clipped("abc", 1), "…");
        assert_eq!(clipped("abc", 0), "");
    }

    fn drawn(region: &mut Region, size: Size, lines: &[&str]) -> String {
        let mut out = Out::captured(Format::Table);
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        region.draw(&mut out, size, &lines).unwrap();
        out.text()
    }

    #[test]
    fn lines_take_the_place_of_those_before() {
        let mut region = Region::default();
        let size = Size { columns: 5, rows: 4 };
        assert_eq!(drawn(&mut region, size, &["a", "abcdef"]), "a\x1b[K\nabcd…\n\x1b[J");
        assert_eq!(drawn(&mut region, size, &["b"]), "\r\x1b[2Ab\x1b[K\n\x1b[J");
        assert_eq!(drawn(&mut region, size, &[]), "\r\x1b[1A\x1b[J");
        assert_eq!(drawn(&mut region, size, &["c"]), "\rc\x1b[K\n\x1b[J");
    }

    #[test]
    fn more_lines_than_rows_are_left_out() {
        let mut region = Region::default();
        let size = Size { columns: 9, rows: 3 };
        let text = drawn(&mut region, size, &["a", "b", "c", "d"]);
        assert_eq!(text, "a\x1b[K\nb\x1b[K\n\x1b[J");
        assert!(drawn(&mut region, size, &["a"]).starts_with("\r\x1b[2A"));
    }

    #[test]
    fn other_size_clears_the_terminal() {
        let mut region = Region::default();
        drawn(&mut region, Size { columns: 9, rows: 3 }, &["a"]);
        let text = drawn(&mut region, Size { columns: 8, rows: 3 }, &["b"]);
        assert_eq!(text, "\x1b[H\x1b[2Jb\x1b[K\n\x1b[J");
    }

    #[test]
    fn variables_that_are_no_size_say_nothing() {
        for bad in ["", "0", "-1", "x", "80x24"] {
            assert_eq!(number(OsStr::new(bad)), None, "{bad:?}");
        }
        assert_eq!(number(OsStr::new("132")), Some(132));
    }
}
