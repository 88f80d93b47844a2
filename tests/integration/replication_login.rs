//! Logins, TLS and unix sockets: the replication connection and ordinary SQL follow the same rules.

use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::wal::tls::TlsError;
use walcast::wal::{Conninfo, Error, ServerError};

use crate::support::database::{Database, connect, eventually, shared_cluster};
use crate::support::replica::{Replica, config};

const HBA: &str = "
local all all trust
host all postgres 127.0.0.1/32 trust
host all scram_user 127.0.0.1/32 scram-sha-256
host all md5_user 127.0.0.1/32 md5
host all cleartext_user 127.0.0.1/32 password
";

/// A password that SASLprep, quoting and percent-encoding all have something to do with.
const PASSWORD: &str = "pass'w\u{f6}rd @/:%";
const PASSWORD_IN_URL: &str = "pass%27w%C3%B6rd%20%40%2F%3A%25";

/// The streaming login and an ordinary one.
async fn both_connect(url: &str, slot: &str) {
    let replica = Replica::streaming(config(url, slot)).await;
    replica.stop().await.unwrap();
    let (client, task) = Conninfo::parse(url).unwrap().connect().await.unwrap();
    let task = tokio::spawn(task);
    let token = client.cancel_token();
    let conninfo = Conninfo::parse(url).unwrap();
    let (slept, cancelled) = tokio::join!(client.batch_execute("select pg_sleep(60)"), async {
        let ordinary = "select pg_sleep(60)";
        let (observer, task) = conninfo.connect().await.unwrap();
        tokio::spawn(task);
        eventually(&observer, &format!("select count(*) = 1 from pg_stat_activity where query = '{ordinary}' and usename = current_user and datname = current_database() and state = 'active'")).await;
        conninfo.cancel(token).await
    });
    cancelled.unwrap();
    assert_eq!(slept.unwrap_err().code().map(|code| code.code()), Some("57014"));
    drop(client);
    task.await.unwrap().unwrap();
}

async fn both_fail(url: &str) -> (Error, Error) {
    let failed = Replica::start(config(url, "never_made")).failure().await;
    let ordinary = match Conninfo::parse(url).unwrap().connect().await {
        Ok(_) => panic!("connected: {url}"),
        Err(error) => error,
    };
    (failed, ordinary)
}

#[tokio::test]
async fn every_password_method_logs_in_and_a_wrong_password_does_not() {
    let cluster = Cluster::start(&ClusterOptions { hba: Some(HBA.to_owned()), ..Default::default() }).unwrap();
    let Database { client, name, .. } = Database::create_in(&cluster).await;
    client.batch_execute("create publication app").await.unwrap();
    let quoted = PASSWORD.replace('\'', "''");
    for (user, encryption) in
        [("scram_user", "scram-sha-256"), ("md5_user", "md5"), ("cleartext_user", "scram-sha-256")]
    {
        let sql = format!(
            "set password_encryption = '{encryption}'; create role {user} login replication password '{quoted}'"
        );
        client.batch_execute(&sql).await.unwrap();
        let address = format!("127.0.0.1:{}/{name}", cluster.port());
        both_connect(&format!("postgres://{user}:{PASSWORD_IN_URL}@{address}"), user).await;

        let (streaming, ordinary) = both_fail(&format!("postgres://{user}:wrong@{address}")).await;
        assert_eq!((streaming.sqlstate(), ordinary.sqlstate()), (Some("28P01"), Some("28P01")), "{user}");
        assert!(!streaming.is_transient() && !ordinary.is_transient());
        let (streaming, _) = both_fail(&format!("postgres://{user}@{address}")).await;
        assert!(matches!(streaming, Error::PasswordMissing), "{streaming:?}");
    }
    let (streaming, _) = both_fail(&format!("postgres://nobody_known@127.0.0.1:{}/{name}", cluster.port())).await;
    assert!(streaming.to_string().contains("pg_hba.conf"), "{streaming}");
    let required = format!(
        "host=127.0.0.1 port={} user=scram_user password=x dbname={name} channel_binding=require",
        cluster.port()
    );
    let (streaming, _) = both_fail(&required).await;
    assert!(matches!(streaming, Error::NoChannelBinding), "{streaming:?}");
}

#[tokio::test]
async fn a_unix_socket_is_spoken_to_in_either_spelling() {
    let cluster = shared_cluster();
    let Database { client, name, .. } = Database::create().await;
    client.batch_execute("create publication app").await.unwrap();
    both_connect(&cluster.socket_url("postgres", &name), &name).await;
    let pairs = format!(
        "host={} port={} user=postgres dbname={name} sslmode=verify-full",
        cluster.directory().display(),
        cluster.port()
    );
    both_connect(&pairs, &name).await;
}

