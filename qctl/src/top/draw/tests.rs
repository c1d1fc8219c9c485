//! What a terminal would show.

use std::time::Duration;

use qd_protocol::QueueDescription;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Cell;
use ratatui::style::{Color, Modifier};

use super::*;
use crate::top::app::testing::{looked, lost, page, press};
use crate::top::app::{Answer, Ask};
use crate::top::keys::Key;
use crate::top::messages::testing::peeked;
use crate::top::queues::testing::queue;

const COLOURS: Theme = Theme {
    title: Style::new(),
    heading: Style::new(),
    sorted: Style::new(),
    chosen: Style::new().add_modifier(Modifier::REVERSED),
    warning: Style::new(),
    hint: Style::new(),
    bars: Style::new(),
};

fn drawn(app: &mut App, columns: u16, rows: u16, theme: Theme, now: Instant) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    let lines = line_count(app, columns.into());
    app.set_rows(rows.into(), lines);
    terminal.draw(|frame| draw(frame, app, theme, now)).unwrap();
    terminal.backend().buffer().clone()
}

/// The rows without the spaces at their ends.
fn shown(app: &mut App, columns: u16, rows: u16, now: Instant) -> Vec<String> {
    let buffer = drawn(app, columns, rows, COLOURS, now);
    let rows = buffer.content().chunks(columns.into());
    let text = |row: &[Cell]| row.iter().map(Cell::symbol).collect::<String>();
    rows.map(|row| text(row).trim_end().to_owned()).collect()
}

#[test]
fn table_has_every_figure_of_a_queue_on_80_columns() {
    let (mut app, now) = looked(&[("jobs", 5), ("mail", 1_234_567)]);
    let later = now + Duration::from_secs(2);
    let mut jobs = queue("jobs", 9, 25);
    jobs.statistics.leased = 1;
    jobs.statistics.delayed = 4;
    jobs.statistics.dead_lettered = 3;
    jobs.statistics.oldest_age_s = 75;
    let mut mail = queue("mail", 0, 1_234_567);
    mail.attributes.paused = true;
    let ask = app.ask(later).unwrap();
    let listed = qd_protocol::verbs::Listed { queues: vec![jobs, mail], more: false };
    app.take(ask, Ok(Answer::Queues(listed)), later).unwrap();
    assert_eq!(
        shown(&mut app, 80, 6, later),
        [
            "unix:/s                     2 queues  ready 9  leased 1  in 10.0/s  out 617289/s",
            "NAME                ▼READY DELAYED  LEASED   IN/S  OUT/S OLDEST   DEAD DEPTH",
            "jobs                     9       4       1   10.0    5.5     1m      3        ▃█",
            "mail (paused)            0       0       0    0.0 617284     0s      0        █",
            "",
            "?: keys  q: leave  Enter: open  p: peek  /: filter  n r d l i o a x: sort",
        ]
        .map(str::to_owned)
    );
}

#[test]
fn every_size_is_drawn() {
    let (mut app, now) = looked(&[("jobs", 5), ("mail", 7)]);
    for keys in ["", "?", "?\r", "\x1b\x1bp", "\x1b\x1b/filter"] {
        press(&mut app, keys, now);
        for (columns, rows) in [(1, 1), (2, 2), (10, 3), (40, 5), (300, 100)] {
            drawn(&mut app, columns, rows, Theme::new(true), now);
        }
    }
    let text = shown(&mut app, 40, 3, now);
    assert_eq!(text[2], "filter: filter", "{text:#?}");
}

#[test]
fn chosen_queue_is_reversed_and_colours_are_only_there_when_wanted() {
    let (mut app, now) = looked(&[("jobs", 5), ("mail", 7)]);
    for colours in [true, false] {
        let buffer = drawn(&mut app, 80, 6, Theme::new(colours), now);
        let reversed = |row| buffer[(79, row)].modifier.contains(Modifier::REVERSED);
        assert_eq!((reversed(2), reversed(3)), (true, false));
        let coloured = |cell: &Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
        assert_eq!(buffer.content().iter().any(coloured), colours);
    }
}

