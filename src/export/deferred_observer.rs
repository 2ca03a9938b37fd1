//! Progress events of an export: images under the names that were requested, and the images of an archive only once the
//! archive is complete.

use crate::content::Place;
use crate::error::{Error, ErrorKind};
use crate::oci::Reference;
use crate::transfer::{ArchiveStep, Event, ImageReport, Observer, Report};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Passes the engine's events on to the caller's observer.
pub(super) struct DeferredObserver {
    observer: Arc<dyn Observer>,
    /// The requested names, by the places that the engine knows.
    requested: HashMap<Place, Reference>,
    /// Whether the end of a successful image is reported later, by [`finish`](Self::finish).
    deferred: bool,
    /// The images whose end has been reported.
    reported: Mutex<HashSet<Place>>,
}

impl DeferredObserver {
    pub(super) fn new(
        observer: Arc<dyn Observer>,
        requested: impl Iterator<Item = (Place, Reference)>,
        deferred: bool,
    ) -> Self {
        Self { observer, requested: requested.collect(), deferred, reported: Mutex::default() }
    }

    /// Reports the end of the deferred images, with their rows in the final `report`.
    pub(super) fn finish<'p>(&self, report: &Report, places: impl Iterator<Item = &'p Place>) {
        for (image, place) in report.images.iter().zip(places) {
            let mut reported = self.reported.lock();
            let is_new = reported.insert(place.clone());
            drop(reported);
            if is_new {
                self.observer.event(&Event::ImageFinished { image });
            }
        }
    }
}

impl Observer for DeferredObserver {
    fn event(&self, event: &Event<'_>) {
        let Event::ImageFinished { image } = event else { return self.observer.event(event) };
        let place = Place { repository: image.repository.clone(), tag: image.tag.clone() };
        if self.deferred && image.error.is_none() {
            return;
        }
        let mut image = (*image).clone();
        if let Some(requested) = self.requested.get(&place) {
            set_name(&mut image, requested);
        }
        self.observer.event(&Event::ImageFinished { image: &image });
        self.reported.lock().insert(place);
    }
}

/// Gives a row the requested name of its image, which is also its name in the export.
pub(super) fn set_name(row: &mut ImageReport, requested: &Reference) {
    row.reference = requested.clone();
    row.repository = requested.repository.clone();
    row.tag = requested.tag.clone();
}

/// Reports the progress of one step of writing an archive.
#[derive(Clone, Copy)]
pub(super) struct ArchiveProgress<'o> {
    observer: &'o dyn Observer,
    step: ArchiveStep,
}

impl<'o> ArchiveProgress<'o> {
    /// Starts a step that processes `bytes` bytes.
    pub(super) fn start(observer: &'o dyn Observer, step: ArchiveStep, bytes: u64) -> Self {
        observer.event(&Event::ArchiveStarted { step, bytes });
        Self { observer, step }
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.observer.event(&Event::ArchiveAdvanced { step: self.step, bytes });
    }

    pub(super) fn finish(&self, complete: bool) {
        self.observer.event(&Event::ArchiveFinished { step: self.step, complete });
    }
}

/// A reader that reports progress and fails once `token` is cancelled.
pub(super) struct ObservedReader<'s, R> {
    pub(super) content: R,
    pub(super) token: &'s CancellationToken,
    pub(super) progress: Option<ArchiveProgress<'s>>,
}

impl<R: Read> Read for ObservedReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.token.is_cancelled() {
            return Err(io::Error::other(interrupted()));
        }
        let count = self.content.read(buffer)?;
        if let Some(progress) = self.progress.filter(|_| count > 0) {
            progress.advance(count as u64);
        }
        Ok(count)
    }
}

pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Cancelled, "", "the run was interrupted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorReport;
    use crate::transfer::Status;

    /// Records the images whose end is reported.
    #[derive(Default)]
    struct RecordingObserver(Mutex<Vec<String>>);

    impl Observer for RecordingObserver {
        fn event(&self, event: &Event<'_>) {
            if let Event::ImageFinished { image } = event {
                let line = format!("{} {} {:?}", image.reference, image.repository, image.status);
                self.0.lock().push(line);
            }
        }
    }

    fn row(place: &Place, status: Status) -> ImageReport {
        let failed = Error::new(ErrorKind::NotFound, "", "not there");
        ImageReport {
            reference: Reference::parse("in.tree/name:1").unwrap(),
            status,
            repository: place.repository.clone(),
            tag: place.tag.clone(),
            digest: None,
            source_digest: None,
            replaced: None,
            platforms: Vec::new(),
            manifests: Vec::new(),
            omitted: Vec::new(),
            referrers: Vec::new(),
            bytes_fetched: 0,
            corrupt_chunks: 0,
            bytes_reused: 0,
            attempts: 1,
            seconds: 0.0,
            error: (status == Status::Failed).then(|| ErrorReport::from(&failed)),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn deferred_image_is_reported_once_with_final_status() {
        let names = ["a.io:5000/a:1", "a.io:5000/b:1"].map(|name| Reference::parse(name).unwrap());
        let places = ["a.io_5000/a", "a.io_5000/b"]
            .map(|name| Place { repository: name.parse().unwrap(), tag: "1".parse().ok() });
        let recorder = Arc::new(RecordingObserver::default());
        let pairs = places.iter().cloned().zip(names.iter().cloned());
        let observer = DeferredObserver::new(recorder.clone(), pairs, true);
        observer.event(&Event::ImageFinished { image: &row(&places[0], Status::Exported) });
        observer.event(&Event::ImageFinished { image: &row(&places[1], Status::Failed) });
        assert_eq!(*recorder.0.lock(), ["a.io:5000/b:1 b Failed"]);
        let mut images = places.each_ref().map(|place| row(place, Status::Failed)).to_vec();
        images.iter_mut().zip(&names).for_each(|(row, requested)| set_name(row, requested));
        let report = Report {
            schema: Report::SCHEMA,
            images,
            bytes_fetched: 0,
            bytes_reused: 0,
            seconds: 0.0,
            aborted: None,
        };
        observer.finish(&report, places.iter());
        assert_eq!(recorder.0.lock()[1..], ["a.io:5000/a:1 a Failed"]);
    }
}
