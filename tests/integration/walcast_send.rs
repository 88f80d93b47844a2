//! `walcast.send`: what is signed is believed, in its own transaction alone, and asked about; everything else is refused.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use walcast::authz::{TopicAuthority, TopicError, TopicGrant, TopicQuestion, TopicRight};

use super::setup::{cluster, config, set_up};
use crate::support::database::{Database, connect, shared_cluster};
use crate::support::relay::PATIENCE;
use crate::support::scene::prepared;
use crate::support::station::Station;

type Answer = oneshot::Sender<Result<TopicGrant, TopicError>>;

/// Who may write is decided by the test.
struct ByHand(mpsc::UnboundedSender<(TopicQuestion, Answer)>);

impl TopicAuthority for ByHand {
    fn ask(&self, question: TopicQuestion) -> oneshot::Receiver<Result<TopicGrant, TopicError>> {
        let (answer, receiver) = oneshot::channel();
        let _ = self.0.send((question, answer));
        receiver
    }
}

struct Questions(mpsc::UnboundedReceiver<(TopicQuestion, Answer)>);

impl Questions {
    async fn next(&mut self) -> (TopicQuestion, Answer) {
        let asked = tokio::time::timeout(PATIENCE, self.0.recv()).await;
        asked.expect("a question").expect("somebody who asks")
    }

    /// The role and claims that the next question is about, which is answered.
    async fn decide(&mut self, broadcast: bool) -> (String, String) {
        let (question, answer) = self.next().await;
        assert_eq!((question.right, question.presence), (TopicRight::Write, false));
        answer.send(Ok(TopicGrant { broadcast, presence: false })).unwrap();
        (question.identity.role.clone(), question.identity.claims.to_string())
    }
}

async fn station(url: &str) -> (Station, Questions) {
    let (sender, questions) = mpsc::unbounded_channel();
    (Station::start(url, Some(Arc::new(ByHand(sender)))).await, Questions(questions))
}

