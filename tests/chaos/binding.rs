//! What a client asks for, and which rows that is.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::world::{BULK_LANE, LANES, LAST_LANE, Operation, Person, ROOMS, Row, Table};

#[derive(Clone, Debug)]
pub struct Binding {
    /// `None`: the whole schema.
    table: Option<Table>,
    /// `None`: all.
    operation: Option<Operation>,
    filter: Filter,
}

#[derive(Clone, Copy, Debug)]
enum Filter {
    None,
    Lane(i32),
    LaneIn(i32, i32),
    Room(i32),
    Owner(Person),
    NotSecret,
}

impl Binding {
    /// All ticks, or the last ones.
    pub fn ticks(all: bool) -> Binding {
        let filter = if all { Filter::None } else { Filter::Lane(LAST_LANE) };
        Binding { table: Some(Table::Ticks), operation: Some(Operation::Insert), filter }
    }

    pub fn everything() -> Binding {
        Binding { table: None, operation: None, filter: Filter::None }
    }

    pub fn random(random: &mut StdRng) -> Binding {
        if random.random_bool(0.08) {
            return Binding::everything();
        }
        let table = Table::ALL[random.random_range(0..4)];
        let operation = match random.random_range(0..10) {
            0 => Some(Operation::Insert),
            1 => Some(Operation::Update),
            2 => Some(Operation::Delete),
            _ => None,
        };
        let filter = match random.random_range(0..8) {
            0..=2 => Filter::Lane(random.random_range(0..LANES)),
            3 => Filter::LaneIn(random.random_range(0..BULK_LANE), random.random_range(0..LANES)),
            4 => Filter::Room(random.random_range(0..ROOMS)),
            5 => Filter::Owner(Person(random.random_range(0..Person::SIGNED_IN))),
            6 => Filter::NotSecret,
            // Everything of a table, but seldom of the one that has the bulk.
            _ if table != Table::Plaza || random.random_bool(0.3) => Filter::None,
            _ => Filter::Lane(random.random_range(0..BULK_LANE)),
        };
        Binding { table: Some(table), operation, filter }
    }

    pub fn is_of(&self, table: Table) -> bool {
        self.table.is_none_or(|mine| mine == table)
    }

    pub fn to_json(&self) -> Value {
        let event = match self.operation {
            None => "*",
            Some(Operation::Insert) => "INSERT",
            Some(Operation::Update) => "UPDATE",
            Some(Operation::Delete) => "DELETE",
        };
        let mut binding = json!({ "event": event, "schema": "public" });
        if let Some(table) = self.table {
            binding["table"] = json!(table.name());
        }
        let filter = match self.filter {
            Filter::None => return binding,
            Filter::Lane(lane) => format!("lane=eq.{lane}"),
            Filter::LaneIn(one, other) => format!("lane=in.({one},{other})"),
            Filter::Room(room) => format!("room=eq.{room}"),
            Filter::Owner(owner) => format!("owner=eq.{}", owner.sub()),
            Filter::NotSecret => String::from("secret=eq.false"),
        };
        binding["filter"] = json!(filter);
        binding
    }

    /// `row`: the new one, of a DELETE the old one.
    pub fn matches(&self, table: Table, operation: Operation, row: &Row) -> bool {
        self.table.is_none_or(|mine| mine == table)
            && self.operation.is_none_or(|mine| mine == operation)
            && match self.filter {
                Filter::None => true,
                Filter::Lane(lane) => row.lane == lane,
                Filter::LaneIn(one, other) => row.lane == one || row.lane == other,
                Filter::Room(room) => row.room == room,
                Filter::Owner(owner) => row.owner == owner,
                Filter::NotSecret => !row.secret,
            }
    }
}
