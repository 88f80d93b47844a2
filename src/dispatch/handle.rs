//! How channels reach dispatch.
//!
//! A subscribe is acknowledged by dispatch itself: it pushes the join reply once the subscription is active, so that no
//! event of the channel can stand before it. Only where Postgres must word or canonicalise a filter's value, or a table
//! is not known yet, something is awaited first, in a task of the channel's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::subscribers::{Bind, bind};
use crate::authz::{CastFailure, Oracle, TopicAuthority, TopicError, TopicGrant, TopicQuestion};
use crate::catalog::Catalog;
use crate::catalog::watcher::WatcherHandle;
use crate::causes::with_causes;
use crate::channels::subscribe::{ChannelId, Subscribe, SubscriptionSink};
use crate::routing::{Bound, CastError, Casts};
use crate::wal::Lsn;

/// What dispatch is told.
pub enum Command {
    /// What waited for Postgres may come later than what a client sent after it: the number says which one holds.
    Subscribe {
        subscribe: Box<Subscribe>,
        casts: Arc<Casts>,
        number: u64,
    },
    Unsubscribe(ChannelId),
    /// May somebody use a private channel?
    Topic {
        question: Box<TopicQuestion>,
        reply: oneshot::Sender<Result<TopicGrant, TopicError>>,
    },
}

/// Cheap to clone; every connection has one.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) catalog: Arc<ArcSwap<Catalog>>,
    pub(super) oracle: Oracle,
    pub(super) watcher: Option<WatcherHandle>,
    /// Everything committed before it has been dispatched under the catalog that is published.
    pub(super) position: watch::Receiver<Lsn>,
    pub(super) tracker: TaskTracker,
    pub(super) no_casts: Arc<Casts>,
    /// Counts subscribes as they are asked for.
    pub(super) numbers: Arc<AtomicU64>,
}

/// How long a join may wait until the stream has come as far as the database was when it asked.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);

impl SubscriptionSink for Handle {
    fn subscribe(&self, subscribe: Subscribe) {
        self.subscribe_as(subscribe, self.numbers.fetch_add(1, Ordering::Relaxed));
    }

    fn unsubscribe(&self, channel: ChannelId) {
        // The receiver ends only with the process.
        let _ = self.commands.send(Command::Unsubscribe(channel));
    }
}

impl TopicAuthority for Handle {
    fn ask(&self, question: TopicQuestion) -> oneshot::Receiver<Result<TopicGrant, TopicError>> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Topic { question: Box::new(question), reply });
        answer
    }
}

impl Handle {
    /// `number` says which of a channel's subscribes holds, whatever the order in which they arrive.
    pub(super) fn subscribe_as(&self, subscribe: Subscribe, number: u64) {
        let catalog = self.catalog.load();
        let bound = bind(&subscribe.bindings, &catalog, &subscribe.identity.role, &self.no_casts);
        if matches!(bound, Bind::Ready(_)) {
            self.send(subscribe, Arc::clone(&self.no_casts), number);
            return;
        }
        let handle = self.clone();
        self.tracker.spawn(async move { handle.prepare(subscribe, number).await });
    }

    fn send(&self, subscribe: Subscribe, casts: Arc<Casts>, number: u64) {
        let _ = self.commands.send(Command::Subscribe { subscribe: Box::new(subscribe), casts, number });
    }

    /// The slow path: a table that the catalog does not know yet, or values that only Postgres can judge.
    async fn prepare(self, subscribe: Subscribe, number: u64) {
        let refused = {
            let catalog = self.catalog.load();
            matches!(
                bind(&subscribe.bindings, &catalog, &subscribe.identity.role, &self.no_casts),
                Bind::Refused { .. }
            )
        };
        if refused {
            self.catch_up().await;
        }
        let casts = self.casts(&subscribe).await;
        self.send(subscribe, Arc::new(casts), number);
    }

    /// A table added a moment ago is in the database but not yet in the stream: wait for the stream (PROTOCOL 4.9: a
    /// binding made after the ADD works at once).
    async fn catch_up(&self) {
        let Some(watcher) = &self.watcher else { return };
        let arrived = async {
            if let Some(flushed) = watcher.flush_lsn().await {
                let _ = self.position.clone().wait_for(|position| *position >= flushed).await;
            }
        };
        let _ = tokio::time::timeout(CATCH_UP_MAX, arrived).await;
    }

    async fn casts(&self, subscribe: &Subscribe) -> Casts {
        let mut casts = Casts::default();
        let mut wanted = Vec::new();
        {
            let catalog = self.catalog.load();
            for (_, item) in &subscribe.bindings {
                let Ok(binding) = item else { continue };
                let bound = crate::routing::bind(binding, &catalog, &subscribe.identity.role, &casts);
                if let Bound::NeedsCasts(requests) = bound {
                    wanted.extend(requests);
                }
            }
        }
        for request in wanted {
            let role = &subscribe.identity.role;
            let answer = self.oracle.cast(role, &request).await.map_err(|failure| match failure {
                CastFailure::Refused(error) => error,
                CastFailure::Unanswered(error) => {
                    CastError { sqlstate: "XX000".to_owned(), message: with_causes(&error) }
                }
            });
            casts.insert(request, answer);
        }
        casts
    }
}
