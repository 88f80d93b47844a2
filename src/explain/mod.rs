//! `walcast explain`: why a person gets an event of a row, or does not.
//!
//! Goes through every gate that a change passes (publication, grants, filter, each policy, the identity of the old row)
//! with the row as it is now, and names the statement that would change a verdict. Policies are evaluated by Postgres
//! itself, on the oracle's login. Changes nothing.

mod gates;
mod row;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::authz::{Identity, Oracle, OracleConfig};
use crate::catalog::{Catalog, Relation, loader};
use crate::change::Operation;
use crate::check::Report;
use crate::dispatch::Deletes;
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
    let login = match oracle_conninfo {
        Some(login) => Some(login),
        None => {
            let (client, connection) = conninfo.connect().await?;
            tokio::spawn(connection);
            let login = crate::setup::oracle_login(&client).await?;
            login.map(|(user, password)| conninfo.with_user(&user, Some(&password)))
        }
    };
    let Some(login) = login else { return run(conninfo, &Oracle::absent(), question).await };
    let config = OracleConfig { sessions: 1, slow_sessions: 1, ..OracleConfig::default() };
    let (oracle, task) = Oracle::new(&config, Arc::new(login), Arc::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    let report = run(conninfo, &oracle, question).await;
    stop.cancel();
    drop(running.await);
    report
}

/// Goes through the gates; the last finding is the verdict.
pub async fn run(conninfo: &Conninfo, oracle: &Oracle, question: &Question) -> Result<Report, Error> {
    let (mut client, connection) = conninfo.connect().await?;
    tokio::spawn(connection);
    let publications = std::slice::from_ref(&question.publication);
    let loaded = loader::load(&mut client, publications, None).await?;
    let catalog = loaded.catalog;
    let mut report = Report::default();
    let Some(relation) = gates::publication(question, &catalog, &mut report) else {
        return Ok(concluded(report));
    };
    let identity = Arc::new(Identity { role: question.role.clone(), claims: question.claims.as_str().into() });
    let case = Case { question, catalog: &catalog, relation: &relation, identity, oracle };
    gates::grants(&case, &mut report);
    let Some(row) = row::read(&client, &case).await? else {
        let detail =
            format!("{} has no row of that key now: a policy has nothing to be asked about", relation.sql_name());
        report.fail("row", detail, None);
        return Ok(concluded(report));
    };
    report.pass("row", "found; the policies below are asked about it as it is now");
    gates::filter(&case, &row, &mut report).await;
    gates::policies(&case, &row, &mut report).await;
    gates::old_row(&case, &mut report);
    Ok(concluded(report))
}

fn concluded(mut report: Report) -> Report {
    match report.failed() {
        false => report.pass("verdict", "the event is delivered"),
        true => report.fail("verdict", "the event is not delivered: see the first gate that fails", None),
    }
    report
}
