//! Sizes and durations as people write them: `64KiB`, `256MiB`, `500ms`, `30s`, `1h30m`, `7d`.
//!
//! Whole numbers with a unit; durations may string several together, largest first. A number without a
//! unit is refused: `keep_alive = 30000` says nothing about what its writer had in mind.

use std::{fmt, str::FromStr, time::Duration};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A span of time, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// The text is not a size or a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a whole number followed by a unit")]
pub struct NotAUnit;

/// Largest first, so that printing takes the first that divides.
const SIZES: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
];

/// In milliseconds, largest first.
const SPANS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Size {
    type Err = NotAUnit;

    fn from_str(text: &str) -> Result<Self, NotAUnit> {
        let (number, unit) = number_and_unit(text.trim())?;
        let unit = unit.trim_start();
        let factor = if unit == "B" {
            1
        } else {
            SIZES.iter().find(|(name, _)| *name == unit || (unit == "KB" && *name == "kB")).ok_or(NotAUnit)?.1
        };
        number.checked_mul(factor).map(Self).ok_or(NotAUnit)
    }
}

impl FromStr for Span {
    type Err = NotAUnit;

    fn from_str(text: &str) -> Result<Self, NotAUnit> {
        let mut rest = text.trim();
        let mut total: u64 = 0;
        let mut finest = u64::MAX;
        loop {
            let (number, tail) = number_and_unit(rest)?;
            let tail = tail.trim_start();
            let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let factor = SPANS.iter().find(|(name, _)| *name == unit).ok_or(NotAUnit)?.1;
            if factor >= finest {
                return Err(NotAUnit);
            }
            finest = factor;
            total = number.checked_mul(factor).and_then(|part| total.checked_add(part)).ok_or(NotAUnit)?;
            rest = tail.trim_start();
            if rest.is_empty() {
                return Ok(Self(Duration::from_millis(total)));
            }
        }
    }
}

/// Splits the digits in front from what follows.
fn number_and_unit(text: &str) -> Result<(u64, &str), NotAUnit> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    digits.parse().map(|number| (number, unit)).map_err(|_| NotAUnit)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in SPANS {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        for (text, bytes) in [
            ("0B", 0),
            ("512B", 512),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("1kB", 1_000),
            ("1KB", 1_000),
            ("256MiB", 268_435_456),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn durations_are_read_alone_and_strung_together() {
        for (text, ms) in
            [("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("1h 30m", 5_400_000), ("7d", 604_800_000)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
    }

    #[test]
    fn what_has_no_unit_or_a_wrong_one_is_refused() {
        for text in ["", "30", "MiB", "1.5GiB", "-1MiB", "64KIB", "64Kib", "99999999999TiB", "1MiB2KiB"] {
            assert_eq!(text.parse::<Size>(), Err(NotAUnit), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5s", "30 minutes", "30m1h", "1s1s", "99999999999999d", "1h;"] {
            assert_eq!(text.parse::<Span>(), Err(NotAUnit), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bytes in 0..=1_u64 << 50, ms in 0..=1_u64 << 45) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
            let span = Span(Duration::from_millis(ms));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in ".{0,40}") {
            let _either = (text.parse::<Size>(), text.parse::<Span>());
        }
    }
}
