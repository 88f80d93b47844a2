//! What goes wrong, at random, one thing after the other while writers write and clients come and go.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::NoTls;

use super::plan::{Plan, Safeguard};
use super::stage::Stage;
use super::world::{Table, now_micros};
use super::writer::{Numbers, bulk};

/// What happened, and when: for the checker and for whoever reads its report.
#[derive(Default)]
pub struct Log {
    pub entries: Vec<(i64, String)>,
    /// The relay ended without writing anything down.
    pub kills: Vec<i64>,
    /// It was started again, and ready.
    pub starts: Vec<i64>,
    /// A column was made anew, about to be at least.
    pub altered: Vec<(i64, Table)>,
    /// The relay had no Postgres.
    pub dark: Vec<(i64, i64)>,
    /// What must not be, whatever clients got.
    pub faults: Vec<String>,
}

#[derive(Clone, Default)]
pub struct SharedLog(Arc<Mutex<Log>>);

impl SharedLog {
    pub fn say(&self, what: impl Into<String>) {
        self.with(|log| log.entries.push((now_micros(), what.into())));
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut Log) -> T) -> T {
        act(&mut self.0.lock().expect("nobody panics with it"))
    }

    pub fn take(&self) -> Log {
        self.with(std::mem::take)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    Silence,
    SlowDown,
    RelayTerm,
    RelayKill,
    RelayFreeze,
    PostgresFast,
    PostgresImmediate,
    Walsender,
    LineCut,
    LineStall,
    Column,
    Policy,
    Bulk,
    OpenTransaction,
}

/// How often each comes.
const FAULTS: [(Fault, u32); 15] = [
    (Fault::Cut, 6),
    (Fault::Silence, 3),
    (Fault::SlowDown, 2),
    (Fault::RelayTerm, 3),
    (Fault::RelayKill, 4),
    (Fault::RelayFreeze, 1),
    (Fault::PostgresFast, 2),
    (Fault::PostgresImmediate, 2),
    (Fault::Walsender, 3),
    (Fault::LineCut, 2),
    (Fault::LineStall, 2),
    (Fault::Column, 2),
    (Fault::Policy, 4),
    (Fault::Bulk, 2),
    (Fault::OpenTransaction, 2),
];

/// What a fast shutdown may take (as in tests/fault).
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

pub struct Trouble {
    pub stage: Stage,
    plan: Plan,
    random: StdRng,
    numbers: Numbers,
    log: SharedLog,
    columns: u32,
    /// What goes on beside the faults.
    beside: Vec<JoinHandle<()>>,
}

impl Trouble {
    pub fn new(stage: Stage, plan: Plan, numbers: Numbers, log: SharedLog) -> Trouble {
        let random = StdRng::seed_from_u64(plan.seed ^ 0x7000_0000);
        Trouble { stage, plan, random, numbers, log, columns: 0, beside: Vec::new() }
    }

    /// Until the time is over; then everything runs again.
    pub async fn go_on(&mut self) {
        let deadline = Instant::now() + self.plan.length;
        // Everybody is to have come.
        sleep(Duration::from_secs(4)).await;
        while Instant::now() < deadline {
            let pause = self.plan.fault_pause.mul_f64(self.random.random_range(0.3..1.7));
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            let fault = self.choose();
            self.cause(fault).await;
        }
        self.log.say("the end of all trouble");
        for task in self.beside.drain(..) {
            task.await.expect("what goes on beside does not panic");
        }
        self.stage.relay.until_ready().await;
    }

    fn choose(&mut self) -> Fault {
        let only: &[(Fault, u32)] = match self.plan.without {
            None => &FAULTS,
            Some(Safeguard::PermanentSlot) => &[(Fault::RelayKill, 3), (Fault::Cut, 2)],
            Some(Safeguard::Policies) => &[(Fault::Policy, 1)],
            Some(_) => &[(Fault::Cut, 1)],
        };
        let mut place = self.random.random_range(0..only.iter().map(|(_, weight)| weight).sum());
        for (fault, weight) in only {
            match place.checked_sub(*weight) {
                Some(rest) => place = rest,
                None => return *fault,
            }
        }
        unreachable!("it is less than the sum")
    }

