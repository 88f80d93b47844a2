//! `/metrics`: Prometheus' text, on a listener of its own or, for those who have the token, on the public one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Config;
use super::answer::{self, Answer};

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Serves `/metrics` to whoever reaches the listener, until `shutdown`.
pub async fn serve(registry: Arc<Registry>, listener: TcpListener, shutdown: CancellationToken) {
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let (registry, shutdown) = (registry.clone(), shutdown.clone());
        tasks.spawn(async move {
            let service = service_fn(|request: Request<_>| {
                let found = request.uri().path() == "/metrics";
                let answer = if found { render(&registry) } else { answer::not_found() };
                async { Ok::<_, Infallible>(answer) }
            });
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            // A scraper that goes away is nobody's trouble; one that stays ends with the server.
            let _ = shutdown.run_until_cancelled(connection).await;
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// For the public listener: 403 and nothing else without a token, as the original (PROTOCOL 7.4). Either walcast's own, or
/// one that is signed for it.
pub fn guarded(registry: &Registry, config: &Config, headers: &HeaderMap) -> Answer {
    let Some(given) = answer::bearer(headers) else { return answer::bare(StatusCode::FORBIDDEN, "") };
    let is_own = config.metrics_token.as_ref().is_some_and(|token| equal(token.as_bytes(), given.as_bytes()));
    let is_signed = || config.metrics_tokens.as_ref().is_some_and(|tokens| tokens.admits(given, SystemTime::now()));
    match is_own || is_signed() {
        true => render(registry),
        false => answer::bare(StatusCode::FORBIDDEN, ""),
    }
}

fn render(registry: &Registry) -> Answer {
    let mut text = String::new();
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, registry) {
        tracing::error!(%error, "The metrics cannot be written");
        return answer::bare(StatusCode::INTERNAL_SERVER_ERROR, "");
    }
    let mut answer = answer::bare(StatusCode::OK, text);
    answer.headers_mut().insert(CONTENT_TYPE, OPENMETRICS);
    answer
}

/// In a time that does not tell how much of it was right.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |difference, (a, b)| difference | a ^ b) == 0
}
