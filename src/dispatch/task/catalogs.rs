//! Catalog states, each applied at its place in the stream.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Dispatch, Error, Phase, READ_AGAIN};
use crate::authz::oracle::KnownBy;
use crate::catalog::ddl_log::{self, DdlEvent};
use crate::catalog::watcher::CatalogUpdate;
use crate::catalog::{Catalog, Relation, SessionReading};
use crate::change::TransactionHeader;
use crate::change::assembler::DdlLog;
use crate::channels::system;
use crate::dispatch::hint;
use crate::dispatch::judging::Before;
use crate::dispatch::subscriber::Subscriber;
use crate::dispatch::subscribers::Bind;
use crate::dispatch::updates::Due;
use crate::wal::Lsn;
use crate::wal::pgoutput::{self, Message, RelationId, StreamRelation};

impl Dispatch {
    /// Applies what `walcast.ddl_log` says: the state as the commit leaves it. `Some`: it must be loaded first.
    pub(super) fn apply_ddl(
        &mut self,
        log: DdlLog,
        header: &TransactionHeader,
    ) -> Option<oneshot::Receiver<CatalogUpdate>> {
        let xid = header.xid;
        let (relation, frame) = match log {
            DdlLog::Nothing => return None,
            DdlLog::Row(relation, frame) => (relation, frame),
            DdlLog::Unread => {
                tracing::warn!("a row of walcast.ddl_log is above --wal-frame-max; the catalog is loaded instead");
                return self.load_catalog(Some(xid));
            }
        };
        match self.state_of(&relation, frame) {
            Ok(catalog) => {
                self.updates.told_by_stream(xid);
                self.doubt.told(header.end_lsn);
                self.apply(catalog, Some(xid));
                None
            }
            Err(why) => {
                tracing::info!(why, "a change of the catalog is loaded, because its log row cannot be used");
                self.load_catalog(Some(xid))
            }
        }
    }

