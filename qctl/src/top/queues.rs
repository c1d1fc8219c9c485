//! The queues as a table: what is known of each, in which order, which of them, and which one is
//! chosen.
//!
//! Always true here: `order` has the place of each row that the filter lets through, once; the
//! chosen one stays chosen by its name, whatever becomes of the order.

use std::collections::VecDeque;

use qd_protocol::{QueueDescription, QueueName};
use tokio::time::Instant;

use crate::rates::{Rates, Sample};

/// Looks whose depth is kept.
pub const HISTORY: usize = 240;

/// What the table can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Its name.
    Name,
    /// Messages that are ready.
    Ready,
    /// Messages that are delayed.
    Delayed,
    /// Messages that are leased.
    Leased,
    /// Messages that come, a second.
    In,
    /// Messages that go, a second.
    Out,
    /// Age of the oldest message.
    Oldest,
    /// Messages that became dead letters.
    Dead,
}

impl Column {
    /// All, with the key that sorts by it.
    pub const ALL: [(Self, char); 8] = [
        (Self::Name, 'n'),
        (Self::Ready, 'r'),
        (Self::Delayed, 'd'),
        (Self::Leased, 'l'),
        (Self::In, 'i'),
        (Self::Out, 'o'),
        (Self::Oldest, 'a'),
        (Self::Dead, 'x'),
    ];
}

/// What is known of a queue.
#[derive(Debug)]
pub struct Row {
    /// As it was in the last look.
    pub queue: QueueDescription,
    /// Since the look before.
    pub rates: Option<Rates>,
    /// Live messages in each look, the last one at the end.
    pub depths: VecDeque<u64>,
    /// It was asked for and is not there any more.
    pub gone: bool,
    sample: Sample,
}

impl Row {
    fn new(queue: QueueDescription, at: Instant, before: Option<Self>) -> Self {
        let sample = Sample::new(&queue, at);
        let (mut depths, rates) = match before {
            // Made anew it is another queue.
            Some(before) if before.queue.created_at_ms == queue.created_at_ms => {
                (before.depths, sample.rates_since(&before.sample))
            }
            _ => (VecDeque::new(), None),
        };
        if depths.len() == HISTORY {
            depths.pop_front();
        }
        depths.push_back(live(&queue));
        Self { queue, rates, depths, gone: false, sample }
    }

    fn rate(&self, of: impl Fn(&Rates) -> f64) -> f64 {
        self.rates.as_ref().map_or(-1.0, of)
    }
}

/// Messages in a queue, in any place.
pub fn live(queue: &QueueDescription) -> u64 {
    let counters = &queue.statistics;
    counters.ready.saturating_add(counters.delayed).saturating_add(counters.leased)
}

/// All queues.
#[derive(Debug)]
pub struct Queues {
    /// By name.
    rows: Vec<Row>,
    order: Vec<usize>,
    filter: String,
    column: Column,
    descending: bool,
    chosen: Option<QueueName>,
    /// Place of the chosen one in `order`.
    at: usize,
    /// Of the first one that is shown.
    top: usize,
    /// How many are shown.
    visible: usize,
    /// What the look that is under way has found so far.
    found: Vec<(QueueDescription, Instant)>,
    /// At least one look has ended.
    known: bool,
}

impl Queues {
    /// None yet; the ones with most messages first.
    pub fn new() -> Self {
        Self {
            rows: Vec::new(),
            order: Vec::new(),
            filter: String::new(),
            column: Column::Ready,
            descending: true,
            chosen: None,
            at: 0,
            top: 0,
            visible: 1,
            found: Vec::new(),
            known: false,
        }
    }

    /// Takes a part of a look; the parts come in the order of names.
    pub fn take(&mut self, queues: Vec<QueueDescription>, at: Instant) {
        self.found.extend(queues.into_iter().map(|queue| (queue, at)));
    }

    /// Where the look that is under way goes on; nothing at its beginning.
    pub fn found_last(&self) -> Option<&QueueName> {
        self.found.last().map(|(queue, _)| &queue.name)
    }

    /// How many the look that is under way has found.
    pub fn found_count(&self) -> usize {
        self.found.len()
    }

    /// Forgets the look that is under way.
    pub fn abandon_look(&mut self) {
        self.found.clear();
    }

