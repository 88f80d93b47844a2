//! What the stream says of the row that was, and whether policies can judge it.

use super::Case;
use crate::authz::{self, Plan};
use crate::catalog::{ColumnSet, ReplicaIdentity};
use crate::change::Operation;
use crate::check::Report;
use crate::dispatch::{Deletes, TableName};

/// How the policies come into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// They decide.
    ByPolicies,
    /// Everybody who subscribes to the table is sent the key: they are not looked at.
    Unseen,
}

/// `--delete-index` names the table.
pub(super) fn is_kept(case: &Case<'_>) -> bool {
    let is_it = |name: &TableName| name.schema == case.relation.schema && name.name == case.relation.name;
    case.question.delete_indexes.iter().any(is_it)
}

pub(super) fn look(case: &Case<'_>, report: &mut Report) -> Judged {
    let relation = case.relation;
    let full = Some(format!("alter table {} replica identity full;", relation.sql_name()));
    match (case.question.event, relation.replica_identity) {
        (Operation::Insert, _) => return Judged::ByPolicies,
        (_, ReplicaIdentity::Nothing) => {
            let detail =
                "REPLICA IDENTITY NOTHING: while the table is published, Postgres refuses UPDATE and DELETE on it";
            report.fail("old row", detail, full);
            return Judged::ByPolicies;
        }
        (Operation::Update, ReplicaIdentity::Full) => {
            let detail =
                "REPLICA IDENTITY FULL: old_record is whole for whoever might see the old row, its key for others";
            report.pass("old row", detail);
            return Judged::ByPolicies;
        }
        (Operation::Update, _) => {
            report.warn("old row", "old_record has the key's columns only", full);
            return Judged::ByPolicies;
        }
        (Operation::Delete, _) => {}
    }
    let role = case.catalog.roles.get(&case.question.role);
    let Some(role) = role.filter(|role| relation.row_security_active(role)) else {
        report.pass("old row", "no policy has to judge it: row-level security does not apply");
        return Judged::ByPolicies;
    };
    if case.question.deletes == Deletes::None {
        let detail = "--deletes none: no delete of a table with row-level security is sent";
        report.fail("old row", detail, Some("serve --deletes authorized".to_owned()));
        return Judged::ByPolicies;
    }
    if relation.replica_identity == ReplicaIdentity::Full {
        report.pass("old row", "REPLICA IDENTITY FULL: the stream has all of it, and the policies judge it");
        return Judged::ByPolicies;
    }
    let plan = authz::plan(case.catalog, relation, role);
    let key: ColumnSet = relation.identity_key.iter().copied().collect();
    let columns = plan.oracle().and_then(|oracle| oracle.columns.as_ref());
    if columns.is_some_and(|columns| columns.is_subset(&key)) {
        report.pass("old row", "its key, which is all that the policies read");
        return Judged::ByPolicies;
    }
    match (&plan, case.question.deletes) {
        // Whatever the mode: nothing of the table is shown to the role.
        (Plan::Open | Plan::Denied(_), _) => Judged::ByPolicies,
        _ if is_kept(case) && columns.is_some() => {
            let detail = "its key; what the policies read of the row is kept (--delete-index), and they judge that";
            report.pass("old row", detail);
            Judged::ByPolicies
        }
        (_, Deletes::Compatible) => {
            let detail = "its key only, which the policies cannot judge: everybody who subscribes to the table is sent it \
                          (--deletes compatible)";
            report.warn("old row", detail, full);
            Judged::Unseen
        }
        (_, _) => {
            let detail = "its key only, which the policies cannot judge: nobody is sent it (--deletes authorized)";
            report.fail("old row", detail, full);
            Judged::ByPolicies
        }
    }
}
