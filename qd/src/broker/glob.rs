//! Patterns of queue names: `*` is any run of characters, `?` one character.

/// True when all of `name` matches `pattern`. Takes at most `pattern.len() * name.len()` steps, and
/// adds them to `steps`.
pub(super) fn matches(pattern: &str, name: &str, steps: &mut usize) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut position) = (0, 0);
    // Where to go on after the last star: behind it in the pattern, and one further in the name.
    let mut star: Option<(usize, usize)> = None;
    while position < name.len() {
        *steps += 1;
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, position));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[position] => {
                at += 1;
                position += 1;
            }
            _ => match star {
                Some((behind, from)) => {
                    star = Some((behind, from + 1));
                    at = behind;
                    position = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks_match_as_in_a_shell() {
        for (pattern, name) in
            [("*", ""), ("*", "abc"), ("a*c", "abbc"), ("a?c", "abc"), ("*b*", "abc"), ("a**", "a")]
        {
            assert!(matches(pattern, name, &mut 0), "{pattern} {name}");
        }
        for (pattern, name) in [("", "a"), ("a", "ab"), ("a?", "a"), ("*b", "abc"), ("b*", "abc")] {
            assert!(!matches(pattern, name, &mut 0), "{pattern} {name}");
        }
    }
}
