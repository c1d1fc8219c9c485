//! Spans: which messages of a chunk are ready in a lane, as neighbours.
//!
//! Always true here: spans rise and do not touch.
//!
//! ```text
//! spans:  number of spans, then for each: first, count
//! first:  counted from the end of the span before it; of the first one from 0
//! number: 7 bits a byte, the lowest first; the high bit says that more follow
//! ```

use super::{Result, StoreError};

/// Which messages of a chunk are ready in a lane, by their indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans(Vec<(u16, u16)>);

impl Spans {
    /// True when the index is in it.
    pub fn contains(&self, index: u16) -> bool {
        let at = self.0.partition_point(|(first, _)| *first <= index);
        at.checked_sub(1).is_some_and(|at| index - self.0[at].0 < self.0[at].1)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The indexes in order.
    pub fn indexes(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|(first, count)| *first..=*first + (*count - 1))
    }

    /// Adds `count` neighbours behind all others.
    fn push(&mut self, first: u16, count: u16) {
        match self.0.last_mut() {
            _ if count == 0 => {}
            Some((before, length))
                if u32::from(*before) + u32::from(*length) == u32::from(first) =>
            {
                *length += count;
            }
            _ => self.0.push((first, count)),
        }
    }

    /// Adds spans that rise and do not overlap; the same index may be in both.
    pub(super) fn add(&mut self, new: impl Iterator<Item = (u16, u16)>) {
        let mut joined = Self(Vec::with_capacity(self.0.len() + 1));
        let mut new = new.peekable();
        let mut old = self.0.iter().copied().peekable();
        while let Some((first, count)) = match (old.peek(), new.peek()) {
            (Some(before), Some(behind)) if behind < before => new.next(),
            (Some(_), _) => old.next(),
            (None, _) => new.next(),
        } {
            let end = joined.0.last().map_or(0, |(first, count)| first + count);
            let (from, to) = (first.max(end), (first + count).max(end));
            joined.push(from, to - from);
        }
        *self = joined;
    }

    /// Takes spans out that rise and do not overlap, as far as they are there.
    pub(super) fn remove(&mut self, gone: impl Iterator<Item = (u16, u16)>) {
        let mut left = Self(Vec::with_capacity(self.0.len() + 1));
        let mut gone = gone.peekable();
        for &(first, count) in &self.0 {
            let (mut at, end) = (first, first + count);
            while let Some(&(from, length)) = gone.peek().filter(|(from, _)| *from < end) {
                if from > at {
                    left.push(at, from - at);
                }
                at = at.max(from + length);
                if at > end {
                    break;
                }
                gone.next();
            }
            if at < end {
                left.push(at, end - at);
            }
        }
        *self = left;
    }

    /// Appends the encoding of a single span.
    pub(super) fn put_one(row: &mut Vec<u8>, first: u16, count: u16) {
        row.push(1);
        put_number(row, first.into());
        put_number(row, count.into());
    }

    /// Appends the encoding.
    pub(super) fn put(&self, row: &mut Vec<u8>) {
        put_number(row, self.0.len() as u64);
        let mut end = 0;
        for &(first, count) in &self.0 {
            put_number(row, u64::from(first - end));
            put_number(row, count.into());
            end = first + count;
        }
    }

    /// Reads the encoding off the front of `row`.
    pub(super) fn take(row: &mut &[u8]) -> Result<Self> {
        let number = take_number(row)?;
        // Each one has two bytes at least.
        let mut spans = Vec::with_capacity(number.min(row.len() as u64 / 2) as usize);
        let mut end = 0;
        for at in 0..number {
            let (gap, count) = (take_number(row)?, take_number(row)?);
            let first = end + gap.min(u64::from(u16::MAX));
            end = first + count.min(u64::from(u16::MAX));
            if count == 0 || end > u16::MAX.into() || (gap == 0 && at > 0) {
                return Err(damaged("spans cross"));
            }
            spans.push((first as u16, count as u16));
        }
        Ok(Self(spans))
    }
}

impl IntoIterator for Spans {
    type Item = u16;
    type IntoIter = Indexes;

