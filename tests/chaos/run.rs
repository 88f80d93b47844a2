//! A run from beginning to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::{Client as Postgres, NoTls};

use super::checker::{Checker, name};
use super::client::{Client, Phase, Shared, last_row};
use super::diary::Diary;
use super::plan::Plan;
use super::report::{Report, Wrong};
use super::stage::Stage;
use super::trouble::{Log, SharedLog, Trouble};
use super::truth::Truth;
use super::world::{ChangeId, Operation, Table, now_micros};
use super::writer::{Numbers, Writer, tick};

/// How long clients may take to come back when all is well, and to read what is left.
const RETURN: Duration = Duration::from_secs(60);

pub struct Outcome {
    pub report: Report,
    pub log: Log,
    pub began: i64,
    pub relay_log: String,
}

pub async fn run(plan: Plan) -> Outcome {
    let began = now_micros();
    let stage = Stage::build(&plan).await;
    let (url, network, log) = (stage.url.clone(), stage.network.clone(), SharedLog::default());
    let (phase, in_phase) = watch::channel(Phase::Run);
    let (settled, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let shared = Arc::new(Shared { plan: plan.clone(), network, phase: in_phase, settled, finished });
    let clients: Vec<JoinHandle<Diary>> =
        (0..plan.clients).map(|number| tokio::spawn(Client::new(number, Arc::clone(&shared)).live())).collect();

    let (go_on, may_go_on) = watch::channel(true);
    let numbers = Numbers::default();
    let mut writers = vec![tokio::spawn(tick(url.clone(), numbers.clone(), may_go_on.clone()))];
    for number in 0..plan.writers as u64 {
        let writer = Writer::new(plan.seed ^ number << 32, numbers.clone(), plan.pace);
        writers.push(tokio::spawn(writer.write_on(url.clone(), may_go_on.clone())));
    }
    let truth = tokio::spawn(read_truth(url.clone(), may_go_on));

    let mut trouble = Trouble::new(stage, plan.clone(), numbers, log.clone());
    trouble.go_on().await;
    phase.send_replace(Phase::Settle);
    until_all(&shared.settled, plan.clients).await;
    go_on.send_replace(false);
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
    let postgres = trouble.stage.postgres().await;
    postgres.batch_execute(&last_row()).await.expect("the last row");
    log.say("the last row");
    if !until_all(&shared.finished, plan.clients).await {
        let (_, metrics) = trouble.stage.relay.get("/metrics").await.expect("the relay answers");
        let metrics = metrics.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
        log.say(format!("not everybody has got it; the relay's metrics:\n{}", metrics.collect::<Vec<_>>().join("\n")));
    }
    phase.send_replace(Phase::End);
    let mut diaries = Vec::new();
    for client in clients {
        diaries.push(client.await.expect("a client does not panic"));
    }
    let mut truth = truth.await.expect("the truth is read");
    while truth.read_on(&postgres).await.expect("Postgres runs") {}
    truth.finish();

    let (log, mut report) = (log.take(), Report::default());
    report.transactions = truth.transactions.len();
    report.changes = truth.changes.len();
    let checker = Checker { truth: &truth, plan: &plan, log: &log };
    for diary in &diaries {
        checker.check(diary, &mut report);
        if let Some(what) = stuck(diary) {
            report.add(Wrong::Stuck, now_micros(), what);
        }
    }
    for fault in &log.faults {
        report.add(Wrong::Other, now_micros(), fault.clone());
    }
    audit(&postgres, &truth, &mut report).await;
    Outcome { report, log, began, relay_log: trouble.stage.relay.log() }
}

/// Until all clients have done it, or for as long as it may take: who has not is reported.
async fn until_all(count: &AtomicUsize, clients: usize) -> bool {
    let deadline = Instant::now() + RETURN;
    while count.load(Ordering::Relaxed) < clients && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    count.load(Ordering::Relaxed) >= clients
}

fn stuck(diary: &Diary) -> Option<String> {
    let last = ChangeId::new(Table::Ticks, Operation::Insert, super::client::LAST, 0);
    let stint = diary.stints.last();
    let has_it = stint.is_some_and(|stint| stint.got.iter().any(|got| got.change == last));
    let what = || {
        let stint =
            stint.map(|stint| (stint.joined_at, stint.got.len(), &stint.notices, stint.replies.len(), &stint.end));
        format!("{} did not get the last row; its last stint: {stint:?}", name(diary))
    };
    (!has_it).then(what)
}

/// Reads along, so that the slot holds back little; through all failures of Postgres.
async fn read_truth(url: String, go_on: watch::Receiver<bool>) -> Truth {
    let mut truth = Truth::default();
    while *go_on.borrow() {
        if let Ok((postgres, connection)) = tokio_postgres::connect(&url, NoTls).await {
            tokio::spawn(connection);
            while *go_on.borrow() && truth.read_on(&postgres).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
    truth
}

/// The truth itself is checked by what the writers' transactions noted down.
async fn audit(postgres: &Postgres, truth: &Truth, report: &mut Report) {
    let rows = postgres.query("select relation, operation, n, v from audit", &[]).await.expect("the audit");
    let mut noted = 0;
    for row in &rows {
        let (table, operation) = (Table::named(row.get(0)), Operation::named(row.get(1)));
        let v: i32 = row.get(3);
        let id = ChangeId::new(table.expect("ours"), operation.expect("one"), row.get(2), i64::from(v));
        noted += 1;
        if !truth.places.contains_key(&id) {
            report.add(Wrong::Other, now_micros(), format!("{id:?} was committed and is not in the stream"));
        }
    }
    if noted != truth.changes.len() {
        let what = format!("{noted} changes were committed, {} were streamed", truth.changes.len());
        report.add(Wrong::Other, now_micros(), what);
    }
}
