//! Sizes, durations and counts as people write and read them.

/// Reads a size: `100`, `64KiB`, `1MiB`, `2GB`; powers of 1,000 without and of 1,024 with the `i`.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => {
            return Err(format!("unknown unit {unit:?}; sizes are like 100, 64KiB, 1MiB, 2GB"));
        }
    };
    let overflow = || "the size is too large".to_owned();
    number.checked_mul(factor).ok_or_else(overflow)
}

/// Reads a size that may be `unlimited`.
pub fn size_or_unlimited(text: &str) -> Result<u64, String> {
    if text == "unlimited" {
        return Ok(qd_protocol::attributes::UNLIMITED);
    }
    size(text)
}

/// Reads a count that may be `unlimited`.
pub fn count_or_unlimited(text: &str) -> Result<u64, String> {
    if text == "unlimited" {
        return Ok(qd_protocol::attributes::UNLIMITED);
    }
    let expected = |_| "expected a whole number or unlimited".to_owned();
    text.parse().map_err(expected)
}

/// Reads a whole number in a range.
pub fn whole<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let to = if most == u64::MAX { String::new() } else { format!(" to {most}") };
            format!("expected a whole number from {least}{to}")
        })
    }
}

/// Reads a duration in milliseconds: `500ms`, `30s`, `5m`, `12h`, `14d`, `0`.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 1,
        "" => return Err(format!("{text:?} needs a unit: 500ms, 30s, 5m, 12h or 14d")),
        _ => {
            return Err(format!(
                "unknown unit {unit:?}; durations are like 500ms, 30s, 5m, 12h, 14d, 0"
            ));
        }
    };
    let overflow = || "the duration is too long".to_owned();
    number.checked_mul(factor).ok_or_else(overflow)
}

/// Reads how far the end of a lease is moved: at most 365 days.
pub fn lease_ms(text: &str) -> Result<u64, String> {
    at_most(duration_ms(text)?, qd_protocol::attributes::VISIBILITY_TIMEOUT_MS_MAX)
}

/// Reads the delay of a message: at most 100 years of 365 days.
pub fn delay_ms(text: &str) -> Result<u64, String> {
    at_most(duration_ms(text)?, qd_protocol::attributes::DELAY_MS_MAX)
}

/// Reads the time to live of a message: 1 ms to 100 years of 365 days.
pub fn ttl_ms(text: &str) -> Result<u64, String> {
    match delay_ms(text)? {
        0 => Err("at least 1ms".to_owned()),
        ms => Ok(ms),
    }
}

/// Reads the time between two looks: 100 ms to 100 years of 365 days.
pub fn interval_ms(text: &str) -> Result<u64, String> {
    match delay_ms(text)? {
        0..100 => Err("at least 100ms".to_owned()),
        ms => Ok(ms),
    }
}

/// Reads a duration that may be `forever`.
pub fn duration_ms_or_forever(text: &str) -> Result<u64, String> {
    if text == "forever" {
        return Ok(qd_protocol::attributes::UNLIMITED);
    }
    let no_word = text.starts_with(|first: char| first.is_ascii_digit());
    if !no_word {
        return Err("expected a duration, like 14d, or forever".to_owned());
    }
    // What is too long for a number is not to become the number of forever.
    at_most(duration_ms(text)?, qd_protocol::attributes::DELAY_MS_MAX)
}

fn at_most(ms: u64, most_ms: u64) -> Result<u64, String> {
    if ms <= most_ms { Ok(ms) } else { Err(format!("at most {}", show_duration(most_ms))) }
}

/// Reads a rate: `1000/s`.
pub fn rate_per_second(text: &str) -> Result<u64, String> {
    let rate = text.strip_suffix("/s").and_then(|number| number.parse().ok());
    rate.filter(|rate| *rate > 0).ok_or_else(|| "expected a rate like 1000/s".to_owned())
}

