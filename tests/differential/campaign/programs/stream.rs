//! The stream, read in SQL from a slot, through the parts that dispatch is made of: transactions are put together, tracked
//! tables are loaded and kept current.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::{CancellationToken, DropGuard};
use walcast::authz::policy::Need;
use walcast::authz::tracked::{Loader, Tables};
use walcast::catalog::{Catalog, Relation};
use walcast::change::assembler::Config as Bounds;
use walcast::change::{Assembler, Layout, OldRow, Relations, Row, SpillMetrics, Transaction};
use walcast::dispatch::tracking::{self, Event, Since, Tracking, TrackingMetrics};
use walcast::wal::pgoutput::{Message, OldTuple, RelationId, Tuple};
use walcast::wal::{Lsn, Started};

use crate::support::database::connect;
use crate::support::scene::execute;

/// As the stream writes values.
pub(super) const OUTPUT: &str = "set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 3; \
    set bytea_output = 'hex'; set intervalstyle = 'postgres'; set lc_monetary = 'C'; set search_path = ''";

pub(super) struct Stream {
    session: Client,
    slot: String,
    assembler: Assembler,
    relations: Relations,
    layouts: HashMap<RelationId, Arc<Layout>>,
    tracking: Tracking,
    _loader: DropGuard,
}

/// A change of a judged table's row.
pub(super) struct Changed {
    pub relation: RelationId,
    pub old: OldRow,
    pub new: Option<Row>,
}

impl Stream {
    /// From here on; the tables that are needed are loaded.
    pub async fn start(url: &str, database: &str, catalog: &Catalog, needs: &[Need]) -> Stream {
        let session = connect(url).await;
        execute(&session, OUTPUT).await;
        let slot = format!("camp_{database}");
        execute(&session, &format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
        let (loader, handle) = Loader::new(url.parse().expect("a conninfo"));
        let abandon = CancellationToken::new();
        tokio::spawn(loader.run(abandon.clone()));
        let tracking = Tracking::new(tracking::Config::default(), TrackingMetrics::default(), Some(handle));
        let mut assembler = Assembler::new(Bounds::default(), SpillMetrics::default());
        assembler.started(true);
        let mut stream = Stream {
            session,
            slot,
            assembler,
            relations: Relations::default(),
            layouts: HashMap::new(),
            tracking,
            _loader: abandon.drop_guard(),
        };
        stream.load(catalog, needs).await;
        stream
    }

    async fn load(&mut self, catalog: &Catalog, needs: &[Need]) {
        self.tracking.want(needs, catalog, Instant::now());
        self.tracking.started(&started(), catalog, Instant::now());
        self.assembler.track(self.tracking.members());
        if !self.tracking.is_due(Instant::now()) {
            return;
        }
        let since = Since { sequence: self.assembler.next_sequence(), must_see: Vec::new() };
        self.tracking.start(since, Instant::now());
        let Event::Reported(report) = self.tracking.next().await else { panic!("the loader was asked") };
        self.tracking.reported(report, Instant::now());
        let row = self.session.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.expect("a position");
        let position: Lsn = row.get::<_, String>(0).parse().expect("a position");
        self.tracking.settle(position);
    }

    pub fn tables(&self) -> &Tables {
        self.tracking.tables()
    }

    /// What has been committed since, which is one transaction: it is in work from here on.
    pub async fn next(&mut self, catalog: &Catalog) -> Vec<Changed> {
        let sql = "select data from pg_logical_slot_get_binary_changes($1, null, null, 'proto_version', '1', \
                   'publication_names', 'p')";
        let frames = self.session.query(sql, &[&self.slot]).await.expect("frames");
        let mut found = None;
        for frame in frames {
            let frame: Vec<u8> = frame.get(0);
            let pushed = self.assembler.push(frame.into(), |_| false, |_, _| true).expect("a frame in its place");
            if let Some(mut transaction) = pushed {
                let log = std::mem::take(&mut transaction.tracked);
                self.tracking.apply(&transaction.header, transaction.sequence, &log, Instant::now());
                assert!(found.is_none(), "one transaction at a time");
                found = Some(self.changes(transaction, catalog));
            }
        }
        found.unwrap_or_default()
    }

    fn changes(&mut self, mut transaction: Transaction, catalog: &Catalog) -> Vec<Changed> {
        let mut changes = Vec::new();
        while let Some(message) = transaction.next_message().expect("a frame that can be read") {
            let (id, old, new) = match message {
                Message::Relation(described) => {
                    if let Some(relation) = catalog.relation(described.id) {
                        let layout = Layout::new(Arc::clone(relation), &described);
                        self.layouts.insert(described.id, Arc::new(layout));
                    }
                    self.relations.insert(described);
                    continue;
                }
                Message::Insert { relation, new } => (relation, OldTuple::Absent, Some(new)),
                Message::Update { relation, old, new } => (relation, old, Some(new)),
                Message::Delete { relation, old } => (relation, old, None),
                _ => continue,
            };
            let Some(layout) = self.layouts.get(&id) else { continue };
            let row = |tuple: Tuple, key_only| Row { layout: Arc::clone(layout), tuple, key_only };
            let old = match old {
                OldTuple::Absent => OldRow::Absent,
                OldTuple::Key(tuple) => OldRow::Key(row(tuple, true)),
                OldTuple::Full(tuple) => OldRow::Full(row(tuple, false)),
            };
            changes.push(Changed { relation: id, old, new: new.map(|tuple| row(tuple, false)) });
        }
        changes
    }

    /// The transaction has been judged.
    pub fn finish(&mut self) {
        self.tracking.finish_transaction(Instant::now());
    }

    pub async fn drop_slot(self) {
        execute(&self.session, &format!("select pg_drop_replication_slot('{}')", self.slot)).await;
    }
}

fn started() -> Started {
    Started {
        generation: 1,
        system_identifier: "1".into(),
        timeline: 1,
        history: Arc::default(),
        server_major: 15,
        confirmed: Lsn(1),
        wal_end: Lsn(0),
        own_publication: true,
        messages: None,
        broadcast_key: None,
        lost: None,
    }
}

/// Every row of a judged table as an image, with its key.
pub(super) async fn images(session: &Client, relation: &Arc<Relation>) -> Vec<(i64, Row)> {
    let layout = Arc::new(Layout::identity(Arc::clone(relation)));
    let columns: Vec<String> = relation.columns.iter().map(|column| format!("{}::text", column.name)).collect();
    let sql = format!("select {} from {}", columns.join(", "), relation.sql_name());
    let rows = session.query(&sql, &[]).await.expect("rows");
    let image = |row: &tokio_postgres::Row| {
        let values: Vec<Option<&str>> = (0..row.len()).map(|n| row.get(n)).collect();
        let key = values[0].expect("a key").parse().expect("a number");
        let tuple = Tuple::from_values(values.iter().map(|value| value.map(str::as_bytes)));
        (key, Row { layout: Arc::clone(&layout), tuple, key_only: false })
    };
    rows.iter().map(image).collect()
}
