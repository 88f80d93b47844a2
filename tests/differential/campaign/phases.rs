//! What goes on with the relay while transactions commit: it keeps up, it lags, it is restarted, a standby is slow.

use std::collections::HashSet;
use std::sync::Arc;

use rand::Rng;
use walcast::authz::{Plan, plan};
use walcast::catalog::{Relation, loader};
use walcast::demo::postgres::Cluster;

use super::audience::Audience;
use super::history::{Taken, Transaction};
use super::judge::{Committed, Rows, Rule, judge};
use super::persons::Person;
use super::tables::Table;
use super::tally::{Deciders, Tally};
use super::truth::Keys;
use super::world::{Compiled, World, new_keys};
use crate::support::database::connect;
use crate::support::relay::pause_between_polls;
use crate::support::scene::{execute, until};

/// A policy may have come to need Postgres: who waits for it gives up.
const SETTLE_MAX: usize = 50;

impl World {
    /// The relay keeps up: each transaction is judged before the next.
    pub(super) async fn live(&mut self, transactions: usize, tally: &mut Tally) {
        for _ in 0..transactions {
            if self.rng.random_bool(0.9) {
                self.settle(tally).await;
            }
            let transaction = self.draft(&mut Taken::default(), tally).await;
            let committed =
                self.commit(transaction, async |world, sql| execute(&world.database.client, &sql).await).await;
            self.judge_all(vec![committed], "live", tally).await;
        }
    }

    /// After DDL Postgres is asked until function bodies and tables have been read again: here it is waited until a policy
    /// that needs both is decided in-process.
    pub(super) async fn settle(&mut self, tally: &mut Tally) {
        for _ in 0..SETTLE_MAX {
            let probe =
                Transaction { statements: vec!["insert into probes default values".into()], ..Transaction::default() };
            let committed = self.commit(probe, async |world, sql| execute(&world.database.client, &sql).await).await;
            self.audience.until(committed.mark).await;
            // Some may be left whose role has no grants on the members.
            let deciders = self.deciders("settling", tally).await;
            if deciders.here > 0.0 && deciders.left_open == 0.0 {
                return;
            }
            pause_between_polls().await;
        }
    }

    /// The relay stands still while transactions commit, and then goes through all of them.
    pub(super) async fn lagging(&mut self, transactions: usize, tally: &mut Tally) {
        self.is_quiet = self.rng.random_bool(0.75);
        if self.rng.random_bool(0.9) {
            self.settle(tally).await;
        }
        self.relay.freeze();
        // In half of the lags no row is changed twice, so that later moments can be asked about it.
        let once = self.rng.random_bool(0.5);
        let mut taken = Taken::default();
        let mut burst: Vec<Committed> = Vec::new();
        for _ in 0..transactions {
            if !once {
                taken.clear();
            }
            let transaction = self.draft(&mut taken, tally).await;
            let committed =
                self.commit(transaction, async |world, sql| execute(&world.database.client, &sql).await).await;
            if self.asks_postgres {
                self.ask_again(&mut burst, &committed.transaction).await;
            }
            if committed.transaction.has_ddl {
                burst.iter_mut().for_each(|earlier| earlier.ddl_follows = true);
            }
            burst.push(committed);
        }
        self.is_quiet = false;
        self.relay.thaw();
        self.judge_all(burst, "lagging", tally).await;
    }

    /// What is shown now of the rows of earlier transactions that are still as those left them.
    async fn ask_again(&self, burst: &mut [Committed], transaction: &Transaction) {
        let changed: Rows = transaction
            .changes
            .iter()
            .flat_map(|change| [change.old, change.new].into_iter().flatten().map(|key| (change.table, key)))
            .collect();
        // A row is as at most one of them left it.
        let mut all = Keys::new();
        let mut rows_of_each = Vec::new();
        for earlier in burst.iter() {
            let was = |row: &(usize, i64)| earlier.later.last().is_none_or(|(rows, _)| rows.contains(row));
            let keys = new_keys(&earlier.transaction);
            let rows = keys.iter().flat_map(|(table, keys)| keys.iter().map(|key| (*table, *key)));
            let rows: Rows = rows.filter(|row| was(row) && !changed.contains(row)).collect();
            rows.iter().for_each(|(table, key)| all.entry(*table).or_default().push(*key));
            rows_of_each.push(rows);
        }
        let shown = Arc::new(self.truth.shown(&self.persons, &self.tables, &all).await);
        for (earlier, rows) in burst.iter_mut().zip(rows_of_each) {
            earlier.later.push((rows, Arc::clone(&shown)));
        }
    }

    /// The relay ends, in peace or not; DDL and rows go on without it; another one goes on from there.
    pub(super) async fn restarted(&mut self, transactions: usize, tally: &mut Tally) {
        if self.rng.random_bool(0.5) {
            self.relay.terminate();
            // It would wait for them.
            tally.system_messages += self.audience.hang_up();
            self.relay.exit().await;
        } else {
            self.relay.kill().await;
        }
        for _ in 0..transactions {
            let transaction = self.draft(&mut Taken::default(), tally).await;
            self.commit(transaction, async |world, sql| execute(&world.database.client, &sql).await).await;
        }
        for sql in self.put_all_back(tally) {
            execute(&self.database.client, &sql).await;
        }
        tally.system_messages += self.audience.hang_up();
        self.relay.restart().await;
        self.deciders = Deciders::default();
        self.audience = Audience::join(&self.relay, &self.persons, &self.tables).await;
        // Up to this mark it is history: what of it is still delivered is for those who ask for no more than the rest.
        let committed =
            self.commit(Transaction::after_ddl(), async |world, sql| execute(&world.database.client, &sql).await).await;
        self.audience.until(committed.mark).await;
        self.compiled = compiled(&self.database.url, &self.persons, &self.tables).await;
        self.deciders("restart", tally).await;
        *tally.modes.entry("restarts").or_default() += 1;
    }

