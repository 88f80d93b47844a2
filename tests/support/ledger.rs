//! A table of numbered rows, each with an owner, and three subscribers who must get exactly what is theirs, in order,
//! once, whatever breaks in the meantime. What that is, Postgres says.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client as Postgres, NoTls};

use super::client::{Client, all_of};
use super::people::{ALICE, BOB, alice, anon, bob};
use super::relay::Relay;

/// Odd rows are Alice's, even ones Bob's; `marks` is open to all and gets each number too, in the same transaction.
pub const LEDGER: &str = "
    create table ledger (n bigint primary key, owner uuid not null, note text not null default 'a note');
    alter table ledger enable row level security;
    alter table ledger replica identity full;
    create policy own on ledger for select to authenticated using (owner = auth.uid());
    create table marks (n bigint primary key);
    grant select on ledger, marks to anon, authenticated, service_role;
    alter publication supabase_realtime add table ledger, marks;";

/// Writes the next `count` rows, a transaction each.
pub async fn write(postgres: &Postgres, count: usize) {
    for _ in 0..count {
        write_one(postgres).await.expect("a row of the ledger");
    }
}

async fn write_one(postgres: &Postgres) -> Result<(), tokio_postgres::Error> {
    let owners = format!("case when n % 2 = 1 then '{ALICE}'::uuid else '{BOB}'::uuid end");
    let sql = format!(
        "with next as (select coalesce(max(n), 0) + 1 as n from marks),
              entry as (insert into ledger (n, owner) select n, {owners} from next)
         insert into marks select n from next"
    );
    postgres.batch_execute(&sql).await
}

/// Writes on and on, a row every few milliseconds, also through failures of Postgres.
pub struct Writer {
    go_on: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Writer {
    pub fn start(url: &str) -> Writer {
        let (go_on, may_go_on) = watch::channel(true);
        let task = tokio::spawn(write_through_failures(url.to_owned(), may_go_on));
        Writer { go_on, task }
    }

    pub async fn stop(self) {
        self.go_on.send_replace(false);
        self.task.await.expect("the writer does not panic");
    }
}

async fn write_through_failures(url: String, go_on: watch::Receiver<bool>) {
    // A load, not a race: the relay is to have a backlog, not to drown in it.
    let mut pace = tokio::time::interval(Duration::from_millis(4));
    while *go_on.borrow() {
        pace.tick().await;
        let Ok((postgres, connection)) = tokio_postgres::connect(&url, NoTls).await else { continue };
        let connection = tokio::spawn(connection);
        while *go_on.borrow() && write_one(&postgres).await.is_ok() {
            pace.tick().await;
        }
        drop(postgres);
        let _ = connection.await;
    }
}

/// Alice and Bob at `ledger`, somebody without a name at `marks`.
pub struct Subscribers {
    pub alice: Client,
    pub bob: Client,
    pub anon: Client,
    /// Up to here everything has been looked at.
    seen: i64,
}

impl Subscribers {
    /// Subscribed; what was written before is none of their business.
    pub async fn join(relay: &Relay, postgres: &Postgres) -> Subscribers {
        let mut alice = Client::connect(relay, &alice()).await;
        let mut bob = Client::connect(relay, &bob()).await;
        let mut anon = Client::connect(relay, &anon()).await;
        for client in [&mut alice, &mut bob] {
            client.subscribe("ledger", serde_json::json!([all_of("ledger")])).await;
        }
        anon.subscribe("marks", serde_json::json!([all_of("marks")])).await;
        Subscribers { alice, bob, anon, seen: last(postgres).await }
    }

    /// Each has got, or gets now, exactly what was written since the last time.
    pub async fn expect_all(&mut self, postgres: &Postgres) {
        let question = "select n, owner::text from ledger where n > $1 order by n";
        let rows = postgres.query(question, &[&self.seen]).await.expect("the ledger");
        for row in &rows {
            let (n, owner): (i64, String) = (row.get(0), row.get(1));
            let owners_client = if owner == ALICE { &mut self.alice } else { &mut self.bob };
            expect_row(owners_client, n).await;
            expect_row(&mut self.anon, n).await;
            self.seen = n;
        }
    }

    /// As above, and a last row proves that nobody has got more.
    pub async fn expect_all_and_no_more(&mut self, postgres: &Postgres) {
        self.expect_all(postgres).await;
        write(postgres, 2).await;
        self.expect_all(postgres).await;
    }

    /// The numbers that each was sent and that nobody has looked at: after a close, all there will be.
    pub fn rest(&mut self) -> Rest {
        let numbers = |client: &mut Client| {
            let messages = client.rest();
            let changes = messages.iter().filter(|message| message.event == "postgres_changes");
            changes.map(|change| change.payload["data"]["record"]["n"].as_i64().expect("a number")).collect()
        };
        Rest { alice: numbers(&mut self.alice), bob: numbers(&mut self.bob), anon: numbers(&mut self.anon) }
    }
}

/// What was left of each subscriber's events.
pub struct Rest {
    pub alice: Vec<i64>,
    pub bob: Vec<i64>,
    pub anon: Vec<i64>,
}

async fn expect_row(client: &mut Client, n: i64) {
    let change = client.next_change().await;
    if change.operation() != "INSERT" || change.record()["n"] != n {
        client.fail(&format!("expected row {n}, got {}", change.data));
    }
}

/// The highest number written.
pub async fn last(postgres: &Postgres) -> i64 {
    postgres.query_one("select coalesce(max(n), 0) from marks", &[]).await.expect("the marks").get(0)
}
