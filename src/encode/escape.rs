//! JSON strings, escaped as Postgres' `escape_json` does.

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Appends `text` as a JSON string, quotes included.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_string_body(text, out);
    out.push(b'"');
}

/// Appends `text` as the inside of a JSON string.
pub(super) fn write_string_body(mut text: &[u8], out: &mut Vec<u8>) {
    loop {
        let clean = clean_prefix_len(text);
        out.extend_from_slice(&text[..clean]);
        let Some(&special) = text.get(clean) else { return };
        write_escape(special, out);
        text = &text[clean + 1..];
    }
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

/// How many bytes at the start need no escape. Eight at a time: memchr has no search for "below 0x20 or one of two",
/// and most values are too short for its set-up to pay.
pub(super) fn clean_prefix_len(text: &[u8]) -> usize {
    let mut offset = 0;
    while let Some(chunk) = text[offset..].first_chunk::<8>() {
        let specials = special_bytes(u64::from_le_bytes(*chunk));
        if specials != 0 {
            // The lowest flag is exact; those above it may owe to its borrow.
            return offset + (specials.trailing_zeros() / 8) as usize;
        }
        offset += 8;
    }
    // The last eight, most of them for the second time, are one look instead of up to seven.
    if text.last_chunk::<8>().is_some_and(|chunk| special_bytes(u64::from_le_bytes(*chunk)) == 0) {
        return text.len();
    }
    let rest = &text[offset..];
    offset + rest.iter().position(|byte| needs_escape(*byte)).unwrap_or(rest.len())
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The high bit of each byte that needs an escape.
fn special_bytes(word: u64) -> u64 {
    let is_zero = |x: u64| x.wrapping_sub(LOW_BITS) & !x;
    let control = word.wrapping_sub(LOW_BITS * 0x20) & !word;
    let quote = is_zero(word ^ (LOW_BITS * u64::from(b'"')));
    let backslash = is_zero(word ^ (LOW_BITS * u64::from(b'\\')));
    (control | quote | backslash) & HIGH_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &[u8]) -> String {
        let mut out = Vec::new();
        write_string(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_what_escape_json_escapes() {
        assert_eq!(escaped("héllo \"q\" \\ \n tab\t ☃".as_bytes()), r#""héllo \"q\" \\ \n tab\t ☃""#);
        assert_eq!(escaped(b"\x01\x08\x0b\x0c\r\x1f\x7f/"), "\"\\u0001\\b\\u000b\\f\\r\\u001f\x7f/\"");
        assert_eq!(escaped(b""), "\"\"");
    }

    #[test]
    fn finds_every_special_byte_at_every_place() {
        for byte in 0..=255u8 {
            for len in 0..20 {
                for place in 0..len {
                    let mut text = vec![b'a'; len];
                    text[place] = byte;
                    let expected = if needs_escape(byte) { place } else { len };
                    assert_eq!(clean_prefix_len(&text), expected, "byte {byte} at {place} of {len}");
                }
            }
        }
    }

    #[test]
    fn reads_back_as_the_same_string() {
        let text: String = (0..3000u32).filter_map(char::from_u32).collect();
        assert_eq!(serde_json::from_str::<String>(&escaped(text.as_bytes())).unwrap(), text);
    }
}
