//! What decides about a message's place in its queue, and how it is known again.
//!
//! It travels as optional fields of the message, and is stored with it as it came:
//!
//! ```text
//! field 5: u8 priority; 0 without it
//! field 6: group, the bytes to the end; empty without it
//! field 7: dedup id, the bytes to the end
//! ```
//!
//! Always true here: what has no field is as if nothing was said, so that a message has one encoding;
//! stored fields that are damaged are a [`DecodeError`], and never panic.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{ErrorCode, Refusal};
use crate::wire::{DecodeError, Reader, put_field, utf8};

/// Most bytes of a group and of a dedup id.
pub const TEXT_BYTES_MAX: usize = 128;

pub(crate) const FIELD_PRIORITY: u8 = 5;
pub(crate) const FIELD_GROUP: u8 = 6;
pub(crate) const FIELD_DEDUP_ID: u8 = 7;

/// Priority, group and dedup id of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// 0 to 255; messages with a higher one are delivered before those with a lower one.
    pub priority: u8,
    /// Up to [`TEXT_BYTES_MAX`] bytes. The groups of a queue take turns, and an ordered queue keeps
    /// the order within each. The empty one is a group like any other.
    pub group: String,
    /// 1 to [`TEXT_BYTES_MAX`] bytes: a message that is sent once more with the same one in the same
    /// queue is a duplicate.
    pub dedup_id: Option<String>,
}