    fn time(&mut self, from: f64, to: f64) -> Duration {
        Duration::from_secs_f64(self.random.random_range(from..to))
    }

    async fn cause(&mut self, fault: Fault) {
        let share = self.random.random_range(0.05..0.6);
        match fault {
            Fault::Cut => {
                let count = self.stage.network.cut(share, &mut self.random);
                self.log.say(format!("{count} connections are cut"));
            }
            Fault::Silence => {
                let time = self.time(0.5, 6.0);
                let count = self.stage.network.silence(share, time, &mut self.random);
                self.log.say(format!("{count} connections fall silent for {time:?}"));
            }
            Fault::SlowDown => {
                let (delay, time) = (self.time(0.01, 0.3), self.time(1.0, 8.0));
                let count = self.stage.network.slow_down(share, delay, time, &mut self.random);
                self.log.say(format!("{count} connections are {delay:?} late for {time:?}"));
            }
            Fault::RelayTerm => self.terminate_relay().await,
            Fault::RelayKill => self.kill_relay().await,
            Fault::RelayFreeze => {
                self.stage.relay.freeze();
                let time = self.time(0.2, 4.0);
                self.log.say(format!("the relay stands still for {time:?}"));
                sleep(time).await;
                self.stage.relay.thaw();
            }
            Fault::PostgresFast => self.restart_postgres("fast").await,
            Fault::PostgresImmediate => self.restart_postgres("immediate").await,
            Fault::Walsender => {
                let slot = self.stage.relay.slot.clone();
                let sql = format!(
                    "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}'"
                );
                self.try_sql("the walsender is killed", &sql).await;
            }
            Fault::LineCut | Fault::LineStall => {
                let (began, time) = (now_micros(), self.time(0.2, 5.0));
                self.log.say(format!("{fault:?} between relay and Postgres for {time:?}"));
                if fault == Fault::LineCut {
                    self.stage.line.cut()
                } else {
                    self.stage.line.stall()
                }
                sleep(time).await;
                self.stage.line.resume();
                self.log.with(|log| log.dark.push((began, now_micros())));
            }
            Fault::Column => {
                let table = Table::ALL[self.random.random_range(0..5)];
                self.columns += 1;
                let (name, column, began) = (table.name(), self.columns, now_micros());
                let sql = match column % 4 {
                    0 => format!("alter table {name} drop column if exists extra_{}", column - 2),
                    2 => format!("alter table {name} add column extra_{column} text default 'more'"),
                    _ => format!("alter table {name} drop column extra, add column extra text default 'made anew'"),
                };
                let is_done = self.try_sql(&sql, &format!("set lock_timeout = '2s'; {sql}")).await;
                if is_done && column % 2 == 1 {
                    self.log.with(|log| log.altered.push((began, table)));
                }
            }
            Fault::Policy => self.change_policy().await,
            Fault::Bulk => {
                let table = [Table::Plaza, Table::Notes, Table::Letters][self.random.random_range(0..3)];
                // Each letter is a question to Postgres for each person.
                let rows = if table == Table::Letters { self.plan.bulk_rows / 20 } else { self.plan.bulk_rows };
                let sql = bulk(&self.numbers, table, rows, &mut self.random);
                self.beside(format!("{rows} rows of {}", table.name()), vec![sql]);
            }
            Fault::OpenTransaction => {
                let time = self.time(1.0, 12.0);
                let some = |numbers: &Numbers, random: &mut StdRng| bulk(numbers, Table::Plaza, 20, random);
                let first = format!("begin; {}", some(&self.numbers, &mut self.random));
                let then = format!("{}; commit", some(&self.numbers, &mut self.random));
                let wait = format!("select pg_sleep({})", time.as_secs_f64());
                self.beside(format!("a transaction that is open for {time:?}"), vec![first, wait, then]);
            }
        }
    }

