//! Holding each message against the rows that say where it is, and against its own check sum.

use qd_protocol::Body;
use qd_protocol::message::{DeadLettered, Headers, Properties};
use qd_protocol::wire::DecodeError;

use super::window::Window;
use super::{Report, damaged, lanes, text_of};
use crate::shard::dead_letter::damaged_fields;
use crate::shard::lanes::{has_lane, lane};
use crate::shard::queue::Queue;
use crate::store::chunk::{ChunkView, EntryView};
use crate::store::lanes::{Hold, Lane};
use crate::store::marks::Marks;
use crate::store::places::{PlaceRows, Rows};
use crate::store::{Result, Tables};

/// What was counted in a queue.
#[derive(Default)]
pub(super) struct Counted {
    live: u64,
    bytes: u64,
    with_ttl: u64,
    with_lane: u64,
    pub with_dedup: u64,
    untouched: u64,
    returned: u64,
    waiting: u64,
    tried: u64,
    leased: u64,
    delayed: u64,
    pub blocked: u64,
}

impl Counted {
    /// Holds the counters of the queue against it.
    pub fn compare(&self, queue: &Queue, report: &mut Report<'_, '_>) {
        let statistics = &queue.statistics;
        for (what, counter, counted) in [
            ("ready", statistics.ready, self.returned + self.waiting + self.untouched),
            ("waiting", queue.waiting, self.waiting),
            ("tried", queue.tried, self.tried),
            ("returned", queue.returned, self.returned),
            ("delayed", statistics.delayed, self.delayed + self.blocked),
            ("dead_letter_blocked", statistics.dead_letter_blocked, self.blocked),
            ("leased", statistics.leased, self.leased),
            ("bytes", statistics.bytes, self.bytes),
            ("with_ttl", queue.with_ttl, self.with_ttl),
            ("with_lane", queue.with_lane, self.with_lane),
        ] {
            if counter != counted {
                report.say(None, format!("counter {what} is {counter}, counted {counted}"));
            }
        }
    }
}

/// Looks at all messages of a queue, at `now_ms` of state time.
pub(super) fn verify_messages(
    tables: &Tables<'_>,
    (number, queue): (u64, &Queue),
    now_ms: u64,
    report: &mut Report<'_, '_>,
) -> Result<Counted> {
    let rows = tables.place_rows(number)?;
    let mut look =
        Look { tables, number, queue, now_ms, rows, counted: Counted::default(), next: 1 };
    let mut from = 0;
    while from < u64::MAX {
        let mut window = Window::read(tables, (number, queue), from, report)?;
        look.at_window(&mut window, report)?;
        from = window.to;
    }
    look.rows.end()?;
    look.tell_strays(report);
    if look.next > queue.next_id {
        let (last, next) = (look.next - 1, queue.next_id);
        report.of(last, format!("it is at or above the next id {next}"));
    }
    Ok(look.counted)
}

/// A look through a queue.
struct Look<'a, 't> {
    tables: &'a Tables<'t>,
    number: u64,
    queue: &'a Queue,
    now_ms: u64,
    rows: PlaceRows<'a>,
    counted: Counted,
    /// The id behind the last chunk.
    next: u64,
}

/// A message in its chunk.
#[derive(Clone, Copy)]
struct Message<'a> {
    id: u64,
    view: ChunkView<'a>,
    entry: EntryView,
    /// It is not where its chunk alone would have it.
    is_touched: bool,
}

/// What a message says of itself.
struct Said {
    properties: Properties,
    lane: Option<Lane>,
}

impl Look<'_, '_> {
    fn at_window(&mut self, window: &mut Window, report: &mut Report<'_, '_>) -> Result<()> {
        let tables = self.tables;
        tables.each_chunk(self.number, (window.from, window.to), |first, view| {
            if first < self.next {
                report.of(first, "its chunk overlaps the one before it");
            }
            self.next = first + view.count() as u64;
            let marks = self.rows.marks(first, view.count())?;
            self.at_chunk((first, view), &marks, window, report)?;
            self.tell_strays(report);
            Ok(true)
        })?;
        if window.lane_sum != 0 {
            lanes::find_lane_faults(tables, (self.number, self.queue), window, report)?;
        }
        if window.hold_sum != 0 {
            lanes::find_hold_faults(tables, (self.number, self.queue), window, report)?;
        }
        Ok(())
    }

    fn tell_strays(&mut self, report: &mut Report<'_, '_>) {
        for (id, what) in self.rows.strays.drain(..) {
            report.of(id, format!("it {what}, but is not there"));
        }
    }

