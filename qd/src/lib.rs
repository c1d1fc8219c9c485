//! The daemon `qd`: a durable message queue.
//!
//! ```text
//! main ► net ► broker ► replicator ► shard (apply) ► store (redb)
//!   ╰─► offline ────────────╯╰──────► log (segments)
//! ```
//!
//! Arrows never point back. Walls between the parts:
//!
//! - The wire's requests and answers stop at [`broker`]; from there on it is the log's own
//!   vocabulary, [`shard::Command`] and [`shard::Outcome`], versioned apart from the wire.
//!   Values that both speak of (names, attributes, receipts, refusals) are shared types.
//! - redb types never leave [`store`]; tokio never enters [`shard`], [`store`] or [`log`].
//! - Time and randomness enter at one door, [`clock`]; the state machine gets both as data.

pub mod broker;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod data_dir;
pub mod log;
pub mod memory;
pub mod net;
pub mod offline;
pub mod replicator;
pub mod shard;
pub mod store;
