//! Metrics and health over HTTP, on a thread of its own.
//!
//! Takes a [`Reader`] and a [`Health`], gives a listening [`Admin`]. The data thread shares nothing with it but atomics
//! and, for a rare change of words, a lock that is held for one copy; so a slow scraper delays nobody. Requests, their
//! time and their number at once are bounded. A port that cannot be bound is an error before anything starts.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use crate::config::Listen;
use crate::metrics::{self, Reader};

mod health;
#[cfg(test)]
mod tests;

pub use health::{HEARTBEAT_AGE_MAX, Health};

/// Connections at once; a probe and a scraper need one each. More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;
/// A connection serves one request, and no longer than this: a client that sends nothing must not keep its place.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// After a failure to accept (no file descriptor left), so that it is not tried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken, or is none of this machine's.
    #[error(
        "cannot listen on {listen} for metrics and health: {source}; set ASYA_METRICS_ADDR to another address, or off"
    )]
    Bind {
        /// The address.
        listen: Listen,
        /// Why.
        source: io::Error,
    },
    /// The system gave no thread or no poller.
    #[error("cannot start the thread that serves metrics and health: {0}")]
    Start(#[source] io::Error),
}

/// The server. Ends when dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    /// Never sent to: dropping it stops the thread.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Binds, then serves on a thread of its own. Without a reader, `/metrics` is not found.
    pub fn start(listen: &Listen, reader: Option<Reader>, health: Arc<Health>) -> Result<Self, AdminError> {
        let bind = |source| AdminError::Bind { listen: listen.clone(), source };
        let socket = listen.bind().map_err(bind)?;
        socket.set_nonblocking(true).map_err(bind)?;
        let address = socket.local_addr().map_err(bind)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AdminError::Start)?;
        let (stop, stopped) = oneshot::channel();
        let pages = Arc::new(Pages { reader, health });
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(socket, pages) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("asya-admin".into()).spawn(work).map_err(AdminError::Start)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends early only by a panic, which has been printed.
            let _ = thread.join();
        }
    }
}

async fn serve(socket: std::net::TcpListener, pages: Arc<Pages>) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "metrics and health are not served");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics or health was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(pages.answer(&request))));
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_TIME_MAX, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a request for metrics or health failed"),
                Err(_) => tracing::debug!("a request for metrics or health took too long"),
            }
            drop(place);
        });
    }
}

/// What is served.
struct Pages {
    reader: Option<Reader>,
    health: Arc<Health>,
}

const TEXT: &str = "text/plain; charset=utf-8";

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match (request.uri().path(), &self.reader) {
            ("/metrics", Some(reader)) => page(StatusCode::OK, metrics::CONTENT_TYPE, reader.render()),
            ("/metrics", None) => {
                page(StatusCode::NOT_FOUND, TEXT, "metrics are off: ASYA_METRICS_ENABLED=false\n".into())
            }
            ("/healthz" | "/health", _) => verdict(self.health.alive(Instant::now()).err().as_slice()),
            ("/readyz", _) => verdict(&self.health.unready()),
            _ => page(StatusCode::NOT_FOUND, TEXT, "here are /metrics, /healthz, /health and /readyz\n".into()),
        }
    }
}

/// 200 when nothing is wrong, else 503 and what is, one a line.
fn verdict(wrong: &[String]) -> Response<Full<Bytes>> {
    match wrong {
        [] => page(StatusCode::OK, TEXT, "ok\n".into()),
        reasons => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n"),
    }
}

fn page(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
