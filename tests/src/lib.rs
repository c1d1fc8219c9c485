//! What the end-to-end tests are made of: private daemons, programs with a time limit, raw
//! connections, text cases and the examples of the README.
//!
//! Always true here:
//!
//! - A daemon has a temporary directory and a Unix socket of its own, and ends with its
//!   [`Daemon`]; processes are ended by their pid.
//! - Nothing waits for ever: whoever waits has a limit and says what it waited for.
//! - Nothing waits for a length of time where it can wait for a fact.
//!
//! The tests are in `tests/e2e`. They use the programs that belong to the same build: see
//! [`programs`].

pub mod cases;
pub mod daemon;
pub mod pattern;
pub mod programs;
pub mod random;
pub mod raw;
pub mod readme;
pub mod run;
pub mod sandbox;
pub mod schema;
pub mod terminal;
pub mod wait;

pub use daemon::Daemon;
pub use random::Random;
pub use raw::Raw;
pub use run::{Done, Run, Running};
pub use sandbox::Sandbox;
pub use wait::wait_until;
