//! What a run has to itself: a cluster, the relay as a process, and a network on either side of it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_postgres::Client as Postgres;
use walcast::demo::postgres::{Cluster, ClusterOptions};

use super::network::Network;
use super::plan::Plan;
use super::truth;
use super::world::{LANES, Person, ROOMS, schema};
use crate::support::database::{Database, connect};
use crate::support::proxy::Proxy;
use crate::support::relay::{self, Relay};
use crate::support::scene::execute;

pub struct Stage {
    pub cluster: Arc<Cluster>,
    /// Past the proxy.
    pub url: String,
    /// Between relay and Postgres.
    pub line: Proxy,
    pub relay: Relay,
    /// Between clients and relay.
    pub network: Network,
}

impl Stage {
    pub async fn build(plan: &Plan) -> Stage {
        let settings = vec![String::from("log_min_messages = error"), String::from("max_wal_size = 4GB")];
        let cluster = Arc::new(Cluster::start(&ClusterOptions { settings, hba: None }).expect("a cluster"));
        let database = Database::create_in(&cluster).await;
        relay::set_up(&database.url).await;
        execute(&database.client, &schema()).await;
        // Again, for what policies read: members are followed from now on.
        relay::set_up(&database.url).await;
        let slot = format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", truth::SLOT);
        execute(&database.client, &slot).await;
        execute(&database.client, &people()).await;
        let line = Proxy::start(SocketAddr::from(([127, 0, 0, 1], cluster.port()))).await;
        let url = format!("postgres://postgres@{}/{}", line.address, database.name);
        let flags = plan.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let relay = relay::start(&url, &flags).await;
        let network = Network::start(relay.address).await;
        Stage { cluster, url: database.url, line, relay, network }
    }

    pub async fn postgres(&self) -> Postgres {
        connect(&self.url).await
    }
}

/// Who is a member and a reader when it begins: about half of all that may be.
fn people() -> String {
    let mut sql = String::new();
    for person in (0..Person::SIGNED_IN).map(Person) {
        let sub = person.sub();
        for room in (0..ROOMS).filter(|room| (room + i32::from(person.0)) % 2 == 0) {
            sql += &format!("insert into members values ({room}, '{sub}');");
        }
        for lane in (0..LANES).filter(|lane| (lane + i32::from(person.0)) % 2 == 1) {
            sql += &format!("insert into readers values ({lane}, '{sub}');");
        }
    }
    sql
}
