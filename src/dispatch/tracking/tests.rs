//! Tracked tables, with a loader that answers by hand.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::look::STORAGE_INTERVAL;
use super::*;
use crate::authz::policy::Value;
use crate::authz::tracked::load::{LoadError, ReadTable, Storage};
use crate::authz::tracked::loader::Request;
use crate::authz::tracked::{Moment, Shape, Table};
use crate::catalog::{ColumnIndex, Followed, Relation};
use crate::change::{TrackedChange, TrackedLog, TransactionHeader};
use crate::dispatch::sample::{self, OPEN, catalog};
use crate::wal::Lsn;
use crate::wal::pgoutput::{self, Message, OldTuple, StreamRelation};

struct House {
    tracking: Tracking,
    requests: mpsc::UnboundedReceiver<Request>,
    catalog: Catalog,
    sequence: u64,
    must_see: Vec<u32>,
    now: Instant,
}

fn need(indexes: &[u16]) -> Need {
    let indexes = indexes.iter().map(|column| [ColumnIndex(*column)].into()).collect();
    Need { relation: OPEN, columns: [ColumnIndex(0), ColumnIndex(1)].into_iter().collect(), indexes }
}

fn started(own_publication: bool, lost: bool) -> Started {
    Started {
        generation: 1,
        system_identifier: "7".into(),
        timeline: 1,
        history: Arc::default(),
        server_major: 15,
        confirmed: Lsn(1),
        wal_end: Lsn::ZERO,
        own_publication,
        messages: None,
        broadcast_key: None,
        lost: lost.then_some((Lsn(1), Lsn(2))),
    }
}

fn stream() -> Arc<StreamRelation> {
    let Ok(Message::Relation(stream)) = pgoutput::decode(sample::described(OPEN)) else { panic!() };
    Arc::new(stream)
}

fn row(frame: Bytes) -> TrackedChange {
    TrackedChange::Row(stream(), frame)
}

fn insert(id: &str) -> TrackedChange {
    row(sample::insert(OPEN, id))
}

fn delete(id: &str) -> TrackedChange {
    row(sample::delete(OPEN, id))
}

impl House {
    /// A table that is wanted, and a stream.
    fn new() -> House {
        let mut house = House::without_stream();
        house.start_stream(true, false);
        house
    }

    fn without_stream() -> House {
        let (loader, requests, _) = LoaderHandle::by_hand();
        let tracking = Tracking::new(Config::default(), TrackingMetrics::default(), Some(loader));
        let (sequence, must_see, now) = (1, Vec::new(), Instant::now());
        let mut house = House { tracking, requests, catalog: catalog(), sequence, must_see, now };
        house.want(&[1]);
        house
    }

    fn want(&mut self, indexes: &[u16]) {
        self.tracking.want([&need(indexes)], &self.catalog, self.now);
    }

    fn start_stream(&mut self, own_publication: bool, lost: bool) {
        self.tracking.started(&started(own_publication, lost), &self.catalog, self.now);
    }

    fn alter(&mut self, alter: impl FnOnce(&mut Relation)) {
        let mut relation = (**self.catalog.relation(OPEN).unwrap()).clone();
        alter(&mut relation);
        self.catalog.relations.insert(OPEN, Arc::new(relation));
        self.tracking.catalog_changed(&self.catalog, self.now);
    }

    /// The request that is made when time has come for it.
    fn request(&mut self) -> Option<Request> {
        if self.tracking.is_due(self.now) {
            self.tracking.start(Since { sequence: self.sequence, must_see: self.must_see.clone() }, self.now);
        }
        self.requests.try_recv().ok()
    }

    fn asked(&mut self) -> (u64, Arc<Shape>, Vec<u32>) {
        match self.request() {
            Some(Request::Read { number, shapes, must_see, .. }) => (number, Arc::clone(&shapes[0]), must_see),
            other => panic!("{other:?}"),
        }
    }

