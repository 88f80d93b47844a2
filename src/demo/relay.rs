//! The relay as the demo has it: `walcast setup` and `walcast serve` in this process, with their defaults.

use std::net::SocketAddr;

use clap::Parser;
use tokio::net::TcpListener;

use super::run::DemoError;
use crate::config::ServeArgs;
use crate::relay::{BoxError, Relay};
use crate::serve::relay_config;
use crate::setup;
use crate::wal::Conninfo;

pub struct RelayConfig {
    pub database_url: String,
    pub jwt_secret: String,
    pub listener: TcpListener,
}

pub struct RunningRelay(Relay);

impl RunningRelay {
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub async fn stop(self) {
        self.0.stop().await;
    }
}

/// The flags of `walcast serve`, for their defaults.
#[derive(Parser)]
struct Serve {
    #[command(flatten)]
    args: ServeArgs,
}

/// Prepares the database, lets `install` add tables to it, and starts the relay.
pub async fn start_relay<F, Installed>(config: RelayConfig, install: F) -> Result<RunningRelay, DemoError>
where
    F: FnOnce() -> Installed,
    Installed: Future<Output = Result<(), DemoError>>,
{
    let conninfo = Conninfo::parse(&config.database_url).map_err(|error| DemoError::Relay(error.into()))?;
    set_up(&conninfo).await.map_err(DemoError::Relay)?;
    install().await?;
    let flags = ["demo", "--database-url", &config.database_url, "--jwt-secret", &config.jwt_secret];
    let args = Serve::try_parse_from(flags).map_err(|error| DemoError::Relay(error.into()))?.args;
    let relay_config = relay_config(&args, conninfo).map_err(DemoError::Relay)?;
    Ok(RunningRelay(Relay::start(relay_config, config.listener).await.map_err(DemoError::Relay)?))
}

async fn set_up(conninfo: &Conninfo) -> Result<(), BoxError> {
    let (mut client, connection) = conninfo.connect().await?;
    let connection = tokio::spawn(connection);
    let config = setup::Config {
        with_auth: true,
        conninfo: Some(conninfo.clone()),
        authority: conninfo.address(),
        ..setup::Config::default()
    };
    setup::run(&mut client, &config).await?;
    drop(client);
    let _ = connection.await;
    Ok(())
}
