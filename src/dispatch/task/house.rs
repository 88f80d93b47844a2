//! Dispatch as a whole, with a stream, clients and an oracle made by hand: for tests.

use bytes::Bytes;

use super::*;
use crate::authz::oracle::ByHand;
use crate::authz::{Answer, Verdict};
use crate::catalog::SessionFacts;
use crate::channels::subscribe::SubscriptionSink;
use crate::dispatch::sample::*;
use crate::wal::batch::Started;
use crate::wal::history::History;

pub(super) struct House {
    pub(super) frames: mpsc::Sender<Batch>,
    pub(super) catalogs: mpsc::Sender<CatalogUpdate>,
    pub(super) readings: mpsc::Sender<SessionReading>,
    pub(super) in_force: watch::Receiver<Arc<Catalog>>,
    pub(super) handle: Handle,
    pub(super) progress: Arc<Progress>,
    pub(super) questions: mpsc::UnboundedReceiver<ByHand>,
    pub(super) running: tokio::task::JoinHandle<Result<(), Error>>,
}

impl House {
    pub(super) fn new(catalog: Catalog) -> House {
        House::watched(catalog, None)
    }

    pub(super) fn watched(catalog: Catalog, watcher: Option<WatcherHandle>) -> House {
        House::with(catalog, watcher, |_| {})
    }

    /// `prepare`: gives dispatch what only some tests need.
    pub(super) fn with(catalog: Catalog, watcher: Option<WatcherHandle>, prepare: impl FnOnce(&mut Dispatch)) -> House {
        let (frames, frames_out) = mpsc::channel(16);
        let (catalogs, catalogs_out) = mpsc::channel(16);
        let (readings, readings_out) = mpsc::channel(1);
        let (oracle, questions) = Oracle::by_hand();
        let progress = Arc::new(Progress::default());
        progress.received_to(Lsn(u64::MAX >> 1));
        let config = Config { publications: vec!["p".into()], ..Config::default() };
        let metrics = Arc::new(DispatchMetrics::default());
        let tracker = TaskTracker::new();
        let (mut dispatch, commands, handle) =
            Dispatch::new(config, metrics, oracle, Arc::clone(&progress), watcher, Arc::new(catalog), tracker);
        prepare(&mut dispatch);
        let in_force = dispatch.catalogs();
        let inputs = Inputs { frames: frames_out, catalogs: catalogs_out, readings: readings_out, commands };
        let running = tokio::spawn(dispatch.run(inputs, CancellationToken::new()));
        House { frames, catalogs, readings, in_force, handle, progress, questions, running }
    }

    pub(super) async fn settled(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn stream(&self, frames: impl IntoIterator<Item = Bytes>) {
        let data = |bytes| StreamFrame::Data { bytes, wal_start: Lsn(1) };
        self.frames.send(Batch::of(frames.into_iter().map(data).collect())).await.unwrap();
        self.settled().await;
    }

    pub(super) async fn reconnect(&self) {
        self.reconnect_after(None).await;
    }

    /// `lost`: the slot could not be had any more.
    pub(super) async fn reconnect_after(&self, lost: Option<(Lsn, Lsn)>) {
        self.reconnect_before(Lsn::ZERO, lost).await;
    }

    /// `wal_end`: how far the database is.
    pub(super) async fn reconnect_before(&self, wal_end: Lsn, lost: Option<(Lsn, Lsn)>) {
        let history = History { system_identifier: "7".into(), timeline: 1, switches: vec![] };
        let started = Started {
            generation: 2,
            system_identifier: "7".into(),
            timeline: 1,
            history: Arc::new(history),
            server_major: 15,
            confirmed: lost.map_or(Lsn(1), |(_, to)| to),
            wal_end,
            own_publication: true,
            messages: None,
            broadcast_key: None,
            lost,
        };
        let frames = vec![StreamFrame::Disconnected, StreamFrame::Started(started)];
        self.frames.send(Batch::of(frames)).await.unwrap();
        self.settled().await;
    }

    pub(super) async fn join(&self, client: &mut Client, role: &str, tables: &[&str]) {
        self.handle.subscribe(client.subscribe(identity(role, "me"), tables, Some("[reply]")));
        self.settled().await;
        let received = client.received();
        assert!(received.starts_with("[reply]") && received.contains("Subscribed to PostgreSQL"), "{received}");
    }

    pub(super) async fn keepalive(&self, wal_end: Lsn) {
        self.frames.send(Batch::of(vec![StreamFrame::KeepAlive { wal_end }])).await.unwrap();
        self.settled().await;
    }

    pub(super) async fn skip(&self, relation: RelationId) {
        let skipped = StreamFrame::SkippedFrame {
            wal_start: Lsn(5),
            tag: Some(b'I'),
            relation: Some(relation),
            subxid: None,
            bytes: 9,
        };
        self.frames.send(Batch::of(vec![skipped])).await.unwrap();
        self.settled().await;
    }

    pub(super) async fn poll(&self, catalog: Catalog, flush_lsn: u64) {
        self.poll_with(catalog, flush_lsn, "polled").await;
    }

    pub(super) async fn poll_with(&self, catalog: Catalog, flush_lsn: u64, fingerprint: &str) {
        let snapshot = "1000000:1000000:".parse().unwrap();
        let (flush_lsn, fingerprint) = (Lsn(flush_lsn), Some(fingerprint.into()));
        self.catalogs.send(CatalogUpdate { catalog, snapshot, flush_lsn, fingerprint }).await.unwrap();
        self.settled().await;
    }

    /// A session's reading for that version of the catalog, and its time zone by which it is told apart.
    pub(super) async fn read(&self, version: u64, lsn: u64, time_zone: &str) {
        let facts = Arc::new(SessionFacts { time_zone: time_zone.into(), ..SessionFacts::default() });
        let reading = SessionReading { version, lsn: Lsn(lsn), fingerprint: "read".into(), facts };
        self.readings.send(reading).await.unwrap();
        self.settled().await;
    }

    pub(super) fn session(&self) -> String {
        self.handle.catalog.load().session.time_zone.clone()
    }

    pub(super) fn question(&mut self) -> ByHand {
        self.questions.try_recv().expect("a question")
    }

    pub(super) async fn answer(&self, (question, reply): ByHand, verdict: Verdict) {
        reply.send(Ok(Answer::Verdicts(vec![verdict; question.rows.len()]))).unwrap();
        self.settled().await;
    }
}