/// Digits, then a unit.
fn split(text: &str) -> Result<(u64, &str), String> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if text.starts_with('-') {
        return Err("expected a number that is not negative".to_owned());
    }
    if digits.is_empty() {
        return Err("expected a number first".to_owned());
    }
    if unit.starts_with('.') {
        return Err("fractions are not allowed; use a smaller unit".to_owned());
    }
    let number = digits.parse().map_err(|_| "the number is too large".to_owned())?;
    Ok((number, unit))
}

/// A duration with the largest unit that shows it exactly: `90s`, `5m`.
pub fn show_duration(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    if ms == 0 {
        return "0".to_owned();
    }
    for (factor, unit) in units {
        if ms.is_multiple_of(factor) {
            return format!("{}{unit}", ms / factor);
        }
    }
    format!("{ms}ms")
}

/// A size for people: exact when small, else with one decimal.
pub fn show_size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    format!("{text} {}", units.get(unit).unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_strictly() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("64KiB", 65_536),
            ("1MiB", 1 << 20),
            ("2GB", 2_000_000_000),
            ("3kb", 3_000),
            ("7B", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "1.5MiB", "-1", "1 MiB", "1M", "99999999999999999999", "17000000TiB"]
        {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn whole_numbers_are_held_to_their_range() {
        assert_eq!(whole::<u32>(1, 10)("10"), Ok(10));
        assert_eq!(whole::<u64>(1, u64::MAX)("18446744073709551615"), Ok(u64::MAX));
        for bad in ["", "0", "-1", "11", "x", "1.5", "99999999999999999999"] {
            let expected = Err("expected a whole number from 1 to 10".to_owned());
            assert_eq!(whole::<u32>(1, 10)(bad), expected, "{bad:?}");
        }
        let expected = Err("expected a whole number from 1".to_owned());
        assert_eq!(whole::<u64>(1, u64::MAX)("-1"), expected);
    }

    #[test]
    fn durations_are_read_strictly() {
        for (text, ms) in [
            ("0", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("14d", 1_209_600_000),
        ] {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        for bad in ["", "30", "s", "1h30m", "1.5s", "-1s", "5 s", "5S"] {
            assert!(duration_ms(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shown_durations_read_back_as_the_same() {
        for ms in [0, 1, 999, 1_000, 30_000, 90_000, 300_000, 86_400_000] {
            assert_eq!(duration_ms(&show_duration(ms)), Ok(ms));
        }
    }

    #[test]
    fn sizes_are_shown_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1 MiB"),
            ((1 << 20) - 1, "1 MiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn unlimited_is_a_word() {
        assert_eq!(count_or_unlimited("unlimited"), Ok(u64::MAX));
        assert_eq!(size_or_unlimited("unlimited"), Ok(u64::MAX));
        assert!(count_or_unlimited("many").is_err());
    }

    #[test]
    fn forever_is_a_word_and_no_number_is() {
        assert_eq!(duration_ms_or_forever("forever"), Ok(u64::MAX));
        assert_eq!(duration_ms_or_forever("36500d"), Ok(3_153_600_000_000));
        for bad in ["", "never", "unlimited", "-1s", "36501d", "18446744073709551615ms", "5"] {
            assert!(duration_ms_or_forever(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn time_to_live_is_not_0() {
        assert_eq!(ttl_ms("1ms"), Ok(1));
        assert!(ttl_ms("0").is_err());
        assert!(ttl_ms("36501d").is_err());
    }

    #[test]
    fn interval_is_no_busy_loop() {
        assert_eq!(interval_ms("100ms"), Ok(100));
        for bad in ["0", "99ms", "36501d", "5"] {
            assert!(interval_ms(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate_per_second("1000/s"), Ok(1000));
        assert!(rate_per_second("5").is_err());
        assert!(rate_per_second("0/s").is_err());
        assert!(rate_per_second("5/m").is_err());
    }
}
