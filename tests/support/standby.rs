//! A second server from a copy of the first: a standby that follows it, or one that has stood still since; and one that
//! commits wait for, which never comes.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tokio_postgres::Client;
use walcast::demo::postgres::{Cluster, ClusterOptions};

use super::database::connect;
use super::scene::{execute, until};

const STOP_MAX: Duration = Duration::from_secs(30);

/// Stops the primary for the copy, and starts it again: sessions end. `settings` are the standby's own.
pub fn copy_of(primary: &Cluster, settings: &[&str]) -> Cluster {
    let standby = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    standby.stop("immediate", STOP_MAX).expect("it stops");
    primary.stop("fast", STOP_MAX).expect("the primary stops");
    let (from, to) = (primary.data_directory(), standby.data_directory());
    fs::remove_dir_all(&to).expect("its files go");
    let copied = Command::new("cp").arg("-a").args([&from, &to]).status().expect("cp runs");
    assert!(copied.success(), "cp -a {from:?} {to:?}");
    primary.start_server().expect("the primary starts again");

    // A base backup has no slots.
    for slot in fs::read_dir(to.join("pg_replslot")).expect("slots").flatten() {
        fs::remove_dir_all(slot.path()).expect("a slot goes");
    }
    let signal = Command::new("cp").args(["-a"]).args([to.join("PG_VERSION"), to.join("standby.signal")]).status();
    assert!(signal.expect("cp runs").success());
    let mut conf = fs::OpenOptions::new().append(true).open(to.join("postgresql.conf")).expect("its settings");
    let directory = standby.directory().display();
    writeln!(
        conf,
        "port = {}\nunix_socket_directories = '{directory}'\nwal_retrieve_retry_interval = 100ms",
        standby.port()
    )
    .expect("settings are written");
    settings.iter().for_each(|line| writeln!(conf, "{line}").expect("settings are written"));
    standby.start_server().expect("the standby starts");
    standby
}

/// What a standby follows its primary by.
pub fn primary_conninfo(primary: &Cluster) -> String {
    format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres dbname=postgres'", primary.port())
}

/// Waits until the standby has everything that the primary has written.
pub async fn until_caught_up(primary: &Cluster, standby: &Cluster) {
    let client = connect(&primary.url("postgres", "postgres")).await;
    let row = client.query_one("select pg_current_wal_lsn()::text", &[]).await.expect("a position");
    let position: String = row.get(0);
    let client = connect(&standby.url("postgres", "postgres")).await;
    until(&client, &format!("select pg_last_wal_replay_lsn() >= '{position}'")).await;
}

/// Returns when it is a primary.
pub async fn promote(standby: &Cluster) {
    let client = connect(&standby.url("postgres", "postgres")).await;
    client.batch_execute("select pg_promote()").await.expect("it is promoted");
    until(&client, "select not pg_is_in_recovery()").await;
}

pub fn address(cluster: &Cluster) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], cluster.port()))
}

/// Its commits are streamed before anybody sees them, in those sessions that set `synchronous_commit = on`.
pub fn cluster_with_a_late_standby() -> Cluster {
    let settings = vec!["synchronous_standby_names = 'late'".into(), "synchronous_commit = local".into()];
    Cluster::start(&ClusterOptions { settings, hba: None }).expect("a cluster")
}

/// Waits until a commit waits for the late standby: it is in the WAL then.
pub async fn until_one_waits(postgres: &Client) {
    until(postgres, "select exists (select from pg_stat_activity where wait_event = 'SyncRep')").await;
}

/// The late standby is waited for no longer: what waited for it becomes visible. (A real one would need `pg_receivewal`,
/// which not every package of server programs has; to those who wait it is the same.)
pub async fn let_go(cluster: &Cluster) {
    let postgres = connect(&cluster.url("postgres", "postgres")).await;
    execute(&postgres, "alter system set synchronous_standby_names = ''").await;
    execute(&postgres, "select pg_reload_conf()").await;
}
