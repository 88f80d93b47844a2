//! What people get wrong on the first day: each mistake gets a message that says what to do, and none a panic.

use std::net::TcpListener;

use serde_json::json;
use tokio_tungstenite::tungstenite;
use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::client::{Client, Vsn, all_of};
use crate::support::database::{Database, connect, shared_cluster};
use crate::support::people::{alice, anon};
use crate::support::relay::{Program, Relay, serve_arguments, set_up};
use crate::support::scene::{Scene, prepared};

/// `walcast serve` ends with 1, and one line of what it says has all of `words`.
async fn serve_fails(arguments: &[&str], words: &[&str]) {
    let mut program = Program::spawn(arguments);
    program.says(words).await;
    let status = program.exit().await;
    assert_eq!(status.code(), Some(1), "its log:\n{}", program.log());
}

fn serve(url: &str) -> Vec<String> {
    let mut arguments = serve_arguments(url, "walcast_mistakes");
    arguments.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    arguments
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn a_wrong_password_is_named() {
    let hba = "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n\
               host replication all 127.0.0.1/32 scram-sha-256\n";
    let options = ClusterOptions { settings: Vec::new(), hba: Some(hba.to_owned()) };
    let cluster = Cluster::start(&options).expect("a cluster");
    let postgres = connect(&cluster.url("postgres", "postgres")).await;
    postgres.batch_execute("create role guarded login replication password 'right'").await.expect("a role");
    let url = format!("postgres://guarded:wrong@127.0.0.1:{}/postgres", cluster.port());
    serve_fails(&strs(&serve(&url)), &["password authentication failed", "guarded"]).await;
    let mut setup = Program::spawn(&["setup", "--database-url", &url]);
    setup.says(&["password authentication failed"]).await;
    assert_eq!(setup.exit().await.code(), Some(1));
}

#[tokio::test]
async fn a_database_that_is_down_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    // It may come up later; whether the relay waits or ends, it says what it cannot reach.
    let arguments = serve(&url);
    let mut program = Program::spawn(&strs(&arguments));
    program.says(&["connect", &port.to_string()]).await;
    let mut setup = Program::spawn(&["setup", "--database-url", &url]);
    setup.says(&["connect", &port.to_string()]).await;
    assert_eq!(setup.exit().await.code(), Some(1));
}

#[tokio::test]
async fn wal_without_logical_decoding_is_named_with_the_statement_that_mends_it() {
    let settings = vec!["wal_level = replica".to_owned()];
    let cluster = Cluster::start(&ClusterOptions { settings, hba: None }).expect("a cluster");
    let database = Database::create_in(&cluster).await;
    set_up_ignoring_findings(&database.url).await;
    serve_fails(&strs(&serve(&database.url)), &["wal_level", "logical", "restart"]).await;
}

/// `setup` may warn, or refuse: both are fine where the server cannot do logical decoding.
async fn set_up_ignoring_findings(url: &str) {
    let mut setup = Program::spawn(&["setup", "--database-url", url, "--with-auth"]);
    let status = setup.exit().await;
    assert_ne!(status.code(), Some(101), "{}", setup.log());
}

#[tokio::test]
async fn a_database_without_setup_is_named_with_the_command_that_mends_it() {
    let database = Database::create_in(shared_cluster()).await;
    serve_fails(&strs(&serve(&database.url)), &["walcast setup"]).await;
}

#[tokio::test]
async fn a_missing_publication_is_named_with_the_statement_that_mends_it() {
    let database = prepared(shared_cluster(), "drop publication supabase_realtime").await;
    serve_fails(&strs(&serve(&database.url)), &["publication", "supabase_realtime", "create publication"]).await;
}

#[tokio::test]
async fn a_missing_database_url_is_named() {
    serve_fails(&["serve", "--jwt-secret", "x"], &["--database-url", "DATABASE_URL"]).await;
}

#[tokio::test]
async fn a_missing_secret_is_named() {
    let database = prepared(shared_cluster(), "").await;
    serve_fails(&["serve", "--database-url", &database.url, "--listen", "127.0.0.1:0"], &["--jwt-secret"]).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let database = prepared(shared_cluster(), "").await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let mut arguments = serve_arguments(&database.url, "walcast_mistakes_port");
    arguments.extend(["--listen".to_owned(), address.clone()]);
    serve_fails(&strs(&arguments), &[&address, "in use", "--listen"]).await;
}

