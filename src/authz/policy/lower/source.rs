//! What stands in FROM.

use std::sync::Arc;

use super::super::expr::{Access, Source};
use super::super::tree::{Node, Tree};
use super::super::{Expr, NotCompiled, Value};
use super::query::{Draft, split};
use super::scope::{Entry, Env, Rows, Scope};
use super::{Lowering, in_query, known, target, unknown};
use crate::authz::plan::applicable;
use crate::catalog::{Followed, Oid, PG_READ_ALL_DATA, Relation, RelationKind};
use crate::wal::pgoutput::RelationId;

const ENTRY: [&str; 12] = [
    "alias",
    "eref",
    "rtekind",
    "lateral",
    "inh",
    "inFromCl",
    "requiredPerms",
    "checkAsUser",
    "selectedCols",
    "perminfoindex",
    "rellockmode",
    "relkind",
];

/// Why a policy that reads this table is left to Postgres.
pub(super) fn table(relation: &Relation, why: impl Into<std::borrow::Cow<'static, str>>) -> NotCompiled {
    NotCompiled::Table { relation: relation.id, name: relation.sql_name(), why: why.into() }
}

impl<'c> Lowering<'c> {
    /// Adds a range table entry to the query that `scope` is of, and says what its columns are.
    pub(super) fn source<'e>(
        &mut self,
        query: &'e Node<'e>,
        entry: &'e Node<'e>,
        draft: &mut Draft,
        scope: &Scope<'e>,
        env: &Env,
    ) -> Result<Entry<'e>, NotCompiled>
    where
        'c: 'e,
    {
        let source = u16::try_from(draft.sources.len()).map_err(|_| in_query("too many tables"))?;
        let rows = if scope.rows == Rows::All { Rows::All } else { Rows::Set };
        // Scopes live as long as what they are asked for.
        let within = Scope {
            outer: scope.outer,
            entries: scope.entries.iter().map(Entry::again).collect(),
            depth: scope.depth,
            ctes: scope.ctes,
            rows,
            aggregated: None,
        };
        let inside = env.within(&within);
        match entry.int("rtekind")? {
            0 => {
                known(entry, &[&ENTRY[..], &["relid"]].concat())?;
                let relation = self.table(query, entry, env)?;
                draft.sources.push(Source::Table { relation: relation.id, access: Access::Scan });
                self.row_security(relation, source, draft, &inside)?;
                Ok(Entry::Table { source, relation })
            }
            1 => {
                known(entry, &[&ENTRY[..], &["subquery"]].concat())?;
                let subquery = entry.node("subquery")?;
                self.query_source(subquery, rows, draft, &inside)
            }
            3 => self.function_source(entry, draft, &inside),
            5 => self.values_source(entry, draft, &inside),
            6 => self.cte_source(entry, rows, draft, &inside),
            _ => Err(in_query("something unknown in FROM")),
        }
    }

    fn query_source<'e>(
        &mut self,
        query: &Node,
        rows: Rows,
        draft: &mut Draft,
        inside: &Env,
    ) -> Result<Entry<'e>, NotCompiled> {
        let source = draft.sources.len() as u16;
        let types = target::targets(query)?.into_iter().map(|target| self.type_of(target)).collect::<Result<_, _>>()?;
        let query = self.query(query, rows, inside)?;
        draft.sources.push(Source::Query(Arc::new(query)));
        Ok(Entry::Rows { source, types })
    }

    fn cte_source<'e>(
        &mut self,
        entry: &Node,
        rows: Rows,
        draft: &mut Draft,
        inside: &Env,
    ) -> Result<Entry<'e>, NotCompiled> {
        let columns = ["ctename", "ctelevelsup", "self_reference", "coltypes", "coltypmods", "colcollations"];
        known(entry, &[&ENTRY[..], &columns].concat())?;
        if entry.flag("self_reference")? {
            return Err(in_query("WITH RECURSIVE"));
        }
        let lost = || NotCompiled::Tree("a WITH query that is not there".to_owned());
        let scope = inside.scope_at(entry.int("ctelevelsup")?).ok_or_else(lost)?;
        let name = entry.text("ctename")?;
        let cte = scope.ctes.iter().filter_map(Tree::as_node).find(|cte| cte.text("ctename").as_ref() == Ok(&name));
        let cte = cte.ok_or_else(lost)?;
        if cte.flag("cterecursive")? {
            return Err(in_query("WITH RECURSIVE"));
        }
        self.query_source(cte.node("ctequery")?, rows, draft, &Env { scope: Some(scope), ..*inside })
    }

    fn function_source<'e>(
        &mut self,
        entry: &'e Node<'e>,
        draft: &mut Draft,
        inside: &Env,
    ) -> Result<Entry<'e>, NotCompiled> {
        known(entry, &[&ENTRY[..], &["functions"]].concat())?;
        let [Tree::Node(function)] = entry.list("functions")? else { return Err(in_query("ROWS FROM")) };
        known(function, &["funcexpr", "funccolcount", "funcparams"])?;
        let call = function.node("funcexpr")?;
        if call.name != "FUNCEXPR" || !call.flag("funcretset")? {
            // One row of one column: whoever reads the column reads the value.
            self.datum_type(self.type_of(function.field("funcexpr").unwrap_or(&Tree::Null))?)?;
            return Ok(Entry::Value(call));
        }
        let (rows, types) = self.set_of_function(call, inside)?;
        let source = draft.sources.len() as u16;
        draft.sources.push(rows);
        Ok(Entry::Rows { source, types })
    }

    /// `(VALUES (1), (2))` of one column.
    fn values_source<'e>(&mut self, entry: &Node, draft: &mut Draft, inside: &Env) -> Result<Entry<'e>, NotCompiled> {
        let columns = ["values_lists", "coltypes", "coltypmods", "colcollations"];
        known(entry, &[&ENTRY[..], &columns].concat())?;
        let mut values = Vec::new();
        for row in entry.list("values_lists")? {
            let Some([value]) = row.as_list() else { return Err(in_query("VALUES of several columns")) };
            values.push(self.expr(value, &inside.operand())?);
        }
        let types = entry.field("coltypes").and_then(Tree::as_numbers).unwrap_or_default();
        let types = types.into_iter().filter_map(|oid| Oid::try_from(oid).ok()).collect();
        let source = draft.sources.len() as u16;
        draft.sources.push(Source::Elements { array: Expr::Array(values.into()) });
        Ok(Entry::Rows { source, types })
    }

    /// A table, with the right to read it.
    fn table(&mut self, query: &Node, entry: &Node, env: &Env) -> Result<&'c Arc<Relation>, NotCompiled> {
        let catalog = self.catalog;
        let id = RelationId(entry.oid("relid")?);
        let Some(relation) = catalog.any_relation(id) else {
            let why = "it is not followed".into();
            return Err(NotCompiled::Table { relation: id, name: name_of(entry), why });
        };
        let why = match relation.followed {
            Followed::Whole => None,
            Followed::InPart => Some("the publication leaves out rows, columns or operations of it"),
            Followed::No => Some("it is in no publication that walcast reads"),
            Followed::NoIdentity => {
                Some("it has no replica identity, so that updates do not say which row they change")
            }
            Followed::Inherited => Some("other tables inherit from it"),
            Followed::NotLogged => Some("it is a view, a foreign table or unlogged: the WAL has no rows of it"),
        };
        if let Some(why) = why {
            return Err(table(relation, why));
        }
        match (relation.kind, entry.flag("inh")?) {
            (RelationKind::Other, _) => return Err(table(relation, "it is no table")),
            (RelationKind::Partitioned, false) => return Err(table(relation, "it is read with ONLY")),
            _ => {}
        }
        if env.by_name && !catalog.may_use_schema(env.runs_as, &relation.schema) {
            let why = format!("role {:?} may not use schema {:?}", env.runs_as.name, relation.schema);
            return Err(table(relation, why));
        }
        if !may_read(query, entry, relation, env)? {
            return Err(table(relation, format!("role {:?} may not read it", env.runs_as.name)));
        }
        Ok(relation)
    }

    /// The table's own policies, as conditions.
    fn row_security(
        &mut self,
        relation: &'c Arc<Relation>,
        source: u16,
        draft: &mut Draft,
        inside: &Env,
    ) -> Result<(), NotCompiled> {
        if !relation.row_security_active(inside.runs_as) {
            return Ok(());
        }
        if self.reading.contains(&relation.id) {
            let why = "infinite recursion: its policies lead back to it";
            // Postgres finds that out before anything is run. Within a function only when it is called.
            return Err(match self.calling.is_empty() {
                true => NotCompiled::Fails(format!("table {}: {why}", relation.sql_name())),
                false => table(relation, why),
            });
        }
        self.reading.push(relation.id);
        let applicable = applicable(relation, inside.runs_as);
        let mut scope = Scope::of_one(Entry::Table { source, relation });
        scope.depth = inside.depth - 1;
        let env = Env::of_policy(&scope, inside.depth, inside.runs_as);
        let env = Env { estimated: inside.planned, planned: inside.planned, ..env };
        for policy in applicable.restrictive {
            split(self.policy(policy, &env)?, &mut draft.conditions);
        }
        let eager = self.eager.clone();
        let shown = applicable.permissive.into_iter().map(|policy| self.policy(policy, &env));
        let mut shown = shown.collect::<Result<Vec<_>, _>>()?;
        match shown.len() {
            _ if self.folded(&shown, true, true).is_some() => self.eager = eager,
            0 => draft.conditions.push(Expr::Const(Value::Bool(false))),
            1 => split(shown.remove(0), &mut draft.conditions),
            _ => draft.conditions.push(Expr::Or(shown.into())),
        }
        self.reading.pop();
        Ok(())
    }
}