    fn into_iter(self) -> Indexes {
        Indexes { spans: self.0.into_iter(), at: 0, end: 0 }
    }
}

/// The indexes of spans, one by one, in as little memory.
#[derive(Debug)]
pub struct Indexes {
    spans: std::vec::IntoIter<(u16, u16)>,
    at: u16,
    end: u16,
}

impl Iterator for Indexes {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.at == self.end {
            let (first, count) = self.spans.next()?;
            (self.at, self.end) = (first, first + count);
        }
        self.at += 1;
        Some(self.at - 1)
    }
}

/// Appends a number.
pub(super) fn put_number(row: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        row.push(number as u8 | 0x80);
        number >>= 7;
    }
    row.push(number as u8);
}

/// Reads a number off the front of `row`.
pub(super) fn take_number(row: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = row.split_first().ok_or_else(|| damaged("cut short"))?;
        *row = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(damaged("a number of more than 64 bits"))
}

/// Reads spans off the front of `row` without looking at them; their bytes.
pub(super) fn skip<'a>(row: &mut &'a [u8]) -> Result<&'a [u8]> {
    let whole = *row;
    for _ in 0..take_number(row)? {
        take_number(row)?;
        take_number(row)?;
    }
    Ok(whole.split_at(whole.len() - row.len()).0)
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("waiting: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(some: &[(u16, u16)]) -> Spans {
        Spans(some.to_vec())
    }

    #[test]
    fn spans_survive_their_bytes() {
        for some in [
            spans(&[]),
            spans(&[(0, 3), (7, 1), (9, 2)]),
            spans(&[(1, 1)]),
            spans(&[(300, 200), (65_000, 535)]),
        ] {
            let mut row = Vec::new();
            some.put(&mut row);
            row.push(7);
            let mut rest = &row[..];
            assert_eq!(Spans::take(&mut rest).unwrap(), some);
            assert_eq!(rest, [7]);
            let mut rest = &row[..];
            assert_eq!(skip(&mut rest).unwrap().len() + 1, row.len());
            let known: Vec<u16> = some.indexes().collect();
            assert_eq!(some.clone().into_iter().collect::<Vec<_>>(), known);
            for index in 0..600 {
                assert_eq!(some.contains(index), known.contains(&index), "{index}");
            }
        }
    }

    #[test]
    fn numbers_survive_their_bytes() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut row = Vec::new();
            put_number(&mut row, number);
            assert_eq!(take_number(&mut &row[..]).unwrap(), number);
            assert!(take_number(&mut &row[..row.len() - 1]).is_err());
        }
    }

    #[test]
    fn damaged_spans_are_errors() {
        for bad in [
            &[][..],
            &[1],
            &[1, 0],
            &[1, 0, 0],
            &[2, 0, 1, 0, 1],
            &[1, 0xff, 0xff, 3, 1],
            &[0xff; 11],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 1],
        ] {
            assert!(Spans::take(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spans_take_in_and_give_out() {
        let add = |some: &[(u16, u16)], new: &[(u16, u16)]| {
            let mut some = spans(some);
            some.add(new.iter().copied());
            some.0
        };
        assert_eq!(add(&[(1, 3), (8, 1)], &[(0, 1), (2, 1), (9, 1)]), [(0, 4), (8, 2)]);
        assert_eq!(add(&[], &[(4, 1)]), [(4, 1)]);
        assert_eq!(add(&[(4, 1)], &[(3, 1), (4, 1), (5, 1), (99, 9)]), [(3, 3), (99, 9)]);
        let remove = |some: &[(u16, u16)], gone: &[(u16, u16)]| {
            let mut some = spans(some);
            some.remove(gone.iter().copied());
            some.0
        };
        assert_eq!(remove(&[(1, 3), (8, 1)], &[(1, 1), (8, 1), (20, 1)]), [(2, 2)]);
        assert_eq!(remove(&[(1, 3), (8, 4)], &[(2, 8)]), [(1, 1), (10, 2)]);
        assert_eq!(remove(&[(0, 9)], &[(0, 2), (4, 1), (8, 1)]), [(2, 2), (5, 3)]);
        assert_eq!(remove(&[(0, 4)], &[(0, 4)]), []);
    }
}
