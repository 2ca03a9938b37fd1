//! A connection that is cut when it stands still.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Fails with `TimedOut` once no byte has moved in either direction for `patience`.
///
/// Answers are made without waiting for anything but the client, so a connection on which nothing
/// moves waits for its client: for a request, or to take what it asked for.
pub(super) struct Watched<S> {
    stream: S,
    patience: Duration,
    moved: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, moved: Instant::now(), timer: Box::pin(tokio::time::sleep(patience)) }
    }

    /// Passes `result` on. The timer is set anew only when it fires: setting it for each write would cost more than the write.
    fn note<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.moved = Instant::now();
            return result;
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let deadline = self.moved + self.patience;
            if deadline <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note(context, result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A TCP stream has nothing of its own to flush: only reads and writes tell whether it moves.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SHORT: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn silence_is_cut() {
        let (stream, _client) = tokio::io::duplex(16);
        let started = Instant::now();
        let error = Watched::new(stream, SHORT).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut() {
        let (stream, _client) = tokio::io::duplex(16);
        let error = Watched::new(stream, SHORT).write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn every_byte_in_either_direction_gives_new_time() {
        let (stream, mut client) = tokio::io::duplex(16);
        let mut watched = Watched::new(stream, Duration::from_secs(600));
        let start = watched.moved;
        watched.write_all(&[1]).await.unwrap();
        let wrote = watched.moved;
        client.write_all(&[1]).await.unwrap();
        watched.read_u8().await.unwrap();
        assert!(start < wrote && wrote < watched.moved);
        // A timer that fires although a byte has moved since it was set is set anew.
        watched.timer.as_mut().reset(start);
        let waiting = tokio::time::timeout(SHORT, watched.read_u8()).await;
        assert!(waiting.is_err(), "cut too early");
        assert_eq!(watched.timer.deadline(), watched.moved + watched.patience);
    }
}
