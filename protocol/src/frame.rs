//! Frames: the unit that crosses the wire in both directions after the preamble.
//!
//! ```text
//! offset  bytes  field
//!      0      4  length of all that follows, little-endian: 8 to 8 + payload
//!      4      4  correlation id, chosen by the client, repeated in the answer
//!      8      2  opcode of the verb, the same in request and answer
//!     10      2  flags: 1 numbered (request), 2 answer, 4 the answer is a refusal,
//!                8 the answer goes on in another frame
//!     12      -  payload
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// Bytes of a frame before its payload, the length field included.
pub const HEADER_BYTES: usize = 12;
/// The part of the header that the length field counts.
const COUNTED_HEADER_BYTES: usize = HEADER_BYTES - 4;
/// What the decoder asks the buffer to grow by at most, whatever a frame announces.
const RESERVE_BYTES_MAX: usize = 256 << 10;

/// Flag of a request that begins with its number ([`crate::Numbering`]).
pub const FLAG_NUMBERED: u16 = 1;
/// Flag of every frame from the server.
pub const FLAG_ANSWER: u16 = 2;
/// Flag of an answer whose payload is a [`crate::Refusal`].
pub const FLAG_REFUSED: u16 = 4;
/// Flag of each frame but the last one of an answer that comes in several: their payloads, joined,
/// are that of the answer.
pub const FLAG_MORE: u16 = 8;

/// One frame, its payload not yet decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Chosen by the client; the answer repeats it.
    pub correlation: u32,
    /// The verb.
    pub opcode: u16,
    /// `FLAG_*`; unknown bits are ignored.
    pub flags: u16,
    /// The verb's own bytes.
    pub payload: Bytes,
}

impl Frame {
    /// True when `flag` is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// A frame that cannot be read; the connection cannot go on behind it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame announces more bytes than the receiver takes. The header is known, so the
    /// sender can be told which request it was.
    #[error("frame of {length} bytes is over the limit of {maximum} bytes")]
    TooLarge {
        /// Of the frame refused.
        correlation: u32,
        /// Of the frame refused.
        opcode: u16,
        /// Announced, the length field excluded.
        length: u32,
        /// The receiver's limit.
        maximum: u32,
    },
    /// The frame is shorter than its own header.
    #[error("frame of {0} bytes is shorter than a frame's header (8 bytes)")]
    TooShort(u32),
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Cuts a byte stream into frames and back.
#[derive(Debug, Clone)]
pub struct FrameCodec {
    maximum: u32,
}

impl FrameCodec {
    /// A codec that refuses frames announcing more than `maximum` bytes.
    pub fn new(maximum: u32) -> Self {
        Self { maximum }
    }
}

impl Default for FrameCodec {
    /// A codec for requests.
    fn default() -> Self {
        Self::new(crate::FRAME_BYTES_MAX)
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(mut header) = input.get(..HEADER_BYTES) else {
            // The length alone is enough to refuse a frame that can hold no header.
            if let Some(mut start) = input.get(..4) {
                let length = start.get_u32_le();
                if (length as usize) < COUNTED_HEADER_BYTES {
                    return Err(FrameError::TooShort(length));
                }
            }
            return Ok(None);
        };
        let length = header.get_u32_le();
        let correlation = header.get_u32_le();
        let opcode = header.get_u16_le();
        let flags = header.get_u16_le();
        if (length as usize) < COUNTED_HEADER_BYTES {
            return Err(FrameError::TooShort(length));
        }
        if length > self.maximum {
            let maximum = self.maximum;
            return Err(FrameError::TooLarge { correlation, opcode, length, maximum });
        }
        let total = length as usize + 4;
        if input.len() < total {
            input.reserve((total - input.len()).min(RESERVE_BYTES_MAX));
            return Ok(None);
        }
        let mut whole = input.split_to(total);
        whole.advance(HEADER_BYTES);
        Ok(Some(Frame { correlation, opcode, flags, payload: whole.freeze() }))
    }
}

impl Encoder<&Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        put_frame(out, frame.correlation, frame.opcode, frame.flags, |out| {
            out.put_slice(&frame.payload);
        });
        Ok(())
    }
}

/// Appends a frame whose payload `payload` writes in place, without a copy of it.
pub fn put_frame(
    out: &mut BytesMut,
    correlation: u32,
    opcode: u16,
    flags: u16,
    payload: impl FnOnce(&mut BytesMut),
) {
    let at = out.len();
    out.put_u32_le(0);
    out.put_u32_le(correlation);
    out.put_u16_le(opcode);
    out.put_u16_le(flags);
    payload(out);
    let length = (out.len() - at - 4) as u32;
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(codec: &mut FrameCodec, bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut input = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = codec.decode(&mut input)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn example() -> Frame {
        Frame { correlation: 7, opcode: 9, flags: 2, payload: Bytes::from_static(b"hello") }
    }

    #[test]
    fn frame_survives_any_cut() {
        let mut bytes = BytesMut::new();
        FrameCodec::default().encode(&example(), &mut bytes).unwrap();
        for cut in 0..bytes.len() {
            let mut codec = FrameCodec::default();
            let mut input = BytesMut::from(&bytes[..cut]);
            assert!(codec.decode(&mut input).unwrap().is_none(), "cut at {cut}");
            input.extend_from_slice(&bytes[cut..]);
            assert_eq!(codec.decode(&mut input).unwrap(), Some(example()));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn two_frames_in_one_read_come_out_in_order() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, 1, 2, 0, |_| ());
        FrameCodec::default().encode(&example(), &mut bytes).unwrap();
        let frames = decode_all(&mut FrameCodec::default(), &bytes).unwrap();
        assert_eq!(frames.iter().map(|frame| frame.correlation).collect::<Vec<_>>(), [1, 7]);
    }

    #[test]
    fn oversized_frame_is_refused_by_its_header_alone() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, 5, 6, 0, |out| out.put_bytes(0, 100));
        let error = decode_all(&mut FrameCodec::new(107), &bytes[..12]).unwrap_err();
        assert_eq!(error.to_string(), "frame of 108 bytes is over the limit of 107 bytes");
        assert!(matches!(error, FrameError::TooLarge { correlation: 5, opcode: 6, .. }));
    }

    #[test]
    fn frame_shorter_than_its_header_is_refused_at_once() {
        let error = decode_all(&mut FrameCodec::default(), &[7, 0, 0, 0]).unwrap_err();
        assert!(matches!(error, FrameError::TooShort(7)));
    }

    #[test]
    fn announced_length_reserves_a_bounded_amount() {
        let mut codec = FrameCodec::default();
        let mut input = BytesMut::new();
        put_frame(&mut input, 1, 1, 0, |_| ());
        input[..4].copy_from_slice(&(16u32 << 20).to_le_bytes());
        assert!(codec.decode(&mut input).unwrap().is_none());
        assert!(input.capacity() <= RESERVE_BYTES_MAX + 1024, "{}", input.capacity());
    }
}
