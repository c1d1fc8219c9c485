//! Figures in as few columns as they need.

use std::collections::VecDeque;

use crate::rates::Rates;

/// Characters that fill one to eight eighths of their place.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A number in at most six characters: exact up to 999,999.
pub fn count(number: u64) -> String {
    if number < 1_000_000 {
        return number.to_string();
    }
    let units = ["M", "G", "T", "P", "E"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = number as f64 / 1e6;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1e3;
        unit += 1;
    }
    let digits = match value {
        ..9.995 => 2,
        9.995..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", units.get(unit).unwrap_or(&""))
}

/// Messages a second, in at most six characters; `-` where they are not known.
pub fn rate(rates: Option<Rates>, of: impl Fn(&Rates) -> f64) -> String {
    let Some(rate) = rates.as_ref().map(of) else {
        return "-".to_owned();
    };
    if rate < 999.95 {
        return format!("{rate:.1}");
    }
    #[expect(clippy::cast_sign_loss, reason = "it is no negative number")]
    count(rate.round() as u64)
}

/// An age in at most five characters: `59s`, `59m`, `23h`, `9999d`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", (seconds / 86_400).min(9_999)),
    }
}

/// The last values as bars, the newest one at the right end.
pub fn bars(values: &VecDeque<u64>, columns: usize) -> String {
    let values = values.iter().skip(values.len().saturating_sub(columns));
    let most = values.clone().copied().max().unwrap_or(0).max(1);
    let bar = |&value: &u64| {
        let eighths = (u128::from(value) * 8).div_ceil(u128::from(most));
        let at = usize::try_from(eighths).unwrap_or(8).checked_sub(1);
        at.and_then(|at| BARS.get(at)).copied().unwrap_or(' ')
    };
    let text: String = values.map(bar).collect();
    format!("{text:>columns$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_until_they_are_short() {
        for (number, text) in [
            (0, "0"),
            (999_999, "999999"),
            (1_000_000, "1.00M"),
            (12_345_678, "12.3M"),
            (999_499_999, "999M"),
            (999_500_000, "1.00G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(number), text);
            assert!(count(number).len() <= 6);
        }
    }

    #[test]
    fn rates_and_ages_fit_their_columns() {
        let rates = |into| Some(Rates { into, out: 0.0 });
        for (into, text) in
            [(0.0, "0.0"), (0.25, "0.2"), (999.9, "999.9"), (1234.5, "1235"), (5e6, "5.00M")]
        {
            assert_eq!(rate(rates(into), |rates| rates.into), text);
        }
        assert_eq!(rate(None, |rates| rates.into), "-");
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_599, "59m"),
            (86_399, "23h"),
            (172_800, "2d"),
            (u64::MAX, "9999d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn bars_are_those_of_the_newest_values() {
        let values = VecDeque::from([9, 0, 1, 4, 8]);
        assert_eq!(bars(&values, 4), " ▁▄█");
        assert_eq!(bars(&values, 7), "  █ ▁▄█");
        assert_eq!(bars(&VecDeque::from([u64::MAX, 1]), 2), "█▁");
        assert_eq!(bars(&VecDeque::new(), 3), "   ");
    }
}
