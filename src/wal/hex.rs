//! Bytes as Postgres prints them.

/// Hexadecimal digits; `None`: something else, or an odd number of them.
pub fn decode(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| Some(value(*high)? << 4 | value(*low)?)).collect())?
}

/// A `bytea` under `bytea_output = hex`.
pub fn bytea(text: &[u8]) -> Option<Vec<u8>> {
    decode(text.strip_prefix(b"\\x")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_in_pairs_and_nothing_else() {
        assert_eq!(bytea(b"\\x00fF01"), Some(vec![0, 255, 1]));
        assert_eq!(bytea(b"\\x"), Some(Vec::new()));
        for bad in [&b"\\x0"[..], b"\\x0g", b"00", b""] {
            assert_eq!(bytea(bad), None, "{bad:?}");
        }
    }
}