    async fn terminate_relay(&mut self) {
        let began = now_micros();
        self.stage.relay.terminate();
        let status = self.stage.relay.exit().await;
        self.log.say(format!("relay -TERM ({status} after {} ms)", (now_micros() - began) / 1000));
        if !status.success() {
            self.log.with(|log| log.faults.push(format!("the relay ended with {status} at -TERM")));
        }
        self.restart_relay().await;
    }

    async fn kill_relay(&mut self) {
        self.stage.relay.kill().await;
        self.log.with(|log| log.kills.push(now_micros()));
        self.log.say("relay -KILL");
        self.restart_relay().await;
    }

    async fn restart_relay(&mut self) {
        let time = self.time(0.0, 3.0);
        sleep(time).await;
        self.stage.relay.restart().await;
        self.log.with(|log| log.starts.push(now_micros()));
        self.log.say(format!("the relay is back after {time:?} and its start"));
    }

    async fn restart_postgres(&mut self, mode: &'static str) {
        let (began, cluster) = (now_micros(), Arc::clone(&self.stage.cluster));
        self.log.say(format!("Postgres stops, {mode}"));
        let time = self.time(0.0, 2.0);
        let stopped = tokio::task::spawn_blocking(move || {
            let stopped = cluster.stop(mode, SHUTDOWN_MAX);
            if stopped.is_err() {
                let _ = cluster.stop("immediate", SHUTDOWN_MAX);
            }
            std::thread::sleep(time);
            cluster.start_server().expect("it starts again");
            stopped
        });
        if let Err(error) = stopped.await.expect("it does not panic") {
            self.log.with(|log| log.faults.push(format!("a {mode} shutdown of Postgres was held up: {error}")));
        }
        self.stage.relay.until_ready().await;
        self.log.with(|log| log.dark.push((began, now_micros())));
        self.log.say("Postgres is back, and the relay ready");
    }

    async fn change_policy(&mut self) {
        let table = [Table::Notes, Table::Posts, Table::Letters][self.random.random_range(0..3)];
        let (name, wording) = (table.name(), self.random.random_range(0..4));
        let mut policy = table.policy(wording);
        if self.plan.without == Some(Safeguard::Policies) {
            policy = String::from("true");
        }
        let sql = format!(
            "set lock_timeout = '2s'; begin;
             alter policy readable on {name} using ({policy});
             insert into chronicle (relation, strict) values ('{name}', {});
             commit",
            wording > 1
        );
        self.try_sql(&format!("the policy of {name} becomes {policy}"), &sql).await;
    }

    /// Whether it was done.
    async fn try_sql(&self, what: &str, sql: &str) -> bool {
        let done = async {
            let (postgres, connection) = tokio_postgres::connect(&self.stage.url, NoTls).await?;
            tokio::spawn(connection);
            postgres.batch_execute(sql).await
        };
        match done.await {
            Ok(()) => self.log.say(what),
            Err(error) => {
                self.log.say(format!("{what}: not done, {error}"));
                return false;
            }
        }
        true
    }

    /// In a session of its own; a failure of Postgres is its end.
    fn beside(&mut self, what: String, statements: Vec<String>) {
        let (url, log) = (self.stage.url.clone(), self.log.clone());
        self.beside.retain(|task| !task.is_finished());
        self.beside.push(tokio::spawn(async move {
            log.say(format!("{what}: begun"));
            let Ok((postgres, connection)) = tokio_postgres::connect(&url, NoTls).await else { return };
            tokio::spawn(connection);
            for statement in statements {
                if postgres.batch_execute(&statement).await.is_err() {
                    return log.say(format!("{what}: failed"));
                }
            }
            log.say(format!("{what}: committed"));
        }));
    }
}
