//! One open socket: the only task that reads from it and writes to it.
//!
//! ```text
//!            client closes, breaks off
//!   open ───────────────────────────────────────────────────────────────────────────────► ended
//!     │                                                                                     ▲
//!     │ idle, slow, shutdown, malformed:        all written: FIN               client's FIN │
//!     └────────► closing (goodbye, close frame) ─────────────────► lingering ───────────────┤
//!                    └───────────────────────────────┴──────── close timeout ───────────────┘
//! ```
//!
//! At a shutdown whoever has been sent everything is waited for no longer than a moment.
//!
//! A connection is paid for a hundred thousand times, so its future is polled by hand: no `select!` of futures, no
//! channel, one timer that is moved only when it must ring earlier. Frames are written all at once, one vectored write
//! per wakeup.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use futures_util::Stream;
use tokio::io::AsyncWrite;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::Server;
use super::addresses::Place;
use super::client_stream::ClientStream;
use super::connections::Entry;
use super::inbound::Unfinished;
use super::pipe::Pipe;
use crate::channels::{
    Action, CloseReason, Input, LogLevel, Now, Outbox, OutboxReader, Question, Serializer, Session, frame,
};

/// Tungstenite's own default of 128 KiB is allocated for every socket and zeroed on every read.
const READ_BUFFER_BYTES: usize = 1 << 10;

/// Only control frames go through it.
const WRITE_BUFFER_BYTES: usize = 4 << 10;

/// Of one vectored write: 85 changes, or 256 frames in one piece. Linux takes 1024 at most.
const SLICES_MAX: usize = 256;

pub struct Connection {
    server: Arc<Server>,
    /// Given back before the socket is closed: fields are dropped in their order.
    _place: Place,
    socket: WebSocketStream<Pipe>,
    reader: OutboxReader,
    session: Session,
    /// What the session waits for before more is read. Few joins and broadcasts ask anything.
    question: Option<Box<Question>>,
    phase: Phase,
    /// Since when the outbox is full.
    full_since: Option<Instant>,
    /// Tungstenite has nothing left of what it has read.
    read_dry: bool,
    /// Rings at the next deadline, or earlier and in vain.
    timer: Pin<Box<Sleep>>,
    /// When it rings, if it has been told to: most wakeups have nothing to do with it, and it lies elsewhere in memory.
    timer_set: Option<Instant>,
    _entry: Entry,
}

/// An upgrade's outcome.
pub struct Opened {
    pub stream: ClientStream,
    /// What hyper had read past the request.
    pub read: Vec<u8>,
    pub serializer: Serializer,
    pub token: Arc<str>,
    /// Headers of the request that policies may read, as a JSON object.
    pub headers: Arc<str>,
    pub place: Place,
    pub log_level: LogLevel,
}

#[derive(Clone, Copy)]
enum Phase {
    Open,
    /// The goodbye is being written.
    Closing(CloseReason, Instant),
    /// Written. Cutting a connection with bytes unread would make TCP throw away what the client has not read yet.
    Lingering(CloseReason, Instant),
}

impl Connection {
    pub async fn open(server: Arc<Server>, opened: Opened) -> Connection {
        let Opened { stream, read, serializer, token, headers, place, log_level } = opened;
        let lobby = server.services.lobby.clone();
        let (outbox, reader) = Outbox::new(lobby.outbox_config.clone(), lobby.metrics.clone());
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(2 * WRITE_BUFFER_BYTES)
            .max_frame_size(Some(server.config.frame_bytes_max))
            .max_message_size(Some(server.config.frame_bytes_max));
        let mut unfinished = Unfinished::new(server.inbound.clone());
        unfinished.add(read.len());
        let pipe = Pipe::new(stream, outbox.clone(), unfinished);
        let socket = WebSocketStream::from_partially_read(pipe, read, Role::Server, Some(config)).await;
        let session = Session::new(lobby, serializer, outbox.clone(), token, headers).with_log_level(log_level);
        let timer = Box::pin(tokio::time::sleep(server.config.idle_timeout));
        server.services.metrics.connections.inc();
        server.services.metrics.connections_opened.inc();
        let entry = server.connections.enter(outbox);
        Connection {
            server,
            _place: place,
            socket,
            reader,
            session,
            question: None,
            phase: Phase::Open,
            full_since: None,
            read_dry: false,
            timer,
            timer_set: None,
            _entry: entry,
        }
    }

