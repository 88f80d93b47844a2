//! What a client's bytes come through.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;
use tokio_util::sync::DropGuard;

use super::doors::Seat;

pub struct ClientStream {
    transport: Transport,
    /// How long the client of an HTTP answer may take nothing of it.
    stall_timeout: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Given back when the descriptor is.
    _seat: Seat,
}

/// A connection asks its socket for readiness and writes many frames at once, which no TLS stream can do. Behind TLS it
/// therefore has one end of a socket pair, and a task that encrypts has the other.
pub enum Transport {
    Tcp(TcpStream),
    Local {
        near: UnixStream,
        /// Tells the other task when this end is let go: it may be waiting for a client that neither reads nor leaves.
        _gone: DropGuard,
    },
}

macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Transport::Tcp($inner) => $call,
            Transport::Local { near: $inner, .. } => $call,
        }
    };
}

impl ClientStream {
    pub fn new(transport: Transport, stall_timeout: Duration, seat: Seat) -> ClientStream {
        ClientStream { transport, stall_timeout, stalled: None, _seat: seat }
    }

    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&self.transport, stream => stream.poll_read_ready(context))
    }

    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&self.transport, stream => stream.poll_write_ready(context))
    }

    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(&self.transport, stream => stream.try_read(buffer))
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(&self.transport, stream => stream.try_write(bytes))
    }

    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(&self.transport, stream => stream.try_write_vectored(slices))
    }

    /// hyper waits for ever for somebody who asks and does not read. Frames are not written this way.
    fn or_stalled(&mut self, polled: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let timeout = self.stall_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.get_mut().transport, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = either!(&mut this.transport, stream => Pin::new(stream).poll_write(context, bytes));
        this.or_stalled(polled, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = either!(&mut this.transport, stream => Pin::new(stream).poll_write_vectored(context, slices));
        this.or_stalled(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.get_mut().transport, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.get_mut().transport, stream => Pin::new(stream).poll_shutdown(context))
    }
}
