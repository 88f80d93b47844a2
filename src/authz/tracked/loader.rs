//! The task that reads tables, on a session of the stream's login.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::Shape;
use super::load::{self, LoadError, Reading, Storage};
use crate::wal::Conninfo;
use crate::wal::pgoutput::RelationId;

/// What is asked of it; each with a number that its report carries.
#[derive(Debug)]
pub enum Request {
    /// Reads tables, seeing those transactions.
    Read { number: u64, shapes: Vec<Arc<Shape>>, must_see: Vec<u32>, room: usize },
    /// Says where tables lie, seeing those transactions.
    Storage { number: u64, relations: Vec<RelationId>, must_see: Vec<u32> },
}

#[derive(Debug)]
pub enum Report {
    Read { number: u64, reading: Result<Reading, LoadError> },
    Storage { number: u64, storage: Result<HashMap<RelationId, Storage>, LoadError> },
}

/// Asks the loader, and hears of it. Never blocks.
pub struct LoaderHandle {
    requests: mpsc::UnboundedSender<Request>,
    reports: mpsc::UnboundedReceiver<Report>,
}

impl LoaderHandle {
    pub fn ask(&self, request: Request) {
        // A loader that has ended ends the relay; there is nothing to be loaded for.
        let _ = self.requests.send(request);
    }

    /// The next report; `None`: the loader has ended. Safe to cancel.
    pub async fn next(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// One that a test answers for.
    #[cfg(test)]
    pub fn by_hand() -> (LoaderHandle, mpsc::UnboundedReceiver<Request>, mpsc::UnboundedSender<Report>) {
        let (requests, asked) = mpsc::unbounded_channel();
        let (report, reports) = mpsc::unbounded_channel();
        (LoaderHandle { requests, reports }, asked, report)
    }
}

/// The task. One request after the other; a session is kept as long as it works.
pub struct Loader {
    conninfo: Conninfo,
    requests: mpsc::UnboundedReceiver<Request>,
    reports: mpsc::UnboundedSender<Report>,
    client: Option<Client>,
}

impl Loader {
    pub fn new(conninfo: Conninfo) -> (Loader, LoaderHandle) {
        let (requests, asked) = mpsc::unbounded_channel();
        let (report, reports) = mpsc::unbounded_channel();
        (Loader { conninfo, requests: asked, reports: report, client: None }, LoaderHandle { requests, reports })
    }

    pub async fn run(mut self, abandon: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = abandon.cancelled() => return,
                goes_on = self.answer_next() => if !goes_on {
                    // Nobody is left to ask: the relay is being drained.
                    return abandon.cancelled().await;
                },
            }
        }
    }

    async fn answer_next(&mut self) -> bool {
        let Some(request) = self.requests.recv().await else { return false };
        let report = match request {
            Request::Read { number, shapes, must_see, room } => {
                let reading = self.read(&shapes, &must_see, room).await;
                Report::Read { number, reading: self.kept_if_it_works(reading) }
            }
            Request::Storage { number, relations, must_see } => {
                let storage = self.storage(&relations, &must_see).await;
                Report::Storage { number, storage: self.kept_if_it_works(storage) }
            }
        };
        self.reports.send(report).is_ok()
    }

    async fn read(&mut self, shapes: &[Arc<Shape>], must_see: &[u32], room: usize) -> Result<Reading, LoadError> {
        load::read(self.session().await?, shapes, must_see, room).await
    }

    async fn storage(
        &mut self,
        relations: &[RelationId],
        must_see: &[u32],
    ) -> Result<HashMap<RelationId, Storage>, LoadError> {
        load::read_storage(self.session().await?, relations, must_see).await
    }

    async fn session(&mut self) -> Result<&Client, LoadError> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let (client, connection) = self.conninfo.connect().await?;
            // It ends with the client.
            tokio::spawn(connection);
            load::prepare(&client).await?;
            self.client = Some(client);
        }
        Ok(self.client.as_ref().expect("it was just made"))
    }

    /// After an error nobody knows what state the session is in.
    fn kept_if_it_works<T>(&mut self, result: Result<T, LoadError>) -> Result<T, LoadError> {
        if result.is_err() {
            self.client = None;
        }
        result
    }
}
