//! `walcast explain`: why a person gets an event of a row, or does not.
//!
//! Goes through every gate that a change passes (publication, grants, filter, each policy, the identity of the old row)
//! with the row as it is now, and names the statement that would change a verdict. Policies are evaluated by Postgres
//! itself, on the oracle's login, also where the relay decides them in-process: the answers are the same. Changes nothing.

mod gates;
mod old_row;
mod policies;
mod row;

use std::sync::Arc;

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::authz::{Identity, Oracle, OracleConfig};
use crate::catalog::{Catalog, Relation, loader};
use crate::change::Operation;
use crate::check::{Level, Report};
use crate::dispatch::{Deletes, TableName};
use crate::setup::tracking::{read_bodies, read_bodies_as};
use crate::wal::Conninfo;

/// What is to be explained.
#[derive(Clone, Debug)]
pub struct Question {
    pub publication: String,
    /// `table`, of schema public, or `schema.table`.
    pub table: String,
    /// A JSON object of columns, or the value of a primary key of one column.
    pub key: String,
    pub role: String,
    /// JSON, as a token carries them.
    pub claims: String,
    pub event: Operation,
    pub filter: Option<String>,
    pub deletes: Deletes,
    /// Tables whose rows are kept, so that their deletes are judged by them.
    pub delete_indexes: Vec<TableName>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] crate::wal::Error),
    #[error(transparent)]
    Catalog(#[from] loader::LoadError),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error("--key {0:?}: {1}")]
    Key(String, String),
}

/// What the gates share.
struct Case<'a> {
    client: &'a Client,
    question: &'a Question,
    catalog: &'a Catalog,
    relation: &'a Arc<Relation>,
    identity: Arc<Identity>,
    oracle: &'a Oracle,
}

/// Explains with an oracle of its own, on that login or the one that `setup` left in the database.
pub async fn with_oracle(
    conninfo: &Conninfo,
    oracle_conninfo: Option<Conninfo>,
    question: &Question,
) -> Result<Report, Error> {
    let (mut client, connection) = conninfo.connect().await?;
    tokio::spawn(connection);
    let publications = std::slice::from_ref(&question.publication);
    let mut catalog = loader::load(&mut client, publications, None).await?.catalog;
    let login = match oracle_conninfo {
        Some(login) => Some(login),
        None => {
            // Without setup, or without the right to read what it left, there is none.
            let login = crate::setup::oracle_login(&client).await.unwrap_or_default();
            login.map(|(user, password)| conninfo.with_user(&user, Some(&password)))
        }
    };
    let has_bodies = match &login {
        Some(login) => read_bodies_as(login, &mut catalog).await,
        None => read_bodies(&client, &mut catalog, conninfo).await,
    };
    let mut report = Report::default();
    if !has_bodies {
        let detail = "the oracle's login is not there: bodies of functions are not read, and no policy can be asked";
        report.warn("oracle", detail, Some("walcast setup".to_owned()));
    }
    let Some(login) = login else { return run(&client, &catalog, &Oracle::absent(), question, report).await };
    let config = OracleConfig { sessions: 1, slow_sessions: 1, ..OracleConfig::default() };
    let (oracle, task) = Oracle::new(&config, Arc::new(login), Arc::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    let report = run(&client, &catalog, &oracle, question, report).await;
    stop.cancel();
    drop(running.await);
    report
}

/// Goes through the gates; the last finding is the verdict.
async fn run(
    client: &Client,
    catalog: &Catalog,
    oracle: &Oracle,
    question: &Question,
    mut report: Report,
) -> Result<Report, Error> {
    let Some(relation) = gates::publication(question, catalog, &mut report) else {
        return Ok(concluded(report));
    };
    let identity = Arc::new(Identity { role: question.role.clone(), claims: question.claims.as_str().into() });
    let case = Case { client, question, catalog, relation: &relation, identity, oracle };
    gates::grants(&case, &mut report);
    let Some(row) = row::read(client, &case).await? else {
        let detail =
            format!("{} has no row of that key now: a policy has nothing to be asked about", relation.sql_name());
        report.fail("row", detail, None);
        return Ok(concluded(report));
    };
    report.pass("row", "found; the gates below are asked about it as it is now");
    gates::filter(&case, &row, &mut report).await;
    let judged = old_row::look(&case, &mut report);
    policies::look(&case, &row, judged, &mut report).await?;
    Ok(concluded(report))
}

fn concluded(mut report: Report) -> Report {
    let failed = report.findings.iter().find(|finding| finding.level == Level::Fail);
    match failed.map(|finding| format!("the event is not delivered: see {}", finding.what)) {
        None => report.pass("verdict", "the event is delivered"),
        Some(detail) => report.fail("verdict", detail, None),
    }
    report
}
