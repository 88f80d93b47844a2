//! One change to the channels that it matches.
//!
//! A [`Chunk`] gathers the questions of many changes, so that one round trip serves them all: one question per relation,
//! role and distinct identity, whatever the number of subscribers.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::Config;
use super::access::{Access, AccessTable, RoleKey, Selection};
use super::audience::Audience;
use super::grouping::Group;
use super::judging::{Asker, Before, DecisionCounts, Judging, Verdict};
use super::pending::{Asked, ComputedRow, ComputedRows, Content, Delivery, Gate, PendingChange, Ticket, frame_bytes};
use super::subscribers::{Entry, Subscribers};
use super::texts::{Image, Texts};
use crate::authz::tracked::Tables;
use crate::authz::{Asked as Subject, OraclePlan, Plan, Question, RowText};
use crate::catalog::{Catalog, ColumnIndex, ColumnSet, Relation};
use crate::change::{Change, Operation};
use crate::encode::{self, RecordShape};
use crate::routing::Matches;
use crate::wal::Position;
use crate::wal::pgoutput::RelationId;

/// What a question is about; equal keys share a question.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Plan and identity by their addresses, which the question keeps. An old row may be judged by an earlier plan.
    Policy(usize, usize),
    /// The predicate by its (interned) address.
    Filter(usize),
    /// Rows of which the same columns can be had.
    Json(RelationId, ColumnSet),
}

struct Open {
    asked: Arc<Asked>,
    question: Question,
    /// The change whose rows were put in last, and the rows' places: new, old.
    last: (u64, [Option<u32>; 2]),
    bytes: usize,
}

/// Questions being gathered, and what waits for them.
#[derive(Default)]
pub struct Chunk {
    open: HashMap<Key, Open, RandomState>,
    /// Full questions, and all of them at the end.
    pub ready: Vec<(Arc<Asked>, Question)>,
    /// All changes so far, where they go to the same channels alike; then there are no deliveries.
    pub audience: Option<Audience>,
    /// (place of the subscriber, what goes to it), in order. See [`Chunk::by_channel`].
    pub deliveries: Vec<(usize, Option<Delivery>)>,
    /// Subscribers to be told that something of theirs cannot be decided: place, relation.
    pub undecidable: Vec<(usize, Arc<Relation>, Undecidable)>,
    pub counts: DecisionCounts,
    /// Of the changes that matched: no outbox gets much more of this chunk.
    pub bytes: usize,
    /// Channels that what the database broadcasts was queued for.
    pub broadcasts: usize,
    changes: u64,
}

/// Why nothing can be said of a row, so that it is not shown.
#[derive(Clone, Debug)]
pub enum Undecidable {
    NoNewRow,
    /// A deleted row of a table whose columns the same transaction changed.
    Altered,
    Plan(Arc<Access>),
}

impl fmt::Display for Undecidable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undecidable::NoNewRow => f.write_str("the change has no new row"),
            Undecidable::Altered => f.write_str("the transaction that deleted the row altered the table"),
            Undecidable::Plan(access) => match &access.plan {
                Plan::Denied(reason) => reason.fmt(f),
                Plan::Open | Plan::Compiled(_) | Plan::Oracle(_) => Ok(()),
            },
        }
    }
}

/// What is read, not changed, while changes are turned to deliveries.
pub struct Context<'a> {
    pub catalog: &'a Catalog,
    pub config: &'a Config,
    pub subscribers: &'a Subscribers,
    pub budget: &'a Arc<AtomicUsize>,
    /// Columns that only Postgres can encode, for the layout of this change.
    pub columns_asked: &'a ColumnSet,
    pub tables: &'a Tables,
    pub xid: u32,
    pub sequence: u64,
    /// Where the change stands, if it is one that was kept, for those who are owed it.
    pub replayed: Option<Position>,
}

