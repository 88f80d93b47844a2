//! LIKE, as Postgres' `MatchText` does it for deterministic collations.

/// Whether `text` matches `pattern`: `%` any run of characters, `_` one character, `\` takes the next one literally.
/// `None` where Postgres raises an error: a pattern that ends in its escape character, when matching gets there.
pub(crate) fn matches(text: &str, pattern: &str) -> Option<bool> {
    // The classic two pointers: on a mismatch the last `%` takes one character more. Only the last `%` needs to be
    // remembered, so the cost is at most text times pattern.
    if ends_in_escape(pattern) {
        return None;
    }
    let (mut text, mut pattern) = (text.chars(), pattern.chars());
    let mut retry: Option<(std::str::Chars, std::str::Chars)> = None;
    loop {
        let mut ahead = pattern.clone();
        match ahead.next() {
            Some('%') => {
                retry = Some((text.clone(), ahead.clone()));
                pattern = ahead;
                continue;
            }
            None if text.as_str().is_empty() => return Some(true),
            Some(symbol) => {
                let (wanted, any) = match symbol {
                    '\\' => (ahead.next(), false),
                    '_' => (None, true),
                    plain => (Some(plain), false),
                };
                let mut text_ahead = text.clone();
                match text_ahead.next() {
                    Some(character) if any || Some(character) == wanted => {
                        (text, pattern) = (text_ahead, ahead);
                        continue;
                    }
                    Some(_) => {}
                    None => return Some(false),
                }
            }
            None => {}
        }
        let Some((from, after)) = retry.take() else { return Some(false) };
        let mut from = from;
        if from.next().is_none() {
            return Some(false);
        }
        (text, pattern) = (from.clone(), after.clone());
        retry = Some((from, after));
    }
}

/// Whether the pattern ends in an escape character that escapes nothing.
fn ends_in_escape(pattern: &str) -> bool {
    pattern.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// What ILIKE compares, where that can be said without the locale: letters folded to lower case. `None`: only the
/// locale knows.
///
/// Under C only ASCII letters fold. Elsewhere ASCII letters fold as usual but for `I`, which Turkish and Azeri locales
/// fold to a dotless i.
pub(crate) fn fold(text: &str, is_c: bool) -> Option<String> {
    (is_c || (text.is_ascii() && !text.contains('I'))).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_and_underscore_match_runs_and_characters() {
        for (text, pattern, expected) in [
            ("hello", "hel%", true),
            ("hello", "%llo", true),
            ("hello", "h%l%o", true),
            ("hello", "h_llo", true),
            ("hello", "h__lo_", false),
            ("hello", "", false),
            ("", "", true),
            ("", "%%", true),
            ("", "_", false),
            ("é", "_", true),
            ("aab", "%ab", true),
            ("ababac", "%abac", true),
            ("ababad", "%abac", false),
            ("50%", "50\\%", true),
            ("500", "50\\%", false),
            ("a_b", "a\\_b", true),
            ("a\\b", "a\\\\b", true),
            ("abc", "a\\bc", true),
            ("HELLO", "hello", false),
        ] {
            assert_eq!(matches(text, pattern), Some(expected), "{text:?} like {pattern:?}");
        }
    }

    #[test]
    fn a_pattern_that_ends_in_its_escape_is_left_to_postgres() {
        assert_eq!(matches("a\\", "a\\"), None);
        assert_eq!(matches("a\\", "a\\\\"), Some(true));
    }

    #[test]
    fn letters_fold_only_where_every_locale_agrees() {
        assert_eq!(fold("AbC", false).as_deref(), Some("abc"));
        assert_eq!(fold("HI", false), None);
        assert_eq!(fold("É", false), None);
        assert_eq!(fold("HÉI", true).as_deref(), Some("hÉi"));
    }
}
