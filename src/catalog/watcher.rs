//! STUB
use super::loader::{self, Loaded};
use super::{Catalog, Snapshot};
use crate::wal::{Conninfo, Lsn};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
pub struct CatalogUpdate {
    pub catalog: Catalog,
    pub snapshot: Snapshot,
    pub flush_lsn: Lsn,
}
enum Ask {
    Load(Option<u32>, oneshot::Sender<CatalogUpdate>),
    Flush(oneshot::Sender<Lsn>),
}
#[derive(Clone)]
pub struct WatcherHandle(mpsc::UnboundedSender<Ask>);
impl WatcherHandle {
    pub fn refresh(&self, must_see: Option<u32>) -> oneshot::Receiver<CatalogUpdate> {
        let (s, r) = oneshot::channel();
        let _ = self.0.send(Ask::Load(must_see, s));
        r
    }
    pub fn refresh_soon(&self) {}
    pub async fn flush_lsn(&self) -> Option<Lsn> {
        let (s, r) = oneshot::channel();
        let _ = self.0.send(Ask::Flush(s));
        r.await.ok()
    }
}
pub struct Watcher {
    conninfo: Conninfo,
    publications: Vec<String>,
    asks: mpsc::UnboundedReceiver<Ask>,
    _u: mpsc::Sender<CatalogUpdate>,
}
impl Watcher {
    pub fn new(
        conninfo: Conninfo,
        publications: Vec<String>,
        _l: &Loaded,
        updates: mpsc::Sender<CatalogUpdate>,
        _stop: impl Fn() + Send + 'static,
    ) -> (Watcher, WatcherHandle) {
        let (s, asks) = mpsc::unbounded_channel();
        (Watcher { conninfo, publications, asks, _u: updates }, WatcherHandle(s))
    }
    pub async fn run(mut self, abandon: CancellationToken) {
        let Ok((mut client, c)) = self.conninfo.connect().await else { return };
        tokio::spawn(c);
        loop {
            let ask = tokio::select! { () = abandon.cancelled() => return, a = self.asks.recv() => a };
            match ask {
                None => return,
                Some(Ask::Load(x, s)) => {
                    if let Ok(l) = loader::load(&mut client, &self.publications, x).await {
                        let _ =
                            s.send(CatalogUpdate { catalog: l.catalog, snapshot: l.snapshot, flush_lsn: l.flush_lsn });
                    }
                }
                Some(Ask::Flush(s)) => {
                    if let Ok(r) = client.query_one("select pg_current_wal_flush_lsn()::text", &[]).await {
                        let _ = s.send(r.get::<_, String>(0).parse().unwrap());
                    }
                }
            }
        }
    }
}
