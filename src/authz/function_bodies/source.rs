//! A function's source as the body of a SQL-standard function.

use super::twin::Failure;
use crate::catalog::Function;

/// What stands between BEGIN ATOMIC and END.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    Sql(String),
    /// The expression of a PL/pgSQL function that does nothing but return it.
    Returned(String),
}

/// Literals that mean another value whenever they are read; a stored tree has the value that they had when it was made.
const CLOCK_WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

impl Source {
    /// `None`: the function is of no language that could be read.
    pub(super) fn of(function: &Function) -> Option<Source> {
        match function.language.as_str() {
            "sql" => Some(Source::Sql(function.source.clone())),
            "plpgsql" if !function.returns_set => returned_expression(&function.source).map(Source::Returned),
            _ => None,
        }
    }

    /// A line's end in case the source ends with a comment.
    pub(super) fn body(&self) -> String {
        match self {
            Source::Sql(source) => format!("BEGIN ATOMIC\n{source}\n; END"),
            Source::Returned(expression) => format!("BEGIN ATOMIC\nSELECT ({expression}\n); END"),
        }
    }

    pub(super) fn check(&self) -> Result<(), Failure> {
        let (Source::Sql(text) | Source::Returned(text)) = self;
        match clock_word(text) {
            Some(word) => {
                Err(Failure::Refused(format!("it may have the literal '{word}', which is another one every time")))
            }
            None => Ok(()),
        }
    }

    /// In PL/pgSQL a name that could be a variable or a column is an error, in SQL it is the column.
    pub(super) fn check_tree(&self, function: &Function, tree: String) -> Result<String, Failure> {
        if let Source::Returned(_) = self {
            // `a); something else; SELECT (b` is nothing that PL/pgSQL would run.
            if statements(&tree) != 1 {
                return Err(Failure::Refused("it is no expression".into()));
            }
            let names = function.argument_names.iter().map(String::as_str).filter(|name| !name.is_empty());
            for name in names.chain(["found"]) {
                // In a tree other characters stand behind a backslash.
                let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !plain || tree.contains(&format!("\"{name}\"")) || tree.contains(&format!(":aliasname {name} ")) {
                    return Err(Failure::Refused(format!("its variable {name:?} may be taken for a column")));
                }
            }
        }
        Ok(tree)
    }
}

/// The outermost nodes. A backslash protects what is not structure.
fn statements(tree: &str) -> usize {
    let (mut depth, mut count, mut is_protected) = (0usize, 0, false);
    for byte in tree.bytes() {
        match byte {
            _ if is_protected => is_protected = false,
            b'\\' => is_protected = true,
            b'{' => {
                count += usize::from(depth == 0);
                depth += 1;
            }
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    count
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn clock_word(source: &str) -> Option<&'static str> {
    let source = source.to_ascii_lowercase();
    CLOCK_WORDS.into_iter().find(|word| {
        source.match_indices(word).any(|(start, _)| {
            let (before, after) = (&source[..start], &source[start + word.len()..]);
            let alone = !before.bytes().next_back().is_some_and(is_word) && !after.bytes().next().is_some_and(is_word);
            alone && !after.trim_start().starts_with('(')
        })
    })
}

/// What `BEGIN RETURN <expression>; END` returns. Too much of it, where there is more, is no expression: Postgres says
/// so, since it is put between parentheses.
fn returned_expression(source: &str) -> Option<String> {
    let rest = keyword(blank(source)?, "begin")?;
    let rest = keyword(blank(rest)?, "return")?;
    let rest = without_trailing_blank(rest);
    let rest = rest.strip_suffix(';').map_or(rest, without_trailing_blank);
    let at = rest.len().checked_sub("end".len())?;
    let (rest, end) = rest.split_at_checked(at)?;
    let expression = without_trailing_blank(rest).strip_suffix(';')?;
    (end.eq_ignore_ascii_case("end") && !expression.trim().is_empty()).then(|| expression.to_owned())
}

/// Skips white space and comments. `None`: a comment without end.
fn blank(mut text: &str) -> Option<&str> {
    loop {
        text = text.trim_start();
        if let Some(comment) = text.strip_prefix("--") {
            text = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = text.strip_prefix("/*") {
            let (inside, rest) = comment.split_once("*/")?;
            // They nest; that is not worth being understood.
            if inside.contains("/*") {
                return None;
            }
            text = rest;
        } else {
            return Some(text);
        }
    }
}

fn keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let (word, rest) = text.split_at_checked(keyword.len())?;
    (word.eq_ignore_ascii_case(keyword) && !rest.bytes().next().is_some_and(is_word)).then_some(rest)
}

fn without_trailing_blank(mut text: &str) -> &str {
    loop {
        text = text.trim_end();
        let line = text.rfind('\n').map_or(0, |end| end + 1);
        // A last line that is all comment. One behind code stays: it may stand inside of a literal.
        if text[line..].trim_start().starts_with("--") {
            text = &text[..line];
        } else {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_returning_of_an_expression_is_taken_from_plpgsql() {
        let returned = |source: &str| returned_expression(source);
        assert_eq!(returned("begin return a + 1; end").as_deref(), Some(" a + 1"));
        assert_eq!(returned("\n-- why\nBEGIN /* so */ RETURN(a);\nEND;\n-- done\n").as_deref(), Some("(a)"));
        for source in [
            "declare b int; begin return b; end",
            "begin perform 1; return a; end",
            "begin return; end",
            "begin return a; end $$",
            "begin returned := a; end",
            "begin return a; exception when others then return false; end label",
            "/* begin return a; end",
            "begin /* a /* b */ */ return a; end",
            "e",
            "begin return aé; é",
        ] {
            assert_eq!(returned(source), None, "{source}");
        }
        // It goes to Postgres, and there it is an error.
        let two =
            Source::Returned(returned("begin if a then return a; end if; return b; end").unwrap_or(" a; b".into()));
        assert_eq!(two.body(), "BEGIN ATOMIC\nSELECT ( a; b\n); END");
    }

    #[test]
    fn statements_are_the_outermost_nodes() {
        assert_eq!(statements("(({QUERY :a {B} :c \\{\\\\}))"), 1);
        assert_eq!(statements("(({QUERY} {QUERY :a {B}}))"), 2);
    }

    #[test]
    fn the_clock_in_a_literal_is_not_frozen() {
        for source in ["select at > 'now'::timestamptz", "select 'Today' < at", "select date ' yesterday'"] {
            assert!(clock_word(source).is_some(), "{source}");
        }
        for source in ["select at > now() - interval '1 day'", "select now ()", "select known, now_at, \"snow\""] {
            assert_eq!(clock_word(source), None, "{source}");
        }
    }
}
