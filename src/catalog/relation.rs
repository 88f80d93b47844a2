//! Tables.

use super::{Oid, Policy, Role};
use crate::wal::pgoutput::RelationId;

/// The place of a column in [`Relation::columns`] (not its attribute number: dropped columns have none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnIndex(pub u16);

/// A set of columns of one relation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ColumnSet(Box<[u64]>);

impl ColumnSet {
    pub fn contains(&self, column: ColumnIndex) -> bool {
        let word = self.0.get(usize::from(column.0) / 64).copied().unwrap_or(0);
        word >> (column.0 % 64) & 1 == 1
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub fn iter(&self) -> impl Iterator<Item = ColumnIndex> + '_ {
        (0..self.0.len() as u16 * 64).map(ColumnIndex).filter(|column| self.contains(*column))
    }

    pub fn intersection(&self, other: &ColumnSet) -> ColumnSet {
        ColumnSet(self.0.iter().zip(other.0.iter()).map(|(a, b)| a & b).collect())
    }

    pub fn is_subset(&self, other: &ColumnSet) -> bool {
        self.iter().all(|column| other.contains(column))
    }
}

impl FromIterator<ColumnIndex> for ColumnSet {
    fn from_iter<I: IntoIterator<Item = ColumnIndex>>(columns: I) -> Self {
        let mut words = Vec::new();
        for column in columns {
            let word = usize::from(column.0) / 64;
            if words.len() <= word {
                words.resize(word + 1, 0u64);
            }
            words[word] |= 1 << (column.0 % 64);
        }
        // Equal sets must be equal and hash equal, whatever was inserted.
        ColumnSet(words.into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    Table,
    Partitioned,
    /// A view, a materialized view or a foreign table that a policy reads. Never published.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    Default,
    Nothing,
    Full,
    Index,
}

/// Which operations the user's publication carries for this table (union over the publications read).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
}

/// Whether the stream carries what a copy of the table needs: policies that read it can then be decided here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Every row, every operation, and every column but generated ones (before 18 they are never in the stream). What
    /// walcast's own publication carries counts too: a stream that is read without it follows less.
    Whole,
    /// The user's publication leaves out rows, columns or operations. Or it publishes a partitioned table under the
    /// root's name: then the stream does not say when a partition is emptied.
    InPart,
    /// It is in none of the publications that are read; nothing else is in the way.
    No,
    /// UPDATE and DELETE do not say which row they are about (REPLICA IDENTITY NOTHING, or no key).
    NoIdentity,
    /// Not a table with WAL of its own: a view, a foreign or an unlogged table.
    NotLogged,
    /// Other tables inherit from it (not as partitions): a SELECT shows their rows too.
    Inherited,
}

/// `SELECT` granted to `grantee` (0 = PUBLIC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclItem {
    pub grantee: Oid,
}

/// How text of a column compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collation {
    /// Equality is equality of bytes.
    pub deterministic: bool,
    /// Order is order of bytes (`C`, `POSIX`, `ucs_basic`, or a default collation that is one of them).
    pub is_c: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// `false`: virtual (18).
    pub stored: bool,
    /// `pg_get_expr(adbin, adrelid)` under an empty search_path.
    pub expression: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub attnum: i16,
    pub name: String,
    pub type_oid: Oid,
    pub type_modifier: i32,
    pub generated: Option<Generated>,
    /// `None` for types without collation.
    pub collation: Option<Collation>,
    /// Grants on this column alone.
    pub acl: Vec<AclItem>,
}

impl Column {
    /// Whether it is the same column, of the same type: names pass from one to another.
    pub fn is(&self, other: &Column) -> bool {
        self.attnum == other.attnum && self.type_oid == other.type_oid
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub id: RelationId,
    pub schema: String,
    pub name: String,
    pub kind: RelationKind,
    pub owner: Oid,
    pub row_security: bool,
    pub force_row_security: bool,
    pub replica_identity: ReplicaIdentity,
    /// In attribute order, without dropped ones; only those that the publication's column list has are marked
    /// by what the stream sends, all are listed here.
    pub columns: Vec<Column>,
    /// In the order of the key.
    pub primary_key: Vec<ColumnIndex>,
    /// Columns of the replica identity: the primary key, the index' columns, or all.
    pub identity_key: Vec<ColumnIndex>,
    /// Grants on the whole table (an empty `relacl` is expanded to its default by the loader).
    pub acl: Vec<AclItem>,
    pub policies: Vec<Policy>,
    pub publish: Publish,
    pub followed: Followed,
    /// The leaves of a partitioned table, where the stream names them; empty where it names the table itself.
    pub leaves: Vec<RelationId>,
}

impl Relation {
    /// The same, and where it lacks the text of an expression that one.
    pub(super) fn with_texts_of(&self, known: &Relation) -> Relation {
        let mut relation = self.clone();
        for (policy, known) in relation.policies.iter_mut().zip(&known.policies) {
            if policy.using_text.is_none() && policy.using_tree == known.using_tree {
                policy.using_text.clone_from(&known.using_text);
            }
        }
        for (column, known) in relation.columns.iter_mut().zip(&known.columns) {
            if let (Some(generated), Some(known)) = (&mut column.generated, &known.generated)
                && generated.expression.is_none()
            {
                generated.expression.clone_from(&known.expression);
            }
        }
        relation
    }

    pub fn column(&self, index: ColumnIndex) -> &Column {
        &self.columns[usize::from(index.0)]
    }

    pub fn column_named(&self, name: &str) -> Option<ColumnIndex> {
        let position = self.columns.iter().position(|column| column.name == name)?;
        Some(ColumnIndex(position as u16))
    }

    pub fn indices(&self) -> impl Iterator<Item = ColumnIndex> + use<> {
        (0..self.columns.len() as u16).map(ColumnIndex)
    }

    /// The columns that `has_column_privilege(role, table, column, 'SELECT')` holds for.
    pub fn selectable_columns(&self, role: &Role, pg_read_all_data: Oid) -> ColumnSet {
        let granted =
            |acl: &[AclItem]| acl.iter().any(|item| item.grantee == 0 || role.has_privileges_of(item.grantee));
        let whole_table = role.superuser || role.inherits.contains(&pg_read_all_data) || granted(&self.acl);
        self.indices().filter(|column| whole_table || granted(&self.column(*column).acl)).collect()
    }

    /// Whether policies apply to the role, as `row_security_active` decides.
    pub fn row_security_active(&self, role: &Role) -> bool {
        if !self.row_security || role.superuser || role.bypass_rls {
            return false;
        }
        self.force_row_security || !role.has_privileges_of(self.owner)
    }

    /// The table's name as SQL under an empty search_path.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

/// Always quoted: cheaper than knowing the keywords of five servers.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
