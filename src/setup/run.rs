//! Carrying steps out.

use std::fmt;

use tokio_postgres::{Client, Transaction};

use crate::wal::Conninfo;
use crate::wal::publication::Own;

use super::{Config, Facts, Otherwise, Secrets, Step, plan, removal};

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the database could not be asked: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    #[error(
        "{0}, who can neither become a superuser nor this database's owner: walcast would trust whatever that role writes there. \
         Look at what it is, then drop it or change its owner (ALTER ... OWNER TO); nothing was changed"
    )]
    Strangers(String),
    #[error("{title} {message}{}; nothing was changed", hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
    Required { title: String, message: String, hint: Option<String> },
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    DoneBut(String),
    /// Postgres' message, and what it means.
    NotDone {
        message: String,
        note: String,
    },
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub steps: Vec<(String, Outcome)>,
    /// For `serve --database-url`; with `PASSWORD` in place of one that was made earlier.
    pub url: Option<String>,
}

impl Report {
    /// Everything that could not be done as it should.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Done => None,
            Outcome::DoneBut(note) | Outcome::NotDone { note, .. } => Some(note.as_str()),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, outcome) in &self.steps {
            match outcome {
                Outcome::Done => writeln!(f, "done      {title}")?,
                Outcome::DoneBut(note) => writeln!(f, "done      {title}\n          {note}")?,
                Outcome::NotDone { message, note } => {
                    writeln!(f, "NOT DONE  {title}\n          Postgres says: {message}\n          {note}")?;
                }
            }
        }
        if let Some(url) = &self.url {
            writeln!(f, "\nNow run: walcast serve --database-url '{url}'")?;
        }
        Ok(())
    }
}

/// Sets up the database that the client is connected to.
pub async fn run(client: &mut Client, config: &Config) -> Result<Report, SetupError> {
    let facts = facts(client, config).await?;
    let secrets = Secrets::generate();
    let mut report = carry_out(client, &plan(&facts, config, &secrets)).await?;
    let known = facts.stream_login.is_none() || config.new_passwords;
    let password = if known { secrets.stream.as_str() } else { "PASSWORD" };
    report.url = Some(format!(
        "postgres://{}:{password}@{}/{}",
        percent_encode(&config.stream_login),
        config.authority,
        percent_encode(&facts.database)
    ));
    Ok(report)
}

/// [`run`] before `serve --auto-setup`, over the same URL: what `serve` needs and its login may do. Roles and helpers of
/// a plain Postgres are left to whoever asks for them.
pub async fn automatic(conninfo: &Conninfo, publication: &str) -> Result<(), AutomaticError> {
    let (mut client, connection) = conninfo.connect().await?;
    let connection = tokio::spawn(connection);
    let config =
        Config { publications: vec![publication.to_owned()], authority: conninfo.address(), ..Config::default() };
    let report = run(&mut client, &config).await?;
    for (title, outcome) in &report.steps {
        match outcome {
            Outcome::Done => tracing::debug!("setup: {title}"),
            Outcome::DoneBut(note) => tracing::warn!("setup: {title} {note}"),
            Outcome::NotDone { message, note } => tracing::warn!("setup: {title} Postgres says: {message}. {note}"),
        }
    }
    drop(client);
    // It ends with the client.
    drop(connection.await);
    Ok(())
}

/// Why `serve --auto-setup` cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AutomaticError {
    #[error(transparent)]
    Connect(#[from] crate::wal::Error),
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// Takes away what [`run`] made.
pub async fn remove(client: &mut Client, config: &Config) -> Result<Report, SetupError> {
    let facts = facts(client, config).await?;
    carry_out(client, &removal(&facts, config)).await
}

/// What is there, unless it is somebody else's: what setup runs in the schema, it would run for him.
pub async fn facts(client: &Client, config: &Config) -> Result<Facts, SetupError> {
    match Own::look(client).await?.strangers {
        Some(strangers) => Err(SetupError::Strangers(strangers)),
        None => Ok(Facts::read(client, config).await?),
    }
}

/// The oracle's login and password, as the stream's login reads them. `None`: setup did not make one.
pub async fn oracle_login(client: &Client) -> Result<Option<(String, String)>, tokio_postgres::Error> {
    // A stranger's table may be a view, whose functions run as whoever reads it.
    if Own::look(client).await?.strangers.is_some() {
        return Ok(None);
    }
    let exists = client.query_one("select to_regclass('walcast.oracle_login') is not null", &[]).await?;
    if !exists.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client.query_opt("select login, password from walcast.oracle_login", &[]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// All in one transaction: either the result is whole, or nothing happened.
async fn carry_out(client: &mut Client, steps: &[Step]) -> Result<Report, SetupError> {
    let mut transaction = client.transaction().await?;
    // IF NOT EXISTS and IF EXISTS say so otherwise; a long lock should not hold up the application behind it.
    let settings = "set local client_min_messages = warning; set local lock_timeout = '10s'; \
                    set local search_path = pg_catalog, pg_temp";
    transaction.batch_execute(settings).await?;
    let mut report = Report::default();
    for step in steps {
        let outcome = carry_out_one(&mut transaction, step).await?;
        report.steps.push((step.title.clone(), outcome));
    }
    transaction.commit().await?;
    Ok(report)
}

async fn carry_out_one(transaction: &mut Transaction<'_>, step: &Step) -> Result<Outcome, SetupError> {
    let mut refused = None;
    for attempt in &step.attempts {
        let savepoint = transaction.savepoint("step").await?;
        match savepoint.batch_execute(&attempt.sql).await {
            Ok(()) => {
                savepoint.commit().await?;
                return Ok(attempt.note.clone().map_or(Outcome::Done, Outcome::DoneBut));
            }
            Err(error) => {
                savepoint.rollback().await?;
                // The first refusal is about what was wanted; those after it are about less.
                refused.get_or_insert(error);
            }
        }
    }
    let Some(error) = refused else { return Ok(Outcome::Done) };
    let Some(server) = error.as_db_error() else { return Err(error.into()) };
    let message = server.message().to_owned();
    match &step.otherwise {
        Otherwise::Note(note) => Ok(Outcome::NotDone { message, note: note.clone() }),
        Otherwise::Abort => {
            let hint = server.hint().map(str::to_owned);
            Err(SetupError::Required { title: step.title.clone(), message, hint })
        }
    }
}

fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}
