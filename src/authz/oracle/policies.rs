//! Policies that have changed since a question was put together.
//!
//! The stream lags, and what a policy reads of other tables is read at the moment of the answer: an earlier policy beside
//! later rows would say what was so at no moment. So each statement looks, in its own snapshot, whether the table's
//! policies are those that it was made of. Where they are not, it is asked again by those that the newest catalog has:
//! then the answer is that of a SELECT at the moment it is given.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::plan::{self, DeniedReason};
use super::question::{Asked, Question};
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

/// What the policies of now make of a question.
pub(super) enum Renewed {
    Ask(Question),
    /// Row-level security is off.
    AllAllowed,
    AllDenied,
    /// No other policies are known yet.
    Unknown,
}

impl Newest {
    pub(super) fn set(&self, known_by: KnownBy, catalog: Arc<Catalog>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[known_by as usize] = Some(catalog);
    }

    /// The question, by other policies than its own.
    pub(super) fn renew(&self, question: &Question) -> Renewed {
        let Asked::Policy { plan: asked, identity } = &question.asked else { return Renewed::Unknown };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for catalog in known.into_iter().flatten() {
            let Some(relation) = catalog.relation(question.relation.id) else { continue };
            let Some(role) = catalog.roles.get(&asked.role) else { continue };
            match plan::asked(relation, role) {
                Ok(None) => return Renewed::AllAllowed,
                // Its text comes when the lock that was in the way is gone.
                Err(DeniedReason::TextMissing { .. }) => {}
                Err(_) => return Renewed::AllDenied,
                Ok(Some(plan)) if plan.policies == asked.policies => {}
                Ok(Some(plan)) => {
                    let plan = Arc::new(for_columns_of(&question.relation, plan));
                    let asked = Asked::Policy { plan, identity: Arc::clone(identity) };
                    return Renewed::Ask(Question { asked, ..question.clone() });
                }
            }
        }
        Renewed::Unknown
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

    fn expression(renewed: Renewed) -> String {
        match renewed {
            Renewed::Ask(question) => {
                let Asked::Policy { plan, .. } = question.asked else { unreachable!("a policy was asked") };
                format!("{} {:?}", plan.expression, plan.columns)
            }
            Renewed::AllAllowed => "allowed".into(),
            Renewed::AllDenied => "denied".into(),
            Renewed::Unknown => "unknown".into(),
        }
    }

    #[test]
    fn a_question_is_asked_by_policies_that_are_not_its_own() {
        let (newest, question) = (Newest::default(), policy("ann", "x"));
        assert_eq!(expression(newest.renew(&question)), "unknown");
        newest.set(KnownBy::Poll, catalog(&["y"], true));
        let Renewed::Ask(renewed) = newest.renew(&question) else { panic!("it has another policy") };
        assert_eq!(expression(newest.renew(&question)), format!("((y)) {:?}", Some(set(&[1]))));
        assert_eq!(expression(newest.renew(&renewed)), "unknown", "these were asked");
        // The stream has come further than the last reading.
        newest.set(KnownBy::Stream, catalog(&["z"], true));
        assert_eq!(expression(newest.renew(&renewed)), format!("((z)) {:?}", Some(set(&[1]))));
        newest.set(KnownBy::Poll, catalog(&[], true));
        assert_eq!(expression(newest.renew(&question)), "denied");
        newest.set(KnownBy::Poll, catalog(&["y"], false));
        assert_eq!(expression(newest.renew(&question)), "allowed");
        newest.set(KnownBy::Poll, catalog(&["locked"], true));
        newest.set(KnownBy::Stream, catalog(&["locked"], true));
        assert_eq!(expression(newest.renew(&question)), "unknown");
    }

    #[test]
    fn places_of_columns_hold_for_the_same_columns_only() {
        let (newest, mut question) = (Newest::default(), policy("ann", "x"));
        newest.set(KnownBy::Poll, catalog(&["y"], true));
        Arc::make_mut(&mut question.relation).columns.remove(0);
        assert_eq!(expression(newest.renew(&question)), "((y)) None");
    }
}
