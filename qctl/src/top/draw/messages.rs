//! Messages that were peeked at, and one of them.

use ratatui::layout::Rect;
use ratatui::style::Style;

use super::{Canvas, lines, row};
use crate::output::display_width;
use crate::top::messages::Messages;

/// Columns in front of the bodies.
const WIDTHS: [(&str, usize); 3] = [("id", 10), ("state", 7), ("attempt", 7)];

/// Draws a page.
pub fn draw(canvas: &mut Canvas, messages: &Messages, title: Rect, body: Rect) {
    let more = if messages.more { ", more follow" } else { "" };
    let text = format!("messages of {}, page {}{more}", messages.queue, messages.number());
    canvas.text(title, &text, canvas.theme.title);
    canvas.style(row(body, 0), canvas.theme.heading);
    let headings = line(str::to_uppercase, "BODY");
    canvas.text(row(body, 0), &headings, canvas.theme.heading);
    let note = match &messages.refused {
        Some(refused) => Some((refused.as_str(), canvas.theme.warning)),
        None if !messages.known => Some(("reading the messages", canvas.theme.hint)),
        None if messages.page.is_empty() => Some(("no messages", canvas.theme.hint)),
        None => None,
    };
    if let Some((text, style)) = note {
        canvas.text(row(body, 1), text, style);
    }
    for (at, (message, chosen)) in (1..).zip(messages.visible()) {
        let area = row(body, at);
        let text = line(|name| message.field(name).to_owned(), &message.line);
        canvas.text(area, &text, Style::new());
        if chosen {
            canvas.style(area, canvas.theme.chosen);
        }
    }
}

fn line(field: impl Fn(&str) -> String, body: &str) -> String {
    let mut line = String::new();
    for (name, width) in WIDTHS {
        let text = field(name);
        let pad = width.saturating_sub(display_width(&text));
        line.push_str(&text);
        line.push_str(&" ".repeat(pad + 2));
    }
    line + body
}

/// Draws one message, its lines from `top` on.
pub fn draw_one(canvas: &mut Canvas, messages: &Messages, top: usize, title: Rect, body: Rect) {
    let Some(message) = messages.chosen() else {
        canvas.text(title, messages.queue.as_str(), canvas.theme.title);
        return;
    };
    let text = format!("message {} of {}", message.field("id"), messages.queue);
    canvas.text(title, &text, canvas.theme.title);
    let lines = lines::of_message(message, usize::from(body.width));
    for (at, line) in (0..body.height).zip(lines.iter().skip(top)) {
        canvas.text(row(body, at), line, Style::new());
    }
}