    /// All parts of the look have come: queues that were not in it are not there.
    pub fn end_look(&mut self) {
        let mut before = std::mem::take(&mut self.rows).into_iter().peekable();
        for (queue, at) in self.found.drain(..) {
            while before.next_if(|row| row.queue.name < queue.name).is_some() {}
            let same = before.next_if(|row| row.queue.name == queue.name);
            self.rows.push(Row::new(queue, at, same));
        }
        self.known = true;
        self.arrange();
    }

    /// Takes one queue that was looked at by itself.
    pub fn take_one(&mut self, queue: QueueDescription, at: Instant) {
        match self.place(&queue.name) {
            Ok(place) => {
                let before = self.rows.remove(place);
                self.rows.insert(place, Row::new(queue, at, Some(before)));
            }
            Err(place) => self.rows.insert(place, Row::new(queue, at, None)),
        }
        self.arrange();
    }

    /// Marks a queue that is not there any more.
    pub fn lose(&mut self, name: &QueueName) {
        if let Ok(place) = self.place(name)
            && let Some(row) = self.rows.get_mut(place)
        {
            (row.gone, row.rates) = (true, None);
        }
    }

    /// Whether anything is known yet.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// How many the filter lets through.
    pub fn shown_count(&self) -> usize {
        self.order.len()
    }

    /// Every one, by name.
    pub fn all(&self) -> &[Row] {
        &self.rows
    }

    /// One by its name.
    pub fn get(&self, name: &QueueName) -> Option<&Row> {
        self.place(name).ok().and_then(|place| self.rows.get(place))
    }

    /// Those that there is room for, and whether each is the chosen one.
    pub fn visible(&self) -> impl Iterator<Item = (&Row, bool)> {
        let rows = self.order.iter().enumerate().skip(self.top).take(self.visible);
        rows.filter_map(|(at, &row)| self.rows.get(row).map(|row| (row, at == self.at)))
    }

    /// The chosen one.
    pub fn chosen(&self) -> Option<&Row> {
        self.order.get(self.at).and_then(|&row| self.rows.get(row))
    }

    /// What it is sorted by, and whether the largest comes first.
    pub fn sorted_by(&self) -> (Column, bool) {
        (self.column, self.descending)
    }

    /// Sorts by a column; a second time, the other way round.
    pub fn sort_by(&mut self, column: Column) {
        self.descending =
            if self.column == column { !self.descending } else { column != Column::Name };
        self.column = column;
        self.arrange();
    }

    /// What names must hold.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// Changes what names must hold; capital letters are as small ones.
    pub fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.arrange();
        let kept = self.chosen().is_some_and(|row| Some(&row.queue.name) == self.chosen.as_ref());
        if !kept {
            self.at = 0;
            self.scroll();
        }
    }

    /// Chooses another one, so far down.
    pub fn move_by(&mut self, rows: isize) {
        let last = self.order.len().saturating_sub(1);
        self.at = self.at.saturating_add_signed(rows).min(last);
        self.chosen = self.chosen().map(|row| row.queue.name.clone());
        self.scroll();
    }

    /// How many there is room for.
    pub fn set_visible(&mut self, rows: usize) {
        self.visible = rows.max(1);
        self.scroll();
    }

    /// How many there is room for.
    pub fn page(&self) -> usize {
        self.visible
    }

    fn place(&self, name: &QueueName) -> Result<usize, usize> {
        self.rows.binary_search_by(|row| row.queue.name.cmp(name))
    }

    /// Filters and sorts anew.
    fn arrange(&mut self) {
        let filter = self.filter.to_ascii_lowercase();
        let lets_through = |row: &Row| {
            filter.is_empty() || row.queue.name.as_str().to_ascii_lowercase().contains(&filter)
        };
        let Self { rows, order, column, descending, .. } = self;
        order.clear();
        order.extend((0..rows.len()).filter(|&at| rows.get(at).is_some_and(lets_through)));
        // Stable, so that equal ones stay in the order of their names.
        order.sort_by(|&a, &b| {
            let (Some(a), Some(b)) = (rows.get(a), rows.get(b)) else {
                return std::cmp::Ordering::Equal;
            };
            let order = compare(*column, a, b);
            if *descending { order.reverse() } else { order }
        });
        let chosen = self.chosen.as_ref().and_then(|name| self.place(name).ok());
        let at = chosen.and_then(|row| self.order.iter().position(|&other| other == row));
        // Gone, or not let through: whatever stands in its place.
        self.at = at.unwrap_or(self.at).min(self.order.len().saturating_sub(1));
        self.scroll();
    }

    /// Keeps the chosen one among those that are shown, and shows as many as there is room for.
    fn scroll(&mut self) {
        let lowest = (self.at + 1).saturating_sub(self.visible);
        let highest = self.order.len().saturating_sub(self.visible);
        self.top = self.top.clamp(lowest, self.at).min(highest);
    }
}

