//! Policies that have changed since a question was put together.
//!
//! The stream lags, and what a policy reads of other tables is read at the moment of the answer: an earlier policy beside
//! later rows would say what was so at no moment. So each statement looks, in its own snapshot, whether the table's
//! policies are those that it was made of. Where they are not, it is asked again by those that the newest catalog has, and
//! shown is what both show.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::{RowText, plan};
use super::question::{Asked, Question, Verdict};
use crate::authz::OraclePlan;
use crate::catalog::{Catalog, Relation};

/// The catalogs that are known: the one that was read last, and the one that is in force for the stream. Now one is the
/// newer, now the other.
#[derive(Default)]
pub(super) struct Newest(Mutex<[Option<Arc<Catalog>>; 2]>);

#[derive(Clone, Copy, Debug)]
pub enum KnownBy {
    Poll = 0,
    Stream = 1,
}

impl Newest {
    pub(super) fn set(&self, known_by: KnownBy, catalog: Arc<Catalog>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[known_by as usize] = Some(catalog);
    }

    /// The question, by other policies than its own; `None`: none are known yet. Which of those that are known are the
    /// present ones the next answer tells.
    pub(super) fn renew(&self, question: &Question) -> Option<Question> {
        let Asked::Policy { plan: asked, identity } = &question.asked else { return None };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let plan_of = |catalog: Arc<Catalog>| {
            plan::asked(catalog.relation(question.relation.id)?, catalog.roles.get(&asked.role)?)
        };
        let plan = known.into_iter().flatten().filter_map(plan_of).find(|plan| plan.policies != asked.policies)?;
        let plan = Arc::new(for_columns_of(&question.relation, plan));
        let asked = Asked::Policy { plan, identity: Arc::clone(identity) };
        Some(Question { asked, ..question.clone() })
    }
}

/// What holds of rows that were judged by the policies of their commit and by those of the answer, each beside what is read
/// elsewhere at that moment. Shown is what both show: an old row, or one that was overwritten before a policy was opened,
/// was shown at no moment. Where only the later ones show a new row nobody knows, and whoever would have got it is told.
pub(super) fn both(first: &[Verdict], last: &mut [Verdict], rows: &[RowText]) {
    for ((first, last), row) in first.iter().zip(last).zip(rows) {
        if last.is_allowed() && !first.is_allowed() {
            *last = if row.is_new { Verdict::Failed } else { Verdict::Denied };
        }
    }
}

/// Columns are known by their place: where places differ, all may be read.
fn for_columns_of(asked: &Arc<Relation>, plan: OraclePlan) -> OraclePlan {
    let numbers = |relation: &Relation| relation.columns.iter().map(|column| column.attnum).collect::<Vec<_>>();
    let columns = plan.columns.filter(|_| numbers(asked) == numbers(&plan.relation));
    OraclePlan { relation: Arc::clone(asked), columns, ..plan }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::oracle::sample::{policy, set};
    use crate::catalog::{Policy, PolicyCommand, Role};
    use crate::wal::pgoutput::RelationId;

    fn catalog(policies: &[&str], row_security: bool) -> Arc<Catalog> {
        let question = policy("ann", "x");
        let policies = (1..).zip(policies).map(|(oid, text)| Policy {
            oid,
            name: format!("p{oid}"),
            permissive: true,
            command: PolicyCommand::Select,
            roles: vec![0],
            using_tree: Some(format!("{{{text}}} {{VAR :varno 1 :varattno 2 :varlevelsup 0}}")),
            using_text: (*text != "locked").then(|| (*text).to_owned()),
            columns: Some(vec![2]),
        });
        let relation = Relation { policies: policies.collect(), row_security, ..Relation::clone(&question.relation) };
        let mut catalog = crate::routing::sample::catalog();
        catalog.relations.insert(RelationId(1), Arc::new(relation));
        let mut roles = (*catalog.roles).clone();
        let role = Role { oid: 77, name: "r".into(), superuser: false, bypass_rls: false, inherits: [77].into() };
        roles.by_name.insert("r".into(), Arc::new(role));
        catalog.roles = Arc::new(roles);
        Arc::new(catalog)
    }

    fn expression(renewed: Option<Question>) -> String {
        let Some(question) = renewed else { return "unknown".into() };
        let Asked::Policy { plan, .. } = question.asked else { unreachable!("a policy was asked") };
        format!("{} {:?}", plan.expression, plan.columns)
    }

    #[test]
    fn a_question_is_asked_by_policies_that_are_not_its_own() {
        let (newest, question) = (Newest::default(), policy("ann", "x"));
        let (none, second) = (Some(set(&[])), Some(set(&[1])));
        assert_eq!(expression(newest.renew(&question)), "unknown");
        newest.set(KnownBy::Poll, catalog(&["y"], true));
        let renewed = newest.renew(&question).expect("it has another policy");
        assert_eq!(expression(newest.renew(&question)), format!("((y)) {second:?}"));
        assert_eq!(expression(newest.renew(&renewed)), "unknown", "these were asked");
        // The stream has come further than the last reading.
        newest.set(KnownBy::Stream, catalog(&["z"], true));
        assert_eq!(expression(newest.renew(&renewed)), format!("((z)) {second:?}"));
        // Whether it is so is asked, too.
        newest.set(KnownBy::Poll, catalog(&[], true));
        assert_eq!(expression(newest.renew(&question)), format!("false {none:?}"));
        newest.set(KnownBy::Poll, catalog(&["y"], false));
        assert_eq!(expression(newest.renew(&question)), format!("true {none:?}"));
        newest.set(KnownBy::Poll, catalog(&["locked"], true));
        newest.set(KnownBy::Stream, catalog(&["locked"], true));
        assert_eq!(expression(newest.renew(&question)), "unknown");
    }

    #[test]
    fn shown_is_what_the_policies_of_the_commit_show_as_well() {
        use Verdict::{Allowed, Denied, Failed};
        let all = [Allowed, Denied, Failed];
        let row = |is_new| RowText { is_new, ..policy("ann", "x").rows.remove(0) };
        let (new, old) = ([(); 3].map(|()| row(true)), [(); 3].map(|()| row(false)));
        let both = |last, rows| {
            let mut verdicts = [last; 3];
            both(&all, &mut verdicts, rows);
            verdicts
        };
        assert_eq!(both(Allowed, &new), [Allowed, Failed, Failed]);
        assert_eq!(both(Allowed, &old), [Allowed, Denied, Denied]);
        assert_eq!((both(Denied, &new), both(Failed, &new)), ([Denied; 3], [Failed; 3]));
    }

    #[test]
    fn places_of_columns_hold_for_the_same_columns_only() {
        let (newest, mut question) = (Newest::default(), policy("ann", "x"));
        newest.set(KnownBy::Poll, catalog(&["y"], true));
        Arc::make_mut(&mut question.relation).columns.remove(0);
        assert_eq!(expression(newest.renew(&question)), "((y)) None");
    }
}