impl Context<'_> {
    /// Whether a subscription that matches is to be given the change.
    pub(super) fn admits(&self, entry: &Entry) -> bool {
        match self.replayed {
            None => entry.active_from <= self.sequence,
            Some(position) => entry.owed_after.as_deref().is_some_and(|after| *after < position),
        }
    }

    /// Any role gives the same answer where policies play no part, provided that it may name the table's type at all:
    /// one that may not must not spoil the answer for the others.
    pub(super) fn role_to_ask_as(&self, relation: &Relation, places: impl Iterator<Item = usize>) -> Option<&str> {
        let mut first = None;
        for place in places {
            let Some(subscriber) = self.subscribers.get(place) else { continue };
            let name = &*subscriber.identity.role;
            let role = self.catalog.roles.get(name);
            if role.is_some_and(|role| self.catalog.may_use_schema(role, &relation.schema)) {
                return Some(name);
            }
            first.get_or_insert(name);
        }
        first
    }
}

/// What the shape of a record depends on: the role, and what the subscription selects.
pub(super) type Projection<'a> = (RoleKey, &'a Selection);

impl Chunk {
    /// Closes all questions.
    pub fn finish(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.ready.extend(open.into_values().map(|open| (open.asked, open.question)));
    }

    /// The deliveries' indexes channel by channel, each in order. Deliveries are large and most chunks have few runs that
    /// are in order already, one per change: so it is small numbers that are merged.
    pub fn by_channel(&self) -> Vec<u32> {
        let places = self.deliveries.iter().map(|(place, _)| *place as u64);
        let mut order: Vec<u64> = places.zip(0u64..).map(|(place, index)| place << 32 | index).collect();
        order.sort();
        order.into_iter().map(|key| key as u32).collect()
    }