fn compare(column: Column, a: &Row, b: &Row) -> std::cmp::Ordering {
    let counter = |row: &Row| {
        let counters = &row.queue.statistics;
        match column {
            Column::Ready => counters.ready,
            Column::Delayed => counters.delayed,
            Column::Leased => counters.leased,
            Column::Oldest => counters.oldest_age_s,
            Column::Dead => counters.dead_lettered,
            Column::Name | Column::In | Column::Out => 0,
        }
    };
    match column {
        Column::Name => a.queue.name.cmp(&b.queue.name),
        Column::In => a.rate(|rates| rates.into).total_cmp(&b.rate(|rates| rates.into)),
        Column::Out => a.rate(|rates| rates.out).total_cmp(&b.rate(|rates| rates.out)),
        _ => counter(a).cmp(&counter(b)),
    }
}

#[cfg(test)]
pub mod testing {
    //! Queues out of nothing.

    use super::*;

    use std::time::Duration;

    use qd_protocol::{Attributes, Statistics};

    /// A queue with so many messages ready, of so many that were sent.
    pub fn queue(name: &str, ready: u64, sent: u64) -> QueueDescription {
        QueueDescription {
            name: QueueName::new(name).unwrap(),
            created_at_ms: 0,
            attributes: Attributes::default(),
            statistics: Statistics { ready, sent, ..Statistics::default() },
        }
    }

    /// After one look.
    pub fn queues(found: &[(&str, u64)]) -> Queues {
        let mut queues = Queues::new();
        look(&mut queues, found, Instant::now());
        queues.set_visible(100);
        queues
    }

    /// Another look.
    pub fn look(queues: &mut Queues, found: &[(&str, u64)], at: Instant) {
        queues.take(found.iter().map(|(name, ready)| queue(name, *ready, *ready)).collect(), at);
        queues.end_look();
    }

    /// The names that are shown, the chosen one in brackets.
    pub fn names(queues: &Queues) -> Vec<String> {
        let name = |(row, chosen): (&Row, bool)| {
            if chosen { format!("[{}]", row.queue.name) } else { row.queue.name.to_string() }
        };
        queues.visible().map(name).collect()
    }

    #[test]
    fn most_ready_come_first_and_equal_ones_by_name() {
        let mut queues = queues(&[("a", 1), ("b", 5), ("c", 5), ("d", 9)]);
        assert_eq!(names(&queues), ["[d]", "b", "c", "a"]);
        queues.sort_by(Column::Ready);
        assert_eq!(names(&queues), ["[a]", "b", "c", "d"]);
        queues.sort_by(Column::Name);
        queues.sort_by(Column::Name);
        assert_eq!(names(&queues), ["[d]", "c", "b", "a"]);
    }

    #[test]
    fn every_column_sorts_by_its_own_figure() {
        let mut queues = Queues::new();
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let look = |queues: &mut Queues, counters: Statistics, sent: u64, at: Instant| {
            let first = QueueDescription { statistics: counters, ..queue("a", 0, 0) };
            queues.take(vec![first, queue("b", 0, sent)], at);
            queues.end_look();
        };
        queues.set_visible(2);
        look(&mut queues, Statistics::default(), 0, start);
        let most = |sent, ready| Statistics {
            ready,
            delayed: 1,
            leased: 1,
            oldest_age_s: 1,
            dead_lettered: 1,
            sent,
            ..Statistics::default()
        };
        look(&mut queues, most(12, 9), 4, later);
        // 12 came and 1 has gone, of the other 4 and 4.
        for (column, key) in Column::ALL {
            queues.sort_by(Column::Name);
            queues.sort_by(Column::Ready);
            queues.sort_by(column);
            if column == Column::Ready {
                queues.sort_by(column);
            }
            let first = if column == Column::Out { "[b]" } else { "[a]" };
            assert_eq!(names(&queues)[0], first, "{column:?} {key}");
        }
    }

