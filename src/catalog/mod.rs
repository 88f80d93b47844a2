//! What Postgres knows of the published tables: columns, types, keys, grants, policies, roles.
//!
//! Immutable [`Catalog`] snapshots, read by routing, authz and encode. Loaded over an ordinary connection, refreshed at
//! their place in the stream by `walcast.ddl_log` rows and, for what event triggers do not see, by a fingerprint.
//! Knows nothing of subscribers.

pub mod altered;
pub mod ddl_log;
pub mod function;
pub mod loader;
pub mod messages;
pub mod pg_type;
pub mod policy;
pub mod relation;
pub mod role;
pub mod session_facts;
pub mod snapshot;
pub mod state;
pub mod watcher;

use std::collections::HashMap;
use std::sync::Arc;

pub use altered::Altered;
pub use ddl_log::{DdlEvent, ReloadReason};
pub use function::Function;
pub use loader::{LoadError, Loaded};
pub use messages::Messages;
pub use pg_type::{PgType, TypeKind};
pub use policy::{Policy, PolicyCommand};
pub use relation::{
    AclItem, Collation, Column, ColumnIndex, ColumnSet, Followed, Generated, Publish, Relation, RelationKind,
    ReplicaIdentity, quote_identifier,
};
pub use role::{Role, Roles};
pub use session_facts::{SessionFacts, SessionReading};
pub use snapshot::Snapshot;
pub use state::{State, StateError};
pub use watcher::{CatalogUpdate, Watcher, WatcherHandle};

use crate::wal::pgoutput::RelationId;

/// A Postgres object identifier.
pub type Oid = u32;

/// The role `pg_read_all_data` (14 and newer); its OID is fixed.
pub const PG_READ_ALL_DATA: Oid = 6181;

/// One state of the catalog. Cheap to share, never changed.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Counts up with every snapshot that dispatch applies.
    pub version: u64,
    /// `server_version_num`, e.g. 150018.
    pub server_version: u32,
    /// Every table of the user's publication (the root where `publish_via_partition_root` says so), by OID.
    pub relations: HashMap<RelationId, Arc<Relation>>,
    pub types: HashMap<Oid, Arc<PgType>>,
    /// Functions that policies call, directly or from other functions, apart from built-in ones. Of functions whose body
    /// is a string all that its words may name.
    pub functions: HashMap<Oid, Arc<Function>>,
    /// `USAGE` on the schemas of `relations`, `referenced` and `functions`.
    pub schemas: HashMap<String, Vec<AclItem>>,
    /// `false`: a lock was in the way when expressions were deparsed, so that their texts are missing. The watcher
    /// follows it up with a complete one.
    pub complete: bool,
    pub roles: Arc<Roles>,
    /// Tables that policies or the functions they call read, or may read, that are not among `relations`; and what else is in
    /// walcast's own publication.
    pub referenced: HashMap<RelationId, Arc<Relation>>,
    /// What private channels are judged by; `None`: there is no `realtime.messages`.
    pub messages: Option<Messages>,
    /// What only a session of the oracle's login can say.
    pub session: Arc<SessionFacts>,
}

impl Catalog {
    /// A table that is published or that policies read.
    pub fn any_relation(&self, id: RelationId) -> Option<&Arc<Relation>> {
        self.relations.get(&id).or_else(|| self.referenced.get(&id))
    }

    pub fn relation(&self, id: RelationId) -> Option<&Arc<Relation>> {
        self.relations.get(&id)
    }

    /// `has_schema_privilege(role, schema, 'USAGE')`, without which no SELECT names the table at all.
    pub fn may_use_schema(&self, role: &Role, schema: &str) -> bool {
        let granted =
            |acl: &Vec<AclItem>| acl.iter().any(|item| item.grantee == 0 || role.has_privileges_of(item.grantee));
        role.superuser || role.inherits.contains(&PG_READ_ALL_DATA) || self.schemas.get(schema).is_some_and(granted)
    }

    /// The columns that a SELECT of the role could name: without USAGE on the table's schema, none.
    pub fn visible_columns(&self, role: &Role, relation: &Relation) -> ColumnSet {
        match self.may_use_schema(role, &relation.schema) {
            true => relation.selectable_columns(role, PG_READ_ALL_DATA),
            false => ColumnSet::default(),
        }
    }

    /// Takes over from an earlier catalog what has not changed, so that whoever compares by pointer sees that.
    pub fn share_with(&mut self, earlier: &Catalog) {
        fn share<K: Eq + std::hash::Hash, V: PartialEq>(new: &mut HashMap<K, Arc<V>>, old: &HashMap<K, Arc<V>>) {
            for (key, value) in new {
                if let Some(same) = old.get(key).filter(|earlier| *earlier == value) {
                    *value = Arc::clone(same);
                }
            }
        }
        self.take_texts_of(earlier);
        share(&mut self.relations, &earlier.relations);
        share(&mut self.referenced, &earlier.referenced);
        share(&mut self.types, &earlier.types);
        share(&mut self.functions, &earlier.functions);
        if self.messages == earlier.messages {
            self.messages.clone_from(&earlier.messages);
        }
        if *self.session == *earlier.session {
            self.session = Arc::clone(&earlier.session);
        }
        if *self.roles == *earlier.roles {
            self.roles = Arc::clone(&earlier.roles);
        }
    }

    /// Whether another reading says all that this one does, and nothing else; what sessions say apart.
    pub fn says_the_same_as(&self, other: &Catalog) -> bool {
        self.server_version == other.server_version
            && self.complete == other.complete
            && self.relations == other.relations
            && self.referenced == other.referenced
            && self.types == other.types
            && self.functions == other.functions
            && self.schemas == other.schemas
            && self.messages == other.messages
            && self.roles == other.roles
    }

    /// Where a lock was in the way of a table's texts, those of before are good as long as nothing else has changed: what
    /// they name has the same names. Without a text nothing can be asked, and rows would be hidden for it.
    fn take_texts_of(&mut self, earlier: &Catalog) {
        let is_same = self.schemas == earlier.schemas
            && self.types == earlier.types
            && self.functions == earlier.functions
            && self.referenced == earlier.referenced
            && self.relations.len() == earlier.relations.len();
        if self.complete || !is_same {
            return;
        }
        let with_text = |(id, relation): (&RelationId, &Arc<Relation>)| {
            let known = earlier.relations.get(id)?;
            (relation.with_texts_of(known) == **known).then(|| (*id, Arc::clone(known)))
        };
        if let Some(relations) = self.relations.iter().map(with_text).collect() {
            self.relations = relations;
        }
    }

    /// The type with domains looked through, as `getBaseType` does.
    pub fn base_type(&self, oid: Oid) -> Option<&Arc<PgType>> {
        let mut pg_type = self.types.get(&oid)?;
        // Domains nest; a corrupt catalog must not loop for ever.
        for _ in 0..32 {
            match pg_type.kind {
                TypeKind::Domain { base } => pg_type = self.types.get(&base)?,
                _ => return Some(pg_type),
            }
        }
        None
    }
}
