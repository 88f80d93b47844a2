//! Query strings.

use std::borrow::Cow;

/// The value of a parameter; of the last, where it is given more than once. `None` is absent, which is not empty.
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    let pairs = query?.split('&').rev().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| (decode(key), value)).find(|(key, _)| key == name).map(|(_, value)| decode(value))
}

/// Undoes percent-encoding and `+`. What is not encoded properly stays as it is.
pub fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// Undoes percent-encoding alone, as in paths; `None` where it is not encoded properly, or not UTF-8.
pub fn decode_percent(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            (b'%', _) => return None,
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_empty_are_two_things() {
        assert_eq!(parameter(Some("apikey=&vsn=1.0.0"), "apikey").as_deref(), Some(""));
        assert_eq!(parameter(Some("apikey&vsn=1.0.0"), "apikey").as_deref(), Some(""));
        assert_eq!(parameter(Some("vsn=1.0.0"), "apikey"), None);
        assert_eq!(parameter(None, "apikey"), None);
    }

    #[test]
    fn values_are_decoded_and_the_last_one_counts() {
        assert_eq!(parameter(Some("a=1&b%20c=x%2By+z&a=2"), "a").as_deref(), Some("2"));
        assert_eq!(parameter(Some("a=1&b%20c=x%2By+z&a=2"), "b c").as_deref(), Some("x+y z"));
        assert_eq!(decode("100%&%zz%4"), "100%&%zz%4");
    }
}
