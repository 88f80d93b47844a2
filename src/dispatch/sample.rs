//! A catalog, frames and clients made by hand, as the tests of this room need them.

use std::collections::HashSet;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use serde_json::json;

use crate::authz::Identity;
use crate::catalog::{
    AclItem, Catalog, Column, ColumnIndex, PgType, Policy, PolicyCommand, Publish, Relation, RelationKind,
    ReplicaIdentity, Role, Roles, TypeKind,
};
use crate::channels::metrics::Metrics;
use crate::channels::opening::Opening;
use crate::channels::outbox::{self, ChannelOutbox, Outbox, OutboxReader};
use crate::channels::phoenix::{Address, Serializer};
use crate::channels::subscribe::{ChannelId, EventShapeKind, Subscribe};
use crate::routing::Binding;
use crate::wal::Lsn;
use crate::wal::pgoutput::{self, Begin, Commit, Message, OldTuple, RelationColumn, RelationId, StreamRelation, Tuple};

pub const OPEN: RelationId = RelationId(1);
/// With row-level security.
pub const SECURED: RelationId = RelationId(2);
/// Without a primary key.
pub const KEYLESS: RelationId = RelationId(3);

pub const MEMBER: u32 = 20;
/// Has no grants.
pub const STRANGER: u32 = 21;

pub fn relation(id: RelationId) -> Relation {
    let column = |(attnum, name, type_oid): (i16, &str, u32)| Column {
        attnum,
        name: name.into(),
        type_oid,
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
        using_tree: Some("{}".into()),
        using_text: Some("true".into()),
        columns: None,
    };
    let (name, key) = match id {
        OPEN => ("open", vec![ColumnIndex(0)]),
        SECURED => ("secured", vec![ColumnIndex(0)]),
        _ => ("keyless", vec![]),
    };
    Relation {
        id,
        schema: "public".into(),
        name: name.into(),
        kind: RelationKind::Table,
        owner: 10,
        row_security: id == SECURED,
        force_row_security: false,
        replica_identity: ReplicaIdentity::Default,
        columns: [(1, "id", 23), (2, "note", 25)].map(column).into(),
        primary_key: key.clone(),
        identity_key: key,
        acl: vec![AclItem { grantee: MEMBER }],
        policies: if id == SECURED { vec![policy] } else { vec![] },
        publish: Publish { insert: true, update: true, delete: true },
        followed: crate::catalog::Followed::Whole,
        leaves: Vec::new(),
    }
}

pub fn catalog() -> Catalog {
    let pg_type = |(oid, name, sql_name): (u32, &str, &str)| {
        let (schema, name, sql_name) = ("pg_catalog".into(), name.into(), sql_name.into());
        (oid, Arc::new(PgType { oid, schema, name, sql_name, kind: TypeKind::Base, has_json_cast: false }))
    };
    let role = |(oid, name): (u32, &str)| {
        let role = Role { oid, name: name.into(), superuser: false, bypass_rls: false, inherits: HashSet::from([oid]) };
        (name.to_owned(), Arc::new(role))
    };
    let by_name = [(MEMBER, "member"), (STRANGER, "stranger")].map(role).into();
    Catalog {
        relations: [OPEN, SECURED, KEYLESS].map(|id| (id, Arc::new(relation(id)))).into(),
        types: [(23, "int4", "integer"), (25, "text", "text")].map(pg_type).into(),
        schemas: [("public".to_owned(), vec![AclItem { grantee: 0 }])].into(),
        roles: Arc::new(Roles { by_name, ..Roles::default() }),
        complete: true,
        ..Catalog::default()
    }
}

/// The catalog with one of its tables changed.
pub fn altered(id: RelationId, alter: impl FnOnce(&mut Relation)) -> Catalog {
    let mut catalog = catalog();
    let mut relation = relation(id);
    alter(&mut relation);
    catalog.relations.insert(id, Arc::new(relation));
    catalog
}

pub fn identity(role: &str, sub: &str) -> Arc<Identity> {
    Arc::new(Identity { role: role.into(), claims: json!({"role": role, "sub": sub}).to_string().into() })
}

