//! `walcast check`: the DBA's doctor.
//!
//! Looks at a database as `serve` would find it and says what works, what does not, and the statement that mends it.
//! Changes nothing. Given a conninfo; knows neither the stream nor its subscribers.

mod access;
mod broadcasts;
mod connecting;
mod finding;
mod installation;
pub(crate) mod plans;
mod publication;
pub(crate) mod remedy;
mod server;
mod slot;
mod tracked;

use tokio_postgres::Client;

pub use finding::{Finding, Level, Report};
pub use plans::{Kind, PolicyObstacle, TablePlan};

use crate::catalog::{Catalog, loader};
use crate::setup::{self, ApiRole};
use crate::wal::{Budget, Conninfo};

/// What `serve` is going to be run with.
#[derive(Clone, Debug)]
pub struct Config {
    pub publications: Vec<String>,
    pub slot: String,
    pub slot_budget: Budget,
}

impl Default for Config {
    fn default() -> Self {
        let setup = setup::Config::default();
        Config { publications: setup.publications, slot: setup.slot, slot_budget: Budget::default() }
    }
}

/// Looks at everything that can be looked at. What cannot be asked is a finding too.
pub async fn run(conninfo: &Conninfo, config: &Config) -> Report {
    let mut report = Report::default();
    let Some(mut client) = connecting::connect(conninfo, &mut report).await else { return report };
    connecting::replicate(conninfo, &client, &mut report).await;
    let result = server::look(&client, &mut report).await;
    report.could_not_ask("the server's settings", result);
    let result = slot::look(&client, config, &mut report).await;
    report.could_not_ask("the slot", result);
    let result = installation::look(&client, conninfo, config, &mut report).await;
    report.could_not_ask("what setup installed", result);
    let result = tables(&mut client, conninfo, config, &mut report).await;
    report.could_not_ask("the published tables", result);
    report
}

async fn tables(
    client: &mut Client,
    conninfo: &Conninfo,
    config: &Config,
    report: &mut Report,
) -> Result<(), loader::LoadError> {
    let mut loaded = loader::load(client, &config.publications, None).await?;
    let api_roles = setup::api_roles(client).await?;
    publication::look(client, config, &loaded, report).await?;
    let catalog = &mut loaded.catalog;
    let has_bodies = setup::tracking::read_bodies(client, catalog, conninfo).await;
    let has_sources = catalog.functions.values().any(|function| function.language == "sql" && function.body.is_none());
    if !has_bodies && has_sources {
        let detail = "policies call functions whose bodies the oracle's login could not read: what follows is as if walcast \
            could not look into them";
        report.warn("function bodies", detail, Some("walcast setup".into()));
    }
    broadcasts::look(client, catalog, report).await?;
    access::look(client, catalog, &api_roles, report).await?;
    tracked::look(client, catalog, report).await?;
    Ok(())
}

/// The roles that tokens may name, as the catalog knows them.
fn roles_of<'a>(catalog: &'a Catalog, api_roles: &'a [ApiRole]) -> impl Iterator<Item = &'a crate::catalog::Role> {
    api_roles.iter().filter_map(|role| catalog.roles.get(&role.name)).map(AsRef::as_ref)
}
