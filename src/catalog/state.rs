//! The catalog's JSON document: what `sql/catalog/state.sql` prints and `walcast.ddl_log` carries.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::function::Volatility;
use super::{
    AclItem, Catalog, Collation, Column, ColumnIndex, Followed, Function, Generated, Messages, Oid, PgType, Policy,
    PolicyCommand, Publish, Relation, RelationKind, ReplicaIdentity, Roles, TypeKind,
};
use crate::wal::pgoutput::RelationId;

/// The query that makes the document: `$1 text[]` the publications, `$2 boolean` whether to deparse expressions.
pub const STATE_SQL: &str = include_str!("../../sql/catalog/state.sql");

/// Counts up when the document's meaning changes, so that a row written by another version's trigger is not misread.
const FORMAT: u32 = 3;

/// Why a document gives no catalog.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the catalog's document cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the catalog's document has format {0}, this walcast reads {FORMAT}: run `walcast setup` again")]
    Format(u32),
    #[error("the catalog's document has an unknown {what}: {value:?}")]
    Unknown { what: &'static str, value: String },
    #[error("table {relation:?} has a key column with attribute number {attnum} that is not among its columns")]
    KeyColumn { relation: String, attnum: i16 },
    #[error("table {0:?} has more columns than Postgres allows")]
    TooManyColumns(String),
}

/// One reading of the catalog, without the roles.
#[derive(Clone, Debug, Deserialize)]
pub struct State {
    format: u32,
    /// The publications that it is about; `None` where setup has not said.
    wanted: Option<Vec<String>>,
    server_version: u32,
    with_texts: bool,
    publications: Vec<PublicationState>,
    schemas: Vec<SchemaState>,
    relations: Vec<RelationState>,
    referenced: Vec<RelationState>,
    types: Vec<TypeState>,
    functions: Vec<FunctionState>,
    /// `None`: there is no such table.
    messages: Option<MessagesState>,
}

/// What inserting into `realtime.messages` depends on.
#[derive(Clone, Debug, Deserialize)]
struct MessagesState {
    oid: Oid,
    acl: Vec<Oid>,
    column_acl: Vec<(i16, Oid)>,
    /// For INSERT, each with what it checks new rows by.
    policies: Vec<PolicyState>,
}

/// A publication that subscribers read, as far as it exists.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PublicationState {
    pub name: String,
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub via_root: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct SchemaState {
    name: String,
    usage: Vec<Oid>,
}

#[derive(Clone, Debug, Deserialize)]
struct RelationState {
    oid: Oid,
    schema: String,
    name: String,
    kind: String,
    owner: Oid,
    row_security: bool,
    force_row_security: bool,
    replica_identity: String,
    publish: PublishState,
    acl: Vec<Oid>,
    columns: Vec<ColumnState>,
    primary_key: Vec<i16>,
    identity_index: Option<Vec<i16>>,
    policies: Vec<PolicyState>,
    followed: String,
    leaves: Vec<Oid>,
}

#[derive(Clone, Debug, Deserialize)]
struct PublishState {
    insert: bool,
    update: bool,
    delete: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct ColumnState {
    attnum: i16,
    name: String,
    #[serde(rename = "type")]
    type_oid: Oid,
    modifier: i32,
    generated: String,
    expression: Option<String>,
    collation: Option<CollationState>,
    acl: Vec<Oid>,
}

#[derive(Clone, Debug, Deserialize)]
struct CollationState {
    deterministic: bool,
    is_c: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct PolicyState {
    oid: Oid,
    name: String,
    permissive: bool,
    command: String,
    roles: Vec<Oid>,
    tree: Option<String>,
    text: Option<String>,
    columns: Option<Vec<i16>>,
}

#[derive(Clone, Debug, Deserialize)]
struct TypeState {
    oid: Oid,
    schema: String,
    name: String,
    sql_name: String,
    #[serde(rename = "type")]
    kind: String,
    base: Option<Oid>,
    element: Option<Oid>,
    delimiter: Option<String>,
    labels: Option<Vec<String>>,
    #[serde(default)]
    label_oids: Option<Vec<Oid>>,
    attributes: Option<Vec<(String, Oid)>>,
    json_cast: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct FunctionState {
    oid: Oid,
    schema: String,
    name: String,
    arguments: Vec<Oid>,
    argument_names: Option<Vec<Option<String>>>,
    defaults: Option<String>,
    result: Oid,
    returns_set: bool,
    language: String,
    volatility: String,
    strict: bool,
    security_definer: bool,
    owner: Oid,
    settings: Option<Vec<String>>,
    source: Option<String>,
    body: Option<String>,
    execute: Vec<Oid>,
}

impl State {
    pub fn parse(text: &str) -> Result<State, StateError> {
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        // The format is looked at first: another one may lack what this one calls missing.
        let Header { format } = serde_json::from_str(text)?;
        if format != FORMAT {
            return Err(StateError::Format(format));
        }
        Ok(serde_json::from_str(text)?)
    }

