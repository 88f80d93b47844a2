//! What was broadcast from the database before, as a join asks for it, with a real table and the stream's login.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use walcast::channels::{ReplayError, ReplayRequest, Replayed, ReplayedPayload, Replayer};
use walcast::replayer::{ReplayHandle, replayer};
use walcast::wal::Conninfo;

use super::setup::{cluster, config, set_up};
use crate::support::database::{Database, connect, shared_cluster};
use crate::support::relay::PATIENCE;
use crate::support::scene::prepared;

struct Player {
    handle: Arc<ReplayHandle>,
    _stop: tokio_util::sync::DropGuard,
}

impl Player {
    fn start(url: &str) -> Player {
        let stop = CancellationToken::new();
        let (handle, task) = replayer(Conninfo::parse(url).unwrap());
        tokio::spawn(task.run(stop.clone()));
        Player { handle, _stop: stop.drop_guard() }
    }

    async fn replay(&self, topic: &str, since: i64, limit: u32) -> Result<Vec<Replayed>, ReplayError> {
        let receiver = self.handle.replay(ReplayRequest { topic: topic.into(), since, limit });
        tokio::time::timeout(PATIENCE, receiver).await.expect("an answer in time").expect("an answer")
    }

    async fn events(&self, topic: &str, since: i64, limit: u32) -> Vec<String> {
        let messages = self.replay(topic, since, limit).await.expect("a replay");
        messages.iter().map(|message| message.event.to_string()).collect()
    }
}

async fn execute(database: &Database, sql: &str) {
    database.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

#[tokio::test]
async fn the_newest_of_a_private_topic_come_oldest_first() {
    let database = prepared(shared_cluster(), "").await;
    let player = Player::start(&database.url);
    let row = |event: &str, ago: &str, rest: &str| {
        format!(
            "insert into realtime.messages (topic, extension, event, payload, private, inserted_at)
             select 'a', 'broadcast', '{event}', '{{\"n\": 1.50}}', true, timezone('utc', now()) - interval '{ago}';
             update realtime.messages set {rest} where event = '{event}';"
        )
    };
    let mut sql = String::new();
    for (event, ago, rest) in [
        ("old", "10 min", "topic = topic"),
        ("later", "5 min", "topic = topic"),
        ("latest", "1 min", "topic = topic"),
        ("soon", "-30 s", "topic = topic"),
        ("future", "-5 min", "topic = topic"),
        ("public", "1 min", "private = false"),
        ("elsewhere", "1 min", "topic = 'b'"),
        ("presence", "1 min", "extension = 'presence'"),
        ("empty", "1 min", "payload = null"),
    ] {
        sql.push_str(&row(event, ago, rest));
    }
    execute(&database, &sql).await;
    assert_eq!(player.events("a", 0, 25).await, ["old", "later", "latest", "soon"]);
    assert_eq!(player.events("a", i64::MIN / 1_000_000, 2).await, ["latest", "soon"]);
    assert_eq!(player.events("b", 0, 25).await, ["elsewhere"]);
    let since = "select (extract(epoch from now()) * 1000)::bigint - 6 * 60000";
    let since: i64 = database.client.query_one(since, &[]).await.unwrap().get(0);
    assert_eq!(player.events("a", since, 25).await, ["later", "latest", "soon"]);
    assert_eq!(player.events("a", since + 10 * 60_000, 25).await, Vec::<String>::new());

    execute(&database, r"select realtime.send_binary('\x00ff', 'bin', 'c')").await;
    let binary = player.replay("c", since, 1).await.unwrap();
    assert_eq!(binary[0].payload, ReplayedPayload::Binary(vec![0, 255].into()));
    let text = player.replay("b", since, 1).await.unwrap();
    assert_eq!(text[0].payload, ReplayedPayload::Json(r#"{"n": 1.50}"#.into()));
    assert_eq!(text[0].id.len(), 36);
    for since in [i64::MIN, i64::MAX, 253_402_300_800_000] {
        assert_eq!(player.replay("a", since, 1).await, Err(ReplayError::BadParams), "{since}");
    }
}

/// Inserted by a session in another time zone it is as old as it is.
#[tokio::test]
async fn times_are_utc_whatever_the_session_says() {
    let database = prepared(shared_cluster(), "").await;
    let player = Player::start(&database.url);
    execute(&database, "set timezone = 'Pacific/Honolulu'; select realtime.send('{}', 'here', 'a')").await;
    let since: i64 = database
        .client
        .query_one("select (extract(epoch from now()) * 1000)::bigint - 60000", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(player.events("a", since, 25).await, ["here"]);
}

#[tokio::test]
async fn it_is_read_on_the_streams_login_and_after_a_lost_connection() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let report = set_up(&mut database, &config(&cluster)).await;
    let player = Player::start(report.url.as_deref().unwrap());
    execute(&database, "select realtime.send('{}', 'one', 'a')").await;
    assert_eq!(player.events("a", 0, 25).await, ["one"]);
    let kill = "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity where usename = 'walcast'";
    let killed: i64 = database.client.query_one(kill, &[]).await.unwrap().get(0);
    assert_eq!(killed, 1);
    // Whether it has noticed is a race that either end may win; the next one finds another connection.
    let first = player.replay("a", 0, 25).await;
    assert!(first.is_ok() || first == Err(ReplayError::Failed), "{first:?}");
    assert_eq!(player.events("a", 0, 25).await, ["one"]);

    // A login that may not see every row finds out, rather than that there were none.
    execute(&database, "alter role walcast nobypassrls").await;
    let player = Player::start(report.url.as_deref().unwrap());
    assert_eq!(player.replay("a", 0, 25).await, Err(ReplayError::Failed));
    execute(&database, "alter role walcast bypassrls; drop table realtime.messages").await;
    assert_eq!(player.replay("a", 0, 25).await, Err(ReplayError::Failed));
}

/// A view's functions run as whoever reads it.
#[tokio::test]
async fn a_strangers_view_is_not_read() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let report = set_up(&mut database, &config(&cluster)).await;
    let sql = format!(
        "drop schema realtime cascade; create role mallory; grant create on database {} to mallory; set role mallory;
         create schema realtime; create table realtime.looked ();
         create function realtime.look() returns text language plpgsql as
           $$ begin create table public.loot (); return 'x'; end $$;
         create view realtime.messages as select gen_random_uuid() as id, realtime.look() as event, '{{}}'::jsonb as payload,
           null::bytea as binary_payload, 'a' as topic, true as private, 'broadcast' as extension, now()::timestamp as inserted_at;
         grant usage on schema realtime to public; grant select on realtime.messages to public",
        database.name
    );
    execute(&database, &sql).await;
    let player = Player::start(report.url.as_deref().unwrap());
    assert_eq!(player.replay("a", 0, 25).await, Err(ReplayError::Failed));
    let admin = connect(&cluster.url("postgres", &database.name)).await;
    assert!(admin.batch_execute("table public.loot").await.is_err(), "nothing of it ran");
}
