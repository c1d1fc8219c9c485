//! `qd` and `qctl` from outside, through the real programs.
#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod autostart;
mod cases;
mod completions;
mod counters;
mod data;
mod disk;
mod durability;
mod ends;
mod failover;
mod leases;
mod lives;
mod manual;
mod offline;
mod order;
mod outputs;
mod pings;
mod prompt;
mod readme;
mod repeats;
mod schemas;
mod shells;
mod sinks;
mod sizes;
mod stop;
mod streams;
mod top;
mod waiting;
mod watch;
mod wire;
mod work;