    /// Commits wait for a standby: the relay has read them long before anybody can see them.
    pub(super) async fn beside_standby(&mut self, cluster: &Cluster, transactions: usize, tally: &mut Tally) {
        for _ in 0..transactions {
            if self.rng.random_bool(0.9) {
                self.settle(tally).await;
            }
            let transaction = self.draft(&mut Taken::default(), tally).await;
            let admin = connect(&cluster.url("postgres", "postgres")).await;
            wait_for_standby(&admin, "late").await;
            let committed = self
                .commit(transaction, async |world, sql| {
                    let writer = Arc::clone(&world.late_writer);
                    let commit = tokio::spawn(async move { execute(&writer, &sql).await });
                    let waits = "select exists (select from pg_stat_activity where wait_event = 'SyncRep')";
                    while !commit.is_finished() {
                        if world.database.client.query_one(waits, &[]).await.expect("an answer").get(0) {
                            world.until_streamed().await;
                            break;
                        }
                        pause_between_polls().await;
                    }
                    wait_for_standby(&admin, "").await;
                    commit.await.expect("the commit returns without the standby");
                })
                .await;
            self.judge_all(vec![committed], "standby", tally).await;
        }
    }

    /// Waits until all that is in the WAL was sent to the relay.
    async fn until_streamed(&self) {
        let postgres = &self.database.client;
        let flushed = postgres.query_one("select pg_current_wal_flush_lsn()::text", &[]).await.expect("a position");
        let flushed: String = flushed.get(0);
        let sent = format!(
            "select sent_lsn >= '{flushed}' from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
             where slot_name = '{}'",
            self.relay.slot
        );
        until(postgres, &sent).await;
    }

    /// A role changes: the relay's poll finds it within a second, and from then on it counts.
    pub(super) async fn roles_change(&mut self, tally: &mut Tally) {
        let sql = self.roles.choose(&mut self.rng);
        let before = self.relay.metric("roles_version").await;
        execute(&self.database.client, sql).await;
        let committed =
            self.commit(Transaction::after_ddl(), async |world, sql| execute(&world.database.client, &sql).await).await;
        self.judge_all(vec![committed], "roles", tally).await;
        self.relay.until_metric("roles_version", |version| version > before).await;
        *tally.ddl.entry("roles").or_default() += 1;
    }

    /// Somebody has a new token: it counts from the next change on.
    pub(super) async fn claims_change(&mut self) {
        let number = self.rng.random_range(0..self.persons.len());
        self.persons[number].renew(&mut self.rng);
        self.audience.renew(number, &self.persons[number]).await;
    }

    /// What everybody was sent, against what Postgres said.
    async fn judge_all(&mut self, transactions: Vec<Committed>, mode: &'static str, tally: &mut Tally) {
        let mut heard = Vec::new();
        for committed in &transactions {
            heard.push(self.audience.until(committed.mark).await);
        }
        let deciders = self.deciders(mode, tally).await;
        let undecided = deciders.undecided > 0.0;
        self.asks_postgres |= deciders.asked_postgres();
        let otherwise = if mode == "lagging" { Rule::AskedLater } else { Rule::AskedAtOnce };
        let before = Arc::clone(&self.compiled);
        if transactions.iter().any(|committed| committed.transaction.may_change_plans()) {
            self.compiled = compiled(&self.database.url, &self.persons, &self.tables).await;
        }
        let after = &self.compiled;
        // Before and after: DDL in between may have made it another.
        let is_compiled = |pair: &(usize, &str)| before.contains(pair) && after.contains(pair);
        let rule = |table: usize, role: &'static str| {
            let in_process = !deciders.asked_postgres() || (deciders.left_open == 0.0 && is_compiled(&(table, role)));
            if in_process { Rule::AsOfCommit } else { otherwise }
        };
        for (committed, heard) in transactions.iter().zip(heard) {
            let context = format!("{}, {mode}, mark {}", self.label, committed.mark);
            judge(committed, heard, (&self.persons, &self.tables), (&rule, undecided), tally, &context);
            tally.transactions += 1;
            *tally.modes.entry(mode).or_default() += committed.transaction.changes.len() * self.persons.len();
        }
    }
}

/// The tables and roles whose policies are decided in-process.
pub(super) async fn compiled(url: &str, persons: &[Person], tables: &[Table]) -> Compiled {
    let mut client = connect(url).await;
    let loaded = loader::load(&mut client, &["supabase_realtime".to_owned()], None).await.expect("the catalog");
    let catalog = loaded.catalog;
    let roles: HashSet<&'static str> = persons.iter().map(|person| person.role).collect();
    let mut compiled = HashSet::new();
    for (number, table) in tables.iter().enumerate() {
        let named = |relation: &&Arc<Relation>| relation.schema == "public" && relation.name == table.name;
        let relation = catalog.relations.values().find(named).expect("a published table");
        for name in &roles {
            let role = catalog.roles.get(name).expect("a person's role");
            if !matches!(plan(&catalog, relation, role), Plan::Oracle(_)) {
                compiled.insert((number, *name));
            }
        }
    }
    Arc::new(compiled)
}

/// Whether commits wait for a standby that is not there.
async fn wait_for_standby(admin: &tokio_postgres::Client, name: &str) {
    execute(admin, &format!("alter system set synchronous_standby_names = '{name}'")).await;
    execute(admin, "select pg_reload_conf()").await;
}
