//! The task that measures the slot, over an ordinary connection, and tells how near to its budget it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::Lsn;
use super::budget::{Rung, SlotPressure};
use super::conninfo::Conninfo;
use super::error::Error;
use super::metrics::WalMetrics;
use super::pins::Pin;
use super::reader::Handle;
use super::slot::{self, SlotConfig, SlotInfo};

/// A server writes some hundred megabytes of WAL a second at the most: a quarter of the default budget is enough to let
/// go in time. The question costs it a fraction of a millisecond.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often the same trouble is logged.
const WORDS_APART: Duration = Duration::from_secs(60);
/// How often a culprit is, who may come and go.
const NEWS_APART: Duration = Duration::from_secs(5);
/// How often the reader is asked to begin anew: a slot that is made anew needs time to be one.
const DROPS_APART: Duration = Duration::from_secs(10);

/// The task. Lives as long as the relay, across restarts of the server.
pub struct BudgetWatch {
    conninfo: Conninfo,
    slot: SlotConfig,
    metrics: Arc<WalMetrics>,
    reader: Handle,
    pressure: watch::Sender<SlotPressure>,
    last_word: Option<Instant>,
    asked_to_drop: Option<Instant>,
    /// Where the slot was confirmed to when it was last measured.
    confirmed: Option<Lsn>,
    /// The last word named a culprit.
    has_named: bool,
}

impl BudgetWatch {
    pub fn new(
        conninfo: Conninfo,
        slot: SlotConfig,
        metrics: Arc<WalMetrics>,
        reader: Handle,
    ) -> (BudgetWatch, watch::Receiver<SlotPressure>) {
        let (pressure, receiver) = watch::channel(SlotPressure::default());
        let (last_word, asked_to_drop, confirmed) = (None, None, None);
        let has_named = false;
        let task =
            BudgetWatch { conninfo, slot, metrics, reader, pressure, last_word, asked_to_drop, confirmed, has_named };
        (task, receiver)
    }

    pub async fn run(mut self, abandon: CancellationToken) {
        let mut last_error: Option<Instant> = None;
        loop {
            let watched = tokio::select! {
                () = abandon.cancelled() => return,
                watched = self.watch() => watched,
            };
            if let Err(error) = watched
                && last_error.is_none_or(|word| word.elapsed() > WORDS_APART)
            {
                last_error = Some(Instant::now());
                tracing::warn!(error = error.chain(), "the slot cannot be measured; trying again");
            }
            tokio::select! {
                () = abandon.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Over one connection, until it fails.
    async fn watch(&mut self) -> Result<(), Error> {
        let (client, connection) = self.conninfo.connect().await?;
        let _ends_with_the_client = tokio::spawn(connection);
        loop {
            self.measure(&client).await?;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Has the server write down what may be forgotten, if it can be asked to (16 and newer, where the login may): it does so
    /// every 15 seconds by itself, and a busy server fills a small budget in that time.
    async fn ask_to_look(&self, client: &Client) -> Result<(), Error> {
        let may = "SELECT pg_catalog.to_regprocedure('pg_catalog.pg_log_standby_snapshot()') IS NOT NULL AND \
             pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('pg_catalog.pg_log_standby_snapshot()'), 'EXECUTE')";
        if client.query_one(may, &[]).await?.try_get(0)? {
            client.batch_execute("SELECT pg_catalog.pg_log_standby_snapshot()").await?;
        }
        Ok(())
    }

    async fn measure(&mut self, client: &Client) -> Result<(), Error> {
        let pressure = match self.metrics.read_slot(client, &self.slot.name).await? {
            // Being made, or made anew.
            None => {
                let (slot, pressure) = (SlotInfo::default(), SlotPressure::default());
                self.metrics.pressure(&slot, &pressure, &[], &self.slot.budget);
                pressure
            }
            Some(slot) => {
                let mut pressure = SlotPressure::of(&slot, &[], &self.slot.budget);
                let mut pins = Vec::new();
                let mut may_drop = false;
                if pressure.rung > Rung::Within {
                    let open = slot::open_transactions(client).await?;
                    pins = slot::culprits(&open, &slot);
                    may_drop = pins.is_empty() && Pin::in_the_way(&open).is_empty();
                    pressure = SlotPressure::of(&slot, &pins, &self.slot.budget);
                    pressure.rung = self.pressure.borrow().rung.then(pressure.rung);
                    if pins.is_empty() {
                        self.ask_to_look(client).await?;
                    }
                }
                self.metrics.pressure(&slot, &pressure, &pins, &self.slot.budget);
                // A relay that reads on frees WAL as it goes, and is soon below: one that stands still is not.
                let before = self.confirmed.replace(slot.confirmed_flush_lsn);
                let stands_still = before == Some(slot.confirmed_flush_lsn);
                let is_over = pressure.rung == Rung::Exceeded && self.slot.drops_over_budget;
                if is_over && may_drop && stands_still && pressure.trails() {
                    self.begin_anew();
                }
                pressure
            }
        };
        self.tell(&pressure);
        self.pressure.send_replace(pressure);
        Ok(())
    }

    /// A rise at once, a culprit soon after he is known, what stays so once a minute.
    fn tell(&mut self, pressure: &SlotPressure) {
        let before = self.pressure.borrow().rung;
        if pressure.rung == Rung::Within {
            if before > Rung::Within {
                tracing::info!(slot = self.slot.name, "the slot is within its budget again");
            }
            return;
        }
        let has_news = pressure.culprit.is_some() && !self.has_named;
        let apart = if has_news { NEWS_APART } else { WORDS_APART };
        if pressure.rung <= before && self.last_word.is_some_and(|word| word.elapsed() < apart) {
            return;
        }
        (self.last_word, self.has_named) = (Some(Instant::now()), pressure.culprit.is_some());
        let SlotPressure { rung, retained_bytes, retained_bytes_max, lag_bytes, catalog_xmin_age, culprit } = pressure;
        let advice = match (culprit, rung) {
            (Some(_), _) => "the culprit is outside of walcast: end that transaction, or wait for it; walcast cannot",
            (None, Rung::Warn) => "walcast is behind, or the server has not looked lately: see walcast slot show",
            (None, Rung::GiveUpPromises) => "promises of resume are given up, so that the slot can move on",
            (None, _) if self.slot.drops_over_budget => {
                "unless it is soon below, the slot is dropped and made anew (--slot-over-budget)"
            }
            (None, _) => "the slot is read on (--slot-over-budget wait): see walcast slot show",
        };
        tracing::warn!(
            slot = self.slot.name,
            ?rung,
            retained_bytes,
            retained_bytes_max,
            lag_bytes,
            catalog_xmin_age,
            catalog_xmin_age_max = self.slot.budget.catalog_xmin_age_max,
            culprit,
            "the slot nears its budget, or is above it: {advice}"
        );
    }

    /// The reader drops a slot that is over its budget whenever it begins a stream.
    fn begin_anew(&mut self) {
        if self.asked_to_drop.is_none_or(|asked| asked.elapsed() > DROPS_APART) {
            self.asked_to_drop = Some(Instant::now());
            self.reader.reconnect();
        }
    }
}
