//! The subscribers: what each has been sent, cut at the marks that end every transaction.

use std::collections::{BTreeSet, HashSet};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::persons::Person;
use super::tables::Table;
use crate::support::client::{Client, Vsn, all_of, topic};
use crate::support::relay::Relay;

/// One event, as far as it is judged.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub table: String,
    pub operation: String,
    /// The key of the new row, of a DELETE that of the old one.
    pub key: Option<i64>,
    /// The columns of the new row, and of the old one.
    pub columns: BTreeSet<String>,
    pub old_columns: BTreeSet<String>,
    pub old_key: Option<i64>,
    /// It came without data.
    pub is_error: bool,
}

pub(super) struct Audience {
    listeners: Vec<Client>,
    system_messages: usize,
}

impl Audience {
    /// Everybody, subscribed to everything.
    pub(super) async fn join(relay: &Relay, persons: &[Person], tables: &[Table]) -> Audience {
        let joined = persons.iter().map(|person| listen(relay, person, tables));
        Audience { listeners: join_all(joined).await, system_messages: 0 }
    }

    /// What everybody was sent up to this mark, and after the one before.
    pub(super) async fn until(&mut self, mark: i64) -> Vec<Vec<Event>> {
        let heard = join_all(self.listeners.iter_mut().map(|listener| hear(listener, mark))).await;
        self.system_messages += heard.iter().map(|(_, messages)| messages).sum::<usize>();
        heard.into_iter().map(|(events, _)| events).collect()
    }

    /// A new token for one of them, which holds when this returns.
    pub(super) async fn renew(&mut self, number: usize, person: &Person) {
        let listener = &mut self.listeners[number];
        listener.push(&topic("history"), "access_token", json!({ "access_token": person.token })).await;
        listener.heartbeat().await;
    }

    /// Everybody goes; gives how many messages of the system they have had.
    pub(super) fn hang_up(&mut self) -> usize {
        self.listeners.clear();
        std::mem::take(&mut self.system_messages)
    }

    pub(super) fn system_messages(&self) -> usize {
        self.system_messages
    }
}

async fn listen(relay: &Relay, person: &Person, tables: &[Table]) -> Client {
    let connected = Client::try_connect(relay, &person.name, &person.token, Vsn::V2).await;
    let mut client = connected.unwrap_or_else(|error| panic!("{} could not connect: {error}", person.name));
    let binding = |table: &Table| match &person.filter {
        None => all_of(&table.name),
        Some(filter) => {
            json!({ "event": filter.event, "schema": "public", "table": table.name, "filter": filter.text })
        }
    };
    let bindings: Vec<Value> = tables.iter().map(binding).chain([all_of("marks"), all_of("probes")]).collect();
    client.subscribe("history", Value::Array(bindings)).await;
    client
}

/// Events before the mark; of an older mark, all before it is forgotten.
async fn hear(client: &mut Client, mark: i64) -> (Vec<Event>, usize) {
    let (mut events, mut others) = (Vec::new(), 0);
    loop {
        let message = client.next().await;
        if message.event != "postgres_changes" {
            others += 1;
            continue;
        }
        // Each subscription once.
        let ids = message.payload["ids"].as_array().map(Vec::as_slice).unwrap_or_default();
        if ids.iter().collect::<HashSet<_>>().len() != ids.len() {
            client.fail(&format!("the ids {ids:?} of one event"));
        }
        let event = event(&message.payload["data"]);
        if event.table != "marks" {
            events.push(event);
            continue;
        }
        match event.columns.contains("n").then(|| message.payload["data"]["record"]["n"].as_i64()).flatten() {
            Some(n) if n == mark => return (events, others),
            Some(n) if n < mark => events.clear(),
            other => client.fail(&format!("waited for mark {mark}, got {other:?}")),
        }
    }
}

fn event(data: &Value) -> Event {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let columns = |row: &Value| row.as_object().map(|row| row.keys().cloned().collect()).unwrap_or_default();
    let operation = text(&data["type"]);
    let row = if operation == "DELETE" { &data["old_record"] } else { &data["record"] };
    Event {
        table: text(&data["table"]),
        key: row["id"].as_i64(),
        columns: columns(&data["record"]),
        old_columns: columns(&data["old_record"]),
        old_key: data["old_record"]["id"].as_i64(),
        is_error: !data["errors"].is_null(),
        operation,
    }
}