    #[test]
    fn chosen_queue_stays_chosen_when_the_order_changes() {
        let mut queues = queues(&[("a", 1), ("b", 2), ("c", 3)]);
        queues.move_by(1);
        assert_eq!(names(&queues), ["c", "[b]", "a"]);
        look(&mut queues, &[("a", 9), ("b", 0), ("c", 3)], Instant::now());
        assert_eq!(names(&queues), ["a", "c", "[b]"]);
        look(&mut queues, &[("a", 9), ("c", 3)], Instant::now());
        assert_eq!(names(&queues), ["a", "[c]"]);
        look(&mut queues, &[], Instant::now());
        assert!(queues.chosen().is_none());
        queues.move_by(-1);
        look(&mut queues, &[("z", 0)], Instant::now());
        assert_eq!(names(&queues), ["[z]"]);
    }

    #[test]
    fn filter_finds_parts_of_names_whatever_their_case() {
        let mut queues = queues(&[("Mail", 1), ("email", 2), ("jobs", 3)]);
        queues.set_filter("mAI".to_owned());
        assert_eq!(names(&queues), ["[email]", "Mail"]);
        assert_eq!((queues.shown_count(), queues.count()), (2, 3));
        queues.move_by(1);
        queues.set_filter("e".to_owned());
        assert_eq!(names(&queues), ["[email]"], "the chosen one is not let through");
        queues.set_filter("mail".to_owned());
        assert_eq!(names(&queues), ["email", "[Mail]"]);
        queues.set_filter("none".to_owned());
        assert!(names(&queues).is_empty() && queues.chosen().is_none());
        queues.set_filter(String::new());
        assert_eq!(names(&queues).len(), 3);
    }

    #[test]
    fn chosen_queue_is_always_among_those_shown() {
        let all: Vec<(String, u64)> = (0..50).map(|n| (format!("q{n:02}"), 50 - n)).collect();
        let all: Vec<(&str, u64)> = all.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        let mut queues = queues(&all);
        queues.set_visible(5);
        for (step, first, chosen) in [
            (4, "q00", "[q04]"),
            (1, "q01", "[q05]"),
            (-3, "q01", "[q02]"),
            (-9, "[q00]", "[q00]"),
            (99, "q45", "[q49]"),
        ] {
            queues.move_by(step);
            let names = names(&queues);
            assert_eq!(names.len(), 5, "{names:?}");
            assert!(names[0] == first && names.iter().any(|name| name == chosen), "{names:?}");
        }
        queues.set_visible(20);
        assert_eq!(names(&queues)[0], "q30", "there is no room left empty");
        queues.set_filter("q1".to_owned());
        assert_eq!(names(&queues).len(), 10);
    }

    #[test]
    fn history_and_rates_are_those_of_one_queue() {
        let mut queues = Queues::new();
        let start = Instant::now();
        for (second, ready) in (0..300).zip(1_000..) {
            let at = start + Duration::from_secs(second);
            queues.take(vec![queue("a", ready, ready)], at);
            queues.end_look();
        }
        let row = queues.get(&QueueName::new("a").unwrap()).unwrap();
        assert_eq!((row.depths.len(), row.depths.back()), (HISTORY, Some(&1_299)));
        assert_eq!(row.rates, Some(Rates { into: 1.0, out: 0.0 }));
        let anew = QueueDescription { created_at_ms: 5, ..queue("a", 1, 1) };
        queues.take_one(anew, start + Duration::from_secs(301));
        let row = queues.get(&QueueName::new("a").unwrap()).unwrap();
        assert_eq!((row.depths.len(), row.rates), (1, None));
        queues.take_one(queue("b", 1, 1), start);
        queues.lose(&QueueName::new("b").unwrap());
        assert!(queues.get(&QueueName::new("b").unwrap()).unwrap().gone);
    }

    #[test]
    fn look_that_is_abandoned_changes_nothing() {
        let mut queues = queues(&[("a", 1)]);
        queues.take(vec![queue("b", 1, 1)], Instant::now());
        assert_eq!(queues.found_last().map(QueueName::as_str), Some("b"));
        queues.abandon_look();
        assert_eq!((queues.found_last(), names(&queues)), (None, vec!["[a]".to_owned()]));
    }
}
