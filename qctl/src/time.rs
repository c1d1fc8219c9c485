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

/// Now, in milliseconds since 1970-01-01 UTC.
pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Reads a time with its offset from UTC: `2026-01-31T12:00:00Z`, `2026-01-31T13:00:00+01:00`.
/// Milliseconds since 1970-01-01 UTC, a fraction of one rounded up; a time before that as 0.
pub fn parse_rfc3339(text: &str) -> Result<u64, String> {
    let expected = || "expected a time like 2026-01-31T12:00:00Z or ...+01:00".to_owned();
    if !is_rfc3339(text) {
        return Err(expected());
    }
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| expected())?;
    let fraction = timestamp.subsec_nanosecond() % 1_000_000 > 0;
    Ok(u64::try_from(timestamp.as_millisecond()).map_or(0, |ms| ms + u64::from(fraction)))
}

/// The form of RFC 3339, section 5.6; ISO 8601, which jiff reads too, has many more.
fn is_rfc3339(text: &str) -> bool {
    let form = |text: &str, form: &str| {
        text.len() == form.len()
            && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                form => byte.eq_ignore_ascii_case(&form),
            })
    };
    let Some((time, rest)) = text.split_at_checked("0000-00-00T00:00:00".len()) else {
        return false;
    };
    let offset = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
            if offset.len() == fraction.len() {
                return false;
            }
            offset
        }
    };
    let offsets = ["Z", "+00:00", "-00:00"];
    form(time, "0000-00-00T00:00:00") && offsets.iter().any(|known| form(offset, known))
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

    #[test]
    fn times_are_read_with_their_offset() {
        assert_eq!(parse_rfc3339("1970-01-01T00:00:01Z"), Ok(1_000));
        assert_eq!(parse_rfc3339("2023-11-14T23:13:20.1221+01:00"), Ok(1_700_000_000_123));
        assert_eq!(parse_rfc3339("1969-12-31T23:59:59Z"), Ok(0));
        assert_eq!(parse_rfc3339("1970-01-01t00:00:01.5z"), Ok(1_500));
        assert!(parse_rfc3339("9999-12-30T00:00:00Z").is_ok());
        for bad in [
            "",
            "tomorrow",
            "12:00",
            "2030-01-31",
            "2030-01-31T12:00:00",
            "2030-02-30T12:00:00Z",
            "-1",
            "2030-01-31T12:00:00+01",
            "2030-01-31T12:00:00+0100",
            "2030-01-31T12:00Z",
            "2030-01-31 12:00:00Z",
            "20300131T120000Z",
            "2030-01-31T12:00:00.Z",
            "2030-01-31T12:00:00,5Z",
            "2030-01-31T12:00:00Z[UTC]",
            "+002030-01-31T12:00:00Z",
        ] {
            assert!(parse_rfc3339(bad).is_err(), "{bad:?}");
        }
    }
}
