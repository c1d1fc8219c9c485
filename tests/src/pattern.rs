//! Expected output with places for what varies.
//!
//! | written | stands for |
//! |---|---|
//! | `<receipt>` | 48 of `A-Z a-z 0-9 - _` |
//! | `<number>` | decimal digits |
//! | `<time>` | RFC 3339 in UTC: `2026-01-31T12:00:00.000Z` |
//! | `<line>` | anything within a line |
//! | `<NAME=receipt>` (or another of these) | the same, kept in the variable `NAME` |

/// What a place may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A receipt.
    Receipt,
    /// Digits.
    Number,
    /// A time.
    Time,
    /// Anything but a newline.
    Line,
    /// Anything.
    Any,
}

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Exactly this.
    Text(String),
    /// Anything of a kind, and the variable that keeps it.
    Place(Kind, Option<String>),
}

/// Characters of a receipt.
pub const RECEIPT_CHARACTERS: usize = 48;

/// The pieces of a pattern in angle brackets. What is in brackets but no kind stands for itself.
pub fn pieces(pattern: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = pattern;
    while let Some(open) = rest.find('<') {
        text.push_str(&rest[..open]);
        rest = &rest[open..];
        let place = rest.find('>').and_then(|close| Some((close, place(&rest[1..close])?)));
        if let Some((close, place)) = place {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
            pieces.push(place);
            rest = &rest[close + 1..];
        } else {
            text.push('<');
            rest = &rest[1..];
        }
    }
    text.push_str(rest);
    pieces.push(Piece::Text(text));
    pieces
}

fn place(inside: &str) -> Option<Piece> {
    let (name, kind) = match inside.split_once('=') {
        Some((name, kind)) => (Some(name.to_owned()), kind),
        None => (None, inside),
    };
    let kind = match kind {
        "receipt" => Kind::Receipt,
        "number" => Kind::Number,
        "time" => Kind::Time,
        "line" => Kind::Line,
        _ => return None,
    };
    Some(Piece::Place(kind, name))
}

/// Holds `text` against the pieces. Returns the variables, or `None` when it does not fit.
pub fn fit(pieces: &[Piece], text: &str) -> Option<Vec<(String, String)>> {
    let Some((first, others)) = pieces.split_first() else {
        return text.is_empty().then(Vec::new);
    };
    match first {
        Piece::Text(expected) => fit(others, text.strip_prefix(expected.as_str())?),
        Piece::Place(kind, name) => kind.lengths(text).find_map(|length| {
            let mut variables = fit(others, &text[length..])?;
            variables.extend(name.iter().map(|name| (name.clone(), text[..length].to_owned())));
            Some(variables)
        }),
    }
}

impl Kind {
    /// How many bytes at the start of `text` may stand in the place; the longest first.
    fn lengths(self, text: &str) -> impl Iterator<Item = usize> {
        let run = |allowed: fn(char) -> bool| text.find(|c| !allowed(c)).unwrap_or(text.len());
        let (least, most) = match self {
            Self::Receipt if receipt_at(text) => (RECEIPT_CHARACTERS, RECEIPT_CHARACTERS),
            Self::Number => (1, run(|c| c.is_ascii_digit())),
            Self::Time => match time_at(text) {
                Some(length) => (length, length),
                None => (1, 0),
            },
            Self::Line => (0, run(|c| c != '\n')),
            Self::Any => (0, text.len()),
            Self::Receipt => (1, 0),
        };
        (least..=most)
            .rev()
            .filter(|&length| text.is_char_boundary(length))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// True when `text` starts with as many characters of a receipt as a receipt has, and no more.
pub fn receipt_at(text: &str) -> bool {
    let other = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
    text.find(other).unwrap_or(text.len()) == RECEIPT_CHARACTERS
}

/// The length of the time at the start of `text`, if there is one.
pub fn time_at(text: &str) -> Option<usize> {
    let end = text.find('Z')?;
    let form = |at: usize, character: char| match at {
        4 | 7 => character == '-',
        10 => character == 'T',
        13 | 16 => character == ':',
        19 => character == '.',
        _ => character.is_ascii_digit(),
    };
    let fits = end >= 19 && end != 20 && text[..end].chars().enumerate().all(|(at, c)| form(at, c));
    fits.then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_take_their_kind_and_nothing_else() {
        let receipt = "AAAAAAAAAAEAAAAAAAAAAQAAAAAAAAABHXdyOmIEw8w1Oae9";
        let text = format!("{receipt}\t17 at 2026-01-31T12:00:00.123Z, rest\n");
        let found = fit(&pieces("<R=receipt>\t<N=number> at <time>, <line>\n"), &text).unwrap();
        assert!(found.contains(&("R".to_owned(), receipt.to_owned())), "{found:?}");
        assert!(found.contains(&("N".to_owned(), "17".to_owned())), "{found:?}");
        for (pattern, text) in [
            ("<receipt>", "AAAA"),
            ("<receipt>", &format!("{receipt}A")),
            ("<number>", ""),
            ("<number>", "x"),
            ("<number>", "1x"),
            ("<time>", "2026-01-31 12:00:00Z"),
            ("a<line>", "a\n"),
            ("a\n", "a"),
            ("", "a"),
        ] {
            assert_eq!(fit(&pieces(pattern), text), None, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn brackets_without_a_kind_stand_for_themselves() {
        assert_eq!(pieces("<QUEUE>"), [Piece::Text("<QUEUE>".to_owned())]);
        assert!(fit(&pieces("a < b <blank> <line>"), "a < b <blank> c").is_some());
        assert!(fit(&pieces("<blank>"), "x").is_none());
    }

    #[test]
    fn place_gives_way_to_the_text_behind_it() {
        assert!(fit(&pieces("<line>: <line>.\n"), "a: b: c.d.\n").is_some());
        let lines = [Piece::Place(Kind::Any, None), Piece::Text("end".to_owned())];
        assert!(fit(&lines, "a\nb\nend").is_some());
        assert!(fit(&lines, "a\nb\nend\n").is_none());
    }
}
