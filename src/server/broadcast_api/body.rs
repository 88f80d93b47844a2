//! Bodies, read piece by piece and never further than they may go.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// What is read and thrown away of a body that is too large: cut off in the middle, the client would see a reset instead
/// of the answer.
const DISCARDED_BYTES_MAX: usize = 32 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The budget is counted in these, since a semaphore's permits are 32 bits wide.
const UNIT: usize = 1 << 10;

/// How many bytes of bodies are held, over all requests. Those above it wait for their turn.
pub struct Budget(Semaphore);

/// A body, and its share of the budget until it is dropped.
pub struct Held<'a> {
    pub bytes: Vec<u8>,
    _share: SemaphorePermit<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    TooLarge,
    TooSlow,
    /// The client went away, or broke the framing.
    Broken,
}

impl Budget {
    pub fn new(bytes: usize) -> Budget {
        Budget(Semaphore::new((bytes / UNIT).max(1)))
    }

    /// Reads a whole body of at most `bytes_max`, within `timeout`.
    pub async fn read(&self, mut body: Incoming, bytes_max: usize, timeout: Duration) -> Result<Held<'_>, ReadError> {
        let deadline = Instant::now() + timeout;
        let said = body.size_hint().upper().and_then(|upper| usize::try_from(upper).ok());
        if said.is_some_and(|said| said > bytes_max) {
            discard(body).await;
            return Err(ReadError::TooLarge);
        }
        let share = said.unwrap_or(bytes_max).div_ceil(UNIT).max(1) as u32;
        let reading = async {
            let Ok(share) = self.0.acquire_many(share).await else { return Err(ReadError::Broken) };
            let mut bytes = Vec::with_capacity(said.unwrap_or(0));
            while let Some(piece) = next(&mut body).await? {
                if bytes.len() + piece.len() > bytes_max {
                    return Ok(None);
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(Some(Held { bytes, _share: share }))
        };
        match timeout_at(deadline, reading).await {
            Ok(Ok(Some(held))) => Ok(held),
            Ok(Ok(None)) => {
                discard(body).await;
                Err(ReadError::TooLarge)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ReadError::TooSlow),
        }
    }
}

/// The next piece of data; trailers are nothing to us.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, ReadError> {
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.map_err(|_| ReadError::Broken)?.into_data() {
            return Ok(Some(piece));
        }
    }
    Ok(None)
}

async fn discard(mut body: Incoming) {
    let discarding = async {
        let mut discarded = 0;
        while let Ok(Some(piece)) = next(&mut body).await {
            discarded += piece.len();
            if discarded > DISCARDED_BYTES_MAX {
                return;
            }
        }
    };
    // However far it came: the answer is the same.
    let _ = timeout_at(Instant::now() + DISCARD_TIMEOUT, discarding).await;
}
