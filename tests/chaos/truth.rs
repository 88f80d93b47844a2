//! What was committed, and in which order: read from a slot of the harness's own, by a decoder of its own. The relay has no
//! part in it.

use std::collections::HashMap;

use tokio_postgres::Client as Postgres;

use super::timeline::Timeline;
use super::world::{ChangeId, Operation, Person, Row, Table};

pub const SLOT: &str = "truth";

/// Rows that one reading may give; a transaction comes whole.
const ROWS_MAX: i32 = 10_000;

/// Microseconds from 1970 to 2000, where Postgres' timestamps begin.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

pub struct Change {
    pub id: ChangeId,
    pub table: Table,
    pub operation: Operation,
    pub old: Option<Row>,
    pub new: Option<Row>,
    /// Place of its transaction in the order of commits.
    pub transaction: u32,
}

impl Change {
    /// The row that filters look at.
    pub fn row(&self) -> &Row {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has a row")
    }
}

pub struct Transaction {
    pub lsn: u64,
    /// When it committed. Not quite in the order of commits: the stamp is taken a moment before.
    pub at: i64,
}

#[derive(Default)]
pub struct Truth {
    pub changes: Vec<Change>,
    pub transactions: Vec<Transaction>,
    pub timeline: Timeline,
    pub places: HashMap<ChangeId, u32>,
    /// For each transaction, the earliest stamp from it on.
    earliest: Vec<i64>,
}

impl Truth {
    /// Reads what has been committed since the last time. False: Postgres is away, or there is no more for now.
    pub async fn read_on(&mut self, postgres: &Postgres) -> Result<bool, tokio_postgres::Error> {
        let sql = "select lsn::text, data from pg_logical_slot_peek_binary_changes($1, null, $2,
            'proto_version', '1', 'publication_names', 'truth')";
        let rows = postgres.query(sql, &[&SLOT, &ROWS_MAX]).await?;
        let mut decoder = Decoder::default();
        for row in &rows {
            decoder.read(row.get(1), self);
        }
        // Only what has been read is let go; what comes again after a crash is told by its position.
        if let Some(row) = rows.last() {
            postgres
                .execute("select pg_replication_slot_advance($1, $2::text::pg_lsn)", &[&SLOT, &row.get::<_, String>(0)])
                .await?;
        }
        Ok(!rows.is_empty())
    }

    pub fn finish(&mut self) {
        self.places = self.changes.iter().enumerate().map(|(place, change)| (change.id, place as u32)).collect();
        assert_eq!(self.places.len(), self.changes.len(), "each change has a name of its own");
        self.earliest = self.transactions.iter().map(|transaction| transaction.at).collect();
        for place in (1..self.earliest.len()).rev() {
            self.earliest[place - 1] = self.earliest[place - 1].min(self.earliest[place]);
        }
    }

    /// The last transaction that can have been committed by then.
    pub fn last_at(&self, at: i64) -> u32 {
        self.earliest.partition_point(|earliest| *earliest <= at).saturating_sub(1) as u32
    }

    pub fn at(&self, change: &Change) -> i64 {
        self.transactions[change.transaction as usize].at
    }
}

/// `pgoutput`, protocol 1 (manual 55.9): what of it this needs.
#[derive(Default)]
struct Decoder {
    relations: HashMap<u32, (String, Vec<String>)>,
    /// The transaction was read before.
    known: bool,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    fn string(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).expect("a string ends");
        let text = String::from_utf8_lossy(self.take(end)).into_owned();
        self.byte();
        text
    }

    /// Whole rows in text; nothing here is ever long enough to be left out.
    fn tuple(&mut self, columns: &[String]) -> HashMap<String, String> {
        let count = self.u16();
        let mut values = HashMap::new();
        for column in columns.iter().take(usize::from(count)) {
            if self.byte() == b't' {
                let length = self.u32() as usize;
                let text = String::from_utf8_lossy(self.take(length)).into_owned();
                values.insert(column.clone(), text);
            }
        }
        values
    }
}

impl Decoder {
    fn read(&mut self, data: &[u8], truth: &mut Truth) {
        let mut bytes = Bytes(data);
        match bytes.byte() {
            b'B' => {
                let (lsn, at) = (bytes.u64(), bytes.u64() as i64 + EPOCH_MICROS);
                self.known = truth.transactions.last().is_some_and(|last| lsn <= last.lsn);
                if !self.known {
                    truth.transactions.push(Transaction { lsn, at });
                }
            }
            b'R' => {
                let id = bytes.u32();
                bytes.string();
                let name = bytes.string();
                bytes.byte();
                let count = bytes.u16();
                let column = |_| {
                    bytes.byte();
                    let name = bytes.string();
                    bytes.take(8);
                    name
                };
                self.relations.insert(id, (name, (0..count).map(column).collect()));
            }
            tag @ (b'I' | b'U' | b'D') if !self.known => self.row(tag, bytes, truth),
            _ => {}
        }
    }

    fn row(&mut self, tag: u8, mut bytes: Bytes, truth: &mut Truth) {
        let (name, columns) = &self.relations[&bytes.u32()];
        let (mut old, mut new) = (None, None);
        while !bytes.0.is_empty() {
            match bytes.byte() {
                b'N' => new = Some(bytes.tuple(columns)),
                _ => old = Some(bytes.tuple(columns)),
            }
        }
        let transaction = truth.transactions.len() as u32 - 1;
        let Some(table) = Table::named(name) else {
            let is_there = tag != b'D';
            let values = new.or(old).expect("a row");
            let person = || Person::of_sub(&values["person"]).expect("a person of ours");
            let number = |name: &str| values[name].parse().expect("a number");
            match name.as_str() {
                "members" => truth.timeline.member(number("room"), person(), transaction, is_there),
                "readers" => truth.timeline.reader(number("lane"), person(), transaction, is_there),
                "chronicle" => {
                    let table = Table::named(&values["relation"]).expect("a table of ours");
                    truth.timeline.policy(table, transaction, values["strict"] == "t");
                }
                _ => {}
            }
            return;
        };
        let operation = match tag {
            b'I' => Operation::Insert,
            b'U' => Operation::Update,
            _ => Operation::Delete,
        };
        let (old, new) = (old.as_ref().map(row_of), new.as_ref().map(row_of));
        let row = new.or(old).expect("replica identity is full");
        let id = ChangeId::new(table, operation, row.n, row.v);
        truth.changes.push(Change { id, table, operation, old, new, transaction });
    }
}

fn row_of(values: &HashMap<String, String>) -> Row {
    let number = |name: &str| values[name].parse().expect("a number");
    Row {
        n: number("n"),
        v: number("v"),
        lane: number("lane") as i32,
        owner: Person::of_sub(&values["owner"]).expect("a person of ours"),
        room: number("room") as i32,
        secret: values["secret"] == "t",
    }
}
