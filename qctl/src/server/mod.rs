//! Finding the server, and starting one for this user when nobody listens.

mod find;
mod start;

pub use find::{Target, qd_binary, state_directory, target};
pub use start::{connect, log_tail, sever_descriptors};
