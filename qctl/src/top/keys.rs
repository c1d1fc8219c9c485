//! Keys, out of the bytes that a terminal sends.
//!
//! Always true here: a sequence that is not known is passed over as a whole, so that no part of it
//! is taken for a key; a sequence may come in pieces, as over a slow link.

/// What was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// A letter with Ctrl.
    Ctrl(char),
    /// Return.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow to the left.
    Left,
    /// Arrow to the right.
    Right,
    /// Home.
    Home,
    /// End.
    End,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
}

const ESCAPE: u8 = 0x1b;
/// A sequence that is longer is no key.
const SEQUENCE_BYTES_MAX: usize = 32;

/// Keys that are not whole yet.
#[derive(Debug, Default)]
pub struct Keys {
    bytes: Vec<u8>,
}

/// What stands at the start of some bytes.
enum Found {
    /// A key, or something that is none, of so many bytes.
    Whole(Option<Key>, usize),
    /// More bytes are needed.
    Part,
}

impl Keys {
    /// Takes bytes; returns the keys that are whole.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        let mut keys = Vec::new();
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            match first(rest) {
                Found::Whole(key, length) => {
                    keys.extend(key);
                    rest = rest.get(length..).unwrap_or_default();
                }
                Found::Part if rest.len() > SEQUENCE_BYTES_MAX => rest = &[],
                Found::Part => break,
            }
        }
        self.bytes = rest.to_vec();
        keys
    }

    /// True when the last bytes may be the beginning of something.
    pub fn is_waiting(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Nothing more has come: an escape by itself is that key, and anything else is none.
    pub fn give_up(&mut self) -> Option<Key> {
        let bytes = std::mem::take(&mut self.bytes);
        (bytes == [ESCAPE]).then_some(Key::Escape)
    }
}

fn first(bytes: &[u8]) -> Found {
    let whole = |key| Found::Whole(Some(key), 1);
    match bytes.first().copied() {
        None => Found::Part,
        Some(ESCAPE) => sequence(bytes),
        Some(b'\r' | b'\n') => whole(Key::Enter),
        Some(0x7f | 0x08) => whole(Key::Backspace),
        Some(control @ 1..=26) => whole(Key::Ctrl(char::from(control - 1 + b'a'))),
        Some(0..=31) => Found::Whole(None, 1),
        Some(_) => character(bytes),
    }
}

fn character(bytes: &[u8]) -> Found {
    let chunk = bytes.utf8_chunks().next();
    let (valid, invalid) = chunk.map_or(("", &[][..]), |chunk| (chunk.valid(), chunk.invalid()));
    match valid.chars().next() {
        Some(found) => {
            let key = (!found.is_control()).then_some(Key::Char(found));
            Found::Whole(key, found.len_utf8())
        }
        // It may be the beginning of a character, at the end of what has come.
        None if invalid.len() == bytes.len()
            && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none()) =>
        {
            Found::Part
        }
        None => Found::Whole(None, invalid.len().max(1)),
    }
}

/// A sequence of ECMA-48 or of a VT100 keypad, or a character with Alt.
fn sequence(bytes: &[u8]) -> Found {
    match bytes.get(1) {
        None => Found::Part,
        Some(&ESCAPE) => Found::Whole(Some(Key::Escape), 1),
        Some(b'[') => control_sequence(bytes),
        Some(b'O') => match bytes.get(2) {
            None => Found::Part,
            Some(&end) => Found::Whole(cursor_key(end), 3),
        },
        Some(_) => Found::Whole(None, 2),
    }
}

fn control_sequence(bytes: &[u8]) -> Found {
    let parameters = bytes.get(2..).unwrap_or_default();
    // Function keys of the Linux console: ESC [ [ A.
    if parameters.first() == Some(&b'[') {
        return if parameters.len() > 1 { Found::Whole(None, 4) } else { Found::Part };
    }
    let Some(length) = parameters.iter().position(|byte| !(0x20..0x40).contains(byte)) else {
        return Found::Part;
    };
    let number = parameters.split(|byte| !byte.is_ascii_digit()).next().unwrap_or_default();
    let key = match parameters.get(length) {
        Some(b'~') => match number {
            b"1" | b"7" => Some(Key::Home),
            b"4" | b"8" => Some(Key::End),
            b"5" => Some(Key::PageUp),
            b"6" => Some(Key::PageDown),
            _ => None,
        },
        Some(&end) => cursor_key(end),
        None => None,
    };
    Found::Whole(key, 2 + length + 1)
}

fn cursor_key(end: u8) -> Option<Key> {
    match end {
        b'A' => Some(Key::Up),
        b'B' => Some(Key::Down),
        b'C' => Some(Key::Right),
        b'D' => Some(Key::Left),
        b'H' => Some(Key::Home),
        b'F' => Some(Key::End),
        b'M' => Some(Key::Enter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        let mut found = keys.take(bytes);
        found.extend(keys.give_up());
        found
    }

    const ALL: &[u8] =
        "aé漢\r\x7f\x03\x1b[A\x1bOB\x1b[1;5C\x1b[D\x1b[H\x1b[4~\x1b[5~\x1b[6;2~Z".as_bytes();
    const FOUND: &[Key] = &[
        Key::Char('a'),
        Key::Char('é'),
        Key::Char('漢'),
        Key::Enter,
        Key::Backspace,
        Key::Ctrl('c'),
        Key::Up,
        Key::Down,
        Key::Right,
        Key::Left,
        Key::Home,
        Key::End,
        Key::PageUp,
        Key::PageDown,
        Key::Char('Z'),
    ];

    #[test]
    fn keys_are_found_in_one_piece_and_byte_by_byte() {
        assert_eq!(keys(ALL), FOUND);
        let mut pieces = Keys::default();
        let found: Vec<Key> = ALL.iter().flat_map(|&byte| pieces.take(&[byte])).collect();
        assert_eq!(found, FOUND);
        assert!(!pieces.is_waiting());
    }

    #[test]
    fn what_is_no_key_is_passed_over_as_a_whole() {
        // Insert, F5, F1 of the console, a mouse report, Alt-q, a C1 control, bytes that are no text.
        for bytes in ["\x1b[2~", "\x1b[15~", "\x1b[[A", "\x1b[<0;1;2M", "\x1bq", "\u{9b}", "\0"] {
            let mut all = bytes.as_bytes().to_vec();
            all.push(b'x');
            let found: Vec<Key> = keys(&all).into_iter().filter(|key| *key != Key::Enter).collect();
            assert_eq!(found, [Key::Char('x')], "{bytes:?}");
        }
        assert_eq!(keys(b"\xff\xc3(x"), [Key::Char('('), Key::Char('x')]);
    }

    #[test]
    fn escape_alone_is_known_when_nothing_follows() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"\x1b"), []);
        assert!(keys.is_waiting());
        assert_eq!(keys.give_up(), Some(Key::Escape));
        assert_eq!(keys.take(b"\x1b\x1b[A"), [Key::Escape, Key::Up]);
        assert_eq!(keys.take(b"\x1b["), []);
        assert_eq!(keys.give_up(), None);
        assert_eq!(keys.take(b"A"), [Key::Char('A')]);
    }

    #[test]
    fn endless_sequence_ends() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"\x1b["), []);
        assert_eq!(keys.take(&[b'1'; 40]), []);
        assert!(!keys.is_waiting());
    }
}