#[tokio::test]
async fn what_nobody_listens_on_is_tried_again() {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    for url in [format!("postgres://u@127.0.0.1:{port}/d"), "host=/nonexistent user=u".to_owned()] {
        let mut replica = Replica::start(config(&url, "never_made")).handle.state();
        let waits = replica.wait_for(|state| matches!(state, walcast::wal::ReaderState::Waiting { .. })).await;
        let walcast::wal::ReaderState::Waiting { error, .. } = waits.unwrap().clone() else { panic!() };
        assert!(error.contains("cannot connect to Postgres at"), "{error}");
    }
}

/// Runs as the server's own user and in its data directory, where ssl_cert_file and ssl_key_file are by default.
const CERTIFICATES: &str = r#"
set -e
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' > server.ext
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.crt
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=other -addext subjectAltName=DNS:localhost -keyout other.key -out other.crt
chmod 600 server.key other.key
"#;

const TLS_HBA: &str = "
local all all trust
host all postgres 127.0.0.1/32 trust
hostssl all tls_user 127.0.0.1/32 scram-sha-256
";

async fn tls_cluster() -> Cluster {
    let cluster = Cluster::start(&ClusterOptions { hba: Some(TLS_HBA.to_owned()), ..Default::default() }).unwrap();
    let client = connect(&cluster.socket_url("postgres", "postgres")).await;
    let program = format!("cat > /dev/null; ({CERTIFICATES}) > openssl.log 2>&1 || {{ cat openssl.log >&2; false; }}");
    let quoted = program.replace('\'', "''");
    client.batch_execute(&format!("copy (select 1) to program '{quoted}'")).await.expect("openssl makes certificates");
    client.batch_execute("create role tls_user login replication password 'secret'").await.unwrap();
    turn_tls_on(&cluster, "server").await;
    cluster
}

async fn turn_tls_on(cluster: &Cluster, certificate: &str) {
    let client = connect(&cluster.socket_url("postgres", "postgres")).await;
    for statement in [
        format!("alter system set ssl_cert_file = '{certificate}.crt'"),
        format!("alter system set ssl_key_file = '{certificate}.key'"),
        "alter system set ssl = on".to_owned(),
        "select pg_reload_conf()".to_owned(),
    ] {
        client.batch_execute(&statement).await.unwrap();
    }
    let reloaded =
        format!("select current_setting('ssl')::bool and current_setting('ssl_cert_file') = '{certificate}.crt'");
    eventually(&client, &reloaded).await;
}

#[tokio::test]
async fn tls_checks_what_the_mode_says_and_binds_the_login_to_the_channel() {
    let cluster = tls_cluster().await;
    let Database { client, name, .. } = Database::create_in(&cluster).await;
    client.batch_execute("create publication app").await.unwrap();
    let data = cluster.data_directory();
    let base = format!("port={} user=tls_user password=secret dbname={name} hostaddr=127.0.0.1", cluster.port());
    let ca = format!("sslrootcert={}", data.join("ca.crt").display());
    let other = format!("sslrootcert={}", data.join("other.crt").display());
    for (n, good) in [
        "host=localhost sslmode=prefer".to_owned(),
        "host=localhost sslmode=require".to_owned(),
        "host=localhost sslmode=require channel_binding=require".to_owned(),
        "host=localhost sslmode=require channel_binding=disable".to_owned(),
        format!("host=localhost sslmode=require {ca}"),
        format!("host=localhost sslmode=verify-ca {ca}"),
        format!("host=elsewhere.example sslmode=verify-ca {ca}"),
        format!("host=localhost sslmode=verify-full {ca}"),
    ]
    .into_iter()
    .enumerate()
    {
        both_connect(&format!("{base} {good}"), &format!("tls_{n}")).await;
    }
    for bad in [
        format!("host=localhost sslmode=verify-ca {other}"),
        format!("host=localhost sslmode=require {other}"),
        format!("host=localhost sslmode=verify-full {other}"),
        format!("host=elsewhere.example sslmode=verify-full {ca}"),
    ] {
        let (streaming, _) = both_fail(&format!("{base} {bad}")).await;
        assert!(matches!(streaming, Error::Tls(TlsError::Rustls(_))), "{bad}: {streaming:?}");
    }
    let (streaming, _) = both_fail(&format!("{base} host=localhost sslmode=disable")).await;
    let Error::Server(server) = streaming else { panic!("{streaming:?}") };
    assert!(matches!(*server, ServerError { ref sqlstate, .. } if sqlstate == "28000"), "{server}");

    // A self-signed certificate that is its own root.
    turn_tls_on(&cluster, "other").await;
    both_connect(&format!("{base} host=localhost sslmode=verify-full {other}"), "self_signed").await;
    both_connect(&format!("{base} host=localhost sslmode=require channel_binding=require"), "self_signed").await;
    let (streaming, _) = both_fail(&format!("{base} host=localhost sslmode=verify-full {ca}")).await;
    assert!(matches!(streaming, Error::Tls(TlsError::Rustls(_))), "{streaming:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_demanded() {
    let Database { url, .. } = Database::create().await;
    let (streaming, _) = both_fail(&format!("{url}?sslmode=require")).await;
    assert!(matches!(streaming, Error::Tls(TlsError::NotOffered)), "{streaming:?}");
}
