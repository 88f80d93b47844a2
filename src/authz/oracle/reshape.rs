//! A question about rows of a table that has other columns by now.
//!
//! Columns are the same while number, name and type are: a column that was dropped and added again is another one. What
//! the table has and the image does not is missing, and nothing is decided by it.

use std::sync::Arc;

use super::super::OraclePlan;
use super::question::{Asked, Question};
use crate::catalog::{Column, ColumnIndex, ColumnSet, Relation};

/// The question for the table's present columns; `None` where it reads one that is gone, or the columns are not text of
/// the expected form.
pub(super) fn reshape(question: &Question, columns: &str) -> Option<Question> {
    let old = &*question.relation;
    let present = columns.split('\n').map(column).collect::<Option<Vec<_>>>()?;
    // For each present column the old one that it is.
    let places: Vec<Option<ColumnIndex>> =
        present.iter().map(|column| old.indices().find(|place| is_same(old.column(*place), column))).collect();
    let moved = |old: ColumnIndex| {
        let place = places.iter().position(|place| *place == Some(old))?;
        Some(ColumnIndex(place as u16))
    };
    let moved_all = |columns: &[ColumnIndex]| columns.iter().copied().map(moved).collect::<Option<Vec<_>>>();
    let moved_set = |columns: &Option<ColumnSet>| match columns {
        Some(columns) => columns.iter().map(moved).collect::<Option<ColumnSet>>().map(Some),
        None => Some(None),
    };
    let known = |(column, place): (Column, &Option<ColumnIndex>)| match place {
        Some(place) => old.column(*place).clone(),
        None => column,
    };
    let relation = Arc::new(Relation {
        columns: present.into_iter().zip(&places).map(known).collect(),
        // A key that is gone only keeps the table from being asked for what an image lacks.
        primary_key: moved_all(&old.primary_key).unwrap_or_default(),
        identity_key: moved_all(&old.identity_key).unwrap_or_default(),
        ..old.clone()
    });
    let moved_plan = |plan: &OraclePlan| {
        let plan = OraclePlan {
            relation: Arc::clone(&relation),
            role: plan.role.clone(),
            expression: plan.expression.clone(),
            columns: moved_set(&plan.columns)?,
            policies: Arc::clone(&plan.policies),
            not_compiled: None,
        };
        Some(Arc::new(plan))
    };
    let asked = match &question.asked {
        Asked::Policy { plan, identity } => Asked::Policy { plan: moved_plan(plan)?, identity: Arc::clone(identity) },
        Asked::Channel { plan, question } => Asked::Channel { plan: moved_plan(plan)?, question: Arc::clone(question) },
        Asked::Filter { role, expression, columns } => {
            Asked::Filter { role: role.clone(), expression: expression.clone(), columns: moved_set(columns)? }
        }
        Asked::Json { role, columns } => Asked::Json { role: role.clone(), columns: moved_all(columns)? },
    };
    let rows = question.rows.iter().map(|row| row.rearranged(&places)).collect();
    Some(Question { xid: question.xid, relation, asked, rows })
}

fn is_same(a: &Column, b: &Column) -> bool {
    (a.attnum, a.type_oid, &a.name) == (b.attnum, b.type_oid, &b.name)
}

/// `attnum type length name`.
fn column(line: &str) -> Option<Column> {
    let mut words = line.splitn(4, ' ');
    let (attnum, type_oid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (length, name): (usize, _) = (words.next()?.parse().ok()?, words.next()?.to_owned());
    // A name that goes on in the next line is not worth reading.
    if name.chars().count() != length {
        return None;
    }
    Some(Column { attnum, name, type_oid, type_modifier: -1, generated: None, collation: None, acl: vec![] })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{json, policy, set};
    use super::*;

    fn question(reads: Option<&[u16]>) -> Question {
        let mut question = policy("ann", "x");
        let Asked::Policy { plan, .. } = &mut question.asked else { unreachable!() };
        Arc::make_mut(plan).columns = reads.map(set);
        question.rows[0].literal = r#"("1","b","g")"#.into();
        question
    }

    fn reads(question: &Question) -> Option<ColumnSet> {
        let Asked::Policy { plan, .. } = &question.asked else { unreachable!() };
        plan.columns.clone()
    }

    #[test]
    fn a_column_that_was_added_is_missing() {
        let asked = reshape(&question(Some(&[1])), "1 25 2 id\n2 25 4 body\n3 25 3 gen\n4 23 3 new").unwrap();
        assert_eq!((&*asked.rows[0].literal, &asked.rows[0].missing), (r#"("1","b","g",)"#, &set(&[3])));
        assert_eq!((reads(&asked), asked.relation.columns.len()), (Some(set(&[1])), 4));
        assert_eq!(asked.relation.columns[2].generated, question(None).relation.columns[2].generated);
    }

    #[test]
    fn a_column_that_was_dropped_is_left_out_and_what_follows_moves() {
        let asked = reshape(&question(Some(&[2])), "1 25 2 id\n3 25 3 gen").unwrap();
        assert_eq!((&*asked.rows[0].literal, &asked.rows[0].missing), (r#"("1","g")"#, &set(&[])));
        assert_eq!(reads(&asked), Some(set(&[1])));
        assert!(reshape(&question(Some(&[1])), "1 25 2 id\n3 25 3 gen").is_none(), "it is read");
        assert!(reshape(&json(&[1]), "1 25 2 id\n3 25 3 gen").is_none(), "it is asked for");
    }

    #[test]
    fn a_column_of_the_same_name_is_another_one() {
        for columns in [
            "1 25 2 id\n3 25 3 gen\n4 25 4 body",
            "1 25 2 id\n2 23 4 body\n3 25 3 gen",
            "1 25 2 id\n2 25 3 gen\n3 25 4 body",
        ] {
            assert!(reshape(&question(Some(&[1])), columns).is_none(), "{columns}");
            let asked = reshape(&question(None), columns).unwrap();
            let body = asked.relation.column_named("body").unwrap();
            assert!(asked.rows[0].missing.contains(body), "{columns}");
        }
    }

    #[test]
    fn a_key_that_is_gone_is_no_key() {
        assert!(reshape(&question(None), "2 25 4 body").unwrap().relation.primary_key.is_empty());
        for columns in ["2 25", "2 25 3 body", "1 25 5 a\nb", ""] {
            assert!(reshape(&question(None), columns).is_none(), "{columns}");
        }
    }
}
