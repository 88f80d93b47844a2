//! Questions that may be put as one: the same is asked of rows of the same table, on behalf of the same identity.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::question::{Asked, Question};
use crate::catalog::Relation;

/// Equal keys ask alike; only the rows and their transactions differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum GroupKey {
    Shared(Arc<Subject>),
    /// Asked by itself, by number.
    Alone(u64),
}

/// What a question asks, and of which table. Holds what it compares: an address that is compared stays taken.
#[derive(Debug)]
pub(super) struct Subject {
    relation: Arc<Relation>,
    asked: Asked,
}

impl Subject {
    pub(super) fn of(question: &Question) -> Subject {
        Subject { relation: Arc::clone(&question.relation), asked: question.asked.clone() }
    }
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        let same_asked = match (&self.asked, &other.asked) {
            // The identity decides whose answer it is, so it is compared whole: role and claims.
            (Asked::Policy { plan, identity }, Asked::Policy { plan: other_plan, identity: other_identity }) => {
                same(identity, other_identity) && same(plan, other_plan)
            }
            // Whatever policies may read of it is compared: the topic and the headers too.
            (Asked::Channel { plan, question }, Asked::Channel { plan: other_plan, question: other }) => {
                same(question, other) && same(plan, other_plan)
            }
            (
                Asked::Filter { role, expression, columns },
                Asked::Filter { role: other_role, expression: other_expression, columns: other_columns },
            ) => role == other_role && expression == other_expression && columns == other_columns,
            (Asked::Json { role, columns }, Asked::Json { role: other_role, columns: other_columns }) => {
                role == other_role && columns == other_columns
            }
            _ => false,
        };
        same_asked && same(&self.relation, &other.relation)
    }
}

impl Eq for Subject {}

fn same<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.relation.id.hash(state);
        self.asked.role().hash(state);
        match &self.asked {
            Asked::Policy { identity, .. } => identity.claims.hash(state),
            Asked::Channel { question, .. } => (&question.identity.claims, &question.topic).hash(state),
            Asked::Filter { expression, .. } => expression.hash(state),
            Asked::Json { columns, .. } => columns.hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::oracle::sample::{filter, json, policy};

    #[test]
    fn only_questions_that_ask_alike_are_equal() {
        let subjects: Vec<Subject> = [
            policy("ann", "x"),
            policy("bob", "x"),
            policy("ann", "y"),
            filter("x"),
            filter("y"),
            json(&[0]),
            json(&[1]),
        ]
        .iter()
        .map(Subject::of)
        .collect();
        for (n, a) in subjects.iter().enumerate() {
            for (m, b) in subjects.iter().enumerate() {
                assert_eq!(a == b, n == m, "{a:?} {b:?}");
            }
        }
        // Equal, not the same.
        assert_eq!(Subject::of(&policy("ann", "x")), subjects[0]);
        let mut moved = policy("ann", "x");
        Arc::make_mut(&mut moved.relation).name = "other".into();
        assert_ne!(Subject::of(&moved), subjects[0]);
    }
}
