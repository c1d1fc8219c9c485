//! Names of queues.

use std::fmt;

/// Most characters of a queue's name.
pub const NAME_CHARACTERS_MAX: usize = 128;

/// A valid queue name: 1 to 128 of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(String);

/// Why a text is no queue name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters.
    #[error("a queue name has 1 to {NAME_CHARACTERS_MAX} characters, not 0")]
    Empty,
    /// Too many characters.
    #[error("a queue name has 1 to {NAME_CHARACTERS_MAX} characters, not {0}")]
    TooLong(usize),
    /// A character that is not allowed (there).
    #[error(
        "queue name {name:?} has {character:?} at position {position}; allowed are A-Z a-z 0-9 . _ -, and . and - not first"
    )]
    Character {
        /// The text.
        name: String,
        /// What is not allowed.
        character: char,
        /// Counted from 1.
        position: usize,
    },
}

impl QueueName {
    /// Checks `name`.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        let length = name.chars().count();
        if length > NAME_CHARACTERS_MAX {
            return Err(NameError::TooLong(length));
        }
        let allowed = |position: usize, character: char| match character {
            '.' | '-' => position > 0,
            other => other.is_ascii_alphanumeric() || other == '_',
        };
        let bad = name.chars().enumerate().find(|&(at, character)| !allowed(at, character));
        if let Some((at, character)) = bad {
            return Err(NameError::Character { name, character, position: at + 1 });
        }
        Ok(Self(name))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for QueueName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_to_the_rule() {
        let longest = "x".repeat(128);
        for good in ["a", "jobs", "A.b_c-9", "_x", &longest] {
            assert_eq!(QueueName::new(good).unwrap().as_str(), good);
        }
        let too_long = "x".repeat(129);
        for bad in ["", ".a", "-a", "a/b", "a b", "é", "a\n", &too_long] {
            assert!(QueueName::new(bad).is_err(), "{bad:?}");
        }
    }
}
