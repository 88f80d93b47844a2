//! The grammar of filters (PROTOCOL 3.5).

use super::inspect;

/// A comparison that a filter may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    Eq,
    Neq,
    Lt,
    Lte,
    Gt,
    Gte,
    In,
    Like,
    Ilike,
    Is,
    Match,
    Imatch,
    IsDistinct,
}

impl Operator {
    /// Names are case-sensitive.
    fn parse(name: &str) -> Option<Operator> {
        Some(match name {
            "eq" => Operator::Eq,
            "neq" => Operator::Neq,
            "lt" => Operator::Lt,
            "lte" => Operator::Lte,
            "gt" => Operator::Gt,
            "gte" => Operator::Gte,
            "in" => Operator::In,
            "like" => Operator::Like,
            "ilike" => Operator::Ilike,
            "is" => Operator::Is,
            "match" => Operator::Match,
            "imatch" => Operator::Imatch,
            "isdistinct" => Operator::IsDistinct,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Operator::Eq => "eq",
            Operator::Neq => "neq",
            Operator::Lt => "lt",
            Operator::Lte => "lte",
            Operator::Gt => "gt",
            Operator::Gte => "gte",
            Operator::In => "in",
            Operator::Like => "like",
            Operator::Ilike => "ilike",
            Operator::Is => "is",
            Operator::Match => "match",
            Operator::Imatch => "imatch",
            Operator::IsDistinct => "isdistinct",
        }
    }
}

/// One comparison of a filter; all of a filter's clauses must be true.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clause {
    pub column: String,
    pub operator: Operator,
    /// Unquoted; for `in` a Postgres array literal, braces included.
    pub value: String,
    /// The `not.` prefix.
    pub negate: bool,
}

/// Why a filter cannot be parsed; `Display` is what the client reads after ``Error parsing `filter` params: ``.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("filter must not contain empty segments (check for extra commas)")]
    EmptySegment,
    #[error("`in` filter value must be wrapped by parentheses")]
    InWithoutParentheses,
    /// What remained when parsing stopped.
    #[error("{}", inspect::list(.0))]
    Malformed(Vec<String>),
}

/// The clauses of `column=[not.]operator.value[,...]`; none for a blank filter.
pub(super) fn parse(filter: &str) -> Result<Vec<Clause>, FilterError> {
    match filter.trim() {
        "" => Ok(Vec::new()),
        trimmed => segments(trimmed).into_iter().map(clause).collect(),
    }
}

/// Splits at commas outside of parentheses and quotes.
fn segments(filter: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    let (mut start, mut depth, mut quoted) = (0, 0u32, false);
    // The character before, `None` at the start of a segment.
    let mut previous = None;
    let mut chars = filter.char_indices();
    while let Some((at, character)) = chars.next() {
        let mut before_next = Some(character);
        match character {
            '\\' if quoted => {
                if let Some((_, escaped)) = chars.next() {
                    before_next = Some(escaped);
                }
            }
            '"' if quoted => quoted = false,
            _ if quoted => {}
            // Only here does a quote open: in `5" tall` it is a character like any other.
            '"' if matches!(previous, Some('.' | '(' | ',')) => quoted = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                segments.push(&filter[start..at]);
                start = at + 1;
                before_next = None;
            }
            _ => {}
        }
        previous = before_next;
    }
    segments.push(&filter[start..]);
    segments
}

fn clause(segment: &str) -> Result<Clause, FilterError> {
    let segment = segment.trim();
    if segment.is_empty() {
        return Err(FilterError::EmptySegment);
    }
    let malformed = |rest: &[&str]| FilterError::Malformed(rest.iter().map(|part| part.to_string()).collect());
    let (column, rest) = segment.split_once('=').ok_or_else(|| malformed(&[segment]))?;
    let (negate, rest) = rest.strip_prefix("not.").map_or((false, rest), |rest| (true, rest));
    let (name, value) = rest.split_once('.').ok_or_else(|| malformed(&[rest]))?;
    let operator = Operator::parse(name).ok_or_else(|| malformed(&[name, value]))?;
    let value = match operator {
        Operator::In => {
            let inner = value.strip_prefix('(').and_then(|value| value.strip_suffix(')'));
            format!("{{{}}}", inner.ok_or(FilterError::InWithoutParentheses)?)
        }
        _ => unquote(value).unwrap_or_else(|| value.to_owned()),
    };
    Ok(Clause { column: column.to_owned(), operator, value, negate })
}

