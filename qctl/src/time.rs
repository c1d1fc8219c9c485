//! Times for people: RFC 3339 in UTC with milliseconds.

/// Milliseconds since 1970-01-01 UTC as `2026-01-31T12:00:00.000Z`; a time out of range as the
/// number it is.
pub fn rfc3339(ms: u64) -> String {
    let timestamp = i64::try_from(ms).map(jiff::Timestamp::from_millisecond);
    match timestamp {
        Ok(Ok(timestamp)) => format!("{timestamp:.3}"),
        _ => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(u64::MAX), u64::MAX.to_string());
    }
}
