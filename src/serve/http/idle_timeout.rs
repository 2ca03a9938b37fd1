//! Closes connections that are idle.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream that fails with `TimedOut` once no byte has been transferred in either direction for `timeout`.
///
/// Responses wait for nothing but the client, so an idle connection waits for its client: to send a request, or to read the
/// response.
pub(super) struct IdleTimeout<S> {
    stream: S,
    timeout: Duration,
    last_transfer: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> IdleTimeout<S> {
    pub(super) fn new(stream: S, timeout: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(timeout));
        Self { stream, timeout, last_transfer: Instant::now(), timer }
    }

    /// Checks the timeout for a pending `result`. The timer is reset only when it fires, because resetting it for each write
    /// would cost more than the write.
    fn check<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.last_transfer = Instant::now();
            return result;
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let deadline = self.last_transfer + self.timeout;
            if deadline <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for IdleTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.check(context, result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for IdleTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.check(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.check(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // TCP streams have no buffer to flush, so only reads and writes transfer bytes.
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
    async fn idle_read_times_out() {
        let (server, _client) = tokio::io::duplex(16);
        let started = Instant::now();
        let error = IdleTimeout::new(server, SHORT).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn blocked_write_times_out() {
        let (server, _client) = tokio::io::duplex(16);
        let error = IdleTimeout::new(server, SHORT).write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn each_transfer_extends_the_deadline() {
        let (server, mut client) = tokio::io::duplex(16);
        let mut stream = IdleTimeout::new(server, Duration::from_secs(600));
        let start = stream.last_transfer;
        stream.write_all(&[1]).await.unwrap();
        let wrote = stream.last_transfer;
        client.write_all(&[1]).await.unwrap();
        stream.read_u8().await.unwrap();
        assert!(start < wrote && wrote < stream.last_transfer);
        // A timer that fires early, because bytes were transferred since it was set, is reset.
        stream.timer.as_mut().reset(start);
        let waiting = tokio::time::timeout(SHORT, stream.read_u8()).await;
        assert!(waiting.is_err(), "timed out too early");
        assert_eq!(stream.timer.deadline(), stream.last_transfer + stream.timeout);
    }
}