    fn at_chunk(
        &mut self,
        (first, view): (u64, ChunkView<'_>),
        marks: &Marks,
        window: &mut Window,
        report: &mut Report<'_, '_>,
    ) -> Result<()> {
        let live_before = self.counted.live;
        for index in 0..view.count() {
            let id = first + index as u64;
            if marks.is_deleted(index) {
                if window.is_leased(id) || window.is_waiting(id) {
                    report.of(id, "it is deleted, but leased or ready in a lane");
                }
                continue;
            }
            let entry = view.entry(index)?;
            let is_touched = view.is_apart() || marks.is_marked(index) || id < self.queue.cursor;
            self.at_message(Message { id, view, entry, is_touched }, window, report)?;
        }
        if self.counted.live == live_before {
            report.of(first, "its chunk holds no live message");
        }
        Ok(())
    }

    fn at_message(
        &mut self,
        message: Message<'_>,
        window: &mut Window,
        report: &mut Report<'_, '_>,
    ) -> Result<()> {
        let Message { id, entry, .. } = message;
        let said = match self.content(message) {
            Ok(said) => said,
            Err(error) if error.is_damage() => {
                report.tell(Some(id), text_of(error), true);
                None
            }
            Err(error) => return Err(error),
        };
        let counted = &mut self.counted;
        counted.live += 1;
        counted.bytes += entry.size;
        counted.with_ttl += u64::from(entry.expires_ms.is_some());
        counted.with_lane += u64::from(entry.has_lane);
        counted.with_dedup += u64::from(entry.has_dedup);
        (report.watch.message)(entry.size);
        if let Some(expires_ms) = entry.expires_ms.filter(|ms| *ms > self.now_ms)
            && !self.tables.has_expiry(expires_ms, self.number, id)?
        {
            report.of(id, "it has a time to live that never ends");
        }
        let rows = self.rows.of(id)?;
        self.at_place(message, &rows, said.as_ref(), window, report);
        let dedup_id = said.and_then(|said| said.properties.dedup_id);
        if let Some(dedup_id) = dedup_id
            && !self.tables.has_dedup(self.number, &dedup_id, id)?
        {
            report.of(id, "it has no row for its dedup id");
        }
        Ok(())
    }

    /// Reads a message, and holds it against what its chunk says of it.
    fn content(&mut self, message: Message<'_>) -> Result<Option<Said>> {
        let Message { id, view, entry, .. } = message;
        let (fields, bytes) = self.rows.content(id, &view, &entry)?;
        let body = Body { bytes, crc: entry.crc };
        if !body.is_intact() {
            return Err(damaged("its body does not have its CRC-32C".to_owned()));
        }
        let broken = |error: DecodeError| damaged_fields(&error);
        let headers = Headers::of(&fields).map_err(broken)?;
        let properties = Properties::of(&fields).map_err(broken)?;
        DeadLettered::newest(&fields).map_err(broken)?;
        let size = (body.bytes.len() + headers.size()) as u64;
        let flags = (entry.has_lane, entry.has_dedup);
        let said = (has_lane(&properties), properties.dedup_id.is_some());
        if entry.size != size || flags != said {
            let what = "its chunk says another size of it, or another priority, group or dedup id";
            return Err(damaged(what.to_owned()));
        }
        let lane = lane(self.queue.attributes.ordered, &properties);
        Ok(Some(Said { properties, lane }))
    }

    /// Counts where a message is, which must be one place.
    fn at_place(
        &mut self,
        message: Message<'_>,
        rows: &Rows,
        said: Option<&Said>,
        window: &mut Window,
        report: &mut Report<'_, '_>,
    ) {
        let Message { id, is_touched, .. } = message;
        let (is_leased, is_waiting) = (window.is_leased(id), window.is_waiting(id));
        let places = [
            (is_leased, "leased", &mut self.counted.leased),
            (is_waiting, "ready in a lane", &mut self.counted.waiting),
            (rows.returned.is_some(), "returned", &mut self.counted.returned),
            (rows.delayed.is_some(), "delayed", &mut self.counted.delayed),
            (rows.blocked.is_some(), "blocked", &mut self.counted.blocked),
            (!is_touched, "untouched", &mut self.counted.untouched),
        ];
        let mut found = Vec::new();
        for (_, place, count) in places.into_iter().filter(|(is_there, ..)| *is_there) {
            *count += 1;
            found.push(place);
        }
        match found[..] {
            [] => report.of(id, "it is in no place"),
            [_] => {}
            _ => report.of(id, format!("it is {} at once", found.join(" and "))),
        }
        self.counted.tried += u64::from(rows.tried.is_some());
        if rows.tried.is_some() && !is_waiting {
            report.of(id, "it is tried, but not ready in a lane");
        }
        let Some(said) = said else {
            return;
        };
        if rows.returned.is_some() && said.lane.is_some() {
            report.of(id, "it is returned to the default lane, which is not its own");
        }
        if is_waiting {
            let own = said.lane.clone().unwrap_or_default();
            window.lane_sum = window.lane_sum.wrapping_sub(lanes::lane_hash(id, &own));
        }
        let held = [(is_leased, Hold::Leased), (rows.delayed.is_some(), Hold::Delayed)];
        for (_, hold) in held.into_iter().filter(|(is_held, _)| *is_held) {
            if self.queue.attributes.ordered {
                let group = said.properties.group.as_bytes();
                window.hold_sum = window.hold_sum.wrapping_sub(lanes::hold_hash(group, hold, id));
            }
        }
    }
}
