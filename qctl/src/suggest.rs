//! What a mistyped word was meant to be.

/// The word of `known` that `word` is a slip of, if there is one: at most a third of its characters
/// are wrong, missing, too many, or have changed places with their neighbour.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let asked: Vec<char> = word.to_lowercase().chars().collect();
    let within = (asked.len() / 3).max(1);
    known
        .into_iter()
        .filter_map(|name| {
            let other: Vec<char> = name.to_lowercase().chars().collect();
            // Cheap, and spares the rest for most names.
            let near = other.len().abs_diff(asked.len()) <= within;
            let slips = near.then(|| slips(&asked, &other)).filter(|slips| *slips <= within)?;
            // What is all wrong is no slip.
            (slips < asked.len()).then_some((slips, name))
        })
        .min()
        .map(|(_, name)| name)
}

/// A question to be put behind a message; empty when nothing is close.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, known).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

/// How many slips lead from one word to the other: the optimal string alignment distance.
fn slips(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut fewest = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                fewest = fewest.min(before[j - 1] + 1);
            }
            row.push(fewest);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(from.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found() {
        let known = ["jobs", "images", "images.dead", "max-messages"];
        for (word, meant) in [
            ("jbs", Some("jobs")),
            ("jobss", Some("jobs")),
            ("JOBS", Some("jobs")),
            ("jbos", Some("jobs")),
            ("imgaes.dead", Some("images.dead")),
            ("max_mesages", Some("max-messages")),
            ("x", None),
            ("", None),
            ("mail", None),
            ("sboj", None),
        ] {
            assert_eq!(closest(word, known), meant, "{word}");
        }
        assert_eq!(closest("a", ["b"]), None, "all of it is wrong");
        assert_eq!(did_you_mean("jbs", known), "; did you mean \"jobs\"?");
        assert_eq!(did_you_mean("mail", known), "");
    }

    #[test]
    fn nearest_wins_and_of_equals_the_first_by_name() {
        assert_eq!(closest("jobs1", ["jobs2", "jobs"]), Some("jobs"));
        assert_eq!(closest("jobx", ["jobz", "jobs"]), Some("jobs"));
    }

    #[test]
    fn slips_are_counted() {
        let count = |a: &str, b: &str| {
            let [a, b] = [a, b].map(|word| word.chars().collect::<Vec<_>>());
            slips(&a, &b)
        };
        for (a, b, slips) in
            [("", "", 0), ("ab", "", 2), ("", "ab", 2), ("ab", "ba", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(count(a, b), slips, "{a} {b}");
        }
    }
}
