//! One queue: its depth over time, its attributes and its counters.

use qd_protocol::QueueName;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Sparkline, Widget};

use super::{Canvas, lines, name_of, row};
use crate::top::app::App;
use crate::top::queues::live;
use crate::top::show;

/// Rows of the bars.
const BARS_ROWS: u16 = 3;
/// Where there are fewer rows there are no bars.
const ROWS_MIN: u16 = 12;

/// Draws it, the lines from `top` on.
pub fn draw(canvas: &mut Canvas, app: &App, name: &QueueName, top: usize, title: Rect, body: Rect) {
    let Some(queue) = app.queues.get(name) else {
        canvas.text(title, name.as_str(), canvas.theme.title);
        canvas.text(row(body, 0), "it is not there", canvas.theme.warning);
        return;
    };
    canvas.text(title, &name_of(queue), canvas.theme.title);
    let counters = &queue.queue.statistics;
    let text = format!(
        "ready {}  delayed {}  leased {}  in {}/s  out {}/s  oldest {}",
        show::count(counters.ready),
        show::count(counters.delayed),
        show::count(counters.leased),
        show::rate(queue.rates, |rates| rates.into),
        show::rate(queue.rates, |rates| rates.out),
        show::age(counters.oldest_age_s),
    );
    canvas.text(row(body, 0), &text, Style::new());
    let mut taken = 1;
    if body.height >= ROWS_MIN {
        let most = queue.depths.iter().copied().max().unwrap_or(0);
        let text = format!(
            "depth {}, at most {} in {} looks",
            show::count(live(&queue.queue)),
            show::count(most),
            queue.depths.len()
        );
        canvas.text(row(body, 1), &text, canvas.theme.hint);
        let area = Rect { y: body.y + 2, height: BARS_ROWS, ..body };
        let room = usize::from(area.width);
        let depths = queue.depths.iter().skip(queue.depths.len().saturating_sub(room));
        let depths: Vec<u64> = depths.copied().collect();
        let bars = Sparkline::default().data(depths).style(canvas.theme.bars);
        bars.render(area, canvas.buffer);
        taken = 2 + BARS_ROWS;
    }
    let lines = lines::of_queue(&queue.queue, usize::from(body.width));
    for (at, line) in (taken..body.height).zip(lines.iter().skip(top)) {
        canvas.text(row(body, at), line, Style::new());
    }
}
