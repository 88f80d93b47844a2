//! Private channels: every answer compared with a probe as the original makes it, in a transaction of its own.
//!
//! Each case has a role of its own, so that all the policies are there at once. The comparison is of what is granted; that
//! an error is told as one is not looked at.
//!
//! Known gap: where one row is hidden by one policy and fails by another, a restrictive one, the planner says which of
//! them Postgres gets to first, by what is leakproof and what is cheap. Such a failure counts here: nothing is granted.

mod cases;

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Parser;
use tokio::net::TcpListener;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use walcast::authz::{Identity, TopicError, TopicGrant, TopicQuestion, TopicRight};
use walcast::config::ServeArgs;
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::relay::Relay;
use walcast::wal::Conninfo;

use crate::support::database::{Database, connect};
use crate::support::people::{ALICE, BOB};
use crate::support::relay::{get, pause_between_polls, sample, serve_arguments, set_up};
use crate::support::scene::execute;

use self::cases::{CASES, Case, Here, Postgres, case};

const GROUND: &str = include_str!("topic_policies.sql");

const TOPICS: [&str; 7] = [
    "room:11111111-1111-4111-8111-111111111111",
    "room:1",
    "acme:general",
    "lobby",
    "",
    "1",
    "it's a \"topic\" \\ , (x)",
];

