//! Binding what a client asks for to the tables of the catalog (PROTOCOL 4.5).

mod clause;

use std::collections::HashSet;
use std::sync::Arc;

use super::cast::{CastError, CastRequest, Casts};
use super::predicate::{BoundClause, Predicate};
use super::subscription::{Binding, EventFilter};
use crate::catalog::{Catalog, ColumnIndex, ColumnSet, Relation, Role};
use crate::wal::pgoutput::RelationId;

/// One table's share of a binding.
#[derive(Clone, Debug)]
pub struct BoundSubscription {
    pub relation: RelationId,
    pub event: EventFilter,
    /// `None`: every row.
    pub predicate: Option<Arc<Predicate>>,
    /// The columns asked for and the primary key; `None`: all that the role may see.
    pub select: Option<ColumnSet>,
    pub positions: bool,
}

/// What came of binding.
#[derive(Clone, Debug)]
pub enum Bound {
    /// One per matching table, in the order of their names.
    Ready(Vec<BoundSubscription>),
    /// Put the answers into the `Casts` and bind again.
    NeedsCasts(Vec<CastRequest>),
    Refused(BindError),
}

/// Why a binding is refused; `Display` is what the client reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// No table of the publication matches. Holds the inspected binding.
    #[error(
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: {0}"
    )]
    NothingMatches(String),
    /// What Postgres says, or would say.
    #[error(
        "Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: {binding}. Exception: {error}"
    )]
    Exception { binding: String, error: CastError },
}

/// Binds to every table of the publication that schema and table name, as the role may see them.
pub fn bind(binding: &Binding, catalog: &Catalog, role: &str, casts: &Casts) -> Bound {
    let refused = |error| Bound::Refused(BindError::Exception { binding: binding.inspect(), error });
    if has_null_character(binding) {
        return refused(CastError::from_postgres("22021", "invalid byte sequence for encoding \"UTF8\": 0x00", None));
    }
    let relations = matching_relations(binding, catalog);
    if relations.is_empty() {
        return Bound::Refused(BindError::NothingMatches(binding.inspect()));
    }
    let Some(role) = catalog.roles.get(role) else {
        return refused(CastError::from_postgres("42704", &format!("role \"{role}\" does not exist"), None));
    };
    let mut binder = Binder { catalog, role, casts, requests: Vec::new() };
    let bound: Result<Vec<_>, _> = relations.into_iter().map(|relation| binder.relation(binding, relation)).collect();
    // An earlier clause may turn out to be wrong, and the first error is the one to report.
    match bound {
        _ if !binder.requests.is_empty() => Bound::NeedsCasts(distinct(binder.requests)),
        Ok(subscriptions) => Bound::Ready(subscriptions),
        Err(error) => refused(error),
    }
}

fn has_null_character(binding: &Binding) -> bool {
    let names = [&binding.schema, &binding.table].into_iter().chain(binding.select.iter().flatten());
    let clauses = binding.filters.iter().flat_map(|clause| [&clause.column, &clause.value]);
    names.chain(clauses).any(|text| text.contains('\0'))
}

fn matching_relations<'a>(binding: &Binding, catalog: &'a Catalog) -> Vec<&'a Arc<Relation>> {
    let is = |wanted: &str, name: &str| wanted == "*" || wanted == name;
    let relations = catalog.relations.values();
    let mut matching: Vec<_> = relations
        .filter(|relation| is(&binding.schema, &relation.schema) && is(&binding.table, &relation.name))
        .collect();
    matching.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    matching
}

fn distinct(requests: Vec<CastRequest>) -> Vec<CastRequest> {
    let mut seen = HashSet::new();
    requests.into_iter().filter(|request| seen.insert(request.clone())).collect()
}

/// An error raised by Supabase's trigger.
fn raised(message: impl AsRef<str>) -> CastError {
    CastError::from_postgres("P0001", message.as_ref(), None)
}

/// One run of `bind`.
struct Binder<'a> {
    catalog: &'a Catalog,
    role: &'a Role,
    casts: &'a Casts,
    requests: Vec<CastRequest>,
}

impl Binder<'_> {
    fn relation(&mut self, binding: &Binding, relation: &Relation) -> Result<BoundSubscription, CastError> {
        let selectable = self.catalog.visible_columns(self.role, relation);
        // A column that the role may not select reads like one that is not there.
        let column = |name: &str| relation.column_named(name).filter(|column| selectable.contains(*column));
        let mut clauses: Vec<BoundClause> = Vec::with_capacity(binding.filters.len());
        for clause in &binding.filters {
            let column =
                column(&clause.column).ok_or_else(|| raised(format!("invalid column for filter {}", clause.column)))?;
            clauses.extend(self.clause(relation, column, clause)?);
        }
        let select = binding.select.as_ref().map(|names| selected(relation, names, column)).transpose()?;
        let predicate = (!clauses.is_empty()).then(|| Arc::new(Predicate::new(relation.id, clauses)));
        Ok(BoundSubscription {
            relation: relation.id,
            event: binding.event,
            predicate,
            select,
            positions: binding.positions,
        })
    }

    /// The answer to a question; `None`: it has been put on the list.
    fn ask(&mut self, request: CastRequest) -> Result<Option<String>, CastError> {
        match self.casts.get(&request) {
            Some(answer) => answer.clone().map(Some),
            None => {
                self.requests.push(request);
                Ok(None)
            }
        }
    }
}

fn selected(
    relation: &Relation,
    names: &[String],
    column: impl Fn(&str) -> Option<ColumnIndex>,
) -> Result<ColumnSet, CastError> {
    let mut columns = relation.primary_key.clone();
    for name in names {
        columns.push(column(name).ok_or_else(|| raised(format!("invalid column for select {name}")))?);
    }
    Ok(columns.into_iter().collect())
}

#[cfg(test)]
mod tests;
