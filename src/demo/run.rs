//! `walcast demo`: a throw-away Postgres with the chat example, the relay, and a conversation that is listened to.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::Rng;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::client::{ClientError, Incoming, PhoenixClient};
use super::postgres::{Cluster, ClusterError, ClusterOptions};
use super::relay::{RelayConfig, start_relay};
use super::script::{self, AGENT, CUSTOMER, EAVESDROPPER, Line};
use super::writer::{Author, WriteError, Writer};
use crate::authz::jwt::mint;
use crate::relay::{BoxError, bind};

const CHAT: &str = include_str!("../../sql/examples/chat.sql");
const DATABASE: &str = "postgres";
/// How long an event of the conversation may take before the demo says that something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);
/// The tokens that are printed are good for a day: longer than anybody looks at a demo.
const TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("the throw-away Postgres could not be started")]
    Cluster(#[from] ClusterError),
    #[error("the chat example could not be installed")]
    Database(#[from] tokio_postgres::Error),
    #[error("the relay could not be started")]
    Relay(#[source] BoxError),
    #[error("the demo's client failed")]
    Client(#[from] ClientError),
    #[error("a message could not be written")]
    Write(#[from] WriteError),
    #[error("a token could not be signed")]
    Token(#[from] jsonwebtoken::errors::Error),
    #[error("the event of {0:?} did not come within {PATIENCE:?}")]
    Late(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    /// End after the conversation.
    pub once: bool,
}

/// Runs until Ctrl-C, or to the end of the conversation.
pub async fn run(options: Options) -> Result<(), DemoError> {
    let listener = bind(options.listen).await.map_err(DemoError::Relay)?;
    println!("Starting a throw-away Postgres and the relay ...");
    let cluster =
        tokio::task::spawn_blocking(|| Cluster::start(&ClusterOptions::default())).await.expect("no panic")?;
    let secret = random_hex(32);
    let relay_config =
        RelayConfig { database_url: cluster.socket_url("postgres", DATABASE), jwt_secret: secret.clone(), listener };
    let relay = Box::pin(start_relay(relay_config, || install_chat(&cluster))).await?;
    let url = format!("http://{}", relay.address());
    let played = tokio::select! {
        played = play(&options, &url, &secret, &cluster) => played,
        // The tasks that read from it end before Postgres does.
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(DemoError::Io),
    };
    relay.stop().await;
    played
}

/// The conversation, then whatever the reader tries.
async fn play(options: &Options, url: &str, secret: &str, cluster: &Cluster) -> Result<(), DemoError> {
    let mut writer = Writer::start(cluster, DATABASE, secret).await?;
    converse(url, secret, &mut writer).await?;
    if !options.once {
        println!("{}", invitation(url, secret, &writer, cluster)?);
        std::future::pending::<()>().await;
    }
    Ok(())
}

async fn install_chat(cluster: &Cluster) -> Result<(), DemoError> {
    let (client, connection) =
        tokio_postgres::connect(&cluster.url("postgres", DATABASE), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(CHAT).await?;
    client
        .execute(&format!("insert into support_agents (user_id, display_name) values ('{AGENT}', 'Ada')"), &[])
        .await?;
    Ok(())
}

/// Plays the conversation; the customer listens, and so does somebody who must not hear it.
async fn converse(url: &str, secret: &str, writer: &mut Writer) -> Result<(), DemoError> {
    let session = random_uuid();
    let topic = format!("realtime:messages-{session}");
    let by = if writer.address().is_some() { "through PostgREST" } else { "by SQL, as PostgREST would" };
    write(writer, secret, &script::opening(&session)).await?;

    let bindings = json!([
        { "event": "*", "schema": "public", "table": "chat_messages", "filter": format!("session_id=eq.{session}") },
        { "event": "*", "schema": "public", "table": "live_chat_sessions", "filter": format!("id=eq.{session}") },
    ]);
    let anon = mint_for(secret, "anon", None)?;
    let mut listener = PhoenixClient::connect(url, &anon).await?;
    listener.join(&topic, bindings.clone(), Some(&mint_for(secret, "authenticated", Some(CUSTOMER))?)).await?;
    let mut eavesdropper = PhoenixClient::connect(url, &anon).await?;
    eavesdropper.join(&topic, bindings, Some(&mint_for(secret, "authenticated", Some(EAVESDROPPER))?)).await?;

    println!("\nA customer and an agent write {by}; the customer's client listens on messages-{session}.\n");
    let mut events = 0;
    for line in script::conversation(&session) {
        tokio::time::sleep(line.pause).await;
        let written = Instant::now();
        let (written_as_told, event) = tokio::join!(write(writer, secret, &line), next_change(&mut listener, &line));
        written_as_told?;
        let (event, arrived) = event?;
        println!("{}", told(&line, &event, arrived - written));
        events += 1;
    }
    let overheard = overheard(&mut eavesdropper).await?;
    println!(
        "\n{events} events, each timed from its request to its arrival. Somebody else, on the same channel with the same \
         filter, received {overheard}."
    );
    Ok(())
}

async fn write(writer: &mut Writer, secret: &str, line: &Line) -> Result<(), DemoError> {
    let claims = claims("authenticated", Some(line.speaker.id()));
    let author = Author { token: mint(secret, &claims)?, claims: Value::Object(claims) };
    Ok(writer.write(&author, &line.write).await?)
}

async fn next_change(listener: &mut PhoenixClient, line: &Line) -> Result<(Value, Instant), DemoError> {
    let change = async {
        loop {
            let Incoming { event, mut payload, .. } = listener.next().await?;
            if event == "postgres_changes" && line.made(&payload["data"]) {
                return Ok((payload["data"].take(), Instant::now()));
            }
        }
    };
    timeout(PATIENCE, change).await.map_err(|_| DemoError::Late(format!("{:?}", line.write)))?
}

/// How many changes have come to a client; what was sent before the answer to its next join has come by then.
async fn overheard(client: &mut PhoenixClient) -> Result<usize, DemoError> {
    client.join("realtime:the-end", json!([]), None).await?;
    let mut count = 0;
    while let Some(incoming) = client.next_waiting() {
        count += usize::from(incoming.event == "postgres_changes");
    }
    Ok(count)
}

/// One line of the terminal.
fn told(line: &Line, event: &Value, latency: Duration) -> String {
    let text = |image: &str, column: &str| event[image][column].as_str().unwrap_or_default().to_owned();
    let (record, old) = ("record", "old_record");
    let what = match (event["table"].as_str().unwrap_or_default(), event["type"].as_str().unwrap_or_default()) {
        ("chat_messages", "INSERT") => text(record, "body"),
        ("chat_messages", "UPDATE") => format!("{}  (was: {})", text(record, "body"), text(old, "body")),
        ("chat_messages", _) => format!("(deleted: {})", text(old, "body")),
        (_, _) => format!("(the session is {} now)", text(record, "status")),
    };
    let milliseconds = latency.as_secs_f64() * 1000.0;
    let kind = event["type"].as_str().unwrap_or_default();
    format!("{milliseconds:7.1} ms  {kind:<6}  {:<8}  {what}", line.speaker.name())
}

/// What to try next.
fn invitation(url: &str, secret: &str, writer: &Writer, cluster: &Cluster) -> Result<String, DemoError> {
    let anon = mint_for(secret, "anon", None)?;
    let service = mint_for(secret, "service_role", None)?;
    let mut out = String::new();
    let lines = [
        format!("\nThe relay runs on until Ctrl-C. Try it:\n\n  URL          {url}"),
        format!("  anon key     {anon}\n  service key  {service}"),
        format!("  Postgres     {}", cluster.url("postgres", DATABASE)),
    ];
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
    if let Some(address) = writer.address() {
        let _ = writeln!(out, "  PostgREST    http://{address}");
    }
    let _ = write!(
        out,
        r#"
  import {{ createClient }} from '@supabase/supabase-js'

  const supabase = createClient('{url}', '<anon key>')
  supabase
    .channel('news')
    .on('postgres_changes', {{ event: '*', schema: 'public', table: 'announcements' }}, console.log)
    .subscribe(console.log)

Then, in another terminal:

  psql '{}' -c "insert into announcements (title, published) values ('Hello', true)"
"#,
        cluster.url("postgres", DATABASE)
    );
    Ok(out)
}

fn claims(role: &str, sub: Option<&str>) -> Map<String, Value> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut claims = Map::new();
    claims.insert("role".into(), role.into());
    claims.insert("iat".into(), now.into());
    claims.insert("exp".into(), (now + TOKEN_LIFETIME.as_secs()).into());
    if let Some(sub) = sub {
        claims.insert("sub".into(), sub.into());
    }
    claims
}

fn mint_for(secret: &str, role: &str, sub: Option<&str>) -> Result<String, DemoError> {
    Ok(mint(secret, &claims(role, sub))?)
}

fn random_hex(bytes: usize) -> String {
    let mut rng = rand::rng();
    (0..bytes).map(|_| format!("{:02x}", rng.random::<u8>())).collect()
}

/// Version 4, variant 1.
fn random_uuid() -> String {
    let hex = random_hex(16);
    format!("{}-{}-4{}-a{}-{}", &hex[0..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}
