//! The relay's reader, catalog and dispatch in this process, with somebody who writes down what the database broadcasts in
//! the place of channels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use walcast::authz::{Oracle, TopicAuthority};
use walcast::catalog::loader;
use walcast::catalog::watcher::Watcher;
use walcast::channels::outbox::Burst;
use walcast::channels::{Broadcasted, Content, EventPayload, TopicKey};
use walcast::dispatch::broadcasts::BroadcastSink;
use walcast::dispatch::{Config, Dispatch, DispatchMetrics, Inputs};
use walcast::wal::{self, Conninfo, SlotMode, WalMetrics};

use super::relay::{PATIENCE, pause_between_polls};

/// A broadcast as channels would get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub private: bool,
    pub topic: String,
    pub event: String,
    pub payload: Vec<u8>,
    pub is_binary: bool,
    pub id: String,
}

impl Heard {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("a payload of JSON")
    }
}

struct Recorder {
    heard: mpsc::UnboundedSender<Heard>,
    /// Payloads above it are too large.
    payload_bytes_max: usize,
}

impl BroadcastSink for Recorder {
    fn broadcast(&self, topic: TopicKey<'_>, content: &Content<'_>, _: &mut Burst) -> Broadcasted {
        let Content::Event { event, payload, id } = *content else { panic!("the database sends events") };
        let (payload, is_binary) = match payload {
            EventPayload::Json(text) => (text, false),
            EventPayload::Binary(bytes) => (bytes, true),
        };
        if payload.len() > self.payload_bytes_max {
            return Broadcasted::TooLarge;
        }
        let heard = Heard {
            private: topic.private,
            topic: topic.subtopic.to_owned(),
            event: event.to_owned(),
            payload: payload.to_vec(),
            is_binary,
            id: id.expect("the row's id").to_owned(),
        };
        // A test that has ended hears nothing more.
        let _ = self.heard.send(heard);
        Broadcasted::To(1)
    }
}

pub struct Station {
    heard: mpsc::UnboundedReceiver<Heard>,
    pub metrics: Arc<DispatchMetrics>,
    pub carried: Arc<AtomicBool>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Station {
    /// Streams from a temporary slot, so that nothing is left in the shared cluster.
    pub async fn start(url: &str, authority: Option<Arc<dyn TopicAuthority>>) -> Station {
        Station::with_slot(SlotMode::Temporary, url, authority).await
    }

    pub async fn with_slot(mode: SlotMode, url: &str, authority: Option<Arc<dyn TopicAuthority>>) -> Station {
        let conninfo = Conninfo::parse(url).expect("a conninfo");
        let publications = vec!["supabase_realtime".to_owned()];
        let mut wal_config = wal::Config::new(conninfo.clone(), "supabase_realtime");
        wal_config.slot.name = format!("station_{}", conninfo.dbname);
        wal_config.slot.mode = mode;
        wal_config.own_publication = Some("walcast".to_owned());
        let (reader, handle, frames) = wal::reader(wal_config, WalMetrics::default().into());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (mut client, connection) = conninfo.connect().await.expect("a connection");
        tasks.spawn(async { drop(connection.await) });
        let loaded = loader::load(&mut client, &publications, None).await.expect("a catalog");
        let (updates, catalogs) = mpsc::channel(16);
        let (watcher, watcher_handle) = Watcher::new(conninfo, publications, updates, || {});
        tasks.spawn(watcher.run(stop.clone()));
        let metrics = Arc::new(DispatchMetrics::default());
        let progress = Arc::clone(handle.progress());
        let (mut dispatch, commands, _) = Dispatch::new(
            Config::default(),
            Arc::clone(&metrics),
            Oracle::absent(),
            progress,
            Some(watcher_handle),
            Arc::new(loaded.catalog),
            tasks.clone(),
        );
        let (sender, heard) = mpsc::unbounded_channel();
        let carried = Arc::new(AtomicBool::new(false));
        let recorder = Recorder { heard: sender, payload_bytes_max: 100_000 };
        dispatch.broadcast_with(Arc::new(recorder), Arc::clone(&carried));
        if let Some(authority) = authority {
            dispatch.authorize_broadcasts_with(authority);
        }
        let (_, readings) = mpsc::channel(1);
        tasks.spawn(dispatch.run(Inputs { frames, catalogs, readings, commands }, stop.clone()));
        tasks.spawn(reader.run(stop.clone()));
        let mut state = handle.state();
        let streaming = state.wait_for(|state| matches!(state, wal::ReaderState::Streaming { .. }));
        tokio::time::timeout(PATIENCE, streaming).await.expect("a stream").expect("a reader");
        Station { heard, metrics, carried, stop, tasks }
    }

    pub async fn until_carried(&self, carried: bool) {
        let arrived = async {
            while self.carried.load(Ordering::Relaxed) != carried {
                pause_between_polls().await;
            }
        };
        tokio::time::timeout(PATIENCE, arrived).await.expect("realtime.messages is carried, or not");
    }

    pub async fn next(&mut self) -> Heard {
        let heard = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
        heard.expect("a broadcast").expect("dispatch runs")
    }

    pub async fn until_counted(&self, reason: &'static str, times: u64) {
        let counted = async {
            while self.metrics.broadcasts.times(reason) < times {
                pause_between_polls().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, counted).await;
        waited.unwrap_or_else(|_| panic!("{reason} is counted {} times", self.metrics.broadcasts.times(reason)));
        assert_eq!(self.metrics.broadcasts.times(reason), times, "{reason}");
    }

    /// Ends it, and what it left unheard.
    pub async fn finish(mut self) -> Vec<Heard> {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(20), self.tasks.wait()).await.expect("every task ends");
        std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
    }
}