    /// Routes a change: who matched, under which gates.
    pub fn add(
        &mut self,
        change: Change,
        ticket: &Arc<Ticket>,
        matches: &mut Matches,
        access: &mut AccessTable,
        mut before: Option<&mut Before>,
        context: &Context<'_>,
    ) -> bool {
        self.changes += 1;
        let relation = Arc::clone(&change.relation);
        self.add_error_rows(&change, ticket, access, context);
        // Whom a deleted row was for is not what the new policies say.
        let tables =
            if before.is_some() && change.operation == Operation::Delete { None } else { Some(context.tables) };
        match context.replayed {
            None => context.subscribers.matches(&change, tables, matches),
            Some(_) => {
                context.subscribers.matches_of_owed(&change, matches);
                // What is shared is shared by whom it was matched to.
                matches.matched.retain(|id| context.admits(context.subscribers.entry(*id)));
                matches.sure_from = usize::MAX;
            }
        }
        if matches.matched.is_empty() && matches.undecided.is_empty() {
            return false;
        }
        let may_share = before.is_none()
            && matches.undecided.is_empty()
            && context.columns_asked.is_empty()
            && self.deliveries.is_empty();
        let Some(change) = self.share(change, may_share, ticket, matches, access, context) else { return true };
        self.tell_apart();
        let mut texts = Texts::default();
        let groups = self.group(&change, matches, &mut texts, context);
        if groups.is_empty() {
            return false;
        }
        let computed = self.computed(&change, &groups, &mut texts, context);
        self.bytes += frame_bytes(&change);
        let change = Arc::new(PendingChange::new(change, Arc::clone(ticket), computed, context.budget));
        // Of the last group: most have the same role and selection.
        let mut known: Option<(Projection<'_>, Arc<Access>, Arc<RecordShape>)> = None;
        let mut judging = Judging::new(&change.change);
        for Group { entry, is_sure, ids } in groups {
            let (place, role) = (entry.place(), entry.role);
            let projection: Projection<'_> = (role, &entry.selection);
            let (_, access_of_role, shape) = match &mut known {
                Some(known) if known.0 == projection => known,
                known => {
                    let access_of_role = access.access(context.catalog, &relation, role);
                    let shape = access.shape(context.catalog, &relation, &access_of_role.visible, &entry.selection);
                    known.insert((projection, access_of_role, shape))
                }
            };
            let earlier = match &mut before {
                None => None,
                Some(before) => match before.access(&relation, role, access_of_role) {
                    Some(earlier) => Some(earlier),
                    None if change.change.operation == Operation::Delete => {
                        self.undecidable.push((place, Arc::clone(&relation), Undecidable::Altered));
                        continue;
                    }
                    None => Some(Arc::new(Access::nothing())),
                },
            };
            let asker = Asker { entry, is_sure, access: access_of_role, earlier: earlier.as_ref() };
            let policy = match self.judge(&mut judging, &asker, &mut access.people, &mut texts, context) {
                Verdict::Undecidable(why) => {
                    self.undecidable.push((place, Arc::clone(&relation), why));
                    continue;
                }
                Verdict::Hidden => continue,
                Verdict::Shown(policy) => policy,
            };
            let content = Content::Row { shape: Arc::clone(shape), policy };
            let delivery = Delivery { change: Arc::clone(&change), ids, content };
            self.deliveries.push((place, Some(delivery)));
        }
        true
    }

    /// Rows of a table without primary key, or with one that the role may not read, go to everybody of that role as
    /// an error without data (PROTOCOL 4.4).
    fn add_error_rows(
        &mut self,
        change: &Change,
        ticket: &Arc<Ticket>,
        access: &mut AccessTable,
        context: &Context<'_>,
    ) {
        if change.operation == Operation::Delete {
            return;
        }
        // Place, client-visible id, whether the table has no primary key, whether positions are wanted.
        let mut errors: Vec<(usize, u32, bool, bool)> = Vec::new();
        for (role, entries) in context.subscribers.audience(change.relation.id) {
            let access = access.access(context.catalog, &change.relation, *role);
            if !access.is_error_row() {
                continue;
            }
            for entry in entries.iter().map(|id| context.subscribers.entry(*id)) {
                if context.admits(entry) && entry.event.accepts(change.operation) {
                    let positions = entry.selection.positions;
                    errors.push((entry.place(), entry.client_id, access.no_primary_key, positions));
                }
            }
        }
        if errors.is_empty() {
            return;
        }
        self.tell_apart();
        errors.sort_unstable();
        let pending = PendingChange::new(change.clone(), Arc::clone(ticket), ComputedRows::default(), context.budget);
        let pending = Arc::new(pending);
        let origin = Arc::clone(access.origin());
        let mut known: Vec<((bool, bool), Bytes)> = Vec::new();
        for group in errors.chunk_by(|a, b| a.0 == b.0) {
            let (no_key, positions) = (group[0].2, group.iter().any(|error| error.3));
            let data = match known.iter().find(|(key, _)| *key == (no_key, positions)) {
                Some((_, data)) => data.clone(),
                None => {
                    let error = if no_key { encode::ErrorRow::NoPrimaryKey } else { encode::ErrorRow::Unauthorized };
                    let data = encode::error_data(change, error, positions.then_some(&origin));
                    known.push(((no_key, positions), data.clone()));
                    data
                }
            };
            let ids = group.iter().map(|(_, id, ..)| (*id, None)).collect();
            let delivery = Delivery { change: Arc::clone(&pending), ids, content: Content::Error(data) };
            self.deliveries.push((group[0].0, Some(delivery)));
        }
    }

    /// Asks for the JSON that only Postgres can give, for each row image as far as it can be had.
    fn computed(
        &mut self,
        change: &Change,
        groups: &[Group<'_>],
        texts: &mut Texts,
        context: &Context<'_>,
    ) -> ComputedRows {
        let mut rows = ComputedRows::default();
        if context.columns_asked.is_empty() {
            return rows;
        }
        let places = groups.iter().map(|group| group.entry.place());
        let Some(role) = context.role_to_ask_as(&change.relation, places) else { return rows };
        for (image, into) in [(Image::New, &mut rows.new), (Image::Old, &mut rows.old)] {
            let Some(text) = texts.get(change, image) else { continue };
            let columns = encodable(&change.relation, context.columns_asked, &text.missing);
            if columns.is_empty() {
                continue;
            }
            let list: Arc<[ColumnIndex]> = columns.iter().collect();
            let subject = || Subject::Json { role: role.to_owned(), columns: list.to_vec() };
            let gate = self.gate(Key::Json(change.relation.id, columns), subject, change, image, text, context);
            *into = Some(ComputedRow { gate, columns: list });
        }
        rows
    }

    pub(super) fn policy_gate(
        &mut self,
        plan: &Arc<OraclePlan>,
        place: usize,
        change: &Change,
        image: Image,
        text: RowText,
        context: &Context<'_>,
    ) -> Gate {
        let subscriber = context.subscribers.get(place).expect("a subscription has a channel");
        let identity = &subscriber.identity;
        let key = Key::Policy(Arc::as_ptr(plan) as usize, Arc::as_ptr(identity) as usize);
        let subject = || Subject::Policy { plan: Arc::clone(plan), identity: Arc::clone(identity) };
        self.gate(key, subject, change, image, text, context)
    }

    /// Puts a row into the question of a key, once per change.
    pub(super) fn gate(
        &mut self,
        key: Key,
        subject: impl Fn() -> Subject,
        change: &Change,
        image: Image,
        text: RowText,
        context: &Context<'_>,
    ) -> Gate {
        let fresh = || Open {
            asked: Arc::default(),
            question: Question {
                xid: Some(context.xid),
                relation: Arc::clone(&change.relation),
                asked: subject(),
                rows: Vec::new(),
            },
            last: (0, [None, None]),
            bytes: 0,
        };
        let open = self.open.entry(key).or_insert_with(fresh);
        if open.last.0 != self.changes {
            let rows = open.question.rows.len();
            if rows >= context.config.question_rows_max || open.bytes >= context.config.question_bytes_max {
                let full = std::mem::replace(open, fresh());
                self.ready.push((full.asked, full.question));
            }
            open.last = (self.changes, [None, None]);
        }
        let place = &mut open.last.1[image as usize];
        let row = *place.get_or_insert_with(|| {
            open.bytes += text.literal.len();
            open.question.rows.push(text);
            open.question.rows.len() as u32 - 1
        });
        Gate { asked: Arc::clone(&open.asked), row }
    }
}

/// What of the columns that only Postgres encodes can be had from a row image. The others are absent from the record,
/// and must not be asked for: a question that cannot be answered for one row is answered for none. Generated columns
/// are computed from all others.
fn encodable(relation: &Relation, asked: &ColumnSet, missing: &ColumnSet) -> ColumnSet {
    let is_generated = |column: ColumnIndex| relation.column(column).generated.is_some();
    let computable = missing.iter().all(is_generated);
    asked.iter().filter(|column| !missing.contains(*column) || (computable && is_generated(*column))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Generated;
    use crate::dispatch::sample::{OPEN, relation};

    #[test]
    fn what_an_image_lacks_is_not_asked_for() {
        let mut relation = relation(OPEN);
        let template = relation.columns[1].clone();
        let generated = Some(Generated { stored: true, expression: Some("note || ''".into()) });
        relation.columns.push(crate::catalog::Column { attnum: 3, name: "twice".into(), generated, ..template });
        let set = |columns: &[u16]| columns.iter().map(|column| ColumnIndex(*column)).collect::<ColumnSet>();
        let asked = set(&[1, 2]);
        assert_eq!(encodable(&relation, &asked, &set(&[])), asked);
        assert_eq!(encodable(&relation, &asked, &set(&[2])), asked, "computed from the others");
        assert_eq!(encodable(&relation, &asked, &set(&[1, 2])), set(&[]), "an old row's key, or TOAST left alone");
        assert_eq!(encodable(&relation, &asked, &set(&[0])), asked);
        assert_eq!(encodable(&relation, &asked, &set(&[0, 2])), set(&[1]));
    }
}
