//! The table of queues.

use ratatui::layout::Rect;

use super::{Canvas, name_of, row};
use crate::output::{clipped, display_width};
use crate::rates::Rates;
use crate::top::app::App;
use crate::top::queues::{Column, Row};
use crate::top::show;

/// Columns of figures with their widths, the space before them included; those at the end are left out
/// where there is no room.
const FIGURES: [(Column, &str, usize); 7] = [
    (Column::Ready, "READY", 8),
    (Column::Delayed, "DELAYED", 8),
    (Column::Leased, "LEASED", 8),
    (Column::In, "IN/S", 7),
    (Column::Out, "OUT/S", 7),
    (Column::Oldest, "OLDEST", 7),
    (Column::Dead, "DEAD", 7),
];
const NAME_COLUMNS_MIN: usize = 12;
const NAME_COLUMNS: usize = 18;
const BARS_COLUMNS: usize = 9;
const BARS_COLUMNS_MAX: usize = 60;

/// How the columns of a screen are shared out.
struct Widths {
    name: usize,
    figures: usize,
    bars: usize,
}

impl Widths {
    fn new(columns: usize, longest_name: usize) -> Self {
        let mut figures = FIGURES.len();
        let taken =
            |figures: usize| FIGURES.iter().take(figures).map(|figure| figure.2).sum::<usize>();
        while figures > 0 && taken(figures) + NAME_COLUMNS_MIN > columns {
            figures -= 1;
        }
        let left = columns - taken(figures).min(columns);
        if left < NAME_COLUMNS + 1 + BARS_COLUMNS {
            return Self { name: left, figures, bars: 0 };
        }
        let name = longest_name.clamp(NAME_COLUMNS, left - 1 - BARS_COLUMNS);
        Self { name, figures, bars: (left - 1 - name).min(BARS_COLUMNS_MAX) }
    }
}

/// Draws the table, and what all queues have together above it.
pub fn draw(canvas: &mut Canvas, app: &App, title: Rect, body: Rect) {
    draw_title(canvas, app, title);
    let longest = app.queues.visible().map(|(row, _)| display_width(&name_of(row))).max();
    let widths = Widths::new(usize::from(body.width), longest.unwrap_or(0));
    draw_headings(canvas, app, &widths, row(body, 0));
    if app.queues.shown_count() == 0 {
        let text = if app.queues.is_known() && app.queues.count() == 0 {
            "no queues".to_owned()
        } else if app.queues.is_known() {
            format!("no queue has \"{}\" in its name", app.queues.filter())
        } else {
            format!("reading the queues: {} so far", app.queues.found_count())
        };
        canvas.text(row(body, 1), &text, canvas.theme.hint);
    }
    for (at, (queue, chosen)) in (1..).zip(app.queues.visible()) {
        let area = row(body, at);
        if area.is_empty() {
            break;
        }
        draw_row(canvas, queue, &widths, area);
        if chosen {
            canvas.style(area, canvas.theme.chosen);
        }
    }
}

fn draw_title(canvas: &mut Canvas, app: &App, area: Rect) {
    let queues = &app.queues;
    let sum = |of: fn(&Row) -> u64| show::count(queues.all().iter().map(of).sum());
    let rate = |of: fn(&Rates) -> f64| {
        let rates = queues.all().iter().filter_map(|row| row.rates.as_ref());
        let rates: Vec<f64> = rates.map(of).collect();
        let sum = Some(Rates { into: rates.iter().sum(), out: 0.0 }).filter(|_| !rates.is_empty());
        show::rate(sum, |sum| sum.into)
    };
    let count = if queues.filter().is_empty() {
        format!("{} queues", queues.count())
    } else {
        format!("{} of {} queues", queues.shown_count(), queues.count())
    };
    let text = format!(
        "{count}  ready {}  leased {}  in {}/s  out {}/s",
        sum(|row| row.queue.statistics.ready),
        sum(|row| row.queue.statistics.leased),
        rate(|rates| rates.into),
        rate(|rates| rates.out),
    );
    let width = u16::try_from(display_width(&text)).unwrap_or(u16::MAX);
    canvas.right_text(area, &text, canvas.theme.title);
    let left = Rect { width: area.width.saturating_sub(width.saturating_add(2)), ..area };
    canvas.text(left, &app.server, canvas.theme.hint);
}

fn draw_headings(canvas: &mut Canvas, app: &App, widths: &Widths, area: Rect) {
    let (column, descending) = app.queues.sorted_by();
    let mut x = 0;
    canvas.style(area, canvas.theme.heading);
    let mark = if descending { '▼' } else { '▲' };
    let heading = |own: Column, name: &str| {
        if own == column { format!("{mark}{name}") } else { name.to_owned() }
    };
    let theme = canvas.theme;
    let style = |own: Column| if own == column { theme.sorted } else { theme.heading };
    let name = Rect { width: width(widths.name), ..area };
    canvas.text(name, &heading(Column::Name, "NAME"), style(Column::Name));
    x += widths.name;
    for (own, name, columns) in FIGURES.iter().take(widths.figures) {
        let cell = cell(area, x, *columns);
        canvas.right_text(cell, &heading(*own, name), style(*own));
        x += columns;
    }
    if widths.bars > 0 {
        canvas.text(cell(area, x + 1, widths.bars), "DEPTH", theme.heading);
    }
}

fn draw_row(canvas: &mut Canvas, queue: &Row, widths: &Widths, area: Rect) {
    let counters = &queue.queue.statistics;
    let name = clipped(&name_of(queue), widths.name);
    let plain = ratatui::style::Style::new();
    canvas.text(cell(area, 0, widths.name), &name, plain);
    let mut x = widths.name;
    for (column, _, columns) in FIGURES.iter().take(widths.figures) {
        let text = match column {
            Column::Name => String::new(),
            Column::Ready => show::count(counters.ready),
            Column::Delayed => show::count(counters.delayed),
            Column::Leased => show::count(counters.leased),
            Column::In => show::rate(queue.rates, |rates| rates.into),
            Column::Out => show::rate(queue.rates, |rates| rates.out),
            Column::Oldest => show::age(counters.oldest_age_s),
            Column::Dead => show::count(counters.dead_lettered),
        };
        let style = if *column == Column::Dead && counters.dead_lettered > 0 {
            canvas.theme.warning
        } else {
            plain
        };
        canvas.right_text(cell(area, x, *columns), &text, style);
        x += columns;
    }
    let bars = show::bars(&queue.depths, widths.bars);
    canvas.text(cell(area, x + 1, widths.bars), &bars, canvas.theme.bars);
}

/// A part of a row.
fn cell(area: Rect, x: usize, columns: usize) -> Rect {
    Rect { x: area.x.saturating_add(width(x)), width: width(columns), ..area }.intersection(area)
}

fn width(columns: usize) -> u16 {
    u16::try_from(columns).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_give_way_to_names_and_bars_take_what_is_left() {
        let widths = |columns, longest| {
            let Widths { name, figures, bars } = Widths::new(columns, longest);
            (name, figures, bars)
        };
        assert_eq!(widths(80, 5), (18, 7, 9));
        assert_eq!(widths(80, 100), (18, 7, 9));
        assert_eq!(widths(200, 40), (40, 7, 60));
        assert_eq!(widths(70, 5), (18, 7, 0));
        assert_eq!(widths(40, 5), (16, 3, 0));
        assert_eq!(widths(10, 5), (10, 0, 0));
        assert_eq!(widths(0, 5), (0, 0, 0));
    }
}