/// The content of a value that is quoted from its first to its last character; `None`: it is to be taken literally.
fn unquote(value: &str) -> Option<String> {
    let mut chars = value.strip_prefix('"')?.chars();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(out),
            '\\' => out.push(chars.next().unwrap_or('\\')),
            character => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clauses(filter: &str) -> Vec<(String, &'static str, String, bool)> {
        let clauses = parse(filter).unwrap();
        clauses.into_iter().map(|c| (c.column, c.operator.as_str(), c.value, c.negate)).collect()
    }

    fn one(filter: &str) -> (String, &'static str, String, bool) {
        let mut all = clauses(filter);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn error(filter: &str) -> String {
        parse(filter).unwrap_err().to_string()
    }

    fn clause_of(
        column: &str,
        operator: &'static str,
        value: &str,
        negate: bool,
    ) -> (String, &'static str, String, bool) {
        (column.into(), operator, value.into(), negate)
    }

    #[test]
    fn every_operator_parses_and_may_be_negated() {
        for name in ["eq", "neq", "lt", "lte", "gt", "gte", "like", "ilike", "is", "match", "imatch", "isdistinct"] {
            assert_eq!(one(&format!("a={name}.x")), clause_of("a", name, "x", false));
            assert_eq!(one(&format!("a=not.{name}.x")), clause_of("a", name, "x", true));
        }
        assert_eq!(one("a=in.(1,2)"), clause_of("a", "in", "{1,2}", false));
        assert_eq!(one("a=not.in.()"), clause_of("a", "in", "{}", true));
    }

    #[test]
    fn a_blank_filter_is_no_filter() {
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(parse("  \n "), Ok(vec![]));
    }

    #[test]
    fn commas_outside_of_parentheses_and_quotes_compose() {
        assert_eq!(
            clauses(r#"name=eq.5" tall, id=gt.0"#),
            [clause_of("name", "eq", "5\" tall", false), clause_of("id", "gt", "0", false)]
        );
        assert_eq!(clauses("a=eq.x),b=eq.y"), [clause_of("a", "eq", "x)", false), clause_of("b", "eq", "y", false)]);
        assert_eq!(
            clauses(r#"name=eq."a,b",tags=in.("c,d",e)"#),
            [clause_of("name", "eq", "a,b", false), clause_of("tags", "in", "{\"c,d\",e}", false)]
        );
        assert_eq!(clauses("pt=eq.(1.5,-2)").len(), 1);
    }

    #[test]
    fn only_a_value_quoted_to_its_end_is_unquoted() {
        assert_eq!(one(r#"a=eq."""#).2, "");
        assert_eq!(one(r#"a=eq." a ""#).2, " a ");
        assert_eq!(one(r#"a=eq."ab"cd"#).2, "\"ab\"cd");
        assert_eq!(one(r#"a=eq."unterminated"#).2, "\"unterminated");
        assert_eq!(one(r#"a=eq."she said \"hi\"""#).2, "she said \"hi\"");
        assert_eq!(one(r#"a=eq."C:\new""#).2, "C:new");
        assert_eq!(one(r#"a=eq."C:\\tmp""#).2, "C:\\tmp");
        assert_eq!(one("a=eq.").2, "");
    }

    #[test]
    fn column_names_need_no_quoting() {
        assert_eq!(one("na.me=eq.x").0, "na.me");
        assert_eq!(one("Some Id=gt.0").0, "Some Id");
        assert_eq!(one("a =eq.x=y"), clause_of("a ", "eq", "x=y", false));
    }

    #[test]
    fn what_cannot_be_parsed_is_shown() {
        assert_eq!(error("undefined"), r#"["undefined"]"#);
        assert_eq!(error("garbage"), r#"["garbage"]"#);
        assert_eq!(error("name=foo.1"), r#"["foo", "1"]"#);
        assert_eq!(error("name=EQ.1"), r#"["EQ", "1"]"#);
        assert_eq!(error("name=eq"), r#"["eq"]"#);
        assert_eq!(error("name=not.not.eq.1"), r#"["not", "eq.1"]"#);
        assert_eq!(error("tags=eq.{x,y}"), r#"["y}"]"#);
        assert_eq!(error("ia=eq.{1,NULL,3}"), r#"["NULL"]"#);
        assert_eq!(error(r#"jb=eq.{"a":{"c":1000},"b":1}"#), r#"["\"b\":1}"]"#);
        assert_eq!(error("amount=in.1,2"), "`in` filter value must be wrapped by parentheses");
        assert_eq!(error("amount=in.("), "`in` filter value must be wrapped by parentheses");
        for filter in ["id=gt.0,", ",id=gt.0", "a=eq.1,,b=eq.2", "a=eq.1, ,b=eq.2"] {
            assert_eq!(error(filter), "filter must not contain empty segments (check for extra commas)");
        }
    }
}
