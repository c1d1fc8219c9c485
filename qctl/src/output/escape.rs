//! Bodies on a terminal: nothing in a message may move the cursor or change its colours.

use std::fmt::Write;

/// Text for a terminal: control and direction-changing characters and bytes that are no UTF-8 are
/// shown as escapes. With `keep_lines` newline and tab stay.
pub fn escape(bytes: &[u8], keep_lines: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' | '\t' if keep_lines => out.push(character),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                _ if character.is_ascii_control() => {
                    let _ = write!(out, "\\x{:02x}", u32::from(character));
                }
                _ if is_dangerous(character) => {
                    let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
                }
                _ => out.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// C1 controls, which some terminals obey, and characters that turn the direction of text.
pub fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_are_disarmed() {
        assert_eq!(escape(b"\x1b[2Jhi\x07", true), "\\x1b[2Jhi\\x07");
        assert_eq!(escape("\u{9b}31m\u{202e}x".as_bytes(), true), "\\u{9b}31m\\u{202e}x");
        assert_eq!(escape("a\u{61c}b\x7f".as_bytes(), true), "a\\u{61c}b\\x7f");
        assert_eq!(escape(b"a\x00\xff\xc3", true), "a\\x00\\xff\\xc3");
    }

    #[test]
    fn text_stays_as_it_is() {
        assert_eq!(escape("é – 漢字\n\tx".as_bytes(), true), "é – 漢字\n\tx");
        assert_eq!(escape(b"a\nb\tc\r", false), "a\\nb\\tc\\r");
    }
}
