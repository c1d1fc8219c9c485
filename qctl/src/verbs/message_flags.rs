//! What the messages that a call sends have in common: flags of `send` and of `delete --and-send`.

use clap::Args;
use qd_protocol::message::{Properties, TEXT_BYTES_MAX};
use qd_protocol::verbs::Due;
use qd_protocol::{HEADERS_BYTES_MAX, Headers};

use super::attributes::check_seen;
use super::headers::parse_header;
use super::send_input::Common;
use super::when::When;
use crate::exit::Failure;
use crate::{time, units};

/// How far the server's clock may be from ours.
const CLOCKS_APART_MS: u64 = 60_000;

/// Flags of the messages that are sent.
#[derive(Debug, Clone, Args)]
pub struct MessageFlags {
    /// A header of every message
    #[arg(short = 'H', long, value_name = "K=V", value_parser = parse_header)]
    header: Vec<(String, String)>,
    #[command(flatten)]
    when: When,
    /// Removed after this long, whether it was received or not; at most 36500d
    #[arg(long, value_name = "D", value_parser = units::ttl_ms)]
    ttl: Option<u64>,
    /// 0 to 255; messages with a higher one are delivered first [default: 0]
    #[arg(long, value_name = "N", value_parser = units::whole::<u8>(0, 255))]
    priority: Option<u8>,
    /// Their group, at most 128 bytes: groups take turns, and an ordered queue keeps the order in each
    #[arg(long, value_name = "G", value_parser = group, allow_negative_numbers = true)]
    group: Option<String>,
    /// What marks the message, when it is sent once more, as the same one; at most 128 bytes
    #[arg(long, value_name = "ID", value_parser = dedup_id)]
    dedup_id: Option<String>,
    /// It is a duplicate while one with its dedup id is in the queue, however long that is
    #[arg(long)]
    unique: bool,
}

fn group(text: &str) -> Result<String, String> {
    match text.len() {
        0..=TEXT_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err(format!("it has {bytes} bytes; at most {TEXT_BYTES_MAX}")),
    }
}

fn dedup_id(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { group(text) }
}

impl MessageFlags {
    /// Whether the messages have a dedup id.
    pub fn has_dedup_id(&self) -> bool {
        self.dedup_id.is_some()
    }

    /// Whether they are to be there once.
    pub fn is_unique(&self) -> bool {
        self.unique
    }

    /// Whether one of the flags is given.
    pub fn any(&self) -> bool {
        !self.header.is_empty()
            || self.when.due().is_some()
            || self.ttl.is_some()
            || self.priority.is_some()
            || self.group.is_some()
            || self.dedup_id.is_some()
            || self.unique
    }

    /// What they say, which must go together.
    pub fn common(&self) -> Result<Common, Failure> {
        let due = self.when.due();
        if let (Some(due), Some(ttl_ms)) = (due, self.ttl) {
            check_due(due, ttl_ms, time::now_ms())?;
        }
        let properties = Properties {
            priority: self.priority.unwrap_or(0),
            group: self.group.clone().unwrap_or_default(),
            dedup_id: self.dedup_id.clone(),
        };
        let (headers, ttl_ms, unique) = (self.headers()?, self.ttl, self.unique);
        Ok(Common { headers, due, ttl_ms, properties, unique })
    }

    fn headers(&self) -> Result<Headers, Failure> {
        let headers = Headers(self.header.clone());
        if headers.size() > HEADERS_BYTES_MAX {
            let text = format!("headers have at most {HEADERS_BYTES_MAX} bytes in all");
            return Err(Failure::BadInput(text));
        }
        Ok(headers)
    }
}

/// Refuses messages whose time is over before they are due. The server's clock may be another one
/// than ours: what is close is left to it.
fn check_due(due: Due, ttl_ms: u64, now_ms: u64) -> Result<(), Failure> {
    match due {
        Due::After(delay_ms) => check_seen(("--delay", delay_ms), ("--ttl", ttl_ms)),
        Due::At(at_ms) if at_ms.saturating_sub(now_ms + ttl_ms) > CLOCKS_APART_MS => {
            let (ttl, at) = (units::show_duration(ttl_ms), time::rfc3339(at_ms));
            let text =
                format!("--ttl {ttl} is over by the time --at {at}: no message would be received");
            Err(Failure::Usage(text))
        }
        Due::At(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn time_to_live_that_is_over_before_the_message_is_due_is_a_usage_error() {
        let check = |due| check_due(due, 1_000, 1_700_000_000_000).map_err(|error| error.exit());
        assert_eq!(check(Due::After(999)), Ok(()));
        assert_eq!(check(Due::After(1_000)), Err(Exit::Usage));
        assert_eq!(check(Due::At(0)), Ok(()));
        assert_eq!(check(Due::At(1_700_000_061_000)), Ok(()));
        assert_eq!(check(Due::At(1_700_000_061_001)), Err(Exit::Usage));
        assert_eq!(check(Due::At(u64::MAX)), Err(Exit::Usage));
    }
}
