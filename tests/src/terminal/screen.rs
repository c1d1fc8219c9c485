//! What a terminal shows after all that was written to it.
//!
//! Always true here: a sequence that is not known is a panic, so that a program that begins to use
//! one is seen. Every character takes one column.

/// A screen of characters, without their colours.
#[derive(Debug)]
pub struct Screen {
    columns: usize,
    rows: Vec<Vec<char>>,
    /// Row and column of the cursor; the column may be behind the last one.
    cursor: (usize, usize),
    /// What was there before the other screen was shown.
    main: Option<Vec<Vec<char>>>,
    cursor_shown: bool,
}

impl Screen {
    /// Of this size, after `output`.
    ///
    /// # Panics
    ///
    /// When there is a sequence that is not known.
    pub fn after(columns: usize, rows: usize, output: &str) -> Self {
        let mut screen = Self {
            columns,
            rows: vec![vec![' '; columns]; rows],
            cursor: (0, 0),
            main: None,
            cursor_shown: true,
        };
        let mut rest = output.chars();
        while let Some(character) = rest.next() {
            match character {
                '\u{1b}' => screen.escape(&mut rest),
                '\r' => screen.cursor.1 = 0,
                '\n' => screen.line_feed(),
                '\u{8}' => screen.cursor.1 = screen.cursor.1.saturating_sub(1),
                '\u{7}' => {}
                other if other.is_control() => panic!("{other:?} on a terminal"),
                other => screen.put(other),
            }
        }
        screen
    }

    /// The lines without the spaces at their ends, up to the last one that is not empty.
    pub fn lines(&self) -> Vec<String> {
        let text = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned();
        let mut lines: Vec<String> = self.rows.iter().map(text).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// All of it as one text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Whether the screen is the one of programs that take all of it.
    pub fn is_alternate(&self) -> bool {
        self.main.is_some()
    }

    /// Whether the cursor can be seen.
    pub fn has_cursor(&self) -> bool {
        self.cursor_shown
    }

    fn put(&mut self, character: char) {
        if self.cursor.1 >= self.columns {
            self.cursor.1 = 0;
            self.line_feed();
        }
        self.rows[self.cursor.0][self.cursor.1] = character;
        self.cursor.1 += 1;
    }

    fn line_feed(&mut self) {
        if self.cursor.0 + 1 < self.rows.len() {
            self.cursor.0 += 1;
        } else {
            self.rows.remove(0);
            self.rows.push(vec![' '; self.columns]);
        }
    }

    /// A sequence of ECMA-48, or one of xterm.
    fn escape(&mut self, rest: &mut std::str::Chars) {
        let kind = rest.next();
        if kind != Some('[') {
            // Save and restore the cursor; keypad modes.
            assert!(matches!(kind, Some('7' | '8' | '=' | '>')), "ESC {kind:?}");
            return;
        }
        let mut parameters = String::new();
        let end = loop {
            match rest.next() {
                Some(end @ '@'..='~') => break end,
                Some(other) => parameters.push(other),
                None => return,
            }
        };
        let number = |at: usize, otherwise: usize| {
            let text = parameters.split(';').nth(at).unwrap_or_default();
            text.parse().unwrap_or(otherwise)
        };
        let (rows, columns) = (self.rows.len(), self.columns);
        match end {
            'A' => self.cursor.0 = self.cursor.0.saturating_sub(number(0, 1)),
            'B' => self.cursor.0 = (self.cursor.0 + number(0, 1)).min(rows - 1),
            'C' => self.cursor.1 = (self.cursor.1 + number(0, 1)).min(columns - 1),
            'D' => self.cursor.1 = self.cursor.1.saturating_sub(number(0, 1)),
            'G' => self.cursor.1 = number(0, 1).clamp(1, columns) - 1,
            'H' => {
                self.cursor = (number(0, 1).clamp(1, rows) - 1, number(1, 1).clamp(1, columns) - 1);
            }
            'J' => self.clear_screen(number(0, 0)),
            'K' => self.clear_line(number(0, 0)),
            'm' => {}
            'h' | 'l' if parameters.starts_with('?') => {
                self.mode(&parameters[1..], end == 'h');
            }
            other => panic!("ESC [ {parameters} {other:?}"),
        }
    }

    fn mode(&mut self, mode: &str, on: bool) {
        match mode {
            "25" => self.cursor_shown = on,
            "1049" if on && self.main.is_none() => {
                let blank = vec![vec![' '; self.columns]; self.rows.len()];
                self.main = Some(std::mem::replace(&mut self.rows, blank));
            }
            "1049" => {
                if let Some(main) = self.main.take() {
                    self.rows = main;
                }
            }
            // Bracketed paste, synchronized output, cursor keys, a blinking cursor.
            "2004" | "2026" | "1" | "12" => {}
            other => panic!("ESC [ ? {other}"),
        }
    }

    fn clear_screen(&mut self, which: usize) {
        let row = self.cursor.0;
        let cleared = match which {
            0 => row + 1..self.rows.len(),
            1 => 0..row,
            _ => 0..self.rows.len(),
        };
        for row in &mut self.rows[cleared] {
            row.fill(' ');
        }
        if which < 2 {
            self.clear_line(which);
        }
    }

    fn clear_line(&mut self, which: usize) {
        // Behind the last column the cursor stands on it.
        let column = self.cursor.1.min(self.columns - 1);
        let row = &mut self.rows[self.cursor.0];
        match which {
            0 => row[column..].fill(' '),
            1 => row[..=column].fill(' '),
            _ => row.fill(' '),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screen_shows_what_a_terminal_would() {
        let screen = Screen::after(4, 3, "abcdef\r\nx\x1b[A\x1b[2Cy\x1b[K\r\n\n\nz");
        assert_eq!(screen.lines(), ["x", "", "z"]);
        let screen = Screen::after(4, 3, "ab\x1b[?1049h\x1b[?25l\x1b[2;2Hq\x1b[J");
        assert_eq!((screen.text().as_str(), screen.is_alternate()), ("\n q", true));
        assert!(!screen.has_cursor());
        let screen = Screen::after(4, 3, "abcd\x1b[K\x1b[?1049hxy\x1b[?1049l");
        assert_eq!((screen.text().as_str(), screen.is_alternate()), ("abc", false));
    }

    #[test]
    #[should_panic(expected = "on a terminal")]
    fn control_character_is_seen() {
        Screen::after(4, 3, "a\u{9b}");
    }
}
