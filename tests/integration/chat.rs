//! The chat example with six kinds of people, each subscribed to everything, over a seeded script of writes: each gets
//! exactly the events that Postgres says he may see, in commit order, none missing, none leaked, none twice.
//!
//! Postgres says so right where the write is: a row is shown to each person, by role and claims, before and after each
//! statement, in the writing transaction. `WALCAST_TEST_WRITES` and `WALCAST_TEST_SEED` make it longer and repeatable.
//!
//! The script is quiet around each change of what policies look up (sessions, agents, memberships): a question that is
//! asked of Postgres sees the database as it then is. What happens without that quiet is not said here.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::chat_script::{Script, Transaction, Write};
use crate::support::client::{Client, all_of, topic};
use crate::support::people::{AGENT, Person, admin, alice, anon, bob, service, user};
use crate::support::scene::{Scene, execute, from_env};

const CHAT: &str = include_str!("../../sql/examples/chat.sql");

const TABLES: [&str; 7] = [
    "support_agents",
    "live_chat_sessions",
    "chat_messages",
    "announcements",
    "contacts",
    "livechat_messages",
    // Open to all: where everybody is told that the script has come so far.
    "marks",
];

/// `witness(relation, condition, people)`: the row as each sees it, null where he does not; first the whole truth.
const WITNESS: &str = "
    create schema witness;
    create function witness.rows(relation text, condition text, people text) returns text language plpgsql as $$
    declare
      person json;
      seen jsonb;
      answer jsonb := '[]';
      question text := format('select to_jsonb(t) from public.%I as t where %s', relation, condition);
    begin
      execute question into seen;
      answer := answer || jsonb_build_array(seen);
      for person in select json_array_elements(people::json) loop
        perform set_config('request.jwt.claims', person::text, true);
        perform set_config('role', person ->> 'role', true);
        execute question into seen;
        perform set_config('role', 'none', true);
        answer := answer || jsonb_build_array(seen);
      end loop;
      return answer::text;
    end
    $$;";

struct Event {
    table: &'static str,
    operation: &'static str,
    record: Option<Value>,
    old_record: Option<Value>,
}

/// A person's connection, and what it has yet to get.
struct Subscriber {
    person: Person,
    client: Client,
    ids: BTreeMap<&'static str, u64>,
    expected: Vec<Event>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_person_gets_exactly_the_chat_that_postgres_lets_him_see() {
    let seed = from_env("WALCAST_TEST_SEED", rand::rng().random_range(0..1_000_000));
    let writes = from_env("WALCAST_TEST_WRITES", 1_000);
    println!("WALCAST_TEST_SEED={seed} WALCAST_TEST_WRITES={writes}");
    let marks = "create table marks (n bigint primary key); grant select on marks to anon, authenticated, service_role;
        alter publication supabase_realtime add table marks;";
    let scene = Scene::new(&format!("{CHAT}; {marks} {WITNESS} set timezone = 'UTC';")).await;
    let people = [alice(), bob(), user("agent", AGENT), admin(), anon(), service()];
    let mut chat = Chat { subscribers: Vec::new(), marks: 0, scene };
    for person in people {
        chat.join(person).await;
    }

    let mut script = Script::new(StdRng::seed_from_u64(seed));
    let mut written = 0;
    while written < writes {
        let transaction = script.next_transaction();
        written += transaction.writes.len() as u64;
        if transaction.changes_visibility {
            chat.expect_all().await;
        }
        chat.run(&transaction, &mut script).await;
        if transaction.changes_visibility {
            chat.expect_all().await;
        }
    }
    chat.expect_all().await;
}

struct Chat {
    scene: Scene,
    subscribers: Vec<Subscriber>,
    marks: i64,
}

impl Chat {
    async fn join(&mut self, person: Person) {
        let mut client = Client::connect(&self.scene.relay, &person).await;
        let bindings: Vec<Value> = TABLES.iter().map(|table| all_of(table)).collect();
        let ids = client.subscribe("chat", Value::Array(bindings)).await;
        let ids = TABLES.iter().copied().zip(ids).collect();
        self.subscribers.push(Subscriber { person, client, ids, expected: Vec::new() });
    }

