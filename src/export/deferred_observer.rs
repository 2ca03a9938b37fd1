//! What is told of an export while it goes on: each image by the name it was asked for, and of what is in an archive only once
//! the archive stands.

use crate::content::Place;
use crate::error::{Error, ErrorKind};
use crate::oci::Reference;
use crate::transfer::{ArchiveStep, Event, ImageReport, Observer, Report};
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// Stands between the engine and who is told.
pub(super) struct Telling {
    observer: Arc<dyn Observer>,
    /// The images as asked for, by the places that the engine knows them by.
    asked: HashMap<Place, Reference>,
    /// Whether an image that the engine is done with is told of later.
    holds_back: bool,
    told: Mutex<HashSet<Place>>,
}

impl Telling {
    pub(super) fn new(
        observer: Arc<dyn Observer>,
        asked: impl Iterator<Item = (Place, Reference)>,
        holds_back: bool,
    ) -> Self {
        Self { observer, asked: asked.collect(), holds_back, told: Mutex::default() }
    }

    /// Tells of the images that were held back, as `report`, whose rows have the names asked for, has them in the end.
    pub(super) fn rest<'p>(&self, report: &Report, places: impl Iterator<Item = &'p Place>) {
        for (image, place) in report.images.iter().zip(places) {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone());
            if told {
                self.observer.event(&Event::ImageFinished { image });
            }
        }
    }
}

impl Observer for Telling {
    fn event(&self, event: &Event<'_>) {
        let Event::ImageFinished { image } = event else { return self.observer.event(event) };
        let place = Place { repository: image.repository.clone(), tag: image.tag.clone() };
        if self.holds_back && image.error.is_none() {
            return;
        }
        let mut image = (*image).clone();
        if let Some(asked) = self.asked.get(&place) {
            name(&mut image, asked);
        }
        self.observer.event(&Event::ImageFinished { image: &image });
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
    }
}

/// Gives a row the name that its image was asked for by, which is also what it is called where it goes.
pub(super) fn name(row: &mut ImageReport, asked: &Reference) {
    row.reference = asked.clone();
    (row.repository, row.tag) = (asked.repository.clone(), asked.tag.clone());
}

/// How far a step of making an archive is.
#[derive(Clone, Copy)]
pub(super) struct Step<'o> {
    observer: &'o dyn Observer,
    step: ArchiveStep,
}

impl<'o> Step<'o> {
    /// Begins a step that goes over `bytes` bytes.
    pub(super) fn begin(observer: &'o dyn Observer, step: ArchiveStep, bytes: u64) -> Self {
        observer.event(&Event::ArchiveStarted { step, bytes });
        Self { observer, step }
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.observer.event(&Event::ArchiveAdvanced { step: self.step, bytes });
    }

    pub(super) fn end(&self, complete: bool) {
        self.observer.event(&Event::ArchiveFinished { step: self.step, complete });
    }
}

/// Content that is read until `token` is cancelled, and told of where a step is about the reading.
pub(super) struct Watched<'s, R> {
    pub(super) content: R,
    pub(super) token: &'s CancellationToken,
    pub(super) step: Option<Step<'s>>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.token.is_cancelled() {
            return Err(io::Error::other(interrupted()));
        }
        let count = self.content.read(buffer)?;
        if let Some(step) = self.step.filter(|_| count > 0) {
            step.advance(count as u64);
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

    /// Takes note of images and of whose they were said to be.
    #[derive(Default)]
    struct Noting(Mutex<Vec<String>>);

    impl Observer for Noting {
        fn event(&self, event: &Event<'_>) {
            if let Event::ImageFinished { image } = event {
                let told = format!("{} {} {:?}", image.reference, image.repository, image.status);
                self.0.lock().unwrap().push(told);
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
            bytes_fetched: 0,
            bytes_reused: 0,
            attempts: 1,
            seconds: 0.0,
            error: (status == Status::Failed).then(|| ErrorReport::from(&failed)),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn what_is_held_back_is_told_once_as_it_came_to_be() {
        let names = ["a.io:5000/a:1", "a.io:5000/b:1"].map(|name| Reference::parse(name).unwrap());
        let places = ["a.io_5000/a", "a.io_5000/b"]
            .map(|name| Place { repository: name.parse().unwrap(), tag: "1".parse().ok() });
        let noting = Arc::new(Noting::default());
        let pairs = places.iter().cloned().zip(names.iter().cloned());
        let telling = Telling::new(noting.clone(), pairs, true);
        telling.event(&Event::ImageFinished { image: &row(&places[0], Status::Exported) });
        telling.event(&Event::ImageFinished { image: &row(&places[1], Status::Failed) });
        assert_eq!(*noting.0.lock().unwrap(), ["a.io:5000/b:1 b Failed"]);
        let mut images = places.each_ref().map(|place| row(place, Status::Failed)).to_vec();
        images.iter_mut().zip(&names).for_each(|(row, asked)| name(row, asked));
        let report = Report {
            schema: Report::SCHEMA,
            images,
            bytes_fetched: 0,
            bytes_reused: 0,
            seconds: 0.0,
            aborted: None,
        };
        telling.rest(&report, places.iter());
        assert_eq!(noting.0.lock().unwrap()[1..], ["a.io:5000/a:1 a Failed"]);
    }
}
