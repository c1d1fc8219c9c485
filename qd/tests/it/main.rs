//! The state machine from outside: against a plain model, replayed, and on failing disks.

mod faults;
mod memory;
mod model;
mod random_work;
mod replay;
