//! `--delay` and `--at`: when a message becomes visible.

use clap::Args;
use qd_protocol::verbs::Due;

use crate::{time, units};

/// A delay or a time, not both.
#[derive(Debug, Clone, Copy, Args)]
pub struct When {
    /// Not visible for this long; at most 36500d
    #[arg(long, value_name = "D", value_parser = units::delay_ms)]
    delay: Option<u64>,
    /// Not visible before this time (RFC 3339); a past one means at once
    #[arg(long, value_name = "TIME", value_parser = time::parse_rfc3339, conflicts_with = "delay")]
    at: Option<u64>,
}

impl When {
    /// What is asked for, if anything is.
    pub fn due(self) -> Option<Due> {
        self.at.map(Due::At).or(self.delay.map(Due::After))
    }
}
