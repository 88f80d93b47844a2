//! Clients that come back, with a stream and an oracle made by hand.

use super::tests::House;
use super::*;
use crate::authz::Identity;
use crate::catalog::watcher::ByHand;
use crate::channels::subscribe::SubscriptionSink;
use crate::dispatch::sample::*;
use crate::resume::store::Restored;
use crate::resume::{self, Ledger, ResumeMetrics};
use crate::wal::budget::SlotPressure;

fn person(sub: &str) -> Arc<Identity> {
    identity("member", sub)
}

async fn resuming(
    catalog: Catalog,
    watcher: Option<WatcherHandle>,
) -> (House, Arc<Ledger>, watch::Sender<SlotPressure>) {
    let metrics = ResumeMetrics::default();
    let ledger = Arc::new(Ledger::new(metrics.clone()));
    let (pressure, felt) = watch::channel(SlotPressure::default());
    let known = Arc::clone(&ledger);
    let house = House::with(catalog, watcher, |dispatch| {
        dispatch.resume_with(resume::Config::default(), known, metrics, Restored::default(), felt);
    });
    house.reconnect_after(None).await;
    (house, ledger, pressure)
}

/// DDL in the stretch that was lost is in no stream.
#[tokio::test(start_paused = true)]
async fn nothing_is_judged_by_a_catalog_from_before_what_was_lost() {
    let (watcher, mut requests) = ByHand::new();
    let (house, ..) = resuming(catalog(), Some(watcher)).await;
    let mut client = Client::new(1);
    house.handle.subscribe(client.subscribe(person("alice"), &["open"], Some("[reply]")));
    house.settled().await;
    house.reconnect_after(Some((Lsn(11), Lsn(20)))).await;
    house.stream(transaction(30, &[(OPEN, "1")])).await;
    assert!(client.rows().is_empty(), "the catalog may be another");
    requests.answer_load(altered(OPEN, |relation| relation.row_security = true), Lsn(25));
    house.settled().await;
    house.stream(transaction(40, &[(KEYLESS, "2")])).await;
    assert!(client.rows().is_empty(), "and it is");
}
