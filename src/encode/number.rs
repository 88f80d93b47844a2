//! Numbers, written as `jsonb` prints them: the digits of a `numeric`, without exponent.

use super::error::NotJsonb;

/// `NUMERIC_WEIGHT_MAX`: 32,768 groups of four digits before the point.
const INTEGER_DIGITS_MAX: i64 = 131_072;
/// `NUMERIC_DSCALE_MASK`: 14 bits count the digits after the point.
const SCALE_MAX: i64 = 16_383;
/// `numeric_in` refuses exponents from here on, even of a zero.
const EXPONENT_LIMIT: i64 = (i32::MAX / 2) as i64;

/// The parts of a number in JSON's grammar.
pub(super) struct Number<'a> {
    negative: bool,
    integer: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Number<'a> {
    /// Reads a number from the start of `text`; gives it and its length. `None`: no number starts here.
    pub(super) fn read(text: &'a [u8]) -> Option<(Number<'a>, usize)> {
        let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let negative = text.first() == Some(&b'-');
        let mut end = usize::from(negative);
        let integer = &text[end..end + digits(end)];
        if integer.is_empty() || (integer.len() > 1 && integer[0] == b'0') {
            return None;
        }
        end += integer.len();
        let mut fraction: &[u8] = &[];
        if text.get(end) == Some(&b'.') {
            fraction = &text[end + 1..end + 1 + digits(end + 1)];
            if fraction.is_empty() {
                return None;
            }
            end += 1 + fraction.len();
        }
        let mut exponent = 0;
        if matches!(text.get(end), Some(b'e' | b'E')) {
            end += 1;
            let sign = text.get(end).copied();
            end += usize::from(matches!(sign, Some(b'+' | b'-')));
            let count = digits(end);
            if count == 0 {
                return None;
            }
            for digit in &text[end..end + count] {
                exponent = (exponent * 10 + i64::from(digit - b'0')).min(EXPONENT_LIMIT);
            }
            end += count;
            if sign == Some(b'-') {
                exponent = -exponent;
            }
        }
        Some((Number { negative, integer, fraction, exponent }, end))
    }

    /// The whole of `text` as one number.
    pub(super) fn of(text: &'a [u8]) -> Option<Number<'a>> {
        let (number, len) = Number::read(text)?;
        (len == text.len()).then_some(number)
    }

    /// Digits after the point: those written, moved by the exponent.
    fn scale(&self) -> i64 {
        (self.fraction.len() as i64 - self.exponent).max(0)
    }

    fn leading_zeros(&self) -> usize {
        self.digits().take_while(|digit| *digit == b'0').count()
    }

    fn digits(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.integer.iter().chain(self.fraction).copied()
    }

    /// Whether `numeric` holds it.
    pub(super) fn check(&self) -> Result<(), NotJsonb> {
        let zeros = self.leading_zeros();
        let is_zero = zeros == self.integer.len() + self.fraction.len();
        let integer_digits = self.integer.len() as i64 + self.exponent - zeros as i64;
        let too_large = !is_zero && integer_digits > INTEGER_DIGITS_MAX;
        if self.exponent.abs() >= EXPONENT_LIMIT || self.scale() > SCALE_MAX || too_large {
            return Err(NotJsonb::NumberOverflow);
        }
        Ok(())
    }

    /// Appends it as `numeric_out` prints it. Call [`Number::check`] first: that bounds what is written.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let zeros = self.leading_zeros();
        let total = self.integer.len() + self.fraction.len();
        let is_zero = zeros == total;
        if self.negative && !is_zero {
            out.push(b'-');
        }
        // Where the point stands among the digits; outside of them where the exponent moved it there.
        let point = self.integer.len() as i64 + self.exponent;
        let integer_digits = if is_zero { 0 } else { point - zeros as i64 };
        if integer_digits <= 0 {
            out.push(b'0');
        } else {
            let written = self.digits().skip(zeros).take(integer_digits as usize);
            let start = out.len();
            out.extend(written);
            out.resize(start + integer_digits as usize, b'0');
        }
        let scale = self.scale() as usize;
        if scale == 0 {
            return;
        }
        out.push(b'.');
        let start = out.len();
        if is_zero {
            out.resize(start + scale, b'0');
            return;
        }
        let missing = (-point).clamp(0, scale as i64) as usize;
        out.resize(start + missing, b'0');
        out.extend(self.digits().skip(point.max(0) as usize).take(scale - missing));
        debug_assert_eq!(out.len(), start + scale);
    }
}

