//! The keys, above everything else.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Block, Clear, Widget};

use super::Canvas;

/// What is shown, for people.
const KEYS: &[(&str, &str)] = &[
    ("q, Ctrl-C", "leave"),
    ("?", "these keys"),
    ("arrows, j k", "choose, or scroll; PgUp PgDn Home End too"),
    ("Enter", "open: a queue, its messages, a message"),
    ("Esc", "back; among all queues: no filter"),
    ("p", "peek at the messages of a queue"),
    ("/", "filter by a part of the name"),
    ("n r d l", "sort by name, ready, delayed, leased"),
    ("i o a x", "sort by in, out, oldest, dead letters"),
    ("", "the same key again: the other way round"),
    ("space", "look now"),
    ("n b r", "messages: next page, page before, again"),
    ("Ctrl-L", "draw everything anew"),
    ("Ctrl-Z", "stop; fg goes on"),
];

/// Draws the box in the middle of `area`.
pub fn draw(canvas: &mut Canvas, area: Rect) {
    let rows = u16::try_from(KEYS.len()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let columns = 64.min(area.width);
    let place = Rect {
        x: area.x + (area.width - columns) / 2,
        y: area.y + (area.height - rows) / 2,
        width: columns,
        height: rows,
    };
    Clear.render(place, canvas.buffer);
    let frame = Block::bordered().title(" Keys (any key closes this) ");
    let inner = frame.inner(place);
    frame.render(place, canvas.buffer);
    for (at, (key, what)) in (0..inner.height).zip(KEYS) {
        canvas.text(super::row(inner, at), &format!(" {key:<13} {what}"), Style::new());
    }
}
