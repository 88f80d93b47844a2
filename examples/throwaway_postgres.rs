//! Starts a throw-away Postgres, prints its superuser's URL, and stops it when standard input closes.
//! The client tests in tests/js run on it; it is the same cluster that the Rust tests have.

use std::io::{self, Read, Write};

use walcast::demo::postgres::{Cluster, ClusterOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = Cluster::start(&ClusterOptions::default())?;
    println!("{}", cluster.url("postgres", "postgres"));
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
