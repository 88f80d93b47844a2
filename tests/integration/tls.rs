//! Clients over TLS: the same server behind a certificate.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use walcast::channels::frame;
use walcast::server::Tls;
use walcast::server::metrics::Failed;

use crate::support::socket::{Relay, Socket, exchange, token};

/// A certificate for localhost and its key, in a directory of their own.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.renew();
        files
    }

    fn renew(&self) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(self.key())
            .arg("-out")
            .arg(self.certificate())
            .output()
            .expect("openssl runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn certificate(&self) -> std::path::PathBuf {
        self.0.path().join("tls.crt")
    }

    fn key(&self) -> std::path::PathBuf {
        self.0.path().join("tls.key")
    }

    fn load(&self) -> Tls {
        Tls::load(&self.certificate(), &self.key()).unwrap()
    }
}

async fn relay(tls: &Tls) -> Relay {
    Relay::with(|_, server| server.tls = Some(tls.clone())).await
}

/// Over TLS to somebody with the certificate in `file`, offering HTTP/2 too.
async fn connect(relay: &Relay, file: &Path) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(relay.address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

async fn socket(relay: &Relay, file: &Path) -> Socket<TlsStream<TcpStream>> {
    let url = format!("wss://localhost/socket/websocket?apikey={}&vsn=2.0.0", token("anon", 3600));
    let stream = connect(relay, file).await.unwrap();
    Socket(tokio_tungstenite::client_async(url, stream).await.unwrap().0)
}

#[tokio::test]
async fn requests_are_answered_over_tls_and_only_over_tls() {
    let files = Files::new();
    let relay = relay(&files.load()).await;
    let stream = connect(&relay, &files.certificate()).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = exchange(stream, b"GET /healthcheck HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert_eq!((answer.status, &*answer.body), (200, "ok"));

    let body = vec![0; 1_000_000];
    let head = format!(
        "POST /api/broadcast/t/events/e HTTP/1.1\r\nhost: localhost\r\napikey: {}\r\nconnection: close\r\n\
         content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        token("anon", 60),
        body.len()
    );
    let stream = connect(&relay, &files.certificate()).await.unwrap();
    assert_eq!(exchange(stream, &[head.as_bytes(), &body].concat()).await.status, 202);

    // Whoever speaks plainly is cut off, and others are served on.
    let mut plain = TcpStream::connect(relay.address).await.unwrap();
    let mut got = Vec::new();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut got).await;
    assert!(!got.starts_with(b"HTTP"));
    assert!(connect(&relay, &files.certificate()).await.is_ok());
}

#[tokio::test]
async fn whoever_begins_no_handshake_is_not_waited_for() {
    let tls = Files::new().load();
    let relay = Relay::with(|_, server| {
        server.tls = Some(tls);
        server.header_timeout = Duration::from_millis(200);
    })
    .await;
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "it is closed");
    assert_eq!(relay.failed(Failed::Timeout), 1);
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // An alert, and the end.
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(relay.failed(Failed::Tls), 1);
}

#[tokio::test]
async fn sockets_live_behind_tls_as_before_it() {
    let files = Files::new();
    let relay = relay(&files.load()).await;
    let mut socket = socket(&relay, &files.certificate()).await;
    socket.subscribe("room").await;
    let large = "x".repeat(900_000);
    relay.dispatch.outbox("realtime:room").push(frame::text(large.as_bytes()));
    socket.expect(&large).await;
    relay.shutdown.cancel();
    assert!(socket.text().await.contains("Server requested disconnect"));
    socket.expect_close(1012, "").await;
    // The client's side, which the server waits for.
    drop(socket);
    relay.stop().await;
}

#[tokio::test]
async fn a_client_that_neither_reads_nor_leaves_is_not_waited_for() {
    let files = Files::new();
    let relay = Relay::with(|channels, server| {
        server.tls = Some(files.load());
        server.close_timeout = Duration::from_millis(50);
        // Longer than the test waits for the end.
        server.drain_timeout = Duration::from_secs(3600);
        channels.outbox.bytes_max = 64 << 20;
        channels.outbox.spill_bytes_max = 64 << 20;
    })
    .await;
    let mut deaf = socket(&relay, &files.certificate()).await;
    deaf.subscribe("deaf").await;
    let mut mute = socket(&relay, &files.certificate()).await;
    mute.subscribe("mute").await;
    // More than all the buffers between take.
    relay.dispatch.outbox("realtime:deaf").push(frame::text(&vec![b'x'; 32 << 20]));
    relay.stop().await;
    drop((deaf, mute));
}

#[tokio::test]
async fn whoever_is_silent_behind_tls_does_not_hold_up_a_stop() {
    let files = Files::new();
    let relay = Relay::with(|_, server| {
        server.tls = Some(files.load());
        (server.close_timeout, server.drain_timeout) = (Duration::from_secs(3600), Duration::from_secs(3600));
        server.drain_linger = Duration::from_millis(10);
    })
    .await;
    let mut silent = socket(&relay, &files.certificate()).await;
    silent.subscribe("room").await;
    relay.stop().await;
    assert!(silent.text().await.contains("Server requested disconnect"));
}

#[tokio::test]
async fn a_new_certificate_is_for_those_who_come_after_it() {
    let files = Files::new();
    let tls = files.load();
    let relay = relay(&tls).await;
    let old = files.0.path().join("old.crt");
    std::fs::copy(files.certificate(), &old).unwrap();
    let mut before = socket(&relay, &old).await;
    files.renew();
    tls.reload().unwrap();
    assert!(connect(&relay, &old).await.is_err());
    let mut after = socket(&relay, &files.certificate()).await;
    for socket in [&mut before, &mut after] {
        socket.send(r#"[null,"1","phoenix","heartbeat",{}]"#).await;
        socket.expect(r#"[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]"#).await;
    }
    // What cannot be used changes nothing.
    std::fs::write(files.certificate(), "nonsense").unwrap();
    assert!(tls.reload().is_err());
    std::fs::write(files.certificate(), std::fs::read(&old).unwrap()).unwrap();
    assert!(tls.reload().is_err(), "another key's certificate");
    after.send(r#"[null,"2","phoenix","heartbeat",{}]"#).await;
    after.expect(r#"[null,"2","phoenix","phx_reply",{"status":"ok","response":{}}]"#).await;
}

#[test]
fn what_is_wrong_with_the_files_is_said() {
    let files = Files::new();
    let (certificate, key) = (files.certificate(), files.key());
    let error = |certificate: &Path, key: &Path| Tls::load(certificate, key).unwrap_err().to_string();
    let missing = error(Path::new("/nowhere/tls.crt"), &key);
    assert!(missing.starts_with("the certificate file /nowhere/tls.crt cannot be read"), "{missing}");
    assert!(error(&key, &key).ends_with("holds no certificate in PEM"));
    assert!(error(&certificate, &certificate).starts_with("the key file"));
    let other = Files::new();
    assert!(error(&certificate, &other.key()).starts_with("certificate and key cannot be used together"));
}