    fn state_of(&self, relation: &StreamRelation, frame: Bytes) -> Result<Catalog, String> {
        let new = match pgoutput::decode(frame) {
            Ok(Message::Insert { new, .. } | Message::Update { new, .. }) => new,
            Ok(_) => return Err("no row".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        match ddl_log::parse(relation, &new, &self.config.publications) {
            // Without texts no policy can be evaluated: all that they hide would be hidden from everybody.
            Ok(DdlEvent::State { state, .. }) if !state.has_texts() => {
                Err("a lock was in the way of its expressions".to_owned())
            }
            Ok(DdlEvent::State { state, .. }) => {
                Catalog::from_state(*state, Arc::clone(&self.catalog.roles), 0).map_err(|error| error.to_string())
            }
            Ok(DdlEvent::Reload { reason, .. }) => Err(format!("{reason:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// `must_see`: the transaction that says so.
    pub(super) fn load_catalog(&self, must_see: Option<u32>) -> Option<oneshot::Receiver<CatalogUpdate>> {
        self.watcher.as_ref().map(|watcher| watcher.refresh(must_see))
    }

    /// What was waited for. Nothing is judged before it is here: the watcher asks until it has an answer.
    pub(super) fn catalog_arrived(&mut self, update: Option<CatalogUpdate>) -> Result<(), Error> {
        let Phase::Waiting(work, _) = std::mem::replace(&mut self.phase, Phase::Reading) else { return Ok(()) };
        let update = update.ok_or(Error::NoCatalog)?;
        let by = work.as_ref().map(|work| work.transaction.header.xid);
        let before = Arc::clone(&self.catalog);
        if let Some(catalog) = self.updates.loaded(update, by, self.position) {
            self.apply(catalog, None);
        }
        if let Some(work) = work {
            self.began_with(before);
            self.begin_work(work);
        }
        Ok(())
    }

    /// A polled state waits until the stream has come as far. Roles are in no stream: they hold at once.
    pub(super) fn polled(&mut self, update: CatalogUpdate) {
        self.handle.oracle.knows(KnownBy::Poll, &Arc::new(update.catalog.clone()));
        let roles = self.updates.polled(update);
        if *roles != *self.catalog.roles {
            let catalog = Catalog { roles, ..Catalog::clone(&self.catalog) };
            self.apply(catalog, None);
        }
        self.apply_due_updates(self.position);
    }

    /// Applies what holds for transactions that are committed at or after `position`.
    pub(super) fn apply_due_updates(&mut self, position: Lsn) {
        match self.updates.due(position) {
            Due::Nothing => {}
            Due::Apply(update) => self.apply_polled(*update),
            Due::Outdated => {
                if let Some(watcher) = &self.watcher {
                    watcher.refresh_soon();
                }
            }
        }
        if let Some(session) = self.facts.due(position) {
            let previous = self.replace_catalog(Catalog { session, ..Catalog::clone(&self.catalog) });
            self.rebind(&previous);
        }
    }

    /// What a session says of the catalog in force.
    pub(super) fn session_read(&mut self, reading: SessionReading) {
        if !self.facts.read(reading) {
            self.apply(Catalog::clone(&self.catalog), None);
        }
        self.apply_due_updates(self.position);
    }

    /// Most of what the poll finds the stream has told of before, and the session's reading knows of it.
    fn apply_polled(&mut self, CatalogUpdate { mut catalog, fingerprint, .. }: CatalogUpdate) {
        catalog.share_with(&self.catalog);
        if catalog.says_the_same_as(&self.catalog)
            && fingerprint.is_some_and(|fingerprint| self.facts.polled(fingerprint))
        {
            // Only plans that sessions have made since the stream told of it, and before all of it was there.
            return self.handle.oracle.catalog_changed(None);
        }
        self.apply(catalog, None);
    }

    /// From here on changes are judged by this state. `by`: the transaction that made it, if others may not see it yet.
    fn apply(&mut self, mut catalog: Catalog, by: Option<u32>) {
        catalog.share_with(&self.catalog);
        // Any DDL, and any grant, may give a name in a function's body another meaning.
        catalog.session = Arc::default();
        self.handle.oracle.catalog_changed(by);
        let previous = self.replace_catalog(catalog);
        self.layouts.clear();
        self.facts.catalog_changed(self.catalog.version);
        self.catalogs.send_replace(Arc::clone(&self.catalog));
        self.rebind(&previous);
    }

    /// The catalog at the start of the transaction that comes to work, which may have changed it.
    pub(super) fn began_with(&mut self, catalog: Arc<Catalog>) {
        if !Arc::ptr_eq(&catalog, &self.catalog) {
            self.before = Some(Before { catalog, access: self.access.fork() });
        }
    }

    /// Gives the previous one. Whatever depends on the catalog alone is worked out anew.
    fn replace_catalog(&mut self, mut catalog: Catalog) -> Arc<Catalog> {
        catalog.version = self.catalog.version + 1;
        let previous = std::mem::replace(&mut self.catalog, Arc::new(catalog));
        self.access.clear();
        // All plans that are in use at once: from them is known what other tables are needed.
        for (relation, role) in self.subscribers.audiences() {
            if let Some(relation) = self.catalog.relation(relation) {
                self.access.access(&self.catalog, relation, role);
            }
        }
        self.layouts.clear();
        self.topics.catalog_changed(&self.catalog);
        self.track_catalog();
        self.broadcasts.catalog_changed(&self.catalog);
        self.handle.catalog.store(Arc::clone(&self.catalog));
        self.handle.oracle.knows(KnownBy::Stream, &self.catalog);
        self.metrics.catalog_version.set(self.catalog.version as i64);
        if !Arc::ptr_eq(&previous.roles, &self.catalog.roles) {
            self.metrics.roles_version.inc();
        }
        previous
    }

    /// Binds again what could come out otherwise. After a change of the publication's tables every channel is told so,
    /// once per binding (PROTOCOL 4.9).
    fn rebind(&mut self, previous: &Catalog) {
        let membership = membership_differs(previous, &self.catalog);
        let tables = membership || tables_differ(previous, &self.catalog);
        // Where policies lead to subscribers, they stand by what the policies compare.
        let policies = policies_differ(previous, &self.catalog);
        if !tables && !policies && Arc::ptr_eq(&previous.roles, &self.catalog.roles) {
            return;
        }
        for place in self.subscribers.places() {
            let Some(subscriber) = self.subscribers.get(place) else { continue };
            let role = &*subscriber.identity.role;
            if tables || policies || previous.roles.get(role) != self.catalog.roles.get(role) {
                self.rebind_channel(place, membership);
            }
        }
        self.metrics.subscriptions.set(self.subscribers.subscriptions() as i64);
    }

    fn rebind_channel(&mut self, place: usize, tell: bool) {
        match self.subscribers.bind(place, &self.catalog) {
            Bind::Ready(bound) => {
                let was_refused = self.subscribers.get(place).is_some_and(|subscriber| subscriber.refused.is_some());
                let sequence = self.assembler.next_sequence();
                self.subscribers.replace(place, bound, sequence, &self.catalog, &mut self.access);
                let is_noted = self.subscribers.get(place).is_some_and(Subscriber::is_noted);
                if is_noted && self.new_log(place).is_none() {
                    // Rows that only Postgres can write are not written again.
                    self.forget_log(place);
                }
                let times = if tell || was_refused { self.subscribers.bindings(place) } else { 0 };
                for _ in 0..times {
                    self.send_to(place, |subscriber| system::subscribed(&subscriber.address, None));
                }
            }
            Bind::NeedsCasts => {
                let (again, number) = self.subscribers.subscribe_again(place);
                let was_refused = self.subscribers.get(place).is_some_and(|subscriber| subscriber.refused.is_some());
                if self.forget_parked(place) {
                    return;
                }
                self.subscribers.unbind(place);
                self.give_up(place);
                if !was_refused {
                    // The old bindings mean nothing to the new table, and the stream does not wait for the new ones.
                    let message = "The table was altered; changes may be missed while it is subscribed to again";
                    self.send_to(place, |s| system::postgres_changes_error(&s.address, message, Some(READ_AGAIN)));
                }
                self.handle.subscribe_as(again, number);
            }
            Bind::Refused { message, unmatched } => {
                if self.forget_parked(place) {
                    return;
                }
                self.give_up(place);
                if self.subscribers.refuse(place, &message) {
                    let hint = unmatched.and_then(|binding| hint::not_published(&binding, &self.config));
                    self.send_to(place, |s| system::postgres_changes_error(&s.address, &message, hint.as_deref()));
                }
            }
        }
    }
}

/// Whether the publication has other tables now (PROTOCOL 4.9 compares schema, name and OID).
fn membership_differs(before: &Catalog, after: &Catalog) -> bool {
    fn names(catalog: &Catalog) -> HashSet<(RelationId, &str, &str)> {
        let relations = catalog.relations.values();
        relations.map(|relation| (relation.id, &*relation.schema, &*relation.name)).collect()
    }
    names(before) != names(after)
}

/// Whether the policies of a table could say something else: they, or what they call or read, changed.
fn policies_differ(before: &Catalog, after: &Catalog) -> bool {
    fn same<K: Eq + std::hash::Hash, V>(before: &HashMap<K, Arc<V>>, after: &HashMap<K, Arc<V>>) -> bool {
        let known = |(key, value): (&K, &Arc<V>)| before.get(key).is_some_and(|earlier| Arc::ptr_eq(earlier, value));
        before.len() == after.len() && after.iter().all(known)
    }
    !same(&before.relations, &after.relations)
        || !same(&before.referenced, &after.referenced)
        || !same(&before.functions, &after.functions)
        || !Arc::ptr_eq(&before.session, &after.session)
}

/// Whether binding a filter could come out otherwise, whatever the role: columns, types, keys or grants changed.
fn tables_differ(before: &Catalog, after: &Catalog) -> bool {
    let same = |(id, relation): (&RelationId, &Arc<Relation>)| {
        before.relation(*id).is_some_and(|earlier| {
            Arc::ptr_eq(earlier, relation)
                || (earlier.columns == relation.columns
                    && earlier.primary_key == relation.primary_key
                    && earlier.acl == relation.acl)
        })
    };
    before.types != after.types || !after.relations.iter().all(same)
}