#[test]
fn filter_and_what_it_leaves_are_told() {
    let (mut app, now) = looked(&[("jobs", 5), ("mail", 7)]);
    press(&mut app, "/job", now);
    let text = shown(&mut app, 80, 6, now);
    assert!(text[0].contains("1 of 2 queues"), "{text:#?}");
    assert_eq!((text[2].split(' ').next(), text[5].as_str()), (Some("jobs"), "filter: job"));
    press(&mut app, "x\r", now);
    assert_eq!(shown(&mut app, 80, 6, now)[2], "no queue has \"jobx\" in its name");
}

#[test]
fn server_that_is_away_or_slow_is_told() {
    let (mut app, now) = looked(&[("jobs", 5)]);
    let later = now + Duration::from_secs(2);
    let ask = app.ask(later).unwrap();
    let text = shown(&mut app, 80, 6, later + Duration::from_secs(4));
    assert_eq!(text[5], "no answer for 4s");
    app.take(ask, lost(), later).unwrap();
    let text = shown(&mut app, 80, 6, later + Duration::from_secs(61));
    assert!(text[5].starts_with("no server for 1m, trying again: connection to"), "{text:#?}");
    assert!(text[2].starts_with("jobs "), "what was known stays: {text:#?}");
}

#[test]
fn first_look_says_how_far_it_got() {
    let now = Instant::now();
    let mut app = App::new("unix:/s".to_owned(), Duration::from_secs(2), now);
    assert_eq!(shown(&mut app, 80, 6, now)[2], "reading the queues: 0 so far");
    let ask = app.ask(now).unwrap();
    app.take(ask, Ok(page(&[("a", 1), ("b", 1)], true)), now).unwrap();
    assert_eq!(shown(&mut app, 80, 6, now)[2], "reading the queues: 2 so far");
    let ask = app.ask(now).unwrap();
    app.take(ask, Ok(page(&[], false)), now).unwrap();
    assert!(shown(&mut app, 80, 6, now)[2].starts_with("a "));
    let (mut app, now) = looked(&[]);
    assert_eq!(shown(&mut app, 80, 6, now)[2], "no queues");
}

fn opened(queue: QueueDescription) -> (App, Instant) {
    let (mut app, now) = looked(&[(queue.name.as_str(), 1)]);
    press(&mut app, "\r", now);
    let ask = app.ask(now).unwrap();
    app.take(ask, Ok(Answer::Queue(Box::new(queue))), now).unwrap();
    (app, now)
}

#[test]
fn queue_has_its_depth_attributes_and_counters_on_24_rows() {
    let (mut app, now) = opened(queue("jobs", 8, 8));
    let text = shown(&mut app, 80, 24, now);
    assert_eq!(text[0], "jobs");
    assert!(text[1].starts_with("ready 8  delayed 0  leased 0  in -/s"), "{text:#?}");
    assert_eq!(text[2], "depth 8, at most 8 in 2 looks");
    assert_eq!((text[3].as_str(), text[4].as_str(), text[5].as_str()), (" █", " █", "▃█"));
    assert!(text[6].starts_with("created_at"), "{text:#?}");
    for field in ["max_messages", "dead_letter  ", "paused", "ready", "duplicates", "oldest_age_s"]
    {
        assert!(text.iter().any(|line| line.contains(field)), "{field}: {text:#?}");
    }
    // Fields that have no room are scrolled to; the last one stays.
    let text = shown(&mut app, 40, 10, now);
    assert!(!text.iter().any(|line| line.starts_with("duplicates")), "{text:#?}");
    app.on_key(Key::End, now);
    let text = shown(&mut app, 40, 10, now);
    assert!(text[2].starts_with("duplicates"), "{text:#?}");
    app.on_key(Key::Up, now);
    assert!(shown(&mut app, 40, 10, now)[3].starts_with("duplicates"));
}

