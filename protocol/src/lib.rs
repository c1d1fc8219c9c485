//! What crosses the wire between `qd` and its clients, and the async client.
//!
//! Always true here:
//!
//! - Decoding never panics, and never allocates more than the bytes it has received.
//! - A verb's opcode, encoder and decoder stand in one file of [`verbs`].
//! - Unknown optional fields are skipped, so a newer peer may add them within one protocol version.
//! - Numbers of errors, opcodes and optional fields are never reused.
//!
//! The normative description, with the life cycle of a message and example frames in hex, is the
//! manual page `qd-protocol(7)`; a test decodes and re-encodes the frames printed there.

pub mod address;
pub mod attributes;
pub mod client;
pub mod error;
pub mod frame;
pub mod message;
pub mod name;
pub mod preamble;
#[cfg(test)]
mod properties;
pub mod receipt;
pub mod request;
pub mod verbs;
pub mod wire;

pub use address::Address;
pub use attributes::{AttributeChanges, Attributes, QueueDescription, Statistics};
pub use client::{Client, ClientError};
pub use error::{Class, ErrorCode, Refusal};
pub use frame::{Frame, FrameCodec};
pub use message::{Body, DeadLettered, Headers, Properties, Reason};
pub use name::QueueName;
pub use receipt::Receipt;
pub use request::{Numbering, Request};

/// Largest message (body and headers) that any queue may allow: 16 MiB.
pub const MESSAGE_BYTES_MAX: u64 = 16 << 20;
/// Largest frame of a request, its length field excluded: 17 MiB, which holds one largest message.
pub const FRAME_BYTES_MAX: u32 = 17 << 20;
/// Largest frame of an answer, its length field excluded: 21 MiB.
///
/// None can be larger than that of a `receive`: up to 10,000 statuses of the receipts that it
/// settles, and one largest message. 4 MiB leave 419 bytes a status: 9 for its run, and 410 for a
/// refusal with the longest name of a queue and a text of up to 271 bytes. The message has 74
/// bytes of its own, 16 MiB of headers and body, and 7 more for each header, of which 64 KiB hold
/// 65,536 at most: 448 KiB. 575 KiB are left for group, dedup id and priority, 272 bytes at most,
/// and for where it became a dead letter, some 1.3 KiB for each of at most 8 times. Many small messages have 1 MiB of stored fields and bodies together.
pub const ANSWER_FRAME_BYTES_MAX: u32 = FRAME_BYTES_MAX + (4 << 20);
/// Most entries (messages, receipts or ids) in one request.
pub const BATCH_ENTRIES_MAX: u32 = 10_000;
/// Most bytes of headers (keys and values) of one message: 64 KiB.
pub const HEADERS_BYTES_MAX: usize = 64 << 10;
/// Most requests that a connection may have unanswered.
pub const IN_FLIGHT_MAX: u32 = 1_024;
/// The one protocol version of this release.
pub const VERSION: u16 = 1;
