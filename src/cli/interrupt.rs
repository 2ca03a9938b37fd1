//! Ctrl-C, SIGTERM and a terminal that hangs up: the first asks the run to stop, the second ends the process.

use super::exit::Exit;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Whether a signal has asked to stop.
#[derive(Clone, Default)]
pub(super) struct Interrupt(Arc<State>);

#[derive(Default)]
struct State {
    asked: AtomicBool,
    bell: Notify,
}

impl Interrupt {
    /// Listens from now on; `told` is called at the first signal. Must be called on a runtime.
    ///
    /// # Errors
    /// `Storage` when the system refuses to tell of signals.
    pub(super) fn listen(told: impl FnOnce() + Send + 'static) -> Result<Self> {
        let refused = |cause| Error::storage("signals", "wait for them", cause);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
        // Heard, a write beyond the file size limit is an error like any other; unheard, it would end the process without a word.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ)).map_err(refused)?);
        let mut hangup = signal(SignalKind::hangup()).map_err(refused)?;
        let this = Self::default();
        let state = this.0.clone();
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate, &mut hangup).await;
            state.asked.store(true, Ordering::Release);
            state.bell.notify_one();
            told();
            either(&mut interrupt, &mut terminate, &mut hangup).await;
            // What is published is whole at any moment, so nothing is lost by ending here.
            std::process::exit(Exit::Interrupted.code().into());
        });
        Ok(this)
    }

    /// Waits for the first signal.
    pub(super) async fn asked(&self) {
        self.0.bell.notified().await;
    }

    /// Whether there was one.
    pub(super) fn was_asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal, hangup: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
