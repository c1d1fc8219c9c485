//! The examples of a page in Markdown.

use std::fs;
use std::path::Path;

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Example {
    /// First word behind the fence.
    pub language: String,
    /// The words behind it.
    pub words: Vec<String>,
    /// What is inside.
    pub text: String,
    /// Line of the fence, counted from 1.
    pub line: usize,
}

/// The fenced blocks of a page, in order.
///
/// # Panics
///
/// When the page cannot be read or a fence is not closed.
pub fn examples(page: &Path) -> Vec<Example> {
    let text = fs::read_to_string(page).expect("the page can be read");
    let mut examples = Vec::new();
    let mut open: Option<Example> = None;
    for (at, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                let (words, text) = (words.collect(), String::new());
                open = Some(Example { language, words, text, line: at + 1 });
            }
            (Some(_), Some(_)) => examples.extend(open.take()),
            (Some(example), None) => {
                example.text.push_str(line);
                example.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "the last fence is not closed");
    examples
}
