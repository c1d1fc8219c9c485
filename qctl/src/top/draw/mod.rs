//! The picture of what the application knows; nothing is decided here.

mod help;
mod lines;
mod messages;
mod queue;
mod queues;
#[cfg(test)]
mod tests;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use tokio::time::Instant;

use super::app::{App, View};
use super::queues::Row;
use super::show;
use crate::output::{clipped, display_width};

pub use lines::line_count;

/// Styles, with colours or without.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    title: Style,
    heading: Style,
    sorted: Style,
    chosen: Style,
    warning: Style,
    hint: Style,
    bars: Style,
}

impl Theme {
    /// Without colours there are bold, underlined and reversed characters.
    pub fn new(colours: bool) -> Self {
        let plain = Style::new();
        let bold = plain.add_modifier(Modifier::BOLD);
        let coloured = |colour: Color, otherwise: Style| {
            if colours { plain.fg(colour) } else { otherwise }
        };
        Self {
            title: bold,
            heading: plain.add_modifier(Modifier::UNDERLINED),
            sorted: coloured(Color::Cyan, plain)
                .add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            chosen: plain.add_modifier(Modifier::REVERSED),
            warning: coloured(Color::Red, plain).add_modifier(Modifier::BOLD),
            hint: coloured(Color::DarkGray, plain),
            bars: coloured(Color::Cyan, plain),
        }
    }
}

/// What is drawn on.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    theme: Theme,
}

impl Canvas<'_> {
    /// Text at the left of an area of one row, cut where that ends.
    fn text(&mut self, area: Rect, text: &str, style: Style) {
        if area.is_empty() {
            return;
        }
        let text = clipped(text, usize::from(area.width));
        self.buffer.set_stringn(area.x, area.y, text, usize::from(area.width), style);
    }

    /// Text at the right of an area of one row.
    fn right_text(&mut self, area: Rect, text: &str, style: Style) {
        let text = clipped(text, usize::from(area.width));
        let width = u16::try_from(display_width(&text)).unwrap_or(area.width).min(area.width);
        self.text(Rect { x: area.right() - width, width, ..area }, &text, style);
    }

    fn style(&mut self, area: Rect, style: Style) {
        self.buffer.set_style(area, style);
    }
}

/// Draws all of it.
pub fn draw(frame: &mut Frame, app: &App, theme: Theme, now: Instant) {
    let area = frame.area();
    // The title and the last line stay, whatever else has room.
    let [title, body, last] = [
        row(area, 0),
        Rect { y: area.y + 1, height: area.height.saturating_sub(2), ..area }.intersection(area),
        row(area, area.height.saturating_sub(1)),
    ];
    let cursor = last_line_cursor(app, last);
    let mut canvas = Canvas { buffer: frame.buffer_mut(), theme };
    match &app.view {
        View::Queues => queues::draw(&mut canvas, app, title, body),
        View::Queue { name, top } => queue::draw(&mut canvas, app, name, *top, title, body),
        View::Messages(messages) => messages::draw(&mut canvas, messages, title, body),
        View::Message { messages, top } => {
            messages::draw_one(&mut canvas, messages, *top, title, body);
        }
    }
    if area.height > 1 {
        last_line(&mut canvas, app, last, now);
    }
    if app.help {
        help::draw(&mut canvas, body);
    } else if let Some(cursor) = cursor {
        frame.set_cursor_position(cursor);
    }
}

/// One row of an area; empty where there is none.
fn row(area: Rect, at: u16) -> Rect {
    Rect { y: area.y.saturating_add(at), height: 1, ..area }.intersection(area)
}

const FILTER: &str = "filter: ";

fn last_line(canvas: &mut Canvas, app: &App, area: Rect, now: Instant) {
    let theme = canvas.theme;
    if app.typing {
        let text = format!("{FILTER}{}", app.queues.filter());
        return canvas.text(area, &text, theme.title);
    }
    if let Some(away) = &app.away {
        let since = now.saturating_duration_since(away.since).as_secs();
        let text = format!("no server for {}, trying again: {}", show::age(since), away.reason);
        return canvas.text(area, &text, theme.warning);
    }
    if let Some(missed) = app.missed_for(now) {
        let text = format!("no answer for {}", show::age(missed.as_secs()));
        return canvas.text(area, &text, theme.warning);
    }
    let hints = match &app.view {
        View::Queues => "?: keys  q: leave  Enter: open  p: peek  /: filter  n r d l i o a x: sort",
        View::Queue { .. } => {
            "?: keys  q: leave  Esc: back  Enter: peek at messages  arrows: scroll"
        }
        View::Messages(_) => {
            "?: keys  q: leave  Esc: back  Enter: open  n b: next, previous page  r: again"
        }
        View::Message { .. } => "?: keys  q: leave  Esc: back  arrows: scroll, other messages",
    };
    canvas.text(area, hints, theme.hint);
}

/// Behind a filter that is being typed.
fn last_line_cursor(app: &App, area: Rect) -> Option<Position> {
    let column = display_width(FILTER) + display_width(app.queues.filter());
    let column = u16::try_from(column).unwrap_or(u16::MAX).min(area.width.saturating_sub(1));
    (app.typing && !area.is_empty()).then(|| Position::new(area.x + column, area.y))
}

/// A name with what is special about the queue.
fn name_of(row: &Row) -> String {
    let name = &row.queue.name;
    if row.gone {
        format!("{name} (gone)")
    } else if row.queue.attributes.paused {
        format!("{name} (paused)")
    } else {
        name.to_string()
    }
}
