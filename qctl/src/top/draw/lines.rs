//! Lines to scroll through: the fields of a queue, and a message.

use qd_protocol::QueueDescription;
use unicode_width::UnicodeWidthChar;

use crate::output::{clipped, display_width};
use crate::top::app::{App, View};
use crate::top::messages::Message;
use crate::verbs::list;

/// Between two columns of fields.
const GAP: usize = 2;
/// A terminal with as many columns has room for two of fields.
const TWO_COLUMNS: usize = 70;

/// How many there are in what is shown on a terminal that is so wide.
pub fn line_count(app: &App, columns: usize) -> usize {
    match &app.view {
        View::Queues | View::Messages(_) => 0,
        View::Queue { name, .. } => {
            app.queues.get(name).map_or(0, |row| of_queue(&row.queue, columns).len())
        }
        View::Message { messages, .. } => {
            messages.chosen().map_or(0, |message| of_message(message, columns).len())
        }
    }
}

/// Attributes and counters, side by side where there is room.
pub fn of_queue(queue: &QueueDescription, columns: usize) -> Vec<String> {
    let record: Vec<(String, String)> = list::record(queue)
        .into_iter()
        .filter(|(name, _)| name != "name")
        .map(|(name, value)| (name, value.human()))
        .collect();
    // The counters begin with `ready`.
    let counters = record.iter().position(|(name, _)| name == "ready").unwrap_or(record.len());
    let (attributes, counters) = record.split_at(counters);
    if columns < TWO_COLUMNS {
        return [aligned(attributes), vec![String::new()], aligned(counters)].concat();
    }
    let (left, right) = (aligned(attributes), aligned(counters));
    // The counters are short.
    let right_columns = right.iter().map(|line| display_width(line)).max().unwrap_or(0);
    let left_columns = columns.saturating_sub(right_columns + GAP).max(columns / 2);
    let longest = left.iter().map(|line| display_width(line)).max().unwrap_or(0);
    let left_columns = left_columns.min(longest.max(columns / 2));
    let count = left.len().max(right.len());
    let at = |lines: &[String], at: usize| lines.get(at).cloned().unwrap_or_default();
    let line = |line: usize| {
        let (left, right) = (clipped(&at(&left, line), left_columns), at(&right, line));
        let gap = (left_columns + GAP).saturating_sub(display_width(&left));
        format!("{left}{:gap$}{right}", "").trim_end().to_owned()
    };
    (0..count).map(line).collect()
}

/// Its fields, and its body, wrapped.
pub fn of_message(message: &Message, columns: usize) -> Vec<String> {
    let fields = message.fields.iter().filter(|(_, value)| !value.is_empty());
    let mut fields: Vec<(String, String)> =
        fields.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    fields.push(("body".to_owned(), format!("{} bytes", message.body_bytes())));
    let mut lines: Vec<String> =
        aligned(&fields).iter().flat_map(|line| wrapped(line, columns)).collect();
    lines.push(String::new());
    let (body, left) = message.body_lines();
    lines.extend(body.iter().flat_map(|line| wrapped(line, columns)));
    if left > 0 {
        lines.push(format!("... and {left} bytes more"));
    }
    lines
}

/// Names, and values in a column behind them.
fn aligned(fields: &[(String, String)]) -> Vec<String> {
    let longest = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{name:longest$}  {value}")).collect()
}

/// A line in pieces that are not wider than the terminal, at least one.
fn wrapped(line: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut left = columns;
    for character in line.chars() {
        let width = character.width().unwrap_or(0);
        if width > left && left < columns {
            lines.push(String::new());
            left = columns;
        }
        left = left.saturating_sub(width);
        if let Some(last) = lines.last_mut() {
            last.push(character);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped_at_the_width_of_their_characters() {
        assert_eq!(wrapped("", 4), [""]);
        assert_eq!(wrapped("abcdefgh", 4), ["abcd", "efgh"]);
        assert_eq!(wrapped("漢字漢", 5), ["漢字", "漢"]);
        assert_eq!(wrapped("abce\u{301}d", 4), ["abce\u{301}", "d"]);
        assert_eq!(wrapped("漢字", 1), ["漢", "字"]);
    }
}