impl Properties {
    /// Those among the stored optional fields of a message.
    pub fn of(fields: &Bytes) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut fields = Reader::new(fields.clone());
        while let Some((tag, mut value)) = fields.field()? {
            properties.read_field(tag, &mut value)?;
        }
        Ok(properties)
    }

    /// What is wrong with them whatever the queue: a text that is too long, an empty dedup id
    /// (`attribute_out_of_range`).
    pub fn check(&self) -> Result<(), Refusal> {
        let dedup_id = self.dedup_id.as_deref();
        if dedup_id == Some("") {
            let text = format!("an empty dedup-id: it has 1 to {TEXT_BYTES_MAX} bytes");
            let maximum = TEXT_BYTES_MAX as u64;
            return Err(ErrorCode::AttributeOutOfRange
                .refuse(text)
                .with_limit("dedup-id", 0, maximum));
        }
        for (name, text) in [("group", self.group.as_str()), ("dedup-id", dedup_id.unwrap_or(""))] {
            let bytes = text.len();
            if bytes > TEXT_BYTES_MAX {
                let text = format!("{name} of {bytes} bytes is over the limit of {TEXT_BYTES_MAX}");
                return Err(ErrorCode::AttributeOutOfRange.refuse(text).with_limit(
                    name,
                    bytes as u64,
                    TEXT_BYTES_MAX as u64,
                ));
            }
        }
        Ok(())
    }

    /// Bytes that [`Self::put_fields`] appends.
    pub(crate) fn fields_bytes(&self) -> usize {
        let priority = if self.priority == 0 { 0 } else { 6 };
        let group = if self.group.is_empty() { 0 } else { 5 + self.group.len() };
        priority + group + self.dedup_id.as_ref().map_or(0, |id| 5 + id.len())
    }

    /// Appends one optional field for each that is not as if nothing was said.
    pub(crate) fn put_fields(&self, out: &mut BytesMut) {
        if self.priority != 0 {
            put_field(out, FIELD_PRIORITY, |out| out.put_u8(self.priority));
        }
        if !self.group.is_empty() {
            put_field(out, FIELD_GROUP, |out| out.put_slice(self.group.as_bytes()));
        }
        if let Some(dedup_id) = &self.dedup_id {
            put_field(out, FIELD_DEDUP_ID, |out| out.put_slice(dedup_id.as_bytes()));
        }
    }

    /// Reads an optional field of a message, if it is one of these.
    pub(crate) fn read_field(&mut self, tag: u8, value: &mut Reader) -> Result<(), DecodeError> {
        match tag {
            FIELD_PRIORITY => {
                self.priority = value.u8("priority")?;
                value.end("priority")?;
            }
            FIELD_GROUP => self.group = utf8("group", &value.rest())?,
            FIELD_DEDUP_ID => self.dedup_id = Some(utf8("dedup id", &value.rest())?),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Limit;

    fn properties(priority: u8, group: &str, dedup_id: Option<&str>) -> Properties {
        let dedup_id = dedup_id.map(str::to_owned);
        Properties { priority, group: group.to_owned(), dedup_id }
    }

    fn fields(properties: &Properties) -> BytesMut {
        let mut out = BytesMut::new();
        properties.put_fields(&mut out);
        out
    }

    #[test]
    fn every_property_takes_the_bytes_that_it_says() {
        for (properties, bytes) in [
            (properties(0, "", None), 0),
            (properties(255, "", None), 6),
            (properties(0, "group", None), 10),
            (properties(0, "", Some("id")), 7),
            (properties(1, "\u{e4}", Some("")), 18),
        ] {
            let fields = fields(&properties);
            assert_eq!((fields.len(), properties.fields_bytes()), (bytes, bytes));
            assert_eq!(Properties::of(&fields.freeze()), Ok(properties));
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_of_two_the_last_one_counts() {
        let mut out = BytesMut::new();
        put_field(&mut out, 1, |out| out.put_slice(b"no header"));
        put_field(&mut out, FIELD_PRIORITY, |out| out.put_u8(1));
        put_field(&mut out, FIELD_GROUP, |out| out.put_slice(b"first"));
        put_field(&mut out, 200, |out| out.put_slice(b"from the future"));
        put_field(&mut out, FIELD_PRIORITY, |out| out.put_u8(2));
        put_field(&mut out, FIELD_GROUP, |_| ());
        put_field(&mut out, FIELD_DEDUP_ID, |out| out.put_slice(b"id"));
        assert_eq!(Properties::of(&out.freeze()), Ok(properties(2, "", Some("id"))));
    }

    #[test]
    fn values_that_no_property_has_are_refused() {
        for (tag, bad) in [
            (FIELD_PRIORITY, &[][..]),
            (FIELD_PRIORITY, &[1, 0]),
            (FIELD_GROUP, &[0xff]),
            (FIELD_DEDUP_ID, &[b'a', 0xc3]),
        ] {
            let mut out = BytesMut::new();
            put_field(&mut out, tag, |out| out.put_slice(bad));
            assert!(Properties::of(&out.freeze()).is_err(), "{tag} {bad:?}");
        }
        let whole = fields(&properties(1, "group", Some("id"))).freeze();
        for length in [1, 5, 7, 15, whole.len() - 1] {
            assert!(Properties::of(&whole.slice(..length)).is_err(), "{length}");
        }
    }

    #[test]
    fn texts_are_held_to_their_limit_in_bytes() {
        let (most, over) = ("x".repeat(TEXT_BYTES_MAX), "x".repeat(TEXT_BYTES_MAX + 1));
        for good in [properties(255, &most, Some(&most)), properties(0, "", Some("i"))] {
            assert_eq!(good.check(), Ok(()));
        }
        let wide = "\u{e4}".repeat(TEXT_BYTES_MAX / 2 + 1);
        for (bad, name, current) in [
            (properties(0, &over, None), "group", 129),
            (properties(0, &wide, None), "group", 130),
            (properties(0, "", Some(&over)), "dedup-id", 129),
            (properties(0, "", Some("")), "dedup-id", 0),
        ] {
            let refusal = bad.check().unwrap_err();
            assert_eq!(refusal.code, ErrorCode::AttributeOutOfRange);
            let limit = Limit { name: name.to_owned(), current, maximum: 128 };
            assert_eq!(refusal.limit, Some(limit));
            assert!(refusal.text.contains(name), "{}", refusal.text);
        }
    }
}