const HEADERS: [&str; 2] = [r#"{"x-room":"room:1","x-other":"a"}"#, "{}"];

#[derive(Parser)]
struct Serve {
    #[command(flatten)]
    args: ServeArgs,
}

struct House {
    relay: Relay,
    _cluster: Cluster,
    url: String,
}

impl House {
    /// A database with these policies, set up, and a relay in this process.
    async fn new(cases: &[Case], flags: &[&str]) -> House {
        let cluster = Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres");
        let database = Database::create_in(&cluster).await;
        set_up(&database.url).await;
        let client = &database.client;
        execute(client, GROUND).await;
        for case in cases {
            let role = case.name;
            execute(
                client,
                &format!(
                    "create role {role}; grant usage on schema realtime, auth to {role};
                     grant select, insert on realtime.messages to {role};"
                ),
            )
            .await;
            execute(client, &case.sql.replace("{r}", role)).await;
            if role != "bypass" {
                execute(client, &format!("grant {role} to walcast_oracle")).await;
            }
        }
        // It follows what they read.
        set_up(&database.url).await;
        let mut arguments = serve_arguments(&database.url, "topics");
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let args = Serve::try_parse_from(&arguments).expect("flags").args;
        let conninfo = Conninfo::parse(&database.url).expect("a conninfo");
        let config = walcast::serve::relay_config(&args, conninfo).expect("a configuration");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let relay = Relay::start(config, listener).await.expect("a relay");
        House { relay, url: database.url.clone(), _cluster: cluster }
    }

    /// Until bodies of functions are read and tables loaded.
    async fn until_decided_here(&self, question: &TopicQuestion) {
        loop {
            let before = metric(self.relay.address, "topics_asked").await;
            self.ask(question).await.expect("an answer");
            if metric(self.relay.address, "topics_asked").await == before {
                return;
            }
            pause_between_polls().await;
        }
    }

    async fn ask(&self, question: &TopicQuestion) -> Result<TopicGrant, TopicError> {
        self.relay.authority.ask(question.clone()).await.expect("dispatch is there")
    }
}

async fn metric(address: SocketAddr, name: &str) -> f64 {
    let (_, metrics) = get(address, "/metrics").await.expect("metrics");
    sample(&metrics, name).unwrap_or_else(|| panic!("no metric {name}: {metrics}"))
}

fn claims(role: &str) -> Vec<String> {
    [
        format!(r#""sub":"{ALICE}","org":"acme","app_metadata":{{"role":"admin"}},"rooms":["lobby","room:1"]"#),
        format!(r#""sub":"{BOB}","org":"room","rooms":[]"#),
        r#""org":null,"rooms":"lobby""#.to_owned(),
        r#""sub":"mallory""#.to_owned(),
    ]
    .into_iter()
    .map(|claims| format!(r#"{{"role":"{role}",{claims}}}"#))
    .collect()
}

fn questions(role: &str) -> Vec<TopicQuestion> {
    let mut questions = Vec::new();
    for (n, claims) in claims(role).into_iter().enumerate() {
        let identity = Arc::new(Identity { role: role.to_owned(), claims: claims.into() });
        for (m, topic) in TOPICS.into_iter().enumerate() {
            for headers in HEADERS {
                for right in [TopicRight::Read, TopicRight::Write] {
                    questions.push(TopicQuestion {
                        identity: Arc::clone(&identity),
                        topic: topic.into(),
                        headers: headers.into(),
                        right,
                        presence: (n + m) % 4 != 3,
                    });
                }
            }
        }
    }
    questions
}

fn members_question(role: &str, topic: &str, sub: &str) -> TopicQuestion {
    let claims = format!(r#"{{"role":"{role}","sub":"{sub}"}}"#);
    TopicQuestion {
        identity: Arc::new(Identity { role: role.to_owned(), claims: claims.into() }),
        topic: topic.into(),
        headers: "{}".into(),
        right: TopicRight::Read,
        presence: true,
    }
}

/// As the original asks, in a transaction that is rolled back.
async fn probe(client: &mut Client, question: &TopicQuestion) -> TopicGrant {
    let transaction = client.transaction().await.expect("a transaction");
    let extensions = if question.presence { &["broadcast", "presence"][..] } else { &["broadcast"] };
    let mut ids: Vec<(String, &str)> = Vec::new();
    if question.right == TopicRight::Read {
        for extension in extensions {
            let sql = "insert into realtime.messages (topic, extension) values ($1, $2) returning id::text";
            let row = transaction.query_one(sql, &[&&*question.topic, extension]).await.expect("a probe");
            ids.push((row.get(0), extension));
        }
    }
    let sql = "select set_config('role', $1, true), set_config('realtime.topic', $2, true),
        set_config('request.jwt.claims', $3, true), set_config('request.jwt.claim.sub', $3::jsonb ->> 'sub', true),
        set_config('request.jwt.claim.role', $1, true), set_config('request.headers', $4, true)";
    let TopicQuestion { identity, topic, headers, .. } = question;
    let claims = &*identity.claims;
    let statement = transaction.prepare_typed(sql, &[tokio_postgres::types::Type::TEXT; 4]).await.expect("settings");
    transaction.query(&statement, &[&identity.role, &&**topic, &claims, &&**headers]).await.expect("settings");
    let mut granted = Vec::new();
    if question.right == TopicRight::Read {
        let wanted: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
        let sql = "select id::text from realtime.messages where id = any ($1::text[]::uuid[])";
        // An error ends it: nothing is granted.
        if let Ok(rows) = transaction.query(sql, &[&wanted]).await {
            let shown: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            granted.extend(ids.iter().filter(|(id, _)| shown.contains(id)).map(|(_, extension)| *extension));
        }
    } else {
        for extension in extensions {
            transaction.batch_execute("savepoint s").await.expect("a savepoint");
            let sql = "insert into realtime.messages (topic, extension) values ($1, $2)";
            match transaction.execute(sql, &[&&**topic, extension]).await {
                Ok(_) => granted.push(extension),
                Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
                Err(_) => {
                    granted.clear();
                    break;
                }
            }
            transaction.batch_execute("rollback to savepoint s").await.expect("back");
        }
    }
    transaction.rollback().await.expect("rollback");
    TopicGrant { broadcast: granted.contains(&"broadcast"), presence: granted.contains(&"presence") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_that_of_the_originals_probe() {
    let house = Box::pin(House::new(CASES, &[])).await;
    house.until_decided_here(&members_question("members", "lobby", ALICE)).await;
    let mut postgres = connect(&house.url).await;
    let (mut wrong, mut count, mut by_postgres) = (Vec::new(), 0, 0.0);
    let mut told = Vec::new();
    for case in CASES {
        let questions = questions(case.name);
        let before = metric(house.relay.address, "topics_asked").await;
        let mut granted = Vec::new();
        for question in &questions {
            let answer = house.ask(question).await;
            let expected = probe(&mut postgres, question).await;
            if answer != Ok(expected) {
                wrong.push(format!("{}: {answer:?}, not {expected:?}, of {question:?}", case.name));
            }
            if expected == (TopicGrant { broadcast: true, presence: question.presence }) {
                granted.push(question);
            }
        }
        let asked = metric(house.relay.address, "topics_asked").await;
        let statements = metric(house.relay.address, "oracle_statements").await;
        for question in &granted {
            house.ask(question).await.expect("an answer");
        }
        let asked_again = metric(house.relay.address, "topics_asked").await - asked;
        let statements = metric(house.relay.address, "oracle_statements").await - statements;
        assert_eq!(statements > 0.0, asked_again > 0.0, "{}", case.name);
        told.push((case, asked - before, granted.len(), asked_again));
        count += questions.len();
        by_postgres += asked - before;
    }
    println!("{count} questions, {by_postgres} asked of Postgres, {} wrong", wrong.len());
    for (case, asked, granted, asked_again) in &told {
        println!("{}: {asked} asked; {granted} granted, {asked_again} of them asked", case.name);
    }
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
    for (case, _, _, asked_again) in told {
        let decided = if asked_again == 0.0 { Here } else { Postgres };
        assert_eq!(decided, case.decided, "{}: {asked_again} of what is granted is asked of Postgres", case.name);
    }
    house.relay.stop().await;
}

/// Asks until the answer is this one: for what the stream brings.
async fn until(house: &House, question: &TopicQuestion, expected: Result<TopicGrant, TopicError>) {
    for _ in 0..1000 {
        if house.ask(question).await == expected {
            return;
        }
        pause_between_polls().await;
    }
    panic!("never {expected:?} of {question:?}, but {:?}", house.ask(question).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_follow_memberships_policies_and_the_table_itself() {
    let members = "create policy {r}_r on realtime.messages for select to {r} using (
        exists (select from members m where m.user_id = auth.uid() and m.room = realtime.topic()));";
    let sleeper = "create policy {r}_r on realtime.messages for select to {r} using (pg_sleep(60)::text = '');";
    let cases = [case("follower", Here, members), case("sleeper", Postgres, sleeper)];
    let house = Box::pin(House::new(&cases, &["--authz-timeout", "300ms"])).await;
    let postgres = connect(&house.url).await;
    let all = Ok(TopicGrant { broadcast: true, presence: true });
    let nothing = Ok(TopicGrant::default());
    let question = members_question("follower", "lobby", ALICE);
    house.until_decided_here(&question).await;
    assert_eq!(house.ask(&question).await, all);

    // Whoever has just been let in is not refused for what is still on its way here.
    let new = members_question("follower", "new room", ALICE);
    assert_eq!(house.ask(&new).await, nothing);
    execute(&postgres, &format!("insert into members values ('{ALICE}', 'new room')")).await;
    assert_eq!(house.ask(&new).await, all);
    execute(&postgres, "delete from members where room = 'lobby'").await;
    until(&house, &question, nothing).await;

    execute(&postgres, "alter policy follower_r on realtime.messages using (topic = 'lobby')").await;
    until(&house, &question, all).await;
    execute(&postgres, "revoke select on realtime.messages from follower").await;
    until(&house, &question, nothing).await;

    let sleeping = members_question("sleeper", "lobby", ALICE);
    assert_eq!(house.ask(&sleeping).await, Err(TopicError::Cancelled));
    assert_eq!(house.ask(&members_question("nobody at all", "lobby", ALICE)).await, nothing);

    // A stranger's policies are nobody's: with CREATE on the database he could make such a table where there is none.
    execute(&postgres, "create role owner_of_topics; alter table realtime.messages owner to owner_of_topics").await;
    until(&house, &question, Err(TopicError::Unavailable)).await;
    execute(&postgres, "alter table realtime.messages owner to postgres").await;
    until(&house, &question, nothing).await;

    execute(&postgres, "drop table realtime.messages cascade").await;
    until(&house, &question, Err(TopicError::Unavailable)).await;
    house.relay.stop().await;
}
