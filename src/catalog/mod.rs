//! What Postgres knows of the published tables: columns, types, keys, grants, policies, roles.
//!
//! Immutable [`Catalog`] snapshots, read by routing, authz and encode. Loaded over an ordinary connection, refreshed at
//! their place in the stream by `walcast.ddl_log` rows and, for what event triggers do not see, by a fingerprint.
//! Knows nothing of subscribers.

pub mod pg_type;
pub mod policy;
pub mod relation;
pub mod role;

use std::collections::HashMap;
use std::sync::Arc;

pub use pg_type::{PgType, TypeKind};
pub use policy::{Policy, PolicyCommand};
pub use relation::{
    AclItem, Collation, Column, ColumnIndex, ColumnSet, Generated, Publish, Relation, RelationKind, ReplicaIdentity,
};
pub use role::{Role, Roles};

use crate::wal::pgoutput::RelationId;

/// A Postgres object identifier.
pub type Oid = u32;

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
    pub roles: Arc<Roles>,
}

impl Catalog {
    pub fn relation(&self, id: RelationId) -> Option<&Arc<Relation>> {
        self.relations.get(&id)
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