/// The name in the query, where there is no better one.
fn name_of(entry: &Node) -> String {
    entry.node("eref").and_then(|alias| alias.text("aliasname")).map(|name| name.into_owned()).unwrap_or_default()
}

/// Whether the role may read the columns that the query names, as `ExecCheckPermissions` finds.
fn may_read(query: &Node, entry: &Node, relation: &Relation, env: &Env) -> Result<bool, NotCompiled> {
    // 16 and newer keep them apart from the range table.
    let place = match entry.field("perminfoindex") {
        None => None,
        Some(place) => place.as_int().and_then(|place| usize::try_from(place - 1).ok()),
    };
    let permissions = match place {
        None => entry,
        Some(place) => {
            let info = query.list("rteperminfos")?.get(place).and_then(Tree::as_node);
            let info = info.ok_or_else(|| unknown("QUERY", "rteperminfos"))?;
            if info.oid("relid")? != relation.id.0 {
                return Err(unknown("RTEPERMISSIONINFO", "relid"));
            }
            info
        }
    };
    // ACL_SELECT and nothing else, as whoever runs the query.
    if permissions.int("requiredPerms")? != 2 || permissions.int("checkAsUser")? != 0 {
        return Err(unknown(permissions.name, "requiredPerms"));
    }
    let wanted = permissions.field("selectedCols").and_then(Tree::as_numbers);
    let wanted = wanted.ok_or_else(|| unknown(permissions.name, "selectedCols"))?;
    let may = relation.selectable_columns(env.runs_as, PG_READ_ALL_DATA);
    if wanted.is_empty() {
        return Ok(!may.is_empty());
    }
    // Counted from the first system column. A number that no column has asks for all.
    Ok(wanted.iter().map(|bit| bit.saturating_sub(7)).all(|attnum| match attnum {
        1.. => relation.indices().any(|c| i64::from(relation.column(c).attnum) == attnum && may.contains(c)),
        _ => relation.indices().all(|column| may.contains(column)),
    }))
}

impl<'e> Entry<'e> {
    fn again(&self) -> Entry<'e> {
        match self {
            Entry::Row(relation) => Entry::Row(relation),
            Entry::Table { source, relation } => Entry::Table { source: *source, relation },
            Entry::Rows { source, types } => Entry::Rows { source: *source, types: types.clone() },
            Entry::Join(columns) => Entry::Join(columns),
            Entry::Value(call) => Entry::Value(call),
            Entry::Absent => Entry::Absent,
        }
    }
}