    pub async fn run(mut self) {
        let reason = poll_fn(|context| self.poll(context)).await;
        self.give(Input::Gone);
        self.server.services.metrics.connections.dec();
        self.server.services.lobby.metrics.count_close(reason);
        tracing::debug!(?reason, "A socket ended");
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let polled = match self.phase {
                Phase::Open => self.poll_open(context),
                Phase::Closing(reason, _) => self.poll_closing(reason, context),
                Phase::Lingering(reason, _) => self.poll_lingering(reason, context),
            };
            if let Poll::Ready(step) = polled {
                match step {
                    Step::Ended(reason) => return Poll::Ready(reason),
                    Step::Again => continue,
                }
            }
            // What came in first has been read, so that nobody is taken for idle who is not.
            match self.poll_timer(context) {
                Poll::Ready(Step::Ended(reason)) => return Poll::Ready(reason),
                Poll::Ready(Step::Again) => continue,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if let Some(reason) = self.reader.closed() {
            self.begin_closing(reason);
            return Poll::Ready(Step::Again);
        }
        match self.poll_write(context) {
            Poll::Ready(Ok(())) => self.full_since = None,
            Poll::Ready(Err(_)) => return Poll::Ready(Step::Ended(CloseReason::Client)),
            Poll::Pending if self.reader.is_full() => {
                self.full_since.get_or_insert_with(Instant::now);
            }
            Poll::Pending => self.full_since = None,
        }
        if self.reader.take_nudge() {
            self.give(Input::Tick);
            return Poll::Ready(Step::Again);
        }
        if let Some(question) = &mut self.question {
            let answer = ready!(question.poll(context));
            self.question = None;
            self.give(Input::Answered(answer));
            return Poll::Ready(Step::Again);
        }
        let read = self.poll_read(context);
        if !self.has_room(&read) {
            self.reader.outbox().close(CloseReason::Overloaded);
            return Poll::Ready(Step::Again);
        }
        match ready!(read) {
            Some(Ok(Message::Text(text))) => self.give(Input::Text(&text)),
            Some(Ok(Message::Binary(bytes))) => self.give(Input::Binary(&bytes)),
            Some(Ok(Message::Pong(payload))) => self.give(Input::Pong(&payload)),
            // Tungstenite answers pings and closes itself, with its next read.
            Some(Ok(_)) => {}
            Some(Err(error)) => match broken_by(&error) {
                Some(reason) => self.reader.outbox().close(reason),
                None => return Poll::Ready(Step::Ended(CloseReason::Client)),
            },
            None => {
                // The answer to the client's close frame, as far as it can be written.
                let _ = self.poll_write(context);
                return Poll::Ready(Step::Ended(CloseReason::Client));
            }
        }
        Poll::Ready(Step::Again)
    }

    /// The next message. Most wakeups are for writing: then the socket is asked, which is looked at for that anyway, and
    /// tungstenite is left alone.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if self.read_dry && self.socket.get_ref().stream.poll_read_ready(context).is_pending() {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.socket).poll_next(context);
        self.read_dry = polled.is_pending();
        polled
    }

    /// Counts what is held of an unfinished message; `false`: there is too much of that, here and elsewhere.
    fn has_room(&mut self, read: &Poll<Option<Result<Message, Error>>>) -> bool {
        let unfinished = &mut self.socket.get_mut().unfinished;
        match read {
            Poll::Ready(Some(Ok(Message::Text(_) | Message::Binary(_)))) => unfinished.finish(),
            Poll::Ready(Some(Ok(Message::Ping(payload) | Message::Pong(payload)))) => unfinished.control(payload.len()),
            Poll::Ready(_) => {}
            Poll::Pending => return unfinished.settle(Instant::now).is_ok(),
        }
        true
    }

    fn poll_closing(&mut self, reason: CloseReason, context: &mut Context<'_>) -> Poll<Step> {
        if ready!(self.poll_write(context)).is_err() {
            return Poll::Ready(Step::Ended(reason));
        }
        let stream = &mut self.socket.get_mut().stream;
        if ready!(Pin::new(stream).poll_shutdown(context)).is_err() {
            return Poll::Ready(Step::Ended(reason));
        }
        let server = &self.server.config;
        let patience = if reason == CloseReason::Shutdown { server.drain_linger } else { server.close_timeout };
        self.phase = Phase::Lingering(reason, Instant::now() + patience);
        Poll::Ready(Step::Again)
    }