#[test]
fn queue_that_is_gone_is_told() {
    let (mut app, now) = opened(queue("jobs", 8, 8));
    let later = now + Duration::from_secs(2);
    let ask = app.ask(later).unwrap();
    let refusal = qd_protocol::ErrorCode::NoSuchQueue.refuse("gone");
    app.take(ask, Err(refusal.into()), later).unwrap();
    assert_eq!(shown(&mut app, 80, 24, later)[0], "jobs (gone)");
}

#[test]
fn bodies_are_escaped_and_wide_characters_keep_their_columns() {
    let (mut app, now) = looked(&[("jobs", 1)]);
    press(&mut app, "p", now);
    assert_eq!(shown(&mut app, 80, 6, now)[2], "reading the messages");
    let ask = app.ask(now).unwrap();
    assert!(matches!(ask, Ask::Messages(..)));
    let bodies: &[&[u8]] = &[b"\x1b[2Jgone\x07\n\xff", "漢字 e\u{301}\u{202e}x".as_bytes()];
    app.take(ask, Ok(Answer::Messages(peeked(9, bodies, true))), now).unwrap();
    let buffer = drawn(&mut app, 80, 6, COLOURS, now);
    for cell in buffer.content() {
        assert!(!cell.symbol().contains(char::is_control), "{cell:?}");
    }
    let text = shown(&mut app, 80, 6, now);
    assert_eq!(text[0], "messages of jobs, page 1, more follow");
    assert_eq!(text[1], "ID          STATE    ATTEMPT  BODY");
    assert_eq!(text[2], "9           ready    2        \\x1b[2Jgone\\x07\\n\\xff");
    // A wide character takes two cells, the second of which is empty.
    assert_eq!(text[3], "10          ready    2        漢 字  e\u{301}\\u{202e}x");
    press(&mut app, "j\r", now);
    let text = shown(&mut app, 80, 14, now);
    assert_eq!(text[0], "message 10 of jobs");
    assert!(text.iter().any(|line| line == "headers   k\\x1b=v\\u{9b}"), "{text:#?}");
    assert!(text.iter().any(|line| line == "body      14 bytes"), "{text:#?}");
    assert!(text.iter().any(|line| line.ends_with("e\u{301}\\u{202e}x")), "{text:#?}");
}

#[test]
fn messages_that_are_not_there_are_told() {
    let (mut app, now) = looked(&[("jobs", 1)]);
    press(&mut app, "p", now);
    let ask = app.ask(now).unwrap();
    app.take(ask, Ok(Answer::Messages(peeked(1, &[], false))), now).unwrap();
    assert_eq!(shown(&mut app, 80, 6, now)[2], "no messages");
    press(&mut app, "r", now);
    let ask = app.ask(now).unwrap();
    let refusal = qd_protocol::ErrorCode::NoSuchQueue.refuse("no queue is named \"jobs\"");
    app.take(ask, Err(refusal.into()), now).unwrap();
    assert_eq!(shown(&mut app, 80, 6, now)[2], "no queue is named \"jobs\"");
}

#[test]
fn keys_are_shown_above_everything() {
    let (mut app, now) = looked(&[("jobs", 1)]);
    press(&mut app, "?", now);
    let text = shown(&mut app, 80, 24, now);
    for what in ["Keys", "leave", "sort by in, out, oldest, dead letters", "filter"] {
        assert!(text.iter().any(|line| line.contains(what)), "{what}: {text:#?}");
    }
    assert!(text.iter().any(|line| line.ends_with('┘')), "the box is whole: {text:#?}");
}

#[test]
fn thousands_of_queues_are_drawn_as_fast_as_there_are_rows() {
    let names: Vec<String> = (0..10_000).map(|number| format!("queue-{number:05}")).collect();
    let queues: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let (mut app, now) = looked(&queues);
    app.on_key(Key::End, now);
    let text = shown(&mut app, 80, 24, now);
    assert!(text[0].contains("10000 queues  ready 10000"), "{text:#?}");
    assert!(text[22].starts_with("queue-09999"), "{text:#?}");
    press(&mut app, "/77", now);
    assert!(shown(&mut app, 80, 24, now)[2].starts_with("queue-00077"));
}
