//! Row images as the text that Postgres reads a composite value from.

use crate::catalog::{ColumnIndex, ColumnSet, Relation};
use crate::change::Row;
use crate::wal::pgoutput::Datum;

/// A whole row as a composite literal (manual, 8.16.6: "Composite Type Input and Output Syntax").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowText {
    /// `("a","b",)`; a column that the image lacks is NULL here.
    pub literal: Box<str>,
    /// The columns that the image lacks: nothing may be decided by them.
    pub missing: ColumnSet,
    /// The image may be the row's present state: more of it may be asked of the table by its key. An old row is not.
    pub is_new: bool,
}

impl RowText {
    /// A new row, by its fields: `None` where it lacks one, `Some(None)` where it has NULL.
    pub(super) fn of_fields(fields: impl Iterator<Item = Option<Option<String>>>) -> RowText {
        let mut literal = String::from("(");
        let mut missing = Vec::new();
        for (column, field) in (0..).map(ColumnIndex).zip(fields) {
            if column.0 > 0 {
                literal.push(',');
            }
            match field {
                Some(Some(text)) => push_field(&mut literal, &text),
                Some(None) => {}
                None => missing.push(column),
            }
        }
        literal.push(')');
        // There is no such row in the table: nothing more of it can be asked there.
        RowText { literal: literal.into(), missing: missing.into_iter().collect(), is_new: false }
    }

    /// The same row for a table of other columns: for each of them the place of the old one that it is, or `None` where
    /// the image cannot have it.
    pub(super) fn rearranged(&self, places: &[Option<ColumnIndex>]) -> RowText {
        let fields = fields(&self.literal);
        let known = |place: &Option<ColumnIndex>| {
            let place = place.filter(|place| !self.missing.contains(*place))?;
            fields.get(usize::from(place.0)).copied()
        };
        let texts: Vec<Option<&str>> = places.iter().map(known).collect();
        let missing = (0u16..).zip(&texts).filter(|(_, text)| text.is_none()).map(|(n, _)| ColumnIndex(n)).collect();
        let literal: Vec<&str> = texts.into_iter().map(Option::unwrap_or_default).collect();
        RowText { literal: format!("({})", literal.join(",")).into(), missing, is_new: self.is_new }
    }
}

/// The fields of a literal as they stand there, quotes and all.
fn fields(literal: &str) -> Vec<&str> {
    let inner = literal.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or_default();
    // Quotes within a field are doubled, so that a comma is outside where the number of quotes before it is even.
    let mut quoted = false;
    let is_end = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    inner.split(is_end).collect()
}

/// The image of a row; what it lacks is taken from `fallback`, the old row of an UPDATE where all of it is known.
pub fn row_text(row: &Row, fallback: Option<&Row>) -> RowText {
    let relation: &Relation = &row.layout.relation;
    let mut literal = String::from("(");
    let mut missing = Vec::new();
    for column in relation.indices() {
        if column.0 > 0 {
            literal.push(',');
        }
        match known(row, column).or_else(|| fallback.and_then(|row| known(row, column))) {
            Some(Some(text)) => push_field(&mut literal, text),
            Some(None) => {}
            None => missing.push(column),
        }
    }
    literal.push(')');
    RowText { literal: literal.into(), missing: missing.into_iter().collect(), is_new: !row.key_only }
}

/// The column's text, `Some(None)` for NULL; `None`: the image does not have it. So does text that is not UTF-8: the
/// stream asks for UTF-8, and what does not keep to that is not read.
fn known(row: &Row, column: ColumnIndex) -> Option<Option<&str>> {
    match row.datum(column) {
        Datum::Null => Some(None),
        Datum::Text(bytes) => std::str::from_utf8(bytes).ok().map(Some),
        Datum::UnchangedToast | Datum::Missing => None,
    }
}

/// Always quoted: an unquoted empty field would be NULL, and blanks would count only sometimes.
fn push_field(literal: &mut String, text: &str) {
    literal.push('"');
    for c in text.chars() {
        if c == '"' || c == '\\' {
            literal.push(c);
        }
        literal.push(c);
    }
    literal.push('"');
}

/// Many rows as one array literal (manual, 8.15.2).
pub(super) fn array_literal<'a>(rows: impl Iterator<Item = &'a RowText>) -> String {
    let mut literal = String::from("{");
    for (n, row) in rows.enumerate() {
        if n > 0 {
            literal.push(',');
        }
        literal.push('"');
        for c in row.literal.chars() {
            if c == '"' || c == '\\' {
                literal.push('\\');
            }
            literal.push(c);
        }
        literal.push('"');
    }
    literal.push('}');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_rearranged_for_other_columns_and_lacks_what_it_never_had() {
        let column = |n: u16| Some(ColumnIndex(n));
        let mut literal = String::from("(");
        push_field(&mut literal, r#"a",(b)\"#);
        literal.push_str(",,");
        push_field(&mut literal, "");
        literal.push_str(",)");
        let missing = [ColumnIndex(3)].into_iter().collect();
        let row = RowText { literal: literal.into(), missing, is_new: true };
        assert_eq!(row.rearranged(&[column(0), column(1), column(2), column(3)]), row);
        let moved = row.rearranged(&[column(2), None, column(3), column(0), column(1), column(9)]);
        assert_eq!(&*moved.literal, r#"("",,,"a"",(b)\\",,)"#);
        assert_eq!(moved.missing.iter().collect::<Vec<_>>(), [ColumnIndex(1), ColumnIndex(2), ColumnIndex(5)]);
    }

    #[test]
    fn fields_are_quoted_twice_on_their_way_into_an_array() {
        let mut literal = String::new();
        push_field(&mut literal, r#"a"b\c,(d) "#);
        assert_eq!(literal, r#""a""b\\c,(d) ""#);
        let row = RowText { literal: r#"("a""b\\c")"#.into(), missing: ColumnSet::default(), is_new: true };
        assert_eq!(array_literal([row.clone(), row].iter()), r#"{"(\"a\"\"b\\\\c\")","(\"a\"\"b\\\\c\")"}"#);
        assert_eq!(array_literal([].iter()), "{}");
    }
}