async fn execute(database: &Database, sql: &str) {
    database.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

#[tokio::test]
async fn it_goes_out_with_its_transaction_and_leaves_no_row() {
    let database = prepared(shared_cluster(), "").await;
    let (mut station, mut questions) = station(&database.url).await;
    let sql = r#"begin; select walcast.send('a', 'ev', '{"n":1.50,"b":[ ]}', false); rollback;
        begin; savepoint s; select walcast.send('a', 'lost', '{}', false); rollback to s;
        select realtime.send('{"id":1}', 'row', 'a', false);
        select walcast.send('a', 'ev', '{"n":1.50,"b":[ ], "x":"\u00e9\""}', false); commit"#;
    execute(&database, sql).await;
    assert_eq!(station.next().await.event, "row");
    let heard = station.next().await;
    assert_eq!(heard.text(), r#"{"b": [], "n": 1.50, "x": "é\""}"#);
    assert_eq!((&*heard.topic, &*heard.event, heard.private, heard.id.len()), ("a", "ev", false, 36));
    let rows: i64 = database.client.query_one("select count(*) from walcast.broadcasts", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0);

    execute(&database, "select walcast.send('p', 'ev', '[]')").await;
    assert_eq!(questions.decide(true).await, ("postgres".to_owned(), "{}".to_owned()));
    assert!(station.next().await.private);
    for wrong in ["null, 'e', '{}'", "'', 'e', '{}'", "'t', null, '{}'", "'t', 'e', null", "'t', 'e', '{}', null"] {
        assert!(database.client.batch_execute(&format!("select walcast.send({wrong})")).await.is_err(), "{wrong}");
    }
    assert_eq!(station.finish().await, []);
}

#[tokio::test]
async fn the_sender_is_whoever_inserts_would_be() {
    let sql = "create function tell(t text) returns void language sql security definer as
            $$ select walcast.send(t, 'definer', '{}') $$;
        grant usage on schema public to authenticated";
    let database = prepared(shared_cluster(), sql).await;
    let (mut station, mut questions) = station(&database.url).await;
    let claims = r#"{"sub": "me", "role": "authenticated"}"#;
    let as_me = format!("set role authenticated; select set_config('request.jwt.claims', '{claims}', false)");
    execute(&database, &format!("{as_me}; select walcast.send('a', 'invoker', '{{}}')")).await;
    assert_eq!(questions.decide(true).await, ("authenticated".to_owned(), claims.to_owned()));
    assert_eq!(station.next().await.event, "invoker");
    // As the policies of realtime.messages would have it of an INSERT there.
    execute(&database, &format!("{as_me}; select tell('a')")).await;
    assert_eq!(questions.decide(true).await, ("postgres".to_owned(), claims.to_owned()));
    assert_eq!(station.next().await.event, "definer");

    for answer in [Some(Ok(TopicGrant { broadcast: false, presence: true })), Some(Err(TopicError::Cancelled)), None] {
        execute(&database, &format!("{as_me}; select walcast.send('a', 'refused', '{{}}')")).await;
        let (_, reply) = questions.next().await;
        match answer {
            Some(answer) => reply.send(answer).unwrap(),
            None => drop(reply),
        }
    }
    station.until_counted("unauthorized", 1).await;
    station.until_counted("undecided", 2).await;
    assert_eq!(station.finish().await, []);
}

#[tokio::test]
async fn a_question_holds_up_its_own_topic_alone() {
    let database = prepared(shared_cluster(), "").await;
    let (mut station, mut questions) = station(&database.url).await;
    station.until_carried(true).await;
    let send = |topic: &str, event: &str| format!("select walcast.send('{topic}', '{event}', '{{}}')");
    let row = |topic: &str, event: &str| format!("select realtime.send('{{}}', '{event}', '{topic}')");
    for sql in [send("slow", "1"), row("slow", "2"), send("slow", "3"), send("slow", "4"), row("other", "5")] {
        execute(&database, &sql).await;
    }
    execute(&database, "select walcast.send('slow', '6', '{}', false)").await;
    assert_eq!(station.next().await.event, "5");
    assert_eq!(station.next().await.event, "6", "the public topic of that name is another");
    let grant = |broadcast| Ok(TopicGrant { broadcast, presence: false });
    let (first, third, fourth) = (questions.next().await.1, questions.next().await.1, questions.next().await.1);
    fourth.send(grant(true)).unwrap();
    third.send(grant(false)).unwrap();
    station.until_counted("unauthorized", 1).await;
    first.send(grant(true)).unwrap();
    for event in ["1", "2", "4"] {
        assert_eq!(station.next().await.event, event);
    }
    execute(&database, &row("slow", "7")).await;
    assert_eq!(station.next().await.event, "7");
    assert_eq!(station.finish().await, []);
}

/// Anybody may emit logical messages, of any prefix.
#[tokio::test]
async fn what_is_not_signed_for_its_own_transaction_is_refused() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let report = set_up(&mut database, &config(&cluster)).await;
    // On the stream's login, which may read the key.
    let (mut station, _questions) = station(report.url.as_deref().unwrap()).await;
    execute(&database, "select pg_create_logical_replication_slot('spy', 'pgoutput')").await;
    execute(&database, "select walcast.send('a', 'signed', '{}', false)").await;
    assert_eq!(station.next().await.event, "signed");
    // A copy, as whoever reads the stream has it: tag, flags, LSN, prefix, length, content.
    let copy = "select substr(data, 10 + length('walcast.broadcast') + 1 + 4 + 1)
        from pg_logical_slot_get_binary_changes('spy', null, null, 'proto_version', '1', 'publication_names', 'walcast',
            'messages', 'true')
        where get_byte(data, 0) = ascii('M')";
    let copy: Vec<u8> = database.client.query_one(copy, &[]).await.unwrap().get(0);
    let body = String::from_utf8(copy[32..].to_vec()).expect("JSON behind the signature");
    assert!(body.contains(r#""event" : "signed""#), "{body}");

    let mallory = connect(&cluster.url("postgres", &database.name)).await;
    mallory.batch_execute("set role anon").await.unwrap();
    let emit = "select pg_logical_emit_message($1, $2, $3::bytea)";
    let broadcast = "walcast.broadcast";
    mallory.query(emit, &[&true, &broadcast, &copy]).await.unwrap();
    station.until_counted("replayed", 1).await;
    let mut forged = copy.clone();
    forged[40] ^= 1;
    let unsigned = body.clone().into_bytes();
    for content in [&forged, &unsigned, &Vec::new(), &vec![0; 100_000]] {
        mallory.query(emit, &[&true, &broadcast, content]).await.unwrap();
    }
    station.until_counted("forged", 4).await;
    // Others' are nobody's business: not of a transaction, of another prefix, in no encoding.
    mallory.query(emit, &[&false, &broadcast, &copy]).await.unwrap();
    mallory.query(emit, &[&true, &"walcast.broadcasts", &copy]).await.unwrap();
    mallory.query(emit, &[&true, &"", &copy]).await.unwrap();
    execute(&database, "select walcast.send('a', 'last', '{}', false)").await;
    assert_eq!(station.next().await.event, "last");
    station.until_counted("forged", 4).await;
    assert_eq!(station.finish().await, []);
}

/// Not even where default privileges give everything to everybody.
#[tokio::test]
async fn those_who_may_send_may_look_at_nothing() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let sql = "create role anon nologin; create role app nologin;
        alter default privileges grant all on tables to anon, app;
        alter default privileges grant all on functions to anon, app;
        alter default privileges grant all on sequences to anon, app";
    execute(&database, sql).await;
    set_up(&mut database, &config(&cluster)).await;
    set_up(&mut database, &config(&cluster)).await;
    let mallory = connect(&cluster.url("postgres", &database.name)).await;
    for role in ["anon", "authenticated", "service_role"] {
        mallory.batch_execute(&format!("reset role; set role {role}")).await.unwrap();
        mallory.batch_execute("select walcast.send('a', 'b', '{}', false)").await.unwrap();
        for forbidden in [
            "table walcast.broadcast_key",
            "table walcast.broadcasts",
            "table walcast.oracle_login",
            "table walcast.ddl_log",
            "table walcast.installation",
            "insert into walcast.broadcasts values ('a', 'b', '{}', true, 'postgres')",
            "insert into walcast.ddl_log (tag) values ('forged')",
            "insert into walcast.broadcasts (topic, event, payload, private) values ('a', 'b', '{}', true) returning caller",
            "delete from walcast.broadcasts",
            "alter table walcast.broadcasts disable trigger all",
            "create trigger x before insert on walcast.broadcasts for each row execute function walcast.name_caller()",
            "select walcast.name_caller()",
            "select walcast.sign_broadcast()",
            "select walcast.keep_messages()",
            "select walcast.prune_ddl_log(1)",
            "select walcast.catalog_state('{}', false)",
            "select nextval('walcast.ddl_log_id_seq')",
            "create table walcast.x ()",
        ] {
            let refused = mallory.batch_execute(forbidden).await.is_err();
            assert!(refused, "{role}: {forbidden}");
        }
    }
    // Who may read every table, for reports or backups, may not sign what he likes for it.
    mallory
        .batch_execute("reset role; create role reader nologin in role pg_read_all_data; set role reader")
        .await
        .unwrap();
    assert!(mallory.query("table walcast.broadcast_key", &[]).await.unwrap().is_empty());
    // Another role has no business in the schema, and nothing there where it is let in.
    mallory.batch_execute("reset role; set role app").await.unwrap();
    assert!(mallory.batch_execute("select walcast.send('a', 'b', '{}', false)").await.is_err());
    execute(&database, "grant usage on schema walcast to app").await;
    for table in ["broadcast_key", "oracle_login", "ddl_log", "installation", "broadcasts"] {
        assert!(mallory.batch_execute(&format!("table walcast.{table}")).await.is_err(), "{table}");
    }
}

/// Each question has a deadline, and joins ask the same sessions.
#[tokio::test]
async fn what_goes_to_many_topics_is_asked_about_a_few_at_a_time() {
    let database = prepared(shared_cluster(), "").await;
    let (mut station, mut questions) = station(&database.url).await;
    let sql = "select count(walcast.send('t' || n, 'ev', '{}', true)) from generate_series(1, 300) n";
    execute(&database, sql).await;
    execute(&database, "select walcast.send('a', 'after', '{}', false)").await;
    let mut asked = vec![questions.next().await];
    // Nothing waits for it but its own topics, and by now whatever is asked at once has been asked.
    assert_eq!(station.next().await.event, "after");
    asked.extend(std::iter::from_fn(|| questions.0.try_recv().ok()));
    assert_eq!(asked.len(), 64);
    for (_, answer) in asked {
        answer.send(Ok(TopicGrant { broadcast: true, presence: false })).unwrap();
    }
    for _ in 64..300 {
        questions.decide(true).await;
    }
    let mut heard = Vec::new();
    for _ in 0..300 {
        heard.push(station.next().await.topic);
    }
    heard.sort();
    heard.dedup();
    assert_eq!(heard.len(), 300);
    assert_eq!(station.finish().await, []);
}
