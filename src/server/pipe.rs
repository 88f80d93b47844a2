//! What tungstenite takes for the socket.
//!
//! It reads from the TCP stream, and what it writes, which is only ever whole control frames, is queued in the
//! outbox: the connection alone writes to the stream, so a pong never lands inside another frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::client_stream::ClientStream;
use super::inbound::Unfinished;
use crate::channels::Outbox;

pub struct Pipe {
    pub stream: ClientStream,
    /// When bytes last came in; any count against being idle.
    pub last_inbound: Instant,
    /// The message that is being read.
    pub unfinished: Unfinished,
    outbox: Outbox,
}

impl Pipe {
    pub fn new(stream: ClientStream, outbox: Outbox, unfinished: Unfinished) -> Pipe {
        Pipe { stream, last_inbound: Instant::now(), unfinished, outbox }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let pipe = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut pipe.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            pipe.last_inbound = Instant::now();
            pipe.unfinished.add(buffer.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Pipe {
    /// Tungstenite hands over its whole buffer, which holds whole frames, and so all of it is taken at once. A closed
    /// outbox drops them: the close frame that is queued by then is the last.
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, frames: &[u8]) -> Poll<io::Result<usize>> {
        self.outbox.push(Bytes::copy_from_slice(frames));
        Poll::Ready(Ok(frames.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
