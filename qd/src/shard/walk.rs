//! Walking over the live messages of a queue in the order of their ids, some at a time: what
//! `redrive` and a `purge` with a filter do.
//!
//! Always true here: a walk looks at [`LOOKED_AT_MAX`] messages and chunks at most, and all walks of a
//! record at [`LOOKED_AT_PER_RECORD_MAX`]. Where it ends before all was looked at it says so, and what
//! it has looked at last: another one goes on behind that.

use qd_protocol::message::Headers;

use super::Step;
use super::dead_letter::damaged_fields;
use super::place::Place;
use crate::store::{Result, Tables};

/// Most messages and chunks that one walk looks at.
const LOOKED_AT_MAX: usize = 1_000;
/// Most messages and chunks that all walks of a record look at.
const LOOKED_AT_PER_RECORD_MAX: usize = 4_000;

/// How far a walk has come.
pub(super) struct Walk {
    number: u64,
    /// Id of the last message looked at, or passed over.
    pub last: u64,
    /// Id of the last message that is meant.
    pub through: u64,
    /// There may be messages behind `last`, up to `through`.
    pub more: bool,
    looked_at: usize,
    /// What is left of the chunk at hand.
    ids: std::vec::IntoIter<u64>,
    /// The last id of that chunk.
    chunk_end: u64,
}

impl Walk {
    /// Lets it end as if it had come to the last message.
    pub fn end(&mut self) {
        self.last = self.last.max(self.through);
        self.ids = Vec::new().into_iter();
        self.more = false;
    }
}

impl Step<'_, '_> {
    /// A walk over the messages behind `after` up to `through` (0: the newest one now).
    pub(super) fn walk(&mut self, number: u64, after: u64, through: u64) -> Result<Walk> {
        self.flush(number)?;
        let newest = self.queues[&number].next_id - 1;
        let through = if through == 0 { newest } else { through.min(newest) };
        let ids = Vec::new().into_iter();
        Ok(Walk { number, last: after, through, more: false, looked_at: 0, ids, chunk_end: after })
    }

    /// The next live message; `enough`: there is to be no next one. `None`: the walk ends here.
    pub(super) fn walk_on(
        &mut self,
        walk: &mut Walk,
        enough: bool,
    ) -> Result<Option<(u64, Place)>> {
        loop {
            let is_over = enough
                || walk.looked_at >= LOOKED_AT_MAX
                || self.looked_at >= LOOKED_AT_PER_RECORD_MAX;
            if walk.ids.len() == 0 {
                if !is_over {
                    walk.last = walk.last.max(walk.chunk_end.min(walk.through));
                }
                if walk.last >= walk.through {
                    return Ok(None);
                }
            }
            if is_over {
                walk.more = true;
                return Ok(None);
            }
            // The chunk itself counts too, for it may hold nothing but deleted messages.
            walk.looked_at += 1;
            self.looked_at += 1;
            let Some(id) = walk.ids.next() else {
                self.enter_chunk(walk)?;
                continue;
            };
            walk.last = id;
            if let Some(place) = self.place(walk.number, id)? {
                return Ok(Some((id, place)));
            }
        }
    }

    /// Looks up the messages of the next chunk.
    fn enter_chunk(&mut self, walk: &mut Walk) -> Result<()> {
        let Some((ids, end)) = live_from(self.tables, walk.number, walk.last + 1)? else {
            walk.last = walk.through;
            return Ok(());
        };
        let meant = ids.into_iter().take_while(|id| *id <= walk.through);
        walk.ids = meant.collect::<Vec<_>>().into_iter();
        walk.chunk_end = end - 1;
        Ok(())
    }

    /// True when a live message has all of these headers.
    pub(super) fn has_headers(
        &mut self,
        number: u64,
        id: u64,
        headers: &[(String, String)],
    ) -> Result<bool> {
        if headers.is_empty() {
            return Ok(true);
        }
        let fields = self.stored_fields(number, id)?;
        for (key, value) in headers {
            if !Headers::stored_have(&fields, key, value).map_err(|error| damaged_fields(&error))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The live messages from `from` on of the chunk that holds it, or else of the next one, and the id
/// behind that chunk; `None`: there is no chunk.
pub(super) fn live_from(
    tables: &Tables<'_>,
    number: u64,
    from: u64,
) -> Result<Option<(Vec<u64>, u64)>> {
    let Some(row) = tables.chunk_from(number, from)? else {
        return Ok(None);
    };
    let count = row.view()?.count();
    let marks = tables.marks(number, row.first, count)?;
    let end = row.first + count as u64;
    let ids = from.max(row.first)..end;
    let live = ids.filter(|id| !marks.is_deleted((id - row.first) as usize));
    Ok(Some((live.collect(), end)))
}