#[tokio::test]
async fn a_slot_that_another_relay_reads_is_named() {
    let scene = Scene::new("").await;
    let mut arguments = serve_arguments(&scene.database.url, &scene.relay.slot);
    arguments.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    // The other may be about to end, as in a rolling update: it is waited for, aloud.
    let mut second = Program::spawn(&strs(&arguments));
    second.says(&[&scene.relay.slot, "in use", "--slot"]).await;
}

#[tokio::test]
async fn an_unknown_flag_is_a_usage_error() {
    let mut program = Program::spawn(&["serve", "--no-such-flag"]);
    assert_eq!(program.exit().await.code(), Some(2), "{}", program.log());
}

#[tokio::test]
async fn a_table_outside_the_publication_is_told_with_the_statement_that_mends_it() {
    let scene = Scene::new("create table todos (id int primary key); grant select on todos to anon;").await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.join("todos", json!([all_of("todos")])).await;
    let told = client.expect_system("todos", "error", "Unable to subscribe to changes with given parameters").await;
    let hint = told["hint"].as_str().unwrap_or_default().to_lowercase().replace('"', "");
    assert!(hint.contains("alter publication supabase_realtime add table public.todos"), "{told}");
}

#[tokio::test]
async fn a_table_without_primary_key_is_told_as_error_400() {
    let scene = Scene::new(
        "create table todos (name text); grant select on todos to anon;
         alter publication supabase_realtime add table todos;",
    )
    .await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("todos", json!([all_of("todos")])).await;
    scene.execute("insert into todos values ('one')").await;
    let change = client.next_change().await;
    assert_eq!(change.data["errors"], json!(["Error 400: Bad Request, no primary key"]));
    assert_eq!(change.record(), &json!({}));

    let mut check = Program::spawn(&["check", "--database-url", &scene.database.url, "--slot", &scene.relay.slot]);
    check.says(&["todos", "primary key"]).await;
    assert_ne!(check.exit().await.code(), Some(101));
}

#[tokio::test]
async fn a_role_without_grants_is_told_as_error_401_with_the_statement_that_mends_it() {
    let scene = Scene::new(
        "create table todos (id int primary key);
         alter publication supabase_realtime add table todos;
         revoke all on todos from anon, authenticated;",
    )
    .await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.join("todos", json!([all_of("todos")])).await;
    let told = client.expect_system("todos", "ok", "Subscribed to PostgreSQL").await;
    let hint = told["hint"].as_str().unwrap_or_default().to_lowercase().replace('"', "");
    assert!(hint.contains("grant select on") && hint.contains("anon"), "{told}");
    scene.execute("insert into todos values (1)").await;
    let change = client.next_change().await;
    assert_eq!(change.data["errors"], json!(["Error 401: Unauthorized"]));
    assert_eq!(change.record(), &json!({}));
}

#[tokio::test]
async fn a_token_signed_with_another_secret_is_refused_by_name() {
    let scene = Scene::new("").await;
    let refused = |token: String| {
        let relay = &scene.relay;
        async move { refusal(relay, &token).await }
    };
    let token = alice().token_signed_with("another-secret-with-at-least-32-characters");
    assert_eq!(refused(token).await, (401, "Failed to validate JWT signature".into()));
    assert_eq!(refused("not-a-token".into()).await, (401, "The token provided is not a valid JWT".into()));
}

/// Status and error text of a refused upgrade.
async fn refusal(relay: &Relay, token: &str) -> (u16, String) {
    match Client::try_connect(relay, "nobody", token, Vsn::V2).await {
        Ok(_) => panic!("it was let in; the relay's log:\n{}", relay.log()),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            (response.status().as_u16(), body["error"].as_str().unwrap_or_default().to_owned())
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn setting_up_twice_changes_nothing_and_fails_nothing() {
    let scene = Scene::new("").await;
    set_up(&scene.database.url).await;
    Client::connect(&scene.relay, &anon()).await.heartbeat().await;
}
