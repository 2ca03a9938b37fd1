//! Ends a run before all of its images are done.

use crate::error::{Error, ErrorKind};
use crate::oci::Reference;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Ends a run early.
pub(super) struct Stop {
    pub(super) token: CancellationToken,
    fail_fast: bool,
    /// The failure that ended it.
    cause: Mutex<Option<Error>>,
}

impl Stop {
    pub(super) fn new(cancel: &CancellationToken, fail_fast: bool) -> Self {
        Self { token: cancel.child_token(), fail_fast, cause: Mutex::default() }
    }

    /// Ends the run if `error` of `reference` concerns more than its own image.
    pub(super) fn record_failure(&self, reference: &Reference, error: &Error) {
        let cause = match error.kind() {
            // A failing disk fails every image. The message names the file and the first image that it failed.
            ErrorKind::Storage => match error.subject() {
                "" => error.clone().with_subject(reference),
                file => error.clone().context(file).with_subject(reference),
            },
            ErrorKind::Cancelled => return,
            _ if self.fail_fast => {
                error.clone().with_subject(reference).context("stopped at the first failure")
            }
            _ => return,
        };
        self.cause.lock().get_or_insert(cause);
        self.token.cancel();
    }

    /// Why the run ended early.
    pub(super) fn cause(&self, cancel: &CancellationToken) -> Option<Error> {
        let own = self.cause.lock().take();
        own.or_else(|| {
            cancel.is_cancelled().then(|| Error::new(ErrorKind::Cancelled, "", "the run was interrupted"))
        })
    }

    pub(super) fn cancelled(&self, reference: &Reference) -> Error {
        Error::new(ErrorKind::Cancelled, reference, "the run ended before this image was complete")
    }
}
