//! A network that can be broken: a TCP proxy that forwards, holds its breath, or cuts.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Flows,
    /// Connections stay, no byte passes, new ones hang.
    Stalled,
    /// Connections are closed, new ones too.
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    network: watch::Sender<Network>,
    upstream: watch::Sender<SocketAddr>,
    /// At each change the connections that there are fall silent.
    forsaken: watch::Sender<u64>,
}

impl Proxy {
    pub async fn start(upstream: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (network, state) = watch::channel(Network::Flows);
        let (upstream, towards) = watch::channel(upstream);
        let (forsaken, silence) = watch::channel(0);
        tokio::spawn(accept(listener, towards, state, silence));
        Proxy { address, network, upstream, forsaken }
    }

    /// The connections that there are fall silent for ever, open on the server's side; new ones work.
    pub fn forsake(&self) {
        self.forsaken.send_modify(|generation| *generation += 1);
    }

    /// New connections go there.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.upstream.send_replace(upstream);
    }

    pub fn cut(&self) {
        self.network.send_replace(Network::Cut);
    }

    pub fn stall(&self) {
        self.network.send_replace(Network::Stalled);
    }

    pub fn resume(&self) {
        self.network.send_replace(Network::Flows);
    }
}

async fn accept(
    listener: TcpListener,
    upstream: watch::Receiver<SocketAddr>,
    network: watch::Receiver<Network>,
    forsaken: watch::Receiver<u64>,
) {
    let mut end = network.clone();
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                Err(_) => continue,
            },
            // Only the end of the proxy makes this wait return.
            _ = async { while end.changed().await.is_ok() {} } => return,
        };
        let upstream = *upstream.borrow();
        tokio::spawn(forward(client, upstream, network.clone(), forsaken.clone()));
    }
}

/// Both directions until one ends or the network is cut.
async fn forward(
    mut client: TcpStream,
    upstream: SocketAddr,
    mut network: watch::Receiver<Network>,
    mut forsaken: watch::Receiver<u64>,
) {
    forsaken.mark_unchanged();
    let Ok(state) = network.wait_for(|state| *state != Network::Stalled).await.map(|state| *state) else { return };
    if state == Network::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let (client_reads, client_writes) = client.split();
    let (server_reads, server_writes) = server.split();
    let cut = async { _ = network.clone().wait_for(|state| *state == Network::Cut).await };
    tokio::select! {
        () = pump(client_reads, server_writes, network.clone()) => {}
        () = pump(server_reads, client_writes, network.clone()) => {}
        () = cut => {}
        // Both sockets stay open until the end of the proxy.
        _ = forsaken.changed() => while forsaken.changed().await.is_ok() {},
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut network: watch::Receiver<Network>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // What was read before the stall is held as well.
        if network.wait_for(|state| *state == Network::Flows).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
