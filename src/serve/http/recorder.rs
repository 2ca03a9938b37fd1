//! Records each request once its response has ended.

use super::access_log::AccessRecord;
use super::metrics::Metrics;
use std::sync::Arc;
use std::time::Instant;

/// A function that receives the record of each request. It is called on the server's threads and must not block.
pub type AccessLog = Arc<dyn Fn(AccessRecord) + Send + Sync>;

/// Where records go.
#[derive(Clone, Default)]
pub(super) struct RecordSinks {
    pub(super) access_log: Option<AccessLog>,
    pub(super) metrics: Option<Arc<Metrics>>,
}

impl RecordSinks {
    /// Whether anybody wants records.
    pub(super) fn is_active(&self) -> bool {
        let is_traced = tracing::enabled!(target: "saver::serve::access", tracing::Level::DEBUG);
        self.access_log.is_some() || self.metrics.is_some() || is_traced
    }
}

/// Records a request when it is dropped: when the response was sent, or the client has gone.
pub(super) struct RequestRecorder {
    pub(super) record: AccessRecord,
    pub(super) started: Instant,
    pub(super) sinks: RecordSinks,
}

impl RequestRecorder {
    pub(super) fn add_bytes(&mut self, bytes: usize) {
        self.record.bytes += bytes as u64;
    }
}

impl Drop for RequestRecorder {
    fn drop(&mut self) {
        self.record.duration = self.started.elapsed();
        tracing::debug!(
            target: "saver::serve::access",
            method = %self.record.method,
            path = %self.record.target.escape_debug(),
            status = self.record.status,
            bytes = self.record.bytes,
            ms = u64::try_from(self.record.duration.as_millis()).unwrap_or(u64::MAX),
        );
        if let Some(metrics) = &self.sinks.metrics {
            metrics.record(&self.record);
        }
        if let Some(log) = &self.sinks.access_log {
            log(self.record.clone());
        }
    }
}