    fn looked(&mut self, files: &str) -> Vec<u32> {
        match self.request() {
            Some(Request::Storage { number, must_see, .. }) => {
                let storage = [(OPEN, Storage(files.into()))].into();
                self.tracking.reported(Report::Storage { number, storage: Ok(storage) }, self.now);
                must_see
            }
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, (number, shape, _): (u64, Arc<Shape>, Vec<u32>), snapshot: &str, ids: &[i64]) {
        let mut table = Table::of(Arc::clone(&shape));
        for id in ids {
            table.load([Value::Int(*id), Value::text("note")].into());
        }
        let read = ReadTable { table, storage: Storage("files".into()) };
        let (snapshot, exact_from) = (snapshot.parse().unwrap(), Lsn(100));
        let reading = Reading { snapshot, exact_from, tables: vec![(shape, Ok(read))] };
        self.tracking.reported(Report::Read { number, reading: Ok(reading) }, self.now);
    }

    /// Loaded, the stream past it, and looked at.
    fn serving(ids: &[i64]) -> House {
        let mut house = House::new();
        let asked = house.asked();
        house.answer(asked, "10:10:", ids);
        house.transaction(20, 200, &[]);
        assert_eq!(house.rows().unwrap().len(), ids.len());
        house
    }

    fn begin(&mut self, xid: u32, commit: u64, changes: &[TrackedChange]) {
        let log = TrackedLog { changes: changes.to_vec(), ..TrackedLog::default() };
        self.begin_log(xid, commit, &log);
    }

    fn begin_log(&mut self, xid: u32, commit: u64, log: &TrackedLog) {
        let (commit_lsn, end_lsn) = (Lsn(commit), Lsn(commit + 1));
        let header = TransactionHeader { xid, commit_lsn, end_lsn, commit_timestamp: 0 };
        self.tracking.apply(&header, self.sequence, log, self.now);
        self.sequence += 1;
    }

    fn transaction(&mut self, xid: u32, commit: u64, changes: &[TrackedChange]) {
        self.begin(xid, commit, changes);
        self.tracking.finish_transaction(self.now);
    }

    fn ids(table: &Table, moment: Moment) -> BTreeSet<i64> {
        let id = |row| match table.value(row, ColumnIndex(0)) {
            Some(Value::Int(id)) => *id,
            other => panic!("{other:?}"),
        };
        table.scan(moment).map(id).collect()
    }

    /// `None`: nothing can be decided by the table.
    fn rows(&self) -> Option<BTreeSet<i64>> {
        self.tracking.tables().get(OPEN).map(|table| House::ids(table, Moment::After))
    }

    /// Whatever may be decided by it.
    fn contents(&self) -> BTreeSet<i64> {
        House::ids(self.tracking.tables().table(OPEN).unwrap(), Moment::After)
    }
}

#[tokio::test]
async fn a_transaction_is_applied_if_and_only_if_the_reading_does_not_see_it() {
    let mut house = House::new();
    house.must_see = vec![4, 5];
    let asked = house.asked();
    assert_eq!(asked.2, [4, 5], "what was streamed before must be in it");
    // While it is read: 12 is seen, 13 is not, although it was streamed first.
    house.transaction(13, 50, &[insert("13")]);
    house.transaction(12, 60, &[insert("12")]);
    assert_eq!(house.rows(), None);
    house.answer(asked, "13:15:13", &[1, 12, 14]);
    // After it: 14 is seen, 15 is not; both were committed before the position of the reading.
    house.transaction(14, 70, &[insert("14")]);
    house.transaction(15, 80, &[insert("15"), delete("1")]);
    assert_eq!(house.contents(), [12, 13, 14, 15].into());
    assert_eq!(house.rows(), None, "14 was there before its time");
    house.transaction(14 + (1 << 31), 100, &[insert("16")]);
    assert_eq!(house.rows(), Some([12, 13, 14, 15, 16].into()), "from the position on everything is applied");
}

#[tokio::test]
async fn nothing_is_read_before_there_is_a_stream() {
    let mut house = House::without_stream();
    assert!(house.request().is_none());
    house.start_stream(true, false);
    house.asked();
}

#[tokio::test]
async fn a_reading_that_arrives_within_a_transaction_waits_for_its_end() {
    let mut house = House::new();
    let asked = house.asked();
    house.begin(30, 200, &[insert("3")]);
    house.answer(asked, "10:10:", &[1]);
    assert!(house.tracking.tables().table(OPEN).is_none());
    house.tracking.finish_transaction(house.now);
    assert_eq!(house.contents(), [1, 3].into());
    house.transaction(31, 300, &[]);
    let table = house.tracking.tables().get(OPEN).unwrap();
    assert_eq!(House::ids(table, Moment::Before), House::ids(table, Moment::After));
}

#[tokio::test]
async fn a_transaction_whose_changes_are_missing_has_to_be_seen() {
    let missed = TrackedLog { missed: [OPEN].into(), ..TrackedLog::default() };
    for (snapshot, serves) in [("31:31:", true), ("30:30:", false)] {
        let mut house = House::new();
        let asked = house.asked();
        house.begin_log(30, 50, &missed);
        house.tracking.finish_transaction(house.now);
        house.answer(asked, snapshot, &[1]);
        assert_eq!(house.tracking.tables().table(OPEN).is_some(), serves);
    }
    let mut house = House::serving(&[1]);
    house.begin_log(30, 300, &missed);
    assert_eq!(house.rows(), None);
    house.asked();
}

#[tokio::test]
async fn a_change_that_does_not_fit_hides_the_table_until_it_was_read_again() {
    let mut house = House::serving(&[1]);
    house.transaction(30, 300, &[delete("2")]);
    assert_eq!(house.rows(), None);
    let asked = house.asked();
    house.answer(asked, "40:40:", &[7]);
    house.transaction(41, 400, &[]);
    assert_eq!(house.rows(), Some([7].into()));
    assert_eq!(house.tracking.metrics.times_broken("row_not_found"), 1);
    // The second time it takes longer.
    house.transaction(42, 500, &[delete("2")]);
    assert!(house.request().is_none());
    house.now += Duration::from_secs(1);
    house.asked();
}

#[tokio::test]
async fn a_truncate_empties_the_table_after_it_and_not_before() {
    let mut house = House::serving(&[1, 2]);
    house.begin(30, 300, &[TrackedChange::Truncate(vec![RelationId(99), OPEN]), insert("3")]);
    let table = house.tracking.tables().get(OPEN).unwrap();
    assert_eq!(House::ids(table, Moment::Before), [1, 2].into());
    assert_eq!(House::ids(table, Moment::After), [3].into());
}

#[tokio::test]
async fn a_table_that_was_altered_is_dropped_and_read_again() {
    let alterations: [fn(&mut Relation); 5] = [
        |relation| relation.name = "other".into(),
        |relation| relation.columns[1].name = "other".into(),
        |relation| relation.columns[1].type_oid = 23,
        |relation| relation.replica_identity = crate::catalog::ReplicaIdentity::Full,
        |relation| relation.leaves = vec![RelationId(50)],
    ];
    for alter in alterations {
        let mut house = House::serving(&[1]);
        house.alter(alter);
        assert_eq!(house.rows(), None);
        house.asked();
    }
    let mut house = House::serving(&[1]);
    house.alter(|relation| relation.acl.clear());
    assert!(house.rows().is_some() && house.request().is_none(), "who may read it is not its contents");
    house.alter(|relation| relation.followed = Followed::No);
    assert_eq!(house.rows(), None);
    assert!(house.request().is_none());
    assert_eq!(house.tracking.refused(OPEN), Some(&Refused::NotFollowed(Followed::No)));
    assert!(!house.tracking.wanted(OPEN));
}

#[tokio::test]
async fn what_serves_goes_on_until_more_of_the_table_was_read() {
    let mut house = House::serving(&[1]);
    house.want(&[0, 1]);
    let asked = house.asked();
    house.transaction(30, 300, &[insert("2")]);
    assert_eq!(house.rows(), Some([1, 2].into()));
    house.answer(asked, "31:31:", &[1, 2]);
    house.transaction(31, 400, &[]);
    let table = house.tracking.tables().get(OPEN).unwrap();
    assert_eq!(table.lookup(&[ColumnIndex(0)], &[Value::Int(2)], Moment::After).unwrap().count(), 1);
    // Less is what is there already; nothing is nothing.
    house.want(&[1]);
    assert!(house.rows().is_some() && house.request().is_none());
    house.tracking.want([], &house.catalog, house.now);
    assert!(house.tracking.is_empty() && house.rows().is_none() && !house.tracking.wanted(OPEN));
}

#[tokio::test]
async fn ddl_hides_a_table_until_somebody_has_seen_that_it_was_not_rewritten() {
    let mut house = House::serving(&[1]);
    house.tracking.ddl(30);
    house.tracking.ddl(31);
    house.transaction(31, 300, &[insert("2")]);
    assert_eq!(house.rows(), None);
    let first = house.request();
    let Some(Request::Storage { number, .. }) = first else { panic!("{first:?}") };
    let early = Ok([(OPEN, Storage("files".into()))].into());
    house.tracking.reported(Report::Storage { number, storage: early }, house.now);
    assert_eq!(house.rows(), None, "it did not have to see the second one");
    assert_eq!(house.looked("files"), [30, 31]);
    assert_eq!(house.rows(), Some([1, 2].into()));
    house.tracking.ddl(32);
    house.looked("other files");
    assert_eq!(house.rows(), None);
    house.asked();
}

#[tokio::test]
async fn ddl_while_a_table_is_read_is_looked_at_when_the_reading_did_not_see_it() {
    let mut house = House::new();
    let asked = house.asked();
    house.tracking.ddl(30);
    house.answer(asked, "30:30:", &[1]);
    house.transaction(30, 300, &[]);
    assert_eq!(house.rows(), None);
    assert_eq!(house.looked("files"), [30]);
    assert_eq!(house.rows(), Some([1].into()));
}

#[tokio::test]
async fn rewrites_that_no_trigger_sees_are_found_within_a_second() {
    let mut house = House::serving(&[1]);
    assert!(house.request().is_none());
    house.now += STORAGE_INTERVAL;
    house.looked("other files");
    assert_eq!(house.rows(), None);
}

/// Else the task would find something due for ever, and read no further.
#[tokio::test]
async fn without_a_table_that_serves_there_is_nothing_to_look_at() {
    let mut house = House::serving(&[1]);
    house.alter(|relation| relation.followed = Followed::No);
    house.now += 2 * STORAGE_INTERVAL;
    assert!(house.request().is_none());
    assert!(!house.tracking.is_due(house.now));
}

#[tokio::test]
async fn a_new_connection_goes_on_and_a_lost_stream_begins_anew() {
    let mut house = House::serving(&[1]);
    house.start_stream(true, false);
    assert!(house.rows().is_some() && house.request().is_none());
    house.start_stream(true, true);
    assert_eq!(house.rows(), None);
    house.asked();
}

#[tokio::test]
async fn without_walcasts_own_publication_only_the_users_tables_are_followed() {
    let mut house = House::serving(&[1]);
    house.start_stream(false, false);
    assert!(house.rows().is_some(), "it is in the user's publication");
    let relation = house.catalog.relations.remove(&OPEN).unwrap();
    house.catalog.referenced.insert(OPEN, relation);
    house.start_stream(false, false);
    assert_eq!((house.rows(), house.tracking.refused(OPEN)), (None, Some(&Refused::NoOwnPublication)));
    house.start_stream(true, false);
    house.asked();
}

#[tokio::test]
async fn a_table_past_the_limit_is_dropped_until_it_is_another() {
    let mut house = House::serving(&[1]);
    house.tracking.config.memory_bytes_max = 4000;
    let many: Vec<_> = (10..200).map(|id| insert(&id.to_string())).collect();
    house.transaction(30, 300, &many);
    assert_eq!((house.rows(), house.tracking.refused(OPEN)), (None, Some(&Refused::TooLarge)));
    house.alter(|_| ());
    house.want(&[0, 1]);
    assert!(house.request().is_none());
    house.alter(|relation| relation.owner = 11);
    house.asked();
}

#[tokio::test]
async fn what_is_gathered_counts_against_the_limit_too() {
    let mut house = House::new();
    let asked = house.asked();
    house.tracking.config.memory_bytes_max = 4000;
    let many: Vec<_> = (10..200).map(|id| insert(&id.to_string())).collect();
    house.transaction(30, 300, &many);
    house.answer(asked, "10:10:", &[1]);
    assert_eq!(house.tracking.refused(OPEN), Some(&Refused::TooLarge));
    assert!(house.tracking.tables().table(OPEN).is_none());
}

#[tokio::test]
async fn a_reading_that_fails_is_tried_again_later() {
    let mut house = House::new();
    let (number, ..) = house.asked();
    house.tracking.reported(Report::Read { number, reading: Err(LoadError::NotVisible(3)) }, house.now);
    let (number, shape, _) = house.asked();
    let tables = vec![(shape, Err(LoadError::Inherited))];
    let reading = Reading { snapshot: "10:10:".parse().unwrap(), exact_from: Lsn(1), tables };
    house.tracking.reported(Report::Read { number, reading: Ok(reading) }, house.now);
    assert!(house.request().is_none());
    house.now += Duration::from_secs(1);
    house.asked();
}

#[tokio::test]
async fn an_old_row_is_found_by_the_key_that_its_delete_names() {
    let mut house = House::serving(&[1, 2]);
    house.begin(30, 300, &[delete("1"), insert("3"), delete("3")]);
    let old = |id: &str| {
        let Ok(Message::Delete { old: OldTuple::Key(key), .. }) = pgoutput::decode(sample::delete(OPEN, id)) else {
            panic!()
        };
        match house.tracking.old_row(&stream(), &key) {
            OldRow::Row(table, row) => format!("{:?}", table.value(row, ColumnIndex(1)).unwrap()),
            OldRow::Absent => "absent".to_owned(),
            OldRow::Unknown => "unknown".to_owned(),
        }
    };
    assert_eq!([old("1"), old("2"), old("3")], ["Text(\"note\")", "Text(\"note\")", "absent"]);
    house.tracking.ddl(31);
    let Ok(Message::Delete { old: OldTuple::Key(key), .. }) = pgoutput::decode(sample::delete(OPEN, "1")) else {
        panic!()
    };
    assert!(matches!(house.tracking.old_row(&stream(), &key), OldRow::Unknown));
}

#[test]
fn an_index_for_deletes_keeps_what_policies_and_filters_read() {
    let name: TableName = "public.secured".parse().unwrap();
    assert!("secured".parse::<TableName>().is_err() && ".x".parse::<TableName>().is_err());
    let config = Config { delete_indexes: vec![name], ..Config::default() };
    let tracking = Tracking::new(config, TrackingMetrics::default(), None);
    let mut catalog = catalog();
    let columns = |catalog: &Catalog, filters: &[u16]| {
        let filters: ColumnSet = filters.iter().map(|column| ColumnIndex(*column)).collect();
        let needs = tracking.delete_needs(catalog, |_| filters.clone());
        needs.iter().flat_map(|need| need.columns.iter().map(|column| column.0)).collect::<Vec<_>>()
    };
    assert_eq!(columns(&catalog, &[]), [0, 1], "nobody knows what the policy reads");
    let mut relation = (**catalog.relation(sample::SECURED).unwrap()).clone();
    relation.policies[0].columns = Some(vec![1]);
    catalog.relations.insert(sample::SECURED, Arc::new(relation));
    assert_eq!((columns(&catalog, &[]), columns(&catalog, &[1])), (vec![0], vec![0, 1]));
    catalog.relations.remove(&sample::SECURED);
    assert!(columns(&catalog, &[]).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_look_that_is_due_when_no_table_serves_does_not_stay_due() {
    let mut house = House::serving(&[1]);
    house.alter(|relation| relation.columns[1].type_oid = 20);
    let read = house.asked();
    house.now += STORAGE_INTERVAL * 2;
    assert!(house.tracking.is_due(house.now), "the look of the table that has served");
    house.tracking.start(Since::default(), house.now);
    assert!(!house.tracking.is_due(house.now));
    drop(read);
}