    /// Reads, and throws away, until the client has closed its side.
    fn poll_lingering(&mut self, reason: CloseReason, context: &mut Context<'_>) -> Poll<Step> {
        let stream = &self.socket.get_ref().stream;
        let mut waste = [0; 4096];
        loop {
            if ready!(stream.poll_read_ready(context)).is_err() {
                return Poll::Ready(Step::Ended(reason));
            }
            match stream.try_read(&mut waste) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return Poll::Ready(Step::Ended(reason)),
            }
        }
    }

    /// Ready when all that is queued has been written; what is pushed later wakes the task.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &self.socket.get_ref().stream;
        let mut first = true;
        loop {
            // Pending here is no reason to stop: there may be something left from the last time.
            let _ = self.reader.poll_take(context);
            if self.reader.is_empty() {
                return Poll::Ready(Ok(()));
            }
            // The first write is simply tried, for nearly always there is room. Those after it ask, which also makes
            // them take turns with other tasks.
            if !std::mem::take(&mut first) {
                let Poll::Ready(writable) = stream.poll_write_ready(context) else {
                    self.reader.wait_for_trouble(context);
                    return Poll::Pending;
                };
                writable?;
            }
            let written = match self.reader.single() {
                // A vectored write of one piece costs more.
                Some(bytes) => stream.try_write(bytes),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                    let count = self.reader.slices(&mut slices);
                    stream.try_write_vectored(&slices[..count])
                }
            };
            match written {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.reader.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Whatever is due is done, and the timer set to what is due next.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        let (next, now) = (self.next_deadline(), Instant::now());
        if self.timer_set.is_some_and(|at| at <= next && now < at) {
            return Poll::Pending;
        }
        if next < self.timer.deadline() {
            self.timer.as_mut().reset(next);
        }
        let polled = self.timer.as_mut().poll(context);
        // A task that has used up its turn is told "pending" whatever there is, and the timer does not know of it.
        let is_set = polled.is_pending() && has_budget_remaining();
        self.timer_set = is_set.then(|| self.timer.deadline());
        ready!(polled);
        let now = Instant::now();
        if next > now {
            // What it was set for has moved.
            self.timer.as_mut().reset(next);
            return Poll::Ready(Step::Again);
        }
        match self.phase {
            Phase::Closing(reason, _) | Phase::Lingering(reason, _) => return Poll::Ready(Step::Ended(reason)),
            Phase::Open => {}
        }
        if self.idle_at() <= now {
            self.reader.outbox().close(CloseReason::Idle);
        }
        if self.grace_ends_at().is_some_and(|at| at <= now) {
            self.reader.outbox().close(CloseReason::SlowConsumer);
        }
        if self.message_due_at().is_some_and(|at| at <= now) {
            self.reader.outbox().close(CloseReason::SlowMessage);
        }
        self.give(Input::Tick);
        // Something in the future, or the loop would ring for what has just been done.
        self.timer.as_mut().reset(now + self.server.config.idle_timeout);
        Poll::Ready(Step::Again)
    }

    fn next_deadline(&self) -> Instant {
        match self.phase {
            Phase::Closing(_, deadline) | Phase::Lingering(_, deadline) => deadline,
            Phase::Open => {
                let session = self.session.next_deadline().map(Instant::from_std);
                [session, self.grace_ends_at(), self.message_due_at()]
                    .into_iter()
                    .flatten()
                    .fold(self.idle_at(), Instant::min)
            }
        }
    }

    fn idle_at(&self) -> Instant {
        self.socket.get_ref().last_inbound + self.server.config.idle_timeout
    }

    fn message_due_at(&self) -> Option<Instant> {
        self.socket.get_ref().unfinished.since().map(|since| since + self.server.config.body_timeout)
    }

    fn grace_ends_at(&self) -> Option<Instant> {
        self.full_since.map(|since| since + self.reader.grace())
    }

    /// Says goodbye: to each channel as far as it is to be told, and to the socket.
    fn begin_closing(&mut self, reason: CloseReason) {
        if reason == CloseReason::SlowConsumer {
            // What is queued would take longer than anybody waits.
            self.reader.discard();
        }
        for action in self.session.handle(Input::Goodbye(reason), now()) {
            if let Action::Send(frame) = action {
                self.reader.push_last(frame);
            }
        }
        self.give(Input::Gone);
        self.question = None;
        self.reader.push_last(frame::close(reason.code(), reason.text()));
        self.phase = Phase::Closing(reason, Instant::now() + self.server.config.close_timeout);
    }

    fn give(&mut self, input: Input<'_>) {
        for action in self.session.handle(input, now()) {
            match action {
                Action::Send(frame) => {
                    self.reader.outbox().push(frame);
                }
                Action::Open(opening) => opening.open(),
                Action::Wait(question) => self.question = Some(Box::new(question)),
                Action::Subscribe(subscribe) => self.server.services.sink.subscribe(*subscribe),
                Action::Unsubscribe(channel) => self.server.services.sink.unsubscribe(channel),
                Action::Close(reason) => self.reader.outbox().close(reason),
            }
        }
    }
}

/// What a poll came to.
enum Step {
    Again,
    Ended(CloseReason),
}

fn now() -> Now {
    Now { instant: Instant::now().into_std(), wall: SystemTime::now() }
}

/// How the client broke the protocol; `None`: the connection is gone.
fn broken_by(error: &Error) -> Option<CloseReason> {
    match error {
        Error::Capacity(_) => Some(CloseReason::TooLarge),
        Error::Utf8(_) => Some(CloseReason::NotUtf8),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(CloseReason::Protocol),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_small() {
        // Tungstenite's buffers and the session's topic come on top: 3.9 KB of memory for a joined socket, measured.
        assert!(size_of::<Connection>() <= 768, "{}", size_of::<Connection>());
    }
}
