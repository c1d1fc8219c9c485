//! The first bytes of a connection. They never change, so that any two versions can tell each
//! other why they disagree.
//!
//! ```text
//! client, 16 bytes: "QDMQ", u16 lowest version, u16 highest version, 8 bytes zero
//! server, 48 bytes: "QDMQ", u16 lowest, u16 highest, u16 chosen version (0: none), u16 status,
//!                   u32 largest frame, u32 most requests in flight, u64 largest message,
//!                   u64 node id, u64 server time (ms since 1970 UTC), 4 bytes zero
//! ```

use bytes::{Buf, BufMut, BytesMut};

/// Starts both preambles.
pub const MAGIC: [u8; 4] = *b"QDMQ";
/// Bytes of the client's preamble.
pub const CLIENT_BYTES: usize = 16;
/// Bytes of the server's preamble.
pub const SERVER_BYTES: usize = 48;

/// Protocol versions that one side speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// Lowest.
    pub lowest: u16,
    /// Highest.
    pub highest: u16,
}

impl VersionRange {
    /// What this release speaks.
    pub const OURS: Self = Self { lowest: crate::VERSION, highest: crate::VERSION };

    /// The highest version that both sides speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }
}

impl std::fmt::Display for VersionRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.lowest == self.highest {
            write!(f, "{}", self.lowest)
        } else {
            write!(f, "{} to {}", self.lowest, self.highest)
        }
    }
}

/// Bytes that do not begin with [`MAGIC`]: the other side speaks something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other side does not speak the qd protocol (it sent {0:02x?} where {MAGIC:02x?} belongs)"
)]
pub struct WrongMagic(pub [u8; 4]);

/// What the client says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPreamble {
    /// What the client speaks.
    pub versions: VersionRange,
}

impl ClientPreamble {
    /// The 16 bytes.
    pub fn to_bytes(self) -> [u8; CLIENT_BYTES] {
        let mut out = BytesMut::with_capacity(CLIENT_BYTES);
        out.put_slice(&MAGIC);
        out.put_u16_le(self.versions.lowest);
        out.put_u16_le(self.versions.highest);
        out.put_bytes(0, 8);
        fixed(&out)
    }

    /// Reads the 16 bytes.
    pub fn from_bytes(bytes: &[u8; CLIENT_BYTES]) -> Result<Self, WrongMagic> {
        let mut input = &bytes[..];
        check_magic(&mut input)?;
        Ok(Self { versions: versions(&mut input) })
    }
}

/// How the server takes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Requests are welcome.
    Ready,
    /// No version in common; the connection is closed.
    NoCommonVersion,
    /// The client's first bytes were not a preamble; the connection is closed.
    WrongMagic,
    /// The server is at its limit of connections; the connection is closed. Try again later.
    TooManyConnections,
    /// A status that a newer server knows; the connection is closed.
    Unknown(u16),
}

impl Status {
    fn number(self) -> u16 {
        match self {
            Self::Ready => 0,
            Self::NoCommonVersion => 1,
            Self::WrongMagic => 2,
            Self::TooManyConnections => 3,
            Self::Unknown(number) => number,
        }
    }

    fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Ready,
            1 => Self::NoCommonVersion,
            2 => Self::WrongMagic,
            3 => Self::TooManyConnections,
            other => Self::Unknown(other),
        }
    }
}

/// What the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerPreamble {
    /// What the server speaks.
    pub versions: VersionRange,
    /// Chosen from both ranges; 0 when there is none.
    pub chosen: u16,
    /// Whether the connection goes on.
    pub status: Status,
    /// Largest frame the server takes, its length field excluded, in bytes.
    pub frame_bytes_max: u32,
    /// Most unanswered requests; past that the server stops reading.
    pub in_flight_max: u32,
    /// Largest message (body and headers) in bytes, whatever the queue allows.
    pub message_bytes_max: u64,
    /// Random identity of this node's data.
    pub node: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
}

impl ServerPreamble {
    /// The 48 bytes.
    pub fn to_bytes(self) -> [u8; SERVER_BYTES] {
        let mut out = BytesMut::with_capacity(SERVER_BYTES);
        out.put_slice(&MAGIC);
        out.put_u16_le(self.versions.lowest);
        out.put_u16_le(self.versions.highest);
        out.put_u16_le(self.chosen);
        out.put_u16_le(self.status.number());
        out.put_u32_le(self.frame_bytes_max);
        out.put_u32_le(self.in_flight_max);
        out.put_u64_le(self.message_bytes_max);
        out.put_u64_le(self.node);
        out.put_u64_le(self.time_ms);
        out.put_bytes(0, 4);
        fixed(&out)
    }

    /// Reads the 48 bytes.
    pub fn from_bytes(bytes: &[u8; SERVER_BYTES]) -> Result<Self, WrongMagic> {
        let mut input = &bytes[..];
        check_magic(&mut input)?;
        Ok(Self {
            versions: versions(&mut input),
            chosen: input.get_u16_le(),
            status: Status::from_number(input.get_u16_le()),
            frame_bytes_max: input.get_u32_le(),
            in_flight_max: input.get_u32_le(),
            message_bytes_max: input.get_u64_le(),
            node: input.get_u64_le(),
            time_ms: input.get_u64_le(),
        })
    }
}

fn check_magic(input: &mut &[u8]) -> Result<(), WrongMagic> {
    let mut magic = [0; 4];
    input.copy_to_slice(&mut magic);
    if magic == MAGIC { Ok(()) } else { Err(WrongMagic(magic)) }
}

fn versions(input: &mut &[u8]) -> VersionRange {
    VersionRange { lowest: input.get_u16_le(), highest: input.get_u16_le() }
}

/// The buffer as an array of exactly its length.
fn fixed<const N: usize>(out: &BytesMut) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(out);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_preambles_survive_the_wire() {
        let client = ClientPreamble { versions: VersionRange { lowest: 1, highest: 3 } };
        assert_eq!(ClientPreamble::from_bytes(&client.to_bytes()), Ok(client));
        let server = ServerPreamble {
            versions: VersionRange::OURS,
            chosen: 1,
            status: Status::Unknown(77),
            frame_bytes_max: 1,
            in_flight_max: 2,
            message_bytes_max: 3,
            node: 4,
            time_ms: 5,
        };
        assert_eq!(ServerPreamble::from_bytes(&server.to_bytes()), Ok(server));
    }

    #[test]
    fn wrong_magic_is_told() {
        let error = ClientPreamble::from_bytes(b"GET / HTTP/1.1\r\n").unwrap_err();
        assert_eq!(error, WrongMagic(*b"GET "));
    }

    #[test]
    fn common_version_is_the_highest_of_both() {
        let range = |lowest, highest| VersionRange { lowest, highest };
        assert_eq!(range(1, 3).common(range(2, 9)), Some(3));
        assert_eq!(range(1, 1).common(range(2, 9)), None);
        assert_eq!(range(4, 9).common(range(1, 4)), Some(4));
    }
}