/// Whether `text` is digits, perhaps with a sign before and a point within: what needs no rewriting, since
/// `numeric_out` of it is itself. A negative zero is not among them.
pub(super) fn is_plain(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let mut points = 0;
    let mut nonzero = unsigned.len() == text.len();
    for byte in unsigned {
        match byte {
            b'0' => {}
            b'1'..=b'9' => nonzero = true,
            b'.' => points += 1,
            _ => return false,
        }
    }
    let at_an_end = unsigned.first() == Some(&b'.') || unsigned.last() == Some(&b'.');
    // JSON has no leading zeros; no output function prints any.
    let padded = unsigned.len() > 1 && unsigned[0] == b'0' && unsigned[1] != b'.';
    nonzero && points <= 1 && !at_an_end && !padded && !unsigned.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Result<String, NotJsonb> {
        let number = Number::of(text.as_bytes()).expect("a number");
        number.check()?;
        let mut out = Vec::new();
        number.write(&mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn exponents_are_written_out_and_scale_is_kept() {
        for (text, expected) in [
            ("1e5", "100000"),
            ("1e3", "1000"),
            ("1.50", "1.50"),
            ("2.50", "2.50"),
            ("1.5e1", "15"),
            ("1.50e1", "15.0"),
            ("1.25e1", "12.5"),
            ("1e-5", "0.00001"),
            ("1.5e-07", "0.00000015"),
            ("12345e-3", "12.345"),
            ("-12345e-7", "-0.0012345"),
            ("0", "0"),
            ("-0", "0"),
            ("-0.00", "0.00"),
            ("0e5", "0"),
            ("0e-5", "0.00000"),
            ("0.00e1", "0.0"),
            ("0.05e1", "0.5"),
            ("0.05e3", "50"),
            ("0.05E+2", "5"),
            ("0.0500e1", "0.500"),
            ("12345678901234567890.123456789", "12345678901234567890.123456789"),
        ] {
            assert_eq!(normal(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(normal("1e300").unwrap(), format!("1{}", "0".repeat(300)));
    }

    #[test]
    fn what_numeric_cannot_hold_is_refused() {
        assert_eq!(normal("1e131071").unwrap().len(), 131_072);
        for text in ["1e131072", "10e131071", "1e-16384", "0e-16384", "0e9999999999999999999999", "1e-999999999999"] {
            assert_eq!(normal(text), Err(NotJsonb::NumberOverflow), "{text}");
        }
        assert_eq!(normal("0e1000000").unwrap(), "0");
        assert_eq!(normal("0.001e131074").unwrap().len(), 131_072);
    }

    #[test]
    fn only_numbers_are_numbers() {
        for text in ["", "-", "01", "1.", ".5", "1e", "1e+", "+1", "1a", "NaN", "1.2.3"] {
            assert!(Number::of(text.as_bytes()).is_none(), "{text}");
            assert!(!is_plain(text.as_bytes()), "{text}");
        }
        for text in ["0", "1", "-1", "0.0", "10.50", "-0.001"] {
            assert!(is_plain(text.as_bytes()), "{text}");
            assert_eq!(normal(text).unwrap(), text);
        }
        for text in ["-0", "-0.0", "1e5"] {
            assert!(!is_plain(text.as_bytes()), "{text}");
        }
    }
}
