//! The network between clients and relay. Each connection can be reset, fall silent, become slow, or lose the client
//! without the relay's being told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Flows,
    /// Every piece takes this long.
    Slow(Duration),
    /// No byte passes, and nobody is told.
    Silent,
    /// Both ends get a RST.
    Cut,
    /// The client's end is closed, the relay's stays open in silence.
    HalfOpen,
}

/// How long the relay's end of a half-open connection is kept: longer than anybody waits.
const HALF_OPEN: Duration = Duration::from_secs(90);

#[derive(Clone)]
pub struct Network {
    pub address: SocketAddr,
    lines: Arc<Mutex<HashMap<u16, watch::Sender<Line>>>>,
}

impl Network {
    pub async fn start(upstream: SocketAddr) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let network = Network { address, lines: Arc::default() };
        tokio::spawn(network.clone().accept(listener, upstream));
        network
    }

    /// Resets about this share of all connections; gives how many.
    pub fn cut(&self, share: f64, random: &mut StdRng) -> usize {
        self.set(share, random, Line::Cut).len()
    }

    /// Some connections fall silent for a while, and then go on.
    pub fn silence(&self, share: f64, time: Duration, random: &mut StdRng) -> usize {
        self.set_for(share, time, random, Line::Silent)
    }

    pub fn slow_down(&self, share: f64, delay: Duration, time: Duration, random: &mut StdRng) -> usize {
        self.set_for(share, time, random, Line::Slow(delay))
    }

    /// The client with this port is gone, and the relay is not told.
    pub fn half_open(&self, client_port: u16) {
        if let Some(line) = self.lines().get(&client_port) {
            line.send_replace(Line::HalfOpen);
        }
    }

    fn set_for(&self, share: f64, time: Duration, random: &mut StdRng, state: Line) -> usize {
        let lines = self.set(share, random, state);
        let count = lines.len();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            for line in lines {
                line.send_if_modified(|now| {
                    std::mem::replace(now, if *now == state { Line::Flows } else { *now }) == state
                });
            }
        });
        count
    }

    fn set(&self, share: f64, random: &mut StdRng, state: Line) -> Vec<watch::Sender<Line>> {
        let mut lines: Vec<_> = self.lines().iter().map(|(port, line)| (*port, line.clone())).collect();
        lines.sort_by_key(|(port, _)| *port);
        let chosen: Vec<_> = lines.into_iter().filter(|_| random.random_bool(share)).map(|(_, line)| line).collect();
        for line in &chosen {
            line.send_if_modified(|now| {
                let free = !matches!(*now, Line::Cut | Line::HalfOpen);
                if free {
                    *now = state;
                }
                free
            });
        }
        chosen
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, HashMap<u16, watch::Sender<Line>>> {
        self.lines.lock().expect("nobody panics with it")
    }

    async fn accept(self, listener: TcpListener, upstream: SocketAddr) {
        loop {
            let Ok((client, from)) = listener.accept().await else { continue };
            let network = self.clone();
            let (line, state) = watch::channel(Line::Flows);
            self.lines().insert(from.port(), line);
            tokio::spawn(async move {
                forward(client, upstream, state).await;
                network.lines().remove(&from.port());
            });
        }
    }
}

async fn forward(mut client: TcpStream, upstream: SocketAddr, mut line: watch::Receiver<Line>) {
    // A relay that is away: the client sees its connection end.
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    {
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        tokio::select! {
            () = pump(client_reads, server_writes, line.clone()) => {}
            () = pump(server_reads, client_writes, line.clone()) => {}
            _ = line.wait_for(|state| matches!(state, Line::Cut | Line::HalfOpen)) => {}
        }
    }
    let state = *line.borrow();
    match state {
        Line::Cut => {
            reset(client);
            reset(server);
        }
        Line::HalfOpen => {
            drop(client);
            tokio::time::sleep(HALF_OPEN).await;
        }
        _ => {}
    }
}

#[allow(deprecated)] // A linger of zero does not block: it is how a RST is sent.
fn reset(stream: TcpStream) {
    let _ = stream.set_linger(Some(Duration::ZERO));
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let Ok(state) = line.wait_for(|state| *state != Line::Silent).await.map(|state| *state) else { return };
        match state {
            Line::Slow(delay) => tokio::time::sleep(delay).await,
            Line::Cut | Line::HalfOpen => std::future::pending().await,
            Line::Flows | Line::Silent => {}
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
