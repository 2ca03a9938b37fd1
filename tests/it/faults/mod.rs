//! Faults from one end to the other: a registry or network that misbehaves, a real tree, and what the report says of it.
//!
//! Every test asserts three things: what became of the image (and that another one beside it was saved), that the tree is true
//! by every byte of it, and, where a fault passes, that the next run completes.

mod access;
mod bodies;
mod chaos;
mod disk;
mod documents;
mod parts;

use crate::support::fault::{FaultServer, Image};
use crate::support::images::noise;
use crate::support::scratch::Scratch;
use bytes::Bytes;
use saver::error::ErrorReport;
use saver::oci::{Descriptor, Registry, Tag};
use saver::store::Store;
use saver::transfer::ReferrerKinds;
use saver::verify::{VerifyOptions, verify};
use saver::{ErrorKind, ImageSaver, Report, SaveImage, SaveOptions, Status};
use std::path::Path;
use std::time::Duration;

/// More than is held in memory: such a layer is received into a file and can be gone on with.
const LARGE: usize = 300 << 10;

/// A registry that misbehaves as scripted, and the tree that is saved into.
struct Scene {
    server: FaultServer,
    dir: Scratch,
    save: SaveOptions,
}

impl Scene {
    async fn start() -> Self {
        Self::of(FaultServer::start().await)
    }

    fn of(server: FaultServer) -> Self {
        let dir = Scratch::new();
        let mut save = SaveOptions::new(dir.path());
        save.transfer.platforms = "amd64".parse().unwrap();
        // The faults of referrers are tested in `referrers`.
        save.transfer.referrers.kinds = ReferrerKinds::None;
        // Waits are tested where they matter.
        save.transfer.retry.first_delay = Duration::from_millis(1);
        save.transfer.retry.max_delay = Duration::from_millis(10);
        let scene = Self { server, dir, save };
        scene.image("good", &[b"the good image's own"]);
        scene
    }

    /// The image `team/NAME:v1` of these layers.
    fn image(&self, name: &str, layers: &[&[u8]]) -> Image {
        self.server.add_image(&format!("team/{name}"), "v1", layers)
    }

    /// The image `team/NAME:v1` of one layer of so many bytes, and that layer.
    fn sized(&self, name: &str, length: usize) -> (Image, Bytes) {
        let layer = noise(name, length);
        (self.image(name, &[&layer]), layer)
    }

    /// `REGISTRY/team/NAME:v1` for each name.
    fn references(registry: &Registry, names: &[&str]) -> Vec<SaveImage> {
        let reference = |name: &&str| format!("{registry}/team/{name}:v1").parse::<saver::oci::Reference>();
        names.iter().map(|name| reference(name).unwrap().into()).collect()
    }

    async fn run_at(&self, registry: &Registry, names: &[&str]) -> Report {
        let images = Self::references(registry, names);
        let report = ImageSaver::new(self.save.clone()).unwrap().save(images).await.unwrap();
        assert!(report.aborted.is_none(), "{:?}", report.aborted);
        for (image, name) in report.images.iter().zip(names) {
            let there = is_tagged(self.dir.path(), &format!("team/{name}"), "v1");
            let expected = matches!(image.status, Status::Saved | Status::Unchanged);
            assert_eq!(there, expected, "{name}: {:?}", image.error);
        }
        assert_tree(self.dir.path());
        report
    }

    /// Saves `name` in spite of the faults; everything must be there in the end.
    async fn saves(&self, name: &str) -> Report {
        self.saves_at(&self.server.registry(), name).await
    }

    async fn saves_at(&self, registry: &Registry, name: &str) -> Report {
        let report = self.run_at(registry, &[name]).await;
        assert_eq!(report.images[0].status, Status::Saved, "{:?}", report.images[0].error);
        assert!(self.partial_files().is_empty(), "{:?}", self.partial_files());
        report
    }

