use proptest::prelude::*;

use super::*;
use crate::catalog::{Column, ColumnIndex, Followed, PolicyCommand, Publish, RelationKind, ReplicaIdentity};

fn compiled(tree: &str) -> Result<Program, NotCompiled> {
    let role = Role { oid: 1, name: "r".into(), superuser: false, bypass_rls: false, inherits: [1].into() };
    let column = Column {
        attnum: 1,
        name: "c".into(),
        type_oid: 23,
        type_modifier: -1,
        generated: None,
        collation: None,
        acl: vec![],
    };
    let policy = Policy {
        oid: 1,
        name: "p".into(),
        permissive: true,
        command: PolicyCommand::All,
        roles: vec![0],
        using_tree: Some(tree.to_owned()),
        using_text: None,
        columns: None,
    };
    let relation = Relation {
        id: RelationId(1),
        schema: "public".into(),
        name: "t".into(),
        kind: RelationKind::Table,
        owner: 2,
        row_security: true,
        force_row_security: false,
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column],
        primary_key: vec![ColumnIndex(0)],
        identity_key: vec![ColumnIndex(0)],
        acl: vec![],
        policies: vec![policy],
        publish: Publish { insert: true, update: true, delete: true },
        followed: Followed::Whole,
        leaves: Vec::new(),
    };
    compile(&Catalog::default(), &Arc::new(relation), &role)
}

const VAR: &str = "{VAR :varno 1 :varattno 1 :vartype 23 :vartypmod -1 :varcollid 0 :varlevelsup 0 :varnosyn 1 :varattnosyn 1 :location 9}";

fn is_null(arg: &str) -> String {
    format!("{{NULLTEST :arg {arg} :nulltesttype 0 :argisrow false :location 9}}")
}

/// `EXISTS (SELECT WHERE quals)`.
fn exists(quals: &str) -> String {
    format!(
        "{{SUBLINK :subLinkType 0 :subLinkId 0 :testexpr <> :operName <> :subselect {{QUERY :commandType 1 \
         :querySource 0 :cteList <> :rtable <> :jointree {{FROMEXPR :fromlist <> :quals {quals}}} :targetList <> \
         :distinctClause <> :sortClause <> :limitCount <> :setOperations <>}} :location 9}}"
    )
}

#[test]
fn a_column_of_the_row() {
    let program = compiled(&is_null(VAR)).unwrap();
    assert_eq!(program.clauses[0].using, Expr::IsNull(Box::new(Expr::Column(ColumnIndex(0)))));
    assert!(program.columns.contains(ColumnIndex(0)) && program.needs.is_empty());
}

#[test]
fn a_field_that_is_not_known_and_says_something_is_refused() {
    let marked = VAR.replace(":location", ":varnullingrels (b 2) :location");
    assert_eq!(compiled(&is_null(&marked)), Err(NotCompiled::Node("VAR.varnullingrels".into())));
    let unmarked = VAR.replace(":location", ":varnullingrels (b) :location");
    assert!(compiled(&is_null(&unmarked)).is_ok());
}

/// Tests run on threads as small as those of the relay.
#[test]
fn what_nests_too_deep_is_refused_before_the_stack_is() {
    let nested = |one: fn(&str) -> String, depth: usize| (0..depth).fold(is_null(VAR), |inner, _| one(&inner));
    assert!(compiled(&nested(is_null, 70)).is_ok());
    assert!(compiled(&nested(is_null, 90)).is_err());
    let as_deep = compiled(&nested(exists, 30).replace(":varlevelsup 0", ":varlevelsup 30"));
    assert!(as_deep.is_ok(), "{as_deep:?}");
    assert!(compiled(&nested(exists, 100)).is_err());
}

proptest! {
    #[test]
    fn no_damaged_tree_is_too_much(at in 0usize..2000, len in 0usize..20, new in "[ {}()<>0-9:a-z-]{0,8}") {
        let mut bytes = exists(&is_null(VAR)).into_bytes();
        let at = at % bytes.len();
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, new.bytes());
        let _ = compiled(&String::from_utf8_lossy(&bytes));
    }
}
