//! `realtime.send` and its like, from SQL to what channels would get, on a database where `walcast setup` made them.

use walcast::setup;

use super::setup::{cluster, config, set_up};
use crate::support::database::{Database, connect, shared_cluster};
use crate::support::scene::prepared;
use crate::support::station::{Heard, Station};

async fn execute(database: &Database, sql: &str) {
    database.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// Sends, and gives the warnings.
async fn warnings(url: &str, sql: &str) -> Vec<String> {
    let (client, mut connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let (sender, mut notices) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                let _ = sender.send(notice.message().to_owned());
            }
        }
    });
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    drop(client);
    task.await.unwrap();
    std::iter::from_fn(|| notices.try_recv().ok()).collect()
}

#[tokio::test]
async fn what_is_sent_is_broadcast_as_postgres_prints_it() {
    let database = prepared(shared_cluster(), "").await;
    let mut station = Station::start(&database.url, None).await;
    station.until_carried(true).await;
    execute(&database, r#"select realtime.send('{"hello":"world","n":1.50}', 'ev', 'a:b', true)"#).await;
    let heard = station.next().await;
    let id = heard.id.clone();
    let expected = format!(r#"{{"n": 1.50, "id": "{id}", "hello": "world"}}"#);
    assert_eq!(heard.text(), expected);
    assert_eq!((heard.private, &*heard.topic, &*heard.event, heard.is_binary), (true, "a:b", "ev", false));

    // An id of one's own stays; the row has another.
    execute(&database, r#"select realtime.send('{"id":7}', 'ev', 'a', false)"#).await;
    let heard = station.next().await;
    assert_eq!((heard.text(), heard.private), (r#"{"id": 7}"#, false));
    let row = database.client.query_one("select id::text from realtime.messages where not private", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), heard.id);

    execute(&database, r"select realtime.send_binary('\x00ff01', 'bin', 'a')").await;
    let heard = station.next().await;
    assert_eq!((&*heard.payload, heard.is_binary, heard.private), (&[0, 255, 1][..], true, true));

    // By hand, with any extension.
    let sql = "insert into realtime.messages (topic, extension, event, payload) values ('a', 'mine', 'ev', '[1]')";
    execute(&database, sql).await;
    assert_eq!(station.next().await.text(), "[1]");
    assert_eq!(station.finish().await, []);
}

#[tokio::test]
async fn what_cannot_be_sent_is_a_warning_and_never_an_error() {
    let database = prepared(shared_cluster(), "").await;
    let station = Station::start(&database.url, None).await;
    station.until_carried(true).await;
    let said = warnings(&database.url, "select realtime.send('[1,2]', 'ev', 'a')").await;
    assert!(said.len() == 1 && said[0].starts_with("WarnSendingBroadcastMessage: "), "{said:?}");
    let said = warnings(&database.url, r#"set role anon; select realtime.send('{"a":1}', 'ev', 'a')"#).await;
    assert!(said[0].contains("row-level security"), "{said:?}");
    let gone =
        "do $$ declare part name; begin for part in select inhrelid::regclass from pg_inherits where inhparent = \
        'realtime.messages'::regclass loop execute format('drop table %s', part); end loop; end $$;
        select realtime.send('{\"a\":1}', 'ev', 'a'); select realtime.send_binary('\\x00', 'ev', 'a')";
    let said = warnings(&database.url, gone).await;
    assert_eq!(said.iter().filter(|said| said.contains("WarnSendingBroadcastMessage: no partition")).count(), 2);
    assert_eq!(station.finish().await, []);
}

#[tokio::test]
async fn a_trigger_broadcasts_the_changes_of_its_table() {
    let database = prepared(
        shared_cluster(),
        "create table items (id int primary key, name text);
        create function tell() returns trigger language plpgsql security definer as $$ begin
            perform realtime.broadcast_changes('items', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
            return null; end $$;
        create trigger tell after insert or update or delete on items for each row execute function tell()",
    )
    .await;
    let mut station = Station::start(&database.url, None).await;
    station.until_carried(true).await;
    execute(&database, "insert into items values (1, 'one'); update items set name = 'two'; delete from items").await;
    let expect = |heard: Heard, record: &str, old: &str| {
        let Heard { private, topic, event, id, .. } = &heard;
        assert_eq!((*private, &**topic), (true, "items"));
        let expected = format!(
            r#"{{"id": "{id}", "table": "items", "record": {record}, "schema": "public", "operation": "{event}", "old_record": {old}}}"#
        );
        assert_eq!(heard.text(), expected);
    };
    let (one, two) = (r#"{"id": 1, "name": "one"}"#, r#"{"id": 1, "name": "two"}"#);
    expect(station.next().await, one, "null");
    expect(station.next().await, two, one);
    expect(station.next().await, "null", two);
    for (operation, level) in [("INSERT", "STATEMENT"), ("TRUNCATE", "ROW")] {
        let sql = format!(
            "select realtime.broadcast_changes('t', 'e', '{operation}', 't', 's', null::items, null::items, '{level}')"
        );
        let error = database.client.batch_execute(&sql).await.unwrap_err();
        assert!(error.as_db_error().unwrap().message().starts_with("Failed to process the row: "), "{error:?}");
    }
    assert_eq!(station.finish().await, []);
}

#[tokio::test]
async fn order_is_that_of_commits_and_what_is_rolled_back_is_not_sent() {
    let database = prepared(shared_cluster(), "").await;
    let mut station = Station::start(&database.url, None).await;
    station.until_carried(true).await;
    let mut late = connect(&database.url).await;
    let send = |n: i32| format!("select realtime.send('{{\"id\":{n}}}', 'ev', 'a')");
    let transaction = late.transaction().await.unwrap();
    transaction.batch_execute(&send(1)).await.unwrap();
    execute(&database, &send(2)).await;
    execute(&database, &format!("begin; {}; rollback", send(3))).await;
    execute(&database, &format!("begin; savepoint a; {}; rollback to a; {}; commit", send(4), send(5))).await;
    transaction.commit().await.unwrap();
    execute(&database, "update realtime.messages set payload = '{}'; delete from realtime.messages").await;
    execute(&database, &send(6)).await;
    for n in [2, 5, 1, 6] {
        assert_eq!(station.next().await.text(), format!(r#"{{"id": {n}}}"#));
    }
    assert_eq!(station.finish().await, []);
}

#[tokio::test]
async fn what_is_incomplete_or_too_large_is_dropped_and_counted() {
    let database = prepared(shared_cluster(), "").await;
    let mut station = Station::start(&database.url, None).await;
    station.until_carried(true).await;
    let sql = "insert into realtime.messages (topic, extension, event, payload, private) values
            ('a', 'broadcast', null, '{}', true), ('a', 'broadcast', 'ev', null, true), ('a', 'broadcast', 'ev', '{}', null),
            (repeat('a', 300), 'broadcast', 'ev', '{}', true),
            ('a', 'broadcast', 'ev', to_jsonb(repeat('x', 200000)), true), ('a', 'broadcast', 'last', '{}', true)";
    execute(&database, sql).await;
    assert_eq!(station.next().await.event, "last");
    for (reason, times) in [("incomplete", 3), ("too_long", 1), ("too_large", 1)] {
        station.until_counted(reason, times).await;
    }
    assert_eq!(station.finish().await, []);
}

/// The stream names partitions, and there are new ones every day.
#[tokio::test]
async fn a_partition_is_known_from_its_first_row_on_even_in_the_transaction_that_makes_it() {
    let database = prepared(shared_cluster(), "").await;
    let mut station = Station::start(&database.url, None).await;
    station.until_carried(true).await;
    let sql = "begin;
        create table realtime.far partition of realtime.messages for values from ('2100-01-01') to ('2100-02-01');
        insert into realtime.messages (topic, extension, event, payload, inserted_at)
            values ('a', 'broadcast', 'far', '{}', '2100-01-02');
        commit";
    execute(&database, sql).await;
    assert_eq!(station.next().await.event, "far");
    // A table that is nobody's partition is none of it, whatever its columns.
    let sql = "create table realtime.messages_2099_01_01 (like realtime.messages including all);
        alter publication supabase_realtime add table realtime.messages_2099_01_01;
        insert into realtime.messages_2099_01_01 (topic, extension, event, payload) values ('a', 'broadcast', 'no', '{}');
        select realtime.send('{}', 'last', 'a')";
    execute(&database, sql).await;
    assert_eq!(station.next().await.event, "last");
    assert_eq!(station.finish().await, []);
}

/// A table in two publications would be in the stream with what both have: once.
#[tokio::test]
async fn rows_are_broadcast_once_where_the_users_publication_has_the_table_too() {
    let database = prepared(shared_cluster(), "").await;
    let mut station = Station::start(&database.url, None).await;
    station.until_carried(true).await;
    execute(&database, "alter publication supabase_realtime add table realtime.messages").await;
    execute(&database, "select realtime.send('{}', 'one', 'a')").await;
    execute(&database, "alter publication supabase_realtime set (publish_via_partition_root = true)").await;
    execute(&database, "select realtime.send('{}', 'two', 'a')").await;
    for event in ["one", "two"] {
        assert_eq!(station.next().await.event, event);
    }
    execute(&database, "alter publication supabase_realtime drop table realtime.messages").await;
    station.until_carried(false).await;
    execute(&database, "alter publication walcast add table realtime.messages").await;
    station.until_carried(true).await;
    execute(&database, "select realtime.send('{}', 'three', 'a')").await;
    assert_eq!(station.next().await.event, "three");
    assert_eq!(station.finish().await, []);
}

/// Whoever may create schemas and tables could otherwise broadcast to anybody.
#[tokio::test]
async fn a_strangers_messages_are_not_broadcast() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let sql = format!(
        "create role mallory; grant create on database {} to mallory; set role mallory; create schema realtime;
         create table realtime.messages (topic text, event text, payload jsonb, private boolean, id uuid,
            inserted_at timestamp, extension text); reset role;
         create publication supabase_realtime for all tables",
        database.name
    );
    execute(&database, &sql).await;
    let report = setup::run(&mut database.client, &config(&cluster)).await.unwrap();
    let notes: Vec<&str> = report.notes().collect();
    assert!(notes.len() == 1 && notes[0].contains("could broadcast to anybody"), "{notes:?}");
    let station = Station::start(&database.url, None).await;
    let sql = "insert into realtime.messages values ('a', 'ev', '{}', true, gen_random_uuid(), now(), 'broadcast')";
    execute(&database, sql).await;
    let sql = "select walcast.send('a', 'public', '{}', false)";
    execute(&database, sql).await;
    let mut station = station;
    assert_eq!(station.next().await.event, "public", "what mallory inserted before it was not");
    station.until_carried(false).await;
    assert_eq!(station.finish().await, []);

    execute(&database, "drop schema realtime cascade").await;
    set_up(&mut database, &config(&cluster)).await;
    let mut station = Station::start(&database.url, None).await;
    station.until_carried(true).await;
    execute(&database, "select realtime.send('{}', 'ours', 'a')").await;
    assert_eq!(station.next().await.event, "ours");
}
