//! The state machine from outside: against a plain model, replayed, and on failing disks; and
//! connections with time limits and sizes that a test can wait for.
#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod batches;
mod connections;
mod dead_letters;
mod dedup;
mod engine;
mod faults;
mod log;
mod machine;
mod memory;
mod model;
mod order;
mod peek;
mod purge;
mod random_work;
mod replay;
mod transact;
mod verify;
