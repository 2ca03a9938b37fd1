//! Events as JSON, one a line, on stdout.

use crate::cli::ui::wording::Wording;
use crate::cli::ui::{failures, output};
use crate::error::ErrorReport;
use crate::oci::Digest;
use crate::transfer::{ArchiveStep, Event, ImagePlan, Plan, Report, Status};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The advances of a blob are written at most this often.
const PERIOD: Duration = Duration::from_secs(1);

/// How many lines may wait for a slow reader.
const MAX_WAITING: usize = 10_000;

/// What advances.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Advancing {
    Blob(Digest),
    Archive(ArchiveStep),
}

/// Writes events.
pub(super) struct EventWriter {
    started: Instant,
    /// Bytes that are not written yet, and when the last ones were.
    pending: Mutex<HashMap<Advancing, (Instant, u64)>>,
    /// Lines for the writing thread: a slow reader delays nobody until many lines wait.
    lines: Mutex<Option<SyncSender<Vec<u8>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Line<T> {
    /// Seconds since the start.
    elapsed: f64,
    #[serde(flatten)]
    event: T,
}

/// The last line.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct RunFinished<'a> {
    event: &'static str,
    /// How many images were saved, pushed and so on, under the command's own word.
    #[serde(flatten)]
    done: HashMap<&'static str, usize>,
    unchanged: usize,
    skipped: usize,
    failed: usize,
    /// How many of the failed ones are unfinished only because the run ended.
    not_finished: usize,
    bytes_fetched: u64,
    bytes_reused: u64,
    seconds: f64,
    /// Why the run ended before its images did, as in the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    aborted: Option<&'a ErrorReport>,
}

/// The planned result of an image.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct PlannedImageEvent<'a> {
    event: &'static str,
    #[serde(flatten)]
    image: &'a ImagePlan,
}

/// The last line of a dry run.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct RunPlanned<'a> {
    event: &'static str,
    #[serde(flatten)]
    plan: &'a Plan,
}

/// The forms of lines, for the JSON Schema of events.
#[cfg(feature = "schema")]
pub(crate) type EventLines<'a> =
    (Line<Event<'a>>, Line<PlannedImageEvent<'a>>, Line<RunPlanned<'a>>, Line<RunFinished<'a>>);

impl EventWriter {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, pending: Mutex::default(), lines: Mutex::default(), writer: Mutex::default() }
    }

    /// Starts to write.
    pub(super) fn open(&self) {
        let (sender, lines) = sync_channel::<Vec<u8>>(MAX_WAITING);
        let writer = std::thread::spawn(move || {
            for line in lines {
                // A reader that closes the pipe does not end the run.
                let _ = output::stdout(&line);
            }
        });
        *self.lines.lock() = Some(sender);
        *self.writer.lock() = Some(writer);
    }

    /// Writes the waiting lines, and stops.
    pub(super) fn close(&self) {
        self.lines.lock().take();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            // A writer that panicked has nothing more to write.
            let _ = writer.join();
        }
    }

    /// Writes `event`. The advances of a blob are combined to one line a second.
    pub(super) fn event(&self, event: &Event<'_>) {
        match *event {
            Event::BlobAdvanced { digest, bytes } => {
                if let Some(bytes) = self.due(Advancing::Blob(digest), bytes, Instant::now()) {
                    self.write(Event::BlobAdvanced { digest, bytes });
                }
            }
            Event::BlobFinished { digest, .. } => {
                let bytes = self.rest(Advancing::Blob(digest));
                if bytes > 0 {
                    self.write(Event::BlobAdvanced { digest, bytes });
                }
                self.write(event);
            }
            Event::ArchiveAdvanced { step, bytes } => {
                if let Some(bytes) = self.due(Advancing::Archive(step), bytes, Instant::now()) {
                    self.write(Event::ArchiveAdvanced { step, bytes });
                }
            }
            Event::ArchiveFinished { step, .. } => {
                let bytes = self.rest(Advancing::Archive(step));
                if bytes > 0 {
                    self.write(Event::ArchiveAdvanced { step, bytes });
                }
                self.write(event);
            }
            _ => self.write(event),
        }
    }

    fn pending(&self) -> parking_lot::MutexGuard<'_, HashMap<Advancing, (Instant, u64)>> {
        self.pending.lock()
    }

    /// The pending bytes of something that has finished.
    fn rest(&self, what: Advancing) -> u64 {
        self.pending().remove(&what).map_or(0, |(_, bytes)| bytes)
    }

    /// The bytes to write now, if it is time.
    fn due(&self, what: Advancing, bytes: u64, now: Instant) -> Option<u64> {
        let mut pending = self.pending();
        let (last, sum) = pending.entry(what).or_insert((now, 0));
        *sum += bytes;
        if now.saturating_duration_since(*last) < PERIOD {
            return None;
        }
        *last = now;
        Some(std::mem::take(sum))
    }

    /// Writes the last line of a run.
    pub(super) fn finished(&self, report: &Report, wording: Wording) {
        self.write(RunFinished {
            event: "run-finished",
            done: HashMap::from([(wording.done, report.done())]),
            unchanged: report.count(Status::Unchanged),
            skipped: report.count(Status::Skipped),
            failed: report.count(Status::Failed),
            not_finished: failures::unfinished(report),
            bytes_fetched: report.bytes_fetched,
            bytes_reused: report.bytes_reused,
            seconds: report.seconds,
            aborted: report.aborted.as_ref(),
        });
    }

    /// Writes the last lines of a dry run.
    pub(super) fn planned(&self, plan: &Plan) {
        for image in &plan.images {
            self.write(PlannedImageEvent { event: "image-finished", image });
        }
        self.write(RunPlanned { event: "run-planned", plan });
    }

    fn write(&self, event: impl Serialize) {
        let elapsed = (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        if let Ok(line) = serde_json::to_string(&Line { elapsed, event }) {
            let mut line = output::clean_json(&line).into_owned().into_bytes();
            line.push(b'\n');
            let lines = self.lines.lock().clone();
            if let Some(lines) = lines {
                // The writer runs until the sender is dropped.
                let _ = lines.send(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combined_advances_keep_every_byte() {
        let start = Instant::now();
        let writer = EventWriter::new(start);
        let a = Advancing::Blob(Digest::of(b"a"));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(writer.due(a, 10, at(0)), None);
        assert_eq!(writer.due(a, 10, at(900)), None);
        assert_eq!(writer.due(a, 10, at(1000)), Some(30));
        assert_eq!(writer.due(a, 5, at(1100)), None);
        assert_eq!(writer.pending()[&a].1, 5);
    }

    #[test]
    fn event_is_a_flat_object() {
        let reference = crate::oci::Reference::parse("nginx").unwrap();
        let event =
            Event::ImagePlanned { reference: &reference, fetch_bytes: 1, reuse_bytes: 2, omitted: &[] };
        let line = serde_json::to_value(Line { elapsed: 0.5, event }).unwrap();
        assert_eq!(
            line,
            serde_json::json!({"elapsed": 0.5, "event": "image-planned", "fetch_bytes": 1,
                "reference": "docker.io/library/nginx:latest", "reuse_bytes": 2})
        );
    }
}
