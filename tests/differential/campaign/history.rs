//! Random transactions: rows of several tables, what policies look into, savepoints that are rolled back.

use std::collections::HashSet;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::tables::{Table, change_inner, fill_members};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Insert,
    Update,
    Delete,
}

impl Operation {
    /// As events name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Insert => "INSERT",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        }
    }
}

/// One change of a row.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub table: usize,
    pub operation: Operation,
    /// Its key before; `None`: it was not there.
    pub old: Option<i64>,
    /// Its key after.
    pub new: Option<i64>,
    /// The stream has the whole old row.
    pub whole_old: bool,
    /// The tally of the policies that judge it.
    pub era: usize,
}

/// A transaction to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Transaction {
    pub statements: Vec<String>,
    pub changes: Vec<Change>,
    /// It changes what policies look into, or the policies.
    pub moves_the_ground: bool,
    pub has_ddl: bool,
    /// DDL that it is not part of, or of roles, came before it.
    pub comes_after_ddl: bool,
}

impl Transaction {
    /// Nothing, to see what has become of what was changed before it.
    pub(super) fn after_ddl() -> Transaction {
        Transaction { moves_the_ground: true, comes_after_ddl: true, ..Transaction::default() }
    }

    pub(super) fn may_change_plans(&self) -> bool {
        self.has_ddl || self.comes_after_ddl
    }
}

/// Keys of rows that are not to be touched again.
pub(super) type Taken = HashSet<(usize, i64)>;

/// Rows that a table has at least, and at most.
const LIVE: std::ops::Range<usize> = 40..140;

/// Adds changes; each row is changed at most once, so that the table shows every image that the stream has.
pub(super) fn write(rng: &mut StdRng, tables: &mut [Table], users: &[String], taken: &mut Taken) -> Transaction {
    let mut transaction = Transaction::default();
    let size = *[1, 1, 2, 4, 8, 16, 32, 48, 64, 80].choose(rng).expect("not empty");
    for _ in 0..size {
        if rng.random_bool(0.06) {
            transaction.statements.push(change_inner(rng, users));
            transaction.moves_the_ground = true;
        }
        if rng.random_bool(0.02) {
            transaction.statements.push(undone(rng, tables, users));
        }
        let table = rng.random_range(0..tables.len());
        if let Some((change, sql)) = change(rng, table, &mut tables[table], users, taken) {
            transaction.statements.push(sql);
            transaction.changes.push(change);
        }
    }
    if rng.random_bool(0.02) {
        let at = rng.random_range(0..=transaction.statements.len());
        transaction.statements.insert(at, format!("truncate members; {}", fill_members(rng, users)));
        transaction.moves_the_ground = true;
    }
    transaction
}

fn change(
    rng: &mut StdRng,
    number: usize,
    table: &mut Table,
    users: &[String],
    taken: &mut Taken,
) -> Option<(Change, String)> {
    let change =
        |operation, old, new| Change { table: number, operation, old, new, whole_old: table.whole_old, era: table.era };
    let (few, many) = (table.live.len() < LIVE.start, table.live.len() >= LIVE.end);
    let dice = rng.random_range(0..10);
    if few || (!many && dice < 3) {
        let change = change(Operation::Insert, None, Some(table.next_key));
        let (key, sql) = table.insert(rng, users);
        taken.insert((number, key));
        return Some((change, sql));
    }
    let free: Vec<i64> = table.live.iter().copied().filter(|key| !taken.contains(&(number, *key))).collect();
    let key = *free.choose(rng)?;
    taken.insert((number, key));
    let name = &table.name;
    if many || dice < 6 {
        let change = change(Operation::Delete, Some(key), None);
        let sql = format!("delete from {name} where id = {key}");
        table.live.retain(|live| *live != key);
        return Some((change, sql));
    }
    let mut values = table.values(rng, users, false);
    let mut new = key;
    if rng.random_bool(0.08) {
        new = table.next_key;
        values.push(("id".to_owned(), new.to_string()));
    }
    let change = change(Operation::Update, Some(key), Some(new));
    let list: Vec<String> = values.into_iter().map(|(column, value)| format!("{column} = {value}")).collect();
    let sql = format!("update {name} set {} where id = {key}", list.join(", "));
    if new != key {
        table.next_key += 1;
        table.live.retain(|live| *live != key);
        table.live.push(new);
        taken.insert((number, new));
    }
    Some((change, sql))
}

/// What a savepoint takes back.
fn undone(rng: &mut StdRng, tables: &[Table], users: &[String]) -> String {
    let name = &tables.choose(rng).expect("tables").name;
    let inner = change_inner(rng, users);
    let rows = match rng.random_range(0..3) {
        0 => format!("update {name} set owner = null"),
        1 => format!("delete from {name} where id % 2 = 0"),
        _ => "truncate members".to_owned(),
    };
    format!("savepoint s; {inner}; {rows}; rollback to s; release s")
}
