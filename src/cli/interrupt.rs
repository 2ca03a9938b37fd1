//! Ctrl-C, SIGTERM and a terminal that hangs up: the first asks the run to stop, the second ends the process.

use crate::cli::ui::exit::Exit;
use crate::error::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whether a signal has asked to stop.
#[derive(Clone, Default)]
pub(super) struct Interrupt(CancellationToken);

impl Interrupt {
    /// Listens from now on; `told` is called at the first signal. Must be called on a runtime.
    ///
    /// # Errors
    /// `Storage` when the system refuses to tell of signals.
    pub(super) fn listen(told: impl FnOnce() + Send + 'static) -> Result<Self> {
        let [mut interrupt, mut terminate, mut hangup] = ends()?;
        // Heard, a write beyond the file size limit is an error like any other; unheard, it would end the process without a word.
        let unheard = |cause| Error::storage("signals", "wait for them", cause);
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ)).map_err(unheard)?);
        let this = Self::default();
        let token = this.0.clone();
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate, &mut hangup).await;
            token.cancel();
            told();
            either(&mut interrupt, &mut terminate, &mut hangup).await;
            // What is published is whole at any moment, so nothing is lost by ending here.
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

    /// Cancelled at the first signal.
    pub(super) fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}

/// Until it is dropped, a signal ends the process, after something of its own was done.
pub(super) struct Guard(tokio::task::JoinHandle<()>);

impl Guard {
    /// At the first signal `last` is called, and the process ends. Must be called on a runtime.
    ///
    /// # Errors
    /// `Storage` when the system refuses to tell of signals.
    pub(super) fn listen(last: impl FnOnce() + Send + 'static) -> Result<Self> {
        let [mut interrupt, mut terminate, mut hangup] = ends()?;
        Ok(Self(tokio::spawn(async move {
            either(&mut interrupt, &mut terminate, &mut hangup).await;
            last();
            std::process::exit(Exit::Interrupted.code().into());
        })))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What asks a process to end.
fn ends() -> Result<[Signal; 3]> {
    let refused = |cause| Error::storage("signals", "wait for them", cause);
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
