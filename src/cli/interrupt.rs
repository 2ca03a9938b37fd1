//! Ctrl-C, SIGTERM and SIGHUP: the first stops the command, the second ends the process.

use crate::cli::ui::exit::Exit;
use crate::error::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whether a signal has stopped the command.
#[derive(Clone, Default)]
pub(super) struct Interrupt(CancellationToken);

impl Interrupt {
    /// Starts to listen; `on_first` is called at the first signal. Must be called on a runtime.
    ///
    /// # Errors
    /// `Storage` when signals cannot be received.
    pub(super) fn listen(on_first: impl FnOnce() + Send + 'static) -> Result<Self> {
        let [mut interrupt, mut terminate, mut hangup] = termination_signals()?;
        // With a handler, a write beyond the file size limit is an error like any other; without one, it would end the process.
        let refused = |cause| Error::storage("signals", "receive", cause);
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ)).map_err(refused)?);
        let this = Self::default();
        let token = this.0.clone();
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate, &mut hangup).await;
            token.cancel();
            on_first();
            either(&mut interrupt, &mut terminate, &mut hangup).await;
            // Published content is complete at any time, so nothing is lost.
            std::process::exit(Exit::Interrupted.code().into());
        });
        Ok(this)
    }

    /// Waits for the first signal.
    pub(super) async fn asked(&self) {
        self.0.cancelled().await;
    }

    /// Whether there was one.
    pub(super) fn was_asked(&self) -> bool {
        self.0.is_cancelled()
    }

    /// The token that the first signal cancels.
    pub(super) fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}

/// Until it is dropped, a signal ends the process after a cleanup.
pub(super) struct CleanupGuard(tokio::task::JoinHandle<()>);

impl CleanupGuard {
    /// At the first signal `cleanup` is called, and the process ends. Must be called on a runtime.
    ///
    /// # Errors
    /// `Storage` when signals cannot be received.
    pub(super) fn listen(cleanup: impl FnOnce() + Send + 'static) -> Result<Self> {
        let [mut interrupt, mut terminate, mut hangup] = termination_signals()?;
        Ok(Self(tokio::spawn(async move {
            either(&mut interrupt, &mut terminate, &mut hangup).await;
            cleanup();
            std::process::exit(Exit::Interrupted.code().into());
        })))
    }
}

impl Drop for CleanupGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The signals that end a process.
fn termination_signals() -> Result<[Signal; 3]> {
    let refused = |cause| Error::storage("signals", "receive", cause);
    let listen = |kind| signal(kind).map_err(refused);
    Ok([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?])
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal, hangup: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