    /// `false`: a lock was in the way of deparsing; expressions are missing and the state should be loaded again.
    pub fn has_texts(&self) -> bool {
        self.with_texts
    }

    /// Whether it is about exactly these publications.
    pub fn is_of(&self, publications: &[String]) -> bool {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names.dedup();
            names
        };
        self.wanted.as_ref().is_some_and(|wanted| sorted(wanted) == sorted(publications))
    }

    /// Those of the wanted publications that exist.
    pub fn publications(&self) -> &[PublicationState] {
        &self.publications
    }
}

impl Catalog {
    /// The catalog that a document and the roles describe.
    pub fn from_state(state: State, roles: Arc<Roles>, version: u64) -> Result<Catalog, StateError> {
        debug_assert_eq!(state.format, FORMAT);
        let mut catalog = Catalog {
            version,
            server_version: state.server_version,
            roles,
            complete: state.with_texts,
            ..Catalog::default()
        };
        catalog.schemas = state.schemas.into_iter().map(|schema| (schema.name, acl(schema.usage))).collect();
        for relation in state.relations {
            catalog.relations.insert(RelationId(relation.oid), Arc::new(relation.build()?));
        }
        for relation in state.referenced {
            catalog.referenced.insert(RelationId(relation.oid), Arc::new(relation.build()?));
        }
        if let Some(messages) = state.messages {
            catalog.messages = messages.build(&catalog)?;
        }
        for pg_type in state.types {
            catalog.types.insert(pg_type.oid, Arc::new(pg_type.build()?));
        }
        for function in state.functions {
            catalog.functions.insert(function.oid, Arc::new(function.build()?));
        }
        Ok(catalog)
    }
}

impl MessagesState {
    fn build(self, catalog: &Catalog) -> Result<Option<Messages>, StateError> {
        let Some(read) = catalog.any_relation(RelationId(self.oid)) else { return Ok(None) };
        let mut write = Relation::clone(read);
        write.acl = acl(self.acl);
        for column in &mut write.columns {
            let grants = self.column_acl.iter().filter(|(attnum, _)| *attnum == column.attnum);
            column.acl = grants.map(|(_, grantee)| AclItem { grantee: *grantee }).collect();
        }
        write.policies = self.policies.into_iter().map(PolicyState::build).collect::<Result<_, _>>()?;
        write.policies.iter_mut().for_each(|policy| policy.command = PolicyCommand::All);
        Ok(Some(Messages { read: Arc::clone(read), write: Arc::new(write) }))
    }
}

impl RelationState {
    fn build(self) -> Result<Relation, StateError> {
        let kind = match self.kind.as_str() {
            "r" => RelationKind::Table,
            "p" => RelationKind::Partitioned,
            "v" | "m" | "f" => RelationKind::Other,
            _ => return Err(unknown("kind of table", self.kind)),
        };
        let replica_identity = match self.replica_identity.as_str() {
            "d" => ReplicaIdentity::Default,
            "n" => ReplicaIdentity::Nothing,
            "f" => ReplicaIdentity::Full,
            "i" => ReplicaIdentity::Index,
            _ => return Err(unknown("replica identity", self.replica_identity)),
        };
        let followed = match self.followed.as_str() {
            "whole" => Followed::Whole,
            "in_part" => Followed::InPart,
            "no" => Followed::No,
            "no_identity" => Followed::NoIdentity,
            "not_logged" => Followed::NotLogged,
            "inherited" => Followed::Inherited,
            _ => return Err(unknown("way of following", self.followed)),
        };
        if u16::try_from(self.columns.len()).is_err() {
            return Err(StateError::TooManyColumns(self.name));
        }
        let places: HashMap<i16, ColumnIndex> =
            self.columns.iter().enumerate().map(|(place, column)| (column.attnum, ColumnIndex(place as u16))).collect();
        let key = |attnums: &[i16]| {
            let place = |attnum: &i16| places.get(attnum).copied().ok_or(*attnum);
            attnums.iter().map(place).collect::<Result<Vec<_>, i16>>()
        };
        let missing = |attnum| StateError::KeyColumn { relation: self.name.clone(), attnum };
        let primary_key = key(&self.primary_key).map_err(missing)?;
        let identity_key = match replica_identity {
            ReplicaIdentity::Full => (0..self.columns.len() as u16).map(ColumnIndex).collect(),
            ReplicaIdentity::Nothing => Vec::new(),
            _ => key(self.identity_index.as_deref().unwrap_or_default()).map_err(missing)?,
        };
        let columns = self.columns.into_iter().map(ColumnState::build).collect::<Result<_, _>>()?;
        let policies = self.policies.into_iter().map(PolicyState::build).collect::<Result<_, _>>()?;
        Ok(Relation {
            id: RelationId(self.oid),
            schema: self.schema,
            name: self.name,
            kind,
            owner: self.owner,
            row_security: self.row_security,
            force_row_security: self.force_row_security,
            replica_identity,
            columns,
            primary_key,
            identity_key,
            acl: acl(self.acl),
            policies,
            publish: Publish { insert: self.publish.insert, update: self.publish.update, delete: self.publish.delete },
            followed,
            leaves: self.leaves.into_iter().map(RelationId).collect(),
        })
    }
}

impl ColumnState {
    fn build(self) -> Result<Column, StateError> {
        let generated = match self.generated.as_str() {
            "" => None,
            "s" => Some(Generated { stored: true, expression: self.expression }),
            "v" => Some(Generated { stored: false, expression: self.expression }),
            _ => return Err(unknown("kind of generated column", self.generated)),
        };
        let collation = self.collation.map(|c| Collation { deterministic: c.deterministic, is_c: c.is_c });
        Ok(Column {
            attnum: self.attnum,
            name: self.name,
            type_oid: self.type_oid,
            type_modifier: self.modifier,
            generated,
            collation,
            acl: acl(self.acl),
        })
    }
}

impl PolicyState {
    fn build(self) -> Result<Policy, StateError> {
        let command = match self.command.as_str() {
            "*" => PolicyCommand::All,
            "r" => PolicyCommand::Select,
            "a" => PolicyCommand::Insert,
            "w" => PolicyCommand::Update,
            "d" => PolicyCommand::Delete,
            _ => return Err(unknown("command of a policy", self.command)),
        };
        // Without a USING clause there is nothing whose columns could be unknown.
        let columns = if self.tree.is_none() { Some(Vec::new()) } else { self.columns };
        Ok(Policy {
            oid: self.oid,
            name: self.name,
            permissive: self.permissive,
            command,
            roles: self.roles,
            using_tree: self.tree,
            using_text: self.text,
            columns,
        })
    }
}

impl TypeState {
    fn build(self) -> Result<PgType, StateError> {
        let kind = match (self.kind.as_str(), self.base, self.element) {
            ("d", Some(base), _) => TypeKind::Domain { base },
            ("e", ..) => TypeKind::Enum {
                labels: self.labels.unwrap_or_default(),
                label_oids: self.label_oids.unwrap_or_default(),
            },
            ("c", ..) => TypeKind::Composite { attributes: self.attributes.unwrap_or_default() },
            ("r", ..) => TypeKind::Range,
            ("m", ..) => TypeKind::Multirange,
            ("p", ..) => TypeKind::Pseudo,
            ("b", _, Some(element)) => {
                let delimiter = self.delimiter.as_deref().and_then(|text| text.bytes().next()).unwrap_or(b',');
                TypeKind::Array { element, delimiter }
            }
            ("b", ..) => TypeKind::Base,
            _ => return Err(unknown("kind of type", self.kind)),
        };
        Ok(PgType {
            oid: self.oid,
            schema: self.schema,
            name: self.name,
            sql_name: self.sql_name,
            kind,
            has_json_cast: self.json_cast,
        })
    }
}

impl FunctionState {
    fn build(self) -> Result<Function, StateError> {
        let volatility = match self.volatility.as_str() {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            "v" => Volatility::Volatile,
            _ => return Err(unknown("volatility", self.volatility)),
        };
        let names = self.argument_names.unwrap_or_default().into_iter().map(Option::unwrap_or_default).collect();
        Ok(Function {
            oid: self.oid,
            schema: self.schema,
            name: self.name,
            arguments: self.arguments,
            argument_names: names,
            defaults: self.defaults,
            result: self.result,
            returns_set: self.returns_set,
            language: self.language,
            volatility,
            strict: self.strict,
            security_definer: self.security_definer,
            owner: self.owner,
            settings: self.settings.unwrap_or_default(),
            source: self.source.unwrap_or_default(),
            body: self.body,
            execute: acl(self.execute),
        })
    }
}

fn acl(grantees: Vec<Oid>) -> Vec<AclItem> {
    grantees.into_iter().map(|grantee| AclItem { grantee }).collect()
}

fn unknown(what: &'static str, value: String) -> StateError {
    StateError::Unknown { what, value }
}