/// One channel on a socket of its own.
pub struct Client {
    pub channel: ChannelId,
    pub outbox: ChannelOutbox,
    reader: OutboxReader,
}

impl Client {
    pub fn new(channel: u64) -> Client {
        let (outbox, reader) = Outbox::new(Arc::new(outbox::Config::default()), Arc::new(Metrics::default()));
        Client { channel: ChannelId(channel), outbox: ChannelOutbox::new(&outbox), reader }
    }

    /// What its session would send to join, or, without a reply, to give a refreshed token. Binding ids count from 1.
    pub fn subscribe(&self, identity: Arc<Identity>, tables: &[&str], reply: Option<&'static str>) -> Subscribe {
        let binding = |table: &&str| Binding::parse(json!({"schema": "public", "table": table}).as_object().unwrap());
        Subscribe {
            channel: self.channel,
            address: Address {
                topic: format!("realtime:{}", self.channel.0).into(),
                join_ref: None,
                serializer: Serializer::V2,
            },
            shape: EventShapeKind::Standard,
            identity,
            bindings: (1..).zip(tables.iter().map(binding)).collect(),
            outbox: self.outbox.clone(),
            resume: None,
            on_active: reply.map(|reply| Box::new(Opening::of_frames(vec![Bytes::from_static(reply.as_bytes())]))),
        }
    }

    /// All that has been pushed since the last time.
    pub fn received(&mut self) -> String {
        let mut received = Vec::new();
        while self.reader.poll_take(&mut Context::from_waker(Waker::noop())).is_ready() || !self.reader.is_empty() {
            let mut slices = [IoSlice::new(&[]); 64];
            let count = self.reader.slices(&mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
            self.reader.advance(bytes.len());
            received.extend(bytes);
        }
        String::from_utf8_lossy(&received).into_owned()
    }

    /// The rows that it was shown, by id, and error rows as `!`.
    pub fn rows(&mut self) -> Vec<String> {
        let received = self.received();
        let events = received.split("\"postgres_changes\",{\"data\"").skip(1);
        let row = |event: &str| match event.split_once("\"id\":") {
            _ if event.contains("Error 40") => "!".to_owned(),
            Some((_, rest)) => rest.split([',', '}']).next().unwrap().to_owned(),
            None => panic!("{event}"),
        };
        events.map(row).collect()
    }
}

pub fn begin(commit: u64) -> Bytes {
    pgoutput::encode(&Message::Begin(Begin { final_lsn: Lsn(commit), commit_timestamp: 0, xid: commit as u32 }))
}

pub fn commit(at: u64) -> Bytes {
    pgoutput::encode(&Message::Commit(Commit { commit_lsn: Lsn(at), end_lsn: Lsn(at + 1), commit_timestamp: 0 }))
}

pub fn described(id: RelationId) -> Bytes {
    let column = |column: &Column| RelationColumn {
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_modifier: -1,
        is_key: column.name == "id",
    };
    let Relation { schema, name, columns, .. } = relation(id);
    let columns = columns.iter().map(column).collect();
    pgoutput::encode(&Message::Relation(StreamRelation { id, schema, name, replica_identity: b'd', columns }))
}

pub fn insert(relation: RelationId, id: &str) -> Bytes {
    let new = Tuple::from_values([Some(id.as_bytes()), Some(b"note")]);
    pgoutput::encode(&Message::Insert { relation, new })
}

pub fn delete(relation: RelationId, id: &str) -> Bytes {
    let old = OldTuple::Key(Tuple::from_values([Some(id.as_bytes()), None]));
    pgoutput::encode(&Message::Delete { relation, old })
}

/// A transaction of inserts, all tables described.
pub fn transaction(at: u64, rows: &[(RelationId, &str)]) -> Vec<Bytes> {
    let rows = rows.iter().map(|(relation, id)| insert(*relation, id));
    [begin(at)].into_iter().chain([OPEN, SECURED, KEYLESS].map(described)).chain(rows).chain([commit(at)]).collect()
}
