//! Those who write: many small transactions, some with savepoints, some rolled back, some with two rows or with a change
//! of membership, through all failures of Postgres. What really committed, the truth's slot says.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_postgres::{Client as Postgres, Error, NoTls};

use super::world::{BULK_LANE, LANES, Person, ROOMS, Table};

/// Rows that a writer may still change: a few, so that deletes meet rows that clients have seen lately.
const KNOWN_MAX: usize = 200;

/// Numbers of rows, each given once.
#[derive(Clone, Default)]
pub struct Numbers(Arc<AtomicI64>);

impl Numbers {
    pub fn next(&self) -> i64 {
        self.some(1)
    }

    /// The first of so many.
    pub fn some(&self, count: i64) -> i64 {
        self.0.fetch_add(count, Ordering::Relaxed) + 1
    }
}

pub struct Writer {
    random: StdRng,
    numbers: Numbers,
    known: Vec<(Table, i64)>,
    pace: Duration,
}

impl Writer {
    pub fn new(seed: u64, numbers: Numbers, pace: Duration) -> Writer {
        Writer { random: StdRng::seed_from_u64(seed), numbers, known: Vec::new(), pace }
    }

    pub async fn write_on(mut self, url: String, go_on: watch::Receiver<bool>) {
        while *go_on.borrow() {
            let Ok((postgres, connection)) = tokio_postgres::connect(&url, NoTls).await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let connection = tokio::spawn(connection);
            while *go_on.borrow() && self.write(&postgres).await.is_ok() {
                let pause = self.pace.mul_f64(self.random.random_range(0.0..2.0));
                sleep(pause).await;
            }
            drop(postgres);
            let _ = connection.await;
        }
    }

    async fn write(&mut self, postgres: &Postgres) -> Result<(), Error> {
        let statements = match self.random.random_range(0..20) {
            0..=7 => vec![self.change()],
            8..=10 => vec!["begin".into(), self.change(), self.change(), "commit".into()],
            11 => vec!["begin".into(), self.change(), self.change(), "rollback".into()],
            12..=13 => {
                let (kept, undone, again) = (self.change(), self.insert(), self.change());
                let statements = ["begin", &kept, "savepoint s", &undone, "rollback to s", &again, "commit"];
                statements.map(str::to_owned).into()
            }
            14..=15 => {
                let (one, two, three) = (self.change(), self.insert(), self.change());
                let statements =
                    ["begin", "savepoint s", &one, "savepoint t", &two, "release t", "release s", &three, "commit"];
                statements.map(str::to_owned).into()
            }
            16..=17 => vec![self.membership()],
            // The membership and a row that it decides, in one transaction.
            _ => vec!["begin".into(), self.change(), self.membership(), self.change(), "commit".into()],
        };
        for statement in statements {
            postgres.batch_execute(&statement).await?;
        }
        Ok(())
    }

    fn change(&mut self) -> String {
        match self.random.random_range(0..10) {
            0..=5 => self.insert(),
            6..=8 => self.update(),
            _ => self.delete(),
        }
    }

    fn insert(&mut self) -> String {
        let (table, n) = (Table::ALL[self.random.random_range(0..4)], self.numbers.next());
        if self.known.len() == KNOWN_MAX {
            let place = self.random.random_range(0..KNOWN_MAX);
            self.known.swap_remove(place);
        }
        self.known.push((table, n));
        let (lane, owner, room, secret) = self.columns();
        let name = table.name();
        format!("insert into {name} (n, lane, owner, room, secret) values ({n}, {lane}, '{owner}', {room}, {secret})")
    }

    fn update(&mut self) -> String {
        let Some(place) = self.place() else { return self.insert() };
        let (table, n) = self.known[place];
        let (lane, owner, room, secret) = self.columns();
        // Some rows move to somebody else.
        let moved = match self.random.random_range(0..6) {
            0 => format!(", owner = '{owner}'"),
            1 => format!(", room = {room}"),
            2 => format!(", lane = {lane}, secret = {secret}"),
            _ => String::new(),
        };
        format!("update {} set v = v + 1{moved} where n = {n}", table.name())
    }

    fn delete(&mut self) -> String {
        let Some(place) = self.place() else { return self.insert() };
        let (table, n) = self.known.swap_remove(place);
        format!("delete from {} where n = {n}", table.name())
    }

    fn membership(&mut self) -> String {
        let person = Person(self.random.random_range(0..Person::SIGNED_IN)).sub();
        let (relation, column, number) = if self.random.random_bool(0.5) {
            ("members", "room", self.random.random_range(0..ROOMS))
        } else {
            ("readers", "lane", self.random.random_range(0..LANES))
        };
        if self.random.random_bool(0.4) {
            return format!("delete from {relation} where {column} = {number} and person = '{person}'");
        }
        format!("insert into {relation} values ({number}, '{person}') on conflict do nothing")
    }

    fn place(&mut self) -> Option<usize> {
        (!self.known.is_empty()).then(|| self.random.random_range(0..self.known.len()))
    }

    fn columns(&mut self) -> (i32, String, i32, bool) {
        let owner = Person(self.random.random_range(0..Person::SIGNED_IN)).sub();
        let random = &mut self.random;
        (random.random_range(0..BULK_LANE), owner, random.random_range(0..ROOMS), random.random_bool(0.2))
    }
}

/// Many rows in one transaction.
pub fn bulk(numbers: &Numbers, table: Table, rows: u32, random: &mut StdRng) -> String {
    let (first, owner, name) = (numbers.some(i64::from(rows)), Person(0).sub(), table.name());
    let (last, room) = (first + i64::from(rows) - 1, random.random_range(0..ROOMS));
    format!(
        "insert into {name} (n, lane, owner, room, secret)
         select n, {BULK_LANE}, '{owner}', {room}, false from generate_series({first}, {last}) as n"
    )
}

/// One a second, so that everybody's position moves.
pub async fn tick(url: String, numbers: Numbers, go_on: watch::Receiver<bool>) {
    let owner = Person(0).sub();
    while *go_on.borrow() {
        if let Ok((postgres, connection)) = tokio_postgres::connect(&url, NoTls).await {
            let connection = tokio::spawn(connection);
            let mut lives = true;
            while lives && *go_on.borrow() {
                let n = numbers.next();
                let sql =
                    format!("insert into ticks (n, lane, owner, room, secret) values ({n}, 0, '{owner}', 0, false)");
                lives = postgres.batch_execute(&sql).await.is_ok();
                sleep(Duration::from_secs(1)).await;
            }
            drop(postgres);
            let _ = connection.await;
        } else {
            sleep(Duration::from_millis(200)).await;
        }
    }
}
