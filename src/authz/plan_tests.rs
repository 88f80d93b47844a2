use std::collections::HashSet;

use super::*;
use crate::catalog::{Column, Publish, RelationKind, ReplicaIdentity};
use crate::wal::pgoutput::RelationId;

const OWNER: u32 = 10;
const MEMBER: u32 = 11;
const GROUP: u32 = 12;

fn role(oid: u32, inherits: &[u32]) -> Role {
    let inherits = inherits.iter().copied().chain([oid]).collect::<HashSet<_>>();
    Role { oid, name: format!("r{oid}"), superuser: false, bypass_rls: false, inherits }
}

fn policy(name: &str, permissive: bool, roles: &[u32], text: &str) -> Policy {
    Policy {
        oid: 1,
        name: name.into(),
        permissive,
        command: PolicyCommand::Select,
        roles: roles.into(),
        using_tree: Some("{VAR :varno 1 :varattno 4 :varlevelsup 0}".into()),
        using_text: Some(text.into()),
        columns: None,
    }
}

fn relation(policies: Vec<Policy>) -> Arc<Relation> {
    let column = |attnum: i16| Column {
        attnum,
        name: format!("c{attnum}"),
        type_oid: 16,
        type_modifier: -1,
        generated: None,
        collation: None,
        acl: vec![],
    };
    Arc::new(Relation {
        id: RelationId(1),
        schema: "public".into(),
        name: "t".into(),
        kind: RelationKind::Table,
        owner: OWNER,
        row_security: true,
        force_row_security: false,
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column(1), column(4)], // 2 and 3 were dropped.
        primary_key: vec![ColumnIndex(0)],
        identity_key: vec![ColumnIndex(0)],
        acl: vec![],
        policies,
        publish: Publish { insert: true, update: true, delete: true },
        followed: crate::catalog::Followed::Whole,
        leaves: Vec::new(),
    })
}

fn plan_of(relation: &Arc<Relation>, role: &Role) -> Plan {
    plan(&Catalog::default(), relation, role)
}

fn oracle(relation: &Arc<Relation>, role: &Role) -> Arc<OraclePlan> {
    let plan = plan_of(relation, role);
    plan.oracle().cloned().unwrap_or_else(|| panic!("{plan:?}"))
}

#[test]
fn policies_do_not_apply_to_whom_postgres_lets_by() {
    let table = relation(vec![]);
    let denied = Plan::Denied(DeniedReason::NoPolicy);
    assert_eq!(plan_of(&table, &role(MEMBER, &[])), denied);
    assert_eq!(plan_of(&table, &role(OWNER, &[])), Plan::Open);
    assert_eq!(plan_of(&table, &role(MEMBER, &[OWNER])), Plan::Open);
    assert_eq!(plan_of(&table, &Role { superuser: true, ..role(MEMBER, &[]) }), Plan::Open);
    assert_eq!(plan_of(&table, &Role { bypass_rls: true, ..role(MEMBER, &[]) }), Plan::Open);

    let forced = Arc::new(Relation { force_row_security: true, ..(*table).clone() });
    assert_eq!(plan_of(&forced, &role(OWNER, &[])), denied);
    assert_eq!(plan_of(&forced, &Role { bypass_rls: true, ..role(OWNER, &[]) }), Plan::Open);
    let off = Arc::new(Relation { row_security: false, force_row_security: true, ..(*table).clone() });
    assert_eq!(plan_of(&off, &role(MEMBER, &[])), Plan::Open);
}

#[test]
fn permissive_policies_are_alternatives_and_restrictive_ones_conditions() {
    let table = relation(vec![
        policy("a", true, &[0], "pa"),
        policy("b", false, &[0], "rb"),
        policy("c", true, &[0], "pc"),
        policy("a2", false, &[0], "ra"),
    ]);
    let plan = oracle(&table, &role(MEMBER, &[]));
    assert_eq!(plan.expression, "(ra) AND (rb) AND ((pc) OR (pa))");
    assert_eq!(plan.columns, Some([ColumnIndex(1)].into_iter().collect()));
}

#[test]
fn a_policy_is_for_the_roles_it_names_and_their_heirs() {
    let table = relation(vec![policy("a", true, &[GROUP], "x")]);
    assert_eq!(plan_of(&table, &role(MEMBER, &[])), Plan::Denied(DeniedReason::NoPolicy));
    assert_eq!(oracle(&table, &role(MEMBER, &[GROUP])).expression, "((x))");
    assert_eq!(oracle(&table, &role(GROUP, &[])).role, "r12");
}

#[test]
fn only_select_and_all_decide_what_is_seen() {
    for (command, counts) in [
        (PolicyCommand::All, true),
        (PolicyCommand::Select, true),
        (PolicyCommand::Insert, false),
        (PolicyCommand::Update, false),
        (PolicyCommand::Delete, false),
    ] {
        let table = relation(vec![Policy { command, ..policy("a", true, &[0], "x") }]);
        assert_eq!(plan_of(&table, &role(MEMBER, &[])).oracle().is_some(), counts, "{command:?}");
    }
}

#[test]
fn restrictive_policies_alone_show_nothing() {
    let table = relation(vec![policy("a", false, &[0], "true")]);
    assert_eq!(plan_of(&table, &role(MEMBER, &[])), Plan::Denied(DeniedReason::NoPolicy));
}

#[test]
fn a_policy_that_cannot_be_asked_denies() {
    let unread = Policy { using_text: None, ..policy("p", true, &[0], "") };
    let table = relation(vec![unread, policy("q", true, &[0], "true")]);
    let missing = DeniedReason::TextMissing { policy: "p".into() };
    assert_eq!(plan_of(&table, &role(MEMBER, &[])), Plan::Denied(missing));

    let tree = Some("{VAR :varno 1 :varattno -3 :varlevelsup 0}".into());
    let table = relation(vec![Policy { using_tree: tree, ..policy("p", true, &[0], "xmin = '1'") }]);
    let system = DeniedReason::SystemColumn { policy: "p".into() };
    assert_eq!(plan_of(&table, &role(MEMBER, &[])), Plan::Denied(system));
}

#[test]
fn a_policy_without_using_neither_shows_nor_hides() {
    let empty = |permissive| Policy { using_tree: None, using_text: None, ..policy("e", permissive, &[0], "") };
    let table = relation(vec![empty(true)]);
    assert_eq!(plan_of(&table, &role(MEMBER, &[])), Plan::Denied(DeniedReason::NoPolicy));
    let table = relation(vec![empty(false), empty(true), policy("a", true, &[0], "x")]);
    assert_eq!(oracle(&table, &role(MEMBER, &[])).expression, "((x))");
}

#[test]
fn reading_the_whole_row_is_reading_every_column() {
    let tree = Some("{VAR :varno 1 :varattno 0 :varlevelsup 0}".into());
    let whole = Policy { using_tree: tree, ..policy("w", true, &[0], "f(t.*)") };
    let table = relation(vec![whole, policy("a", true, &[0], "x")]);
    assert_eq!(oracle(&table, &role(MEMBER, &[])).columns, None);
}
