//! All tables, keys and the format number.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | `node` u64, `position` (see [`super::Position`]) |
//! | `queues` | queue | the queue's row (`shard::queue`) |
//! | `chunks` | queue, id of the first message | immutable chunk ([`super::chunk`]) |
//! | `parts` | queue, id, number | a piece of a large message, 65,472 bytes but for the last |
//! | `marks` | queue, id of the chunk's first message | [`super::marks::Marks`]: bits of its messages |
//! | `returned` | queue, id | [`super::lease::Delivered`]: the message is ready again |
//! | `delayed` | queue, id | u64 due (state ms), [`super::lease::Delivered`] |
//! | `waiting` | queue, then nothing or where the page begins | page of many lanes ([`super::waiting`]): which messages are ready in each, by chunk |
//! | `tried` | queue, id | [`super::lease::Delivered`]: the message is ready in a lane and was delivered before |
//! | `holds` | queue, length of the group, group, 0 leased or 1 delayed, id | nothing: the message holds its group of an ordered queue |
//! | `ring` | queue, length of the group, group | nothing: the group of an ordered queue can be served |
//! | `turns` | queue, priority | the group that was served last |
//! | `blocked` | queue, id | [`super::lease::Delivered`] and the reason (`shard::dead_letter`): the message waits for its dead-letter queue |
//! | `due` | due in state ms, queue, id | nothing: the delayed message becomes ready then; id 0: the queue's blocked messages are tried again |
//! | `expiry` | expires at in state ms, queue, id | nothing: the message has a time to live |
//! | `leases` | queue, lease | [`super::lease::LeaseRow`] |
//! | `lease_ends` | end in state ms, queue, lease | nothing |
//! | `dedup` | queue, dedup id, id | nothing: a live message has the dedup id |
//! | `dedup_windows` | queue, dedup id | u64 id of the newest message sent with it, u64 window ends at (state ms) |
//! | `dedup_ends` | end in state ms, queue, id of that message | the dedup id |
//! | `producers` | generation, producer | recent request numbers and answers (`shard::producers`) |
//! | `graves` | queue | u8 1 when messages of it have times to live: the queue was dropped or purged, and its rows are still to be freed |
//!
//! Integers inside values are little-endian. A live message is found by its id: the chunk with the
//! greatest first id that is not above it. It is *untouched* (no other row) while its id is at or
//! above its queue's cursor, its chunk is not apart and its mark says nothing else; otherwise it is
//! ready with a row in `returned`, or ready in a lane with its index in an entry of `waiting`, or delayed with rows in `delayed` and `due` or one in `blocked`, or leased with a
//! run in `leases`, or deleted. How often it was delivered stands in that row or run, not with the
//! chunk: both are written in the same step anyway, and a chunk that was only delivered needs no
//! row of its own.
//!
//! # Changing the format
//!
//! 1. Raise [`FORMAT`]. It stands in the head of the file, the same way in every format.
//! 2. Change the definition here and the layout where the value is encoded, with its page above.
//! 3. Before 1.0 the way from one format to the next is dump and load; say so in the CHANGELOG.
//! 4. Extend the test that a store of another format is refused (`tests/`, "newer format").

use redb::TableDefinition;

/// Number of the format below and of the file that holds it (`checked`, where the number
/// stands); a store with another number is refused.
pub const FORMAT: u32 = 7;

pub(super) const META_NODE: &str = "node";
pub(super) const META_POSITION: &str = "position";

pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(super) const QUEUES: TableDefinition<u64, &[u8]> = TableDefinition::new("queues");
pub(super) const CHUNKS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("chunks");
pub(super) const PARTS: TableDefinition<(u64, u64, u32), &[u8]> = TableDefinition::new("parts");
pub(super) const MARKS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("marks");
pub(super) const RETURNED: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("returned");
pub(super) const DELAYED: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("delayed");
pub(super) const BLOCKED: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("blocked");
pub(super) const DUE: TableDefinition<(u64, u64, u64), ()> = TableDefinition::new("due");
pub(super) const EXPIRY: TableDefinition<(u64, u64, u64), ()> = TableDefinition::new("expiry");
pub(super) const LEASES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("leases");
pub(super) const LEASE_ENDS: TableDefinition<(u64, u64, u64), ()> =
    TableDefinition::new("lease_ends");
pub(super) const DEDUP: TableDefinition<(u64, &[u8], u64), ()> = TableDefinition::new("dedup");
pub(super) const DEDUP_WINDOWS: TableDefinition<(u64, &[u8]), (u64, u64)> =
    TableDefinition::new("dedup_windows");
pub(super) const DEDUP_ENDS: TableDefinition<(u64, u64, u64), &[u8]> =
    TableDefinition::new("dedup_ends");
pub(super) const PRODUCERS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("producers");
pub(super) const WAITING: TableDefinition<&[u8], &[u8]> = TableDefinition::new("waiting");
pub(super) const TRIED: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("tried");
pub(super) const HOLDS: TableDefinition<&[u8], ()> = TableDefinition::new("holds");
pub(super) const RING: TableDefinition<&[u8], ()> = TableDefinition::new("ring");
pub(super) const TURNS: TableDefinition<(u64, u8), &[u8]> = TableDefinition::new("turns");
pub(super) const GRAVES: TableDefinition<u64, u8> = TableDefinition::new("graves");