    /// `name` fails for this reason, in a run whose other image is saved.
    async fn fails(&self, name: &str, kind: ErrorKind, words: &str) -> ErrorReport {
        let report = self.run_at(&self.server.registry(), &[name, "good"]).await;
        assert_eq!(report.images[0].status, Status::Failed, "{name} was saved");
        assert_ne!(report.images[1].status, Status::Failed, "{:?}", report.images[1].error);
        let failure = report.images[0].error.clone().unwrap();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.message.contains(words), "{failure:?}");
        failure
    }

    /// The faults are over: the next run completes.
    async fn then_completes(&self, name: &str) -> Report {
        self.server.behave();
        self.saves(name).await
    }

    /// What earlier runs have left to go on with: each file with its length.
    fn partial_files(&self) -> Vec<(String, u64)> {
        partial_files(self.dir.path())
    }

    /// The ranges that were asked for of a blob, in order; "" for the whole.
    fn ranges(&self, blob: &Descriptor) -> Vec<String> {
        let part = format!("/blobs/{}", blob.digest);
        let seen = self.server.seen().into_iter().filter(|seen| seen.path.contains(&part));
        seen.map(|seen| seen.header("range").unwrap_or_default().to_owned()).collect()
    }
}

/// The part of a path that requests for this blob have and no others.
fn of(blob: &Descriptor) -> String {
    format!("/blobs/{}", blob.digest)
}

fn partial_files(dir: &Path) -> Vec<(String, u64)> {
    let entries = walkdir::WalkDir::new(dir.join(".saver/partial")).into_iter().filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files
        .filter_map(|entry| {
            Some((entry.file_name().to_string_lossy().into_owned(), entry.metadata().ok()?.len()))
        })
        .collect()
}

fn is_tagged(dir: &Path, repository: &str, tag: &str) -> bool {
    let store = Store::open_read_only(dir).unwrap();
    store.read_tag(&repository.parse().unwrap(), &tag.parse::<Tag>().unwrap()).unwrap().is_some()
}

/// Asserts that every link leads to content, every tag has its closure and every byte is what its digest says.
fn assert_tree(dir: &Path) {
    let mut options = VerifyOptions::default();
    options.deep = true;
    let report = verify(&Store::open_read_only(dir).unwrap(), &options).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

/// Waits until `holds`, looking often; what another process does to files announces itself no other way.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), patience).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The documents say which test holds which promise; a test that is renamed is renamed there.
#[test]
fn every_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut defined = std::collections::BTreeSet::new();
    for (base, unit) in [("tests/it", ""), ("src", "tests::")] {
        for entry in walkdir::WalkDir::new(root.join(base)).into_iter().map(Result::unwrap) {
            let Some(path) = entry.path().to_str().and_then(|path| path.strip_suffix(".rs")) else {
                continue;
            };
            let path = Path::new(path).strip_prefix(root.join(base)).unwrap().to_str().unwrap();
            let module = path.trim_end_matches("/mod").replace('/', "::");
            let text = std::fs::read_to_string(entry.path()).unwrap();
            for (_, rest) in text.match_indices("fn ").map(|(at, _)| text[at..].split_at(3)) {
                let name = rest.split(['(', '<']).next().unwrap();
                defined.insert(format!("{module}::{unit}{name}"));
            }
        }
    }
    let modules: std::collections::BTreeSet<&str> =
        defined.iter().filter_map(|name| name.split("::").next()).collect();
    for (document, least) in [("docs/dev/fault-tolerance.md", 60), ("SECURITY.md", 20)] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let named = text.split('`').skip(1).step_by(2);
        let named: Vec<&str> = named
            .filter(|code| {
                let words = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | ':');
                code.chars().all(words)
                    && code
                        .split_once("::")
                        .is_some_and(|(module, rest)| modules.contains(module) && rest.contains('_'))
            })
            .collect();
        let missing: Vec<_> = named.iter().filter(|name| !defined.contains(**name)).collect();
        assert!(missing.is_empty(), "{document} names tests that do not exist: {missing:#?}");
        assert!(named.len() >= least, "{document} names only {} tests", named.len());
    }
}