    /// Writes, and asks Postgres at each write who is to be told what.
    async fn run(&mut self, transaction: &Transaction, script: &mut Script) {
        execute(&self.scene.database.client, "begin").await;
        for write in &transaction.writes {
            match write {
                Write::Insert { table, sql } => {
                    let key = self.returned(sql).await;
                    script.inserted(table, &key);
                    let new = self.witness(table, &key).await;
                    self.expect(table, "INSERT", None, Some(new));
                }
                Write::Update { table, key, sql } => {
                    let old = self.witness(table, key).await;
                    execute(&self.scene.database.client, sql).await;
                    let new = self.witness(table, key).await;
                    self.expect(table, "UPDATE", Some(old), Some(new));
                }
                Write::Delete { table, key, sql } => {
                    let old = self.witness(table, key).await;
                    execute(&self.scene.database.client, sql).await;
                    self.expect(table, "DELETE", Some(old), None);
                }
                Write::Unpublished { sql } => execute(&self.scene.database.client, sql).await,
            }
        }
        execute(&self.scene.database.client, "commit").await;
    }

    async fn returned(&self, sql: &str) -> String {
        let row = self.scene.database.client.query_one(sql, &[]).await;
        row.unwrap_or_else(|error| panic!("{error:?}\nin: {sql}")).get(0)
    }

    /// The row with this key: first the truth, then as each person sees it.
    async fn witness(&self, table: &str, key: &str) -> Vec<Value> {
        let column = if table == "support_agents" { "user_id" } else { "id" };
        let condition = format!("t.{column}::text = '{key}'");
        let people: Vec<&Value> = self.subscribers.iter().map(|subscriber| &subscriber.person.claims).collect();
        let people = json!(people).to_string();
        let row = self
            .scene
            .database
            .client
            .query_one("select witness.rows($1, $2, $3)", &[&table, &condition, &people])
            .await
            .unwrap_or_else(|error| panic!("{error:?} at {table} {condition}"));
        serde_json::from_str(row.get(0)).expect("an array")
    }

    /// The rules of who is told what (DESIGN 5), given what each sees of the row before and after.
    fn expect(
        &mut self,
        table: &'static str,
        operation: &'static str,
        old: Option<Vec<Value>>,
        new: Option<Vec<Value>>,
    ) {
        // Of these the WAL has no old rows: a DELETE is the bare key, for everybody who is subscribed.
        let key_alone = table == "announcements";
        for (index, subscriber) in self.subscribers.iter_mut().enumerate() {
            let record = new.as_ref().map(|rows| rows[index + 1].clone());
            if record.as_ref().is_some_and(Value::is_null) {
                continue;
            }
            let old_record = old.as_ref().map(|rows| match &rows[index + 1] {
                Value::Null => key_of(table, &rows[0]),
                _ if key_alone => key_of(table, &rows[0]),
                row => row.clone(),
            });
            let sees_old = old.as_ref().is_none_or(|rows| !rows[index + 1].is_null());
            if operation == "DELETE" && !sees_old && !key_alone {
                continue;
            }
            subscriber.expected.push(Event { table, operation, record, old_record });
        }
    }

    /// All that is expected has come, in this order and nothing between; a mark is the end of it.
    async fn expect_all(&mut self) {
        self.marks += 1;
        let mark = json!({ "n": self.marks });
        self.scene.execute(&format!("insert into marks values ({})", self.marks)).await;
        for subscriber in &mut self.subscribers {
            let mark = Event { table: "marks", operation: "INSERT", record: Some(mark.clone()), old_record: None };
            subscriber.expected.push(mark);
            for event in std::mem::take(&mut subscriber.expected) {
                subscriber.expect(&event).await;
            }
        }
    }
}

impl Subscriber {
    async fn expect(&mut self, event: &Event) {
        let change = self.client.next_change().await;
        let record = change.data.get("record").cloned();
        let old_record = change.data.get("old_record").cloned();
        let same = (change.table(), change.operation(), &change.topic)
            == (event.table, event.operation, &topic("chat"))
            && change.ids == [self.ids[event.table]]
            && change.data["errors"].is_null()
            && (&record, &old_record) == (&event.record, &event.old_record);
        if !same {
            let (table, operation) = (event.table, event.operation);
            let expected = json!({ "record": event.record, "old_record": event.old_record, "id": self.ids[table] });
            self.client.fail(&format!("expected {operation} of {table}: {expected}\n     got {:?}", change));
        }
    }
}

fn key_of(table: &str, row: &Value) -> Value {
    let columns: &[&str] = match table {
        "support_agents" => &["user_id"],
        "livechat_messages" => &["id", "created_at"],
        _ => &["id"],
    };
    columns.iter().map(|column| ((*column).to_owned(), row[*column].clone())).collect()
}
