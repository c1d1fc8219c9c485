//! The state machine from outside: against a plain model, replayed, and on failing disks.
#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod dead_letters;
mod engine;
mod faults;
mod memory;
mod model;
mod random_work;
mod replay;
