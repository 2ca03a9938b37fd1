//! A registry in memory that fails as scripted and counts what it served.

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use saver::content::memory::Memory;
use saver::content::{BlobStream, Resolved, Source, Target};
use saver::error::Side;
use saver::oci::{Descriptor, Digest, RawManifest, Repository, Tag};
use saver::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// What is wrong with one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// An error that may pass, or (from the third on) one that won't.
    Error(usize),
    /// So many thousandths come, then an error, or nothing more.
    Cut { at: u16, silent: bool },
    /// A byte is another one.
    Wrong(u16),
    /// The range asked for is ignored.
    FromStart,
    /// More comes than was said.
    Long,
}

const KINDS: [ErrorKind; 6] = [
    ErrorKind::Unavailable,
    ErrorKind::RateLimited,
    ErrorKind::NotFound,
    ErrorKind::Unauthorized,
    ErrorKind::Unsupported,
    ErrorKind::TooLarge,
];

pub(crate) fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        8 => (0usize..2).prop_map(Fault::Error),
        1 => (2usize..KINDS.len()).prop_map(Fault::Error),
        6 => (0u16..1000, any::<bool>()).prop_map(|(at, silent)| Fault::Cut { at, silent }),
        4 => (0u16..1000).prop_map(Fault::Wrong),
        3 => Just(Fault::FromStart),
        1 => Just(Fault::Long),
    ]
}

/// What happens at the `n`-th event of all sources.
pub(crate) type Alarm = (u64, Box<dyn FnOnce() + Send>);

/// What all registries of a run share.
#[derive(Default)]
pub(crate) struct Weather {
    pub(crate) faults: VecDeque<Option<Fault>>,
    pub(crate) alarms: Vec<Alarm>,
    pub(crate) events: u64,
    /// Bytes of blobs given, by digest.
    pub(crate) blobs: BTreeMap<Digest, u64>,
    /// Bytes of manifests given that were what they were asked for as.
    pub(crate) manifests: BTreeMap<Digest, u64>,
    pub(crate) random: fastrand::Rng,
    /// Repositories that failed in a way that does not pass.
    pub(crate) refused: BTreeSet<(usize, Repository)>,
}

#[derive(Clone)]
pub(crate) struct Flaky {
    pub(crate) number: usize,
    pub(crate) memory: Memory,
    pub(crate) weather: Arc<Mutex<Weather>>,
    /// What is not there any more, and what is there with wrong bytes.
    pub(crate) gone: Arc<BTreeSet<(Repository, Digest)>>,
    pub(crate) spoilt: Arc<BTreeSet<(Repository, Digest)>>,
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "flaky", "as the test wanted").on(Side::Source)
}

fn flip(content: &Bytes, at: u16, bit: u8) -> Bytes {
    let mut content = content.to_vec();
    if !content.is_empty() {
        let position = content.len() * usize::from(at) / 1000;
        content[position] ^= bit;
    }
    content.into()
}

impl Flaky {
    pub(crate) fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap()
    }

    /// Something happened: others may have a turn, and what was set for this moment is done.
    async fn tick(&self) {
        let (due, turns) = {
            let mut weather = self.weather();
            weather.events += 1;
            let now = weather.events;
            let (due, rest) = weather.alarms.drain(..).partition(|(at, _)| *at <= now);
            weather.alarms = rest;
            let due: Vec<Alarm> = due;
            (due, weather.random.u8(0..3))
        };
        due.into_iter().for_each(|(_, act)| act());
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    fn next_fault(&self, repository: &Repository) -> Result<Option<Fault>> {
        let mut weather = self.weather();
        let fault = weather.faults.pop_front().flatten();
        if let Some(Fault::Error(kind)) = fault {
            if kind >= 2 {
                weather.refused.insert((self.number, repository.clone()));
            }
            return Err(error(KINDS[kind]));
        }
        Ok(fault)
    }

    fn refuse_gone(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let key = (repository.clone(), *digest);
        if self.gone.contains(&key) {
            Err(error(ErrorKind::NotFound))
        } else {
            Ok(self.spoilt.contains(&key))
        }
    }
}

impl Source for Flaky {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        self.tick().await;
        self.next_fault(repository)?;
        let mut resolved = self.memory.resolve(repository, tag).await?;
        let whole = !self.refuse_gone(repository, &resolved.digest).unwrap_or(true);
        if whole && self.weather().random.u8(0..4) == 0 {
            let target = Target::Digest(resolved.digest);
            resolved.manifest = Some(self.memory.manifest(repository, &target).await?);
        }
        Ok(resolved)
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        self.tick().await;
        let fault = self.next_fault(repository)?;
        let Target::Digest(digest) = target else { panic!("a manifest is asked for by its digest") };
        let spoilt = self.refuse_gone(repository, digest)?;
        let raw = self.memory.manifest(repository, target).await?;
        self.tick().await;
        if spoilt || matches!(fault, Some(Fault::Wrong(_) | Fault::Long)) {
            let longer = [&raw.bytes[..], b" "].concat();
            return RawManifest::new(longer.into(), None);
        }
        if let Some(Fault::Cut { .. }) = fault {
            return Err(error(ErrorKind::Unavailable));
        }
        *self.weather().manifests.entry(*digest).or_default() += raw.bytes.len() as u64;
        Ok(raw)
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        self.tick().await;
        let fault = self.next_fault(repository)?;
        let digest = descriptor.digest;
        let spoilt = self.refuse_gone(repository, &digest)?;
        let from = if let Some(Fault::FromStart) = fault { 0 } else { from };
        let mut stream = self.memory.blob(repository, descriptor, from, to).await?;
        let mut content = stream.chunks.next().await.unwrap()?;
        if spoilt {
            content = flip(&content, 500, 2);
        }
        let mut end = None;
        match fault {
            Some(Fault::Cut { at, silent }) => {
                content.truncate(content.len() * usize::from(at) / 1000);
                end = (!silent).then(|| Err(error(ErrorKind::Unavailable)));
            }
            Some(Fault::Wrong(at)) => content = flip(&content, at, 1),
            Some(Fault::Long) => content = [&content[..], &[1; 100]].concat().into(),
            _ => {}
        }
        let mut chunks = Vec::new();
        {
            let random = &mut self.weather().random;
            let most =
                [usize::MAX, 1 << 16, content.len() / 3 + 1, content.len() / 20 + 1][random.usize(0..4)];
            while !content.is_empty() {
                let length = random.usize(1..=most.min(content.len()));
                chunks.push(Ok(content.split_to(length)));
            }
        }
        chunks.extend(end);
        let source = self.clone();
        let chunks = futures::stream::iter(chunks).then(move |chunk: Result<Bytes>| {
            let source = source.clone();
            async move {
                source.tick().await;
                if let Ok(chunk) = &chunk {
                    *source.weather().blobs.entry(digest).or_default() += chunk.len() as u64;
                }
                chunk
            }
        });
        Ok(BlobStream { start: stream.start, length: None, chunks: chunks.boxed() })
    }
}
