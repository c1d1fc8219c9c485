//! Splits a line into words as a POSIX shell does, without expanding anything.
//!
//! `'…'` keeps every byte; in `"…"` a backslash keeps only `"`, `\`, `$` and `` ` `` from their
//! meaning; outside, a backslash keeps any byte, and before a newline both vanish. `#` at the start
//! of a word begins a comment. Words are bytes: they need not be UTF-8.

/// Why a line is not a list of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWords {
    /// A quote is open; the next line belongs to it.
    Quote(char),
    /// The line ends with a backslash; the next line continues it.
    Backslash,
    /// A word begins with `<<`: taken as it is, it would be sent as a message.
    HereDocument,
}

impl NoWords {
    /// True when the next line may mend it.
    pub fn is_unfinished(self) -> bool {
        matches!(self, Self::Quote(_) | Self::Backslash)
    }
}

impl std::fmt::Display for NoWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Quote(quote) => write!(f, "the quote {quote} is not closed"),
            Self::Backslash => f.write_str("nothing follows the last backslash"),
            Self::HereDocument => f.write_str(
                "here-documents (<<) are not there yet: quote a body of several lines, or name a \
                 file with -f",
            ),
        }
    }
}

/// The words of `line`.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, NoWords> {
    let mut words = Vec::new();
    // `None`: between words. A quoted empty word is a word.
    let mut word: Option<Vec<u8>> = None;
    let mut input = line.iter().copied();
    while let Some(byte) = input.next() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => words.extend(word.take()),
            b'#' if word.is_none() => while input.next().is_some_and(|byte| byte != b'\n') {},
            b'<' if word.is_none() && input.clone().next() == Some(b'<') => {
                return Err(NoWords::HereDocument);
            }
            b'\'' => single_quoted(&mut input, word.get_or_insert_default())?,
            b'"' => double_quoted(&mut input, word.get_or_insert_default())?,
            b'\\' => match input.next() {
                None => return Err(NoWords::Backslash),
                Some(b'\n') => {}
                Some(byte) => word.get_or_insert_default().push(byte),
            },
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single_quoted(input: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) -> Result<(), NoWords> {
    loop {
        match input.next() {
            None => return Err(NoWords::Quote('\'')),
            Some(b'\'') => return Ok(()),
            Some(byte) => word.push(byte),
        }
    }
}

fn double_quoted(input: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) -> Result<(), NoWords> {
    let open = NoWords::Quote('"');
    loop {
        match input.next().ok_or(open)? {
            b'"' => return Ok(()),
            b'\\' => match input.next().ok_or(open)? {
                b'\n' => {}
                byte @ (b'"' | b'\\' | b'$' | b'`') => word.push(byte),
                byte => word.extend([b'\\', byte]),
            },
            byte => word.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let words = split(line.as_bytes()).unwrap();
        words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect()
    }

    #[test]
    fn words_are_split_as_in_a_shell() {
        assert_eq!(words("  send jobs\thello \r\n"), ["send", "jobs", "hello"]);
        assert_eq!(words("a 'b  c' \"d e\""), ["a", "b  c", "d e"]);
        assert_eq!(words("a'b'\"c\"d"), ["abcd"]);
        assert_eq!(words("'' \"\""), ["", ""]);
        assert_eq!(words(""), Vec::<String>::new());
    }

    #[test]
    fn backslash_keeps_what_a_shell_keeps() {
        assert_eq!(words(r"a\ b \' \\"), ["a b", "'", r"\"]);
        assert_eq!(words(r"'a\b'"), [r"a\b"]);
        assert_eq!(words(r#""a\"b\\c\n\$d""#), [r#"a"b\c\n$d"#]);
        assert_eq!(words("a\\\nb"), ["ab"]);
        assert_eq!(words("\"a\\\nb\""), ["ab"]);
    }

    #[test]
    fn comment_begins_only_at_the_start_of_a_word() {
        assert_eq!(words("# nothing"), Vec::<String>::new());
        assert_eq!(words("a b#c # d 'e"), ["a", "b#c"]);
        assert_eq!(words("a # b\nc"), ["a", "c"]);
        assert_eq!(words("'#a' \\#b"), ["#a", "#b"]);
    }

    #[test]
    fn open_quotes_and_last_backslash_ask_for_more() {
        assert_eq!(split(b"a 'b"), Err(NoWords::Quote('\'')));
        assert_eq!(split(b"a \"b\\"), Err(NoWords::Quote('"')));
        assert_eq!(split(b"a \\"), Err(NoWords::Backslash));
        assert_eq!(words("a 'b\nc'"), ["a", "b\nc"]);
    }

    #[test]
    fn here_document_is_not_taken_for_a_word() {
        for line in ["send jobs <<EOF", "send jobs <<-'EOF'", "<<<x"] {
            assert_eq!(split(line.as_bytes()), Err(NoWords::HereDocument), "{line}");
        }
        assert!(!NoWords::HereDocument.is_unfinished());
        assert_eq!(words("a '<<b' \\<<c d<<e < f"), ["a", "<<b", "<<c", "d<<e", "<", "f"]);
    }

    #[test]
    fn bytes_that_are_no_text_survive() {
        assert_eq!(split(b"\xff '\xfe\x00'").unwrap(), [vec![0xff], vec![0xfe, 0]]);
    }
}
