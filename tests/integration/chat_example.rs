//! `sql/examples/chat.sql` shows each person what the comments in it promise, on a real Postgres.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::database::Database;

const AUTH: &str = include_str!("../../sql/migrations/0004_auth.sql");
/// Roles are the cluster's, which these tests share: whoever comes second finds them there.
const ROLES: &str = "do $$ begin
    create role anon nologin noinherit;
    create role authenticated nologin noinherit;
    create role service_role nologin noinherit bypassrls;
    exception when duplicate_object or unique_violation then null;
end $$";
const CHAT: &str = include_str!("../../sql/examples/chat.sql");

const CUSTOMER: &str = "11111111-1111-4111-8111-111111111111";
const OTHER_CUSTOMER: &str = "22222222-2222-4222-8222-222222222222";
const AGENT: &str = "33333333-3333-4333-8333-333333333333";
const OTHER_AGENT: &str = "44444444-4444-4444-8444-444444444444";
const ADMIN: &str = "55555555-5555-4555-8555-555555555555";

async fn chat_database() -> Database {
    let database = Database::create().await;
    database.client.batch_execute(ROLES).await.expect("roles");
    database.client.batch_execute(AUTH).await.expect("0004_auth.sql");
    database.client.batch_execute(CHAT).await.expect("chat.sql");
    database
}

fn user(sub: &str) -> Value {
    json!({ "role": "authenticated", "sub": sub })
}

fn admin() -> Value {
    json!({ "role": "authenticated", "sub": ADMIN, "app_metadata": { "role": "admin" } })
}

/// What `query` (one text column) gives under the role and claims of a token, as PostgREST would ask it.
async fn seen(client: &mut Client, claims: &Value, query: &str) -> Vec<String> {
    let transaction = client.transaction().await.unwrap();
    let role = claims["role"].as_str().expect("claims with a role");
    transaction.batch_execute(&format!("set local role {role}")).await.unwrap();
    transaction
        .execute("select set_config('request.jwt.claims', $1, true)", &[&claims.to_string()])
        .await
        .expect("claims are set");
    let rows = transaction.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_chat_example_may_be_run_again_and_changes_nothing() {
    let database = chat_database().await;
    let shape = "select coalesce(string_agg(x, e'\\n' order by x), '') from (
        select format('%s %s %s', tablename, policyname, qual) from pg_policies
        union all select format('%s.%s', schemaname, tablename) from pg_publication_tables
        union all select format('%s %s %s', relname, relreplident, relrowsecurity) from pg_class
          where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')) as t (x)";
    let before: String = database.client.query_one(shape, &[]).await.unwrap().get(0);
    database.client.batch_execute(CHAT).await.expect("chat.sql again");
    let after: String = database.client.query_one(shape, &[]).await.unwrap().get(0);
    assert_eq!(before, after);
    assert!(before.contains("public.livechat_messages\n"), "the root is published, not its partitions: {before}");
}

#[tokio::test]
async fn chat_messages_are_seen_by_their_user_their_agent_and_admins() {
    let mut database = chat_database().await;
    database
        .client
        .batch_execute(&format!(
            "insert into support_agents (user_id, display_name) values ('{AGENT}', 'Ada'), ('{OTHER_AGENT}', 'Bob');
             insert into live_chat_sessions (id, user_id, agent_id, status) values
               ('aaaaaaaa-0000-4000-8000-000000000001', '{CUSTOMER}', '{AGENT}', 'active'),
               ('aaaaaaaa-0000-4000-8000-000000000002', '{OTHER_CUSTOMER}', null, 'waiting');
             insert into chat_messages (session_id, sender_id, body) values
               ('aaaaaaaa-0000-4000-8000-000000000001', '{CUSTOMER}', 'active one'),
               ('aaaaaaaa-0000-4000-8000-000000000002', '{OTHER_CUSTOMER}', 'waiting one');"
        ))
        .await
        .unwrap();
    let messages = "select body from chat_messages order by id";
    let sessions = "select status from live_chat_sessions order by id";
    let client = &mut database.client;

    assert_eq!(seen(client, &user(CUSTOMER), messages).await, ["active one"]);
    assert_eq!(seen(client, &user(OTHER_CUSTOMER), messages).await, ["waiting one"]);
    assert_eq!(seen(client, &user(AGENT), messages).await, ["active one", "waiting one"]);
    assert_eq!(seen(client, &user(OTHER_AGENT), messages).await, ["waiting one"]);
    assert_eq!(seen(client, &admin(), messages).await, ["active one", "waiting one"]);
    assert_eq!(seen(client, &json!({ "role": "service_role" }), messages).await, ["active one", "waiting one"]);
    assert!(seen(client, &json!({ "role": "anon" }), messages).await.is_empty());
    assert!(seen(client, &user("66666666-6666-4666-8666-666666666666"), messages).await.is_empty());

    assert_eq!(seen(client, &user(CUSTOMER), sessions).await, ["active"]);
    assert_eq!(seen(client, &user(AGENT), sessions).await, ["active", "waiting"]);
    assert_eq!(seen(client, &user(OTHER_AGENT), sessions).await, ["waiting"]);
}

#[tokio::test]
async fn participants_write_only_as_themselves_and_only_into_their_open_sessions() {
    let mut database = chat_database().await;
    let session = "aaaaaaaa-0000-4000-8000-000000000001";
    database
        .client
        .batch_execute(&format!("insert into live_chat_sessions (id, user_id) values ('{session}', '{CUSTOMER}')"))
        .await
        .unwrap();
    let insert = format!("insert into chat_messages (session_id, body) values ('{session}', 'hello') returning body");
    assert_eq!(seen(&mut database.client, &user(CUSTOMER), &insert).await, ["hello"]);

    let refused = refusal(&mut database.client, &user(OTHER_CUSTOMER), &insert).await;
    assert!(refused.contains("row-level security"), "{refused}");
    database.client.batch_execute("update live_chat_sessions set status = 'closed'").await.unwrap();
    let refused = refusal(&mut database.client, &user(CUSTOMER), &insert).await;
    assert!(refused.contains("row-level security"), "{refused}");
}

async fn refusal(client: &mut Client, claims: &Value, statement: &str) -> String {
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("set local role authenticated").await.unwrap();
    transaction
        .execute("select set_config('request.jwt.claims', $1, true)", &[&claims.to_string()])
        .await
        .expect("claims are set");
    let error = transaction.query(statement, &[]).await.expect_err("the statement is refused");
    error.as_db_error().expect("by Postgres").message().to_string()
}

#[tokio::test]
async fn the_inbox_is_seen_by_members_through_its_root_and_by_nobody_through_a_partition() {
    let mut database = chat_database().await;
    database
        .client
        .batch_execute(&format!(
            "insert into workspace_members (workspace_id, user_id) values
               ('bbbbbbbb-0000-4000-8000-000000000001', '{CUSTOMER}'), ('bbbbbbbb-0000-4000-8000-000000000002', '{AGENT}');
             insert into contacts (id, workspace_id, name) values
               ('cccccccc-0000-4000-8000-000000000001', 'bbbbbbbb-0000-4000-8000-000000000001', 'Eve');
             insert into livechat_messages (workspace_id, contact_id, direction, body, created_at) values
               ('bbbbbbbb-0000-4000-8000-000000000001', 'cccccccc-0000-4000-8000-000000000001', 'inbound', 'now', now()),
               ('bbbbbbbb-0000-4000-8000-000000000001', 'cccccccc-0000-4000-8000-000000000001', 'inbound', 'old', '2001-01-01');
             grant select on livechat_messages_other to authenticated"
        ))
        .await
        .unwrap();
    let inbox = "select body from livechat_messages order by created_at";
    let client = &mut database.client;
    assert_eq!(seen(client, &user(CUSTOMER), inbox).await, ["old", "now"]);
    assert!(seen(client, &user(AGENT), inbox).await.is_empty());
    assert!(seen(client, &user(CUSTOMER), "select body from livechat_messages_other").await.is_empty());
    assert_eq!(seen(client, &user(CUSTOMER), "select name from contacts").await, ["Eve"]);
    assert!(seen(client, &user(AGENT), "select name from contacts").await.is_empty());
}

#[tokio::test]
async fn announcements_are_for_everybody_once_published() {
    let mut database = chat_database().await;
    let rows = "insert into announcements (title, published) values ('draft', false), ('out', true)";
    database.client.batch_execute(rows).await.unwrap();
    let titles = "select title from announcements";
    assert_eq!(seen(&mut database.client, &json!({ "role": "anon" }), titles).await, ["out"]);
    assert_eq!(seen(&mut database.client, &user(CUSTOMER), titles).await, ["out"]);
}
