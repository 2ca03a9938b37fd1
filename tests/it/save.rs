//! Saving, through the library: from an embedded registry over the sample images into a fresh tree.

use super::support::fault::FaultServer;
use super::support::handmade::Tree;
use super::support::samples::{Samples, listed};
use crate::support::scratch::Scratch;
use saver::oci::{Descriptor, Digest, Manifest, PlatformSet, RawManifest, Reference, Repository, Tag};
use saver::store::Store;
use saver::transfer::{IndexMode, MissingPlatform};
use saver::{ErrorKind, ImageSaver, Report, SaveImage, SaveOptions, Status};
use std::path::Path;

fn options(dir: &Path, arch: &str) -> SaveOptions {
    let mut options = SaveOptions::new(dir);
    options.transfer.referrers.kinds = saver::transfer::ReferrerKinds::None;
    options.transfer.platforms = arch.parse().unwrap();
    options
}

async fn save(options: SaveOptions, references: &[Reference]) -> Report {
    let images = references.iter().cloned();
    ImageSaver::new(options).unwrap().save(images).await.unwrap()
}

fn read_tag(dir: &Path, repository: &str, tag: &str) -> Option<Digest> {
    let store = Store::open_read_only(dir).unwrap();
    store.read_tag(&repository.parse().unwrap(), &tag.parse().unwrap()).unwrap()
}

fn parsed(dir: &Path, digest: &Digest) -> Manifest {
    let store = Store::open_read_only(dir).unwrap();
    let bytes = store.read_content(digest, 4 << 20).unwrap().unwrap();
    RawManifest::new(bytes, None).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_are_saved_and_second_run_is_unchanged() {
    let samples = Samples::serve().await;
    let dir = Scratch::new();
    let references = listed(&samples.host());
    let first = save(options(dir.path(), "amd64"), &references).await;
    assert!(
        first.is_success(),
        "{:#?}",
        first.images.iter().filter_map(|i| i.error.as_ref()).collect::<Vec<_>>()
    );
    assert!(first.images.iter().all(|image| image.status == Status::Saved), "{:?}", first.images);
    assert!(first.bytes_fetched > 0 && first.bytes_reused > 0);

    let upstream = Store::open_read_only(&Samples::dir()).unwrap();
    for image in &first.images {
        let tag = image.tag.as_ref().unwrap();
        let theirs =
            upstream.read_tag(&image.reference.repository, image.reference.tag.as_ref().unwrap()).unwrap();
        assert_eq!(
            read_tag(dir.path(), image.repository.as_str(), tag.as_str()),
            theirs,
            "{}",
            image.reference
        );
    }

    let before = snapshot(dir.path());
    let second = save(options(dir.path(), "amd64"), &references).await;
    assert!(second.images.iter().all(|image| image.status == Status::Unchanged), "{:#?}", second.images);
    assert_eq!(second.bytes_fetched, 0);
    assert_eq!(snapshot(dir.path()), before, "a run with nothing to do wrote something");
}

/// Every file with its length and modification time.
fn snapshot(dir: &Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    let mut files: Vec<_> = walkdir::WalkDir::new(dir)
        .into_iter()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let metadata = entry.metadata().unwrap();
            (entry.into_path(), metadata.len(), metadata.modified().unwrap())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_image_does_not_stop_the_others() {
    let samples = Samples::serve().await;
    let dir = Scratch::new();
    let host = samples.host();
    let names = ["demo/app:1.0", "demo/app:gone", "nowhere/at-all:1", "demo/tool:2.1"];
    let references: Vec<Reference> =
        names.iter().map(|name| Reference::parse(&format!("{host}/{name}")).unwrap()).collect();
    let report = save(options(dir.path(), "amd64"), &references).await;
    let statuses: Vec<Status> = report.images.iter().map(|image| image.status).collect();
    assert_eq!(statuses, [Status::Saved, Status::Failed, Status::Failed, Status::Saved]);
    for failed in [1, 2] {
        let error = report.images[failed].error.as_ref().unwrap();
        assert_eq!(error.kind, ErrorKind::NotFound, "{}", error.message);
        assert!(error.message.contains(&references[failed].repository.to_string()), "{}", error.message);
    }
    assert_eq!(read_tag(dir.path(), "demo/app", "gone"), None);
    assert!(read_tag(dir.path(), "demo/tool", "2.1").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn index_mode_determines_the_tagged_manifest() {
    let samples = Samples::serve().await;
    let reference = [Reference::parse(&format!("{}/demo/app:1.0", samples.host())).unwrap()];
    let run = async |mode| {
        let dir = Scratch::new();
        let mut options = options(dir.path(), "amd64");
        options.transfer.index = mode;
        let report = save(options, &reference).await;
        assert!(report.is_success(), "{report:?}");
        let image = report.images.into_iter().next().unwrap();
        let tagged = read_tag(dir.path(), "demo/app", "1.0").unwrap();
        assert_eq!(image.digest, Some(tagged));
        (parsed(dir.path(), &tagged), image)
    };
    let (kept, kept_row) = run(IndexMode::Keep).await;
    let Manifest::Index(kept) = kept else { panic!("not an index") };
    assert!(kept.manifests.len() > 1);
    assert_eq!(
        (kept_row.source_digest, kept_row.platforms.as_slice()),
        (None, &["linux/amd64".to_owned()][..])
    );

    let (pruned, row) = run(IndexMode::Prune).await;
    let Manifest::Index(pruned) = pruned else { panic!("not an index") };
    assert_eq!(pruned.manifests.len(), 1);
    assert_eq!(row.source_digest, kept_row.digest);

    let (flat, row) = run(IndexMode::Flatten).await;
    assert!(matches!(flat, Manifest::Image(_)));
    assert_eq!(row.digest, Some(pruned.manifests[0].digest));
    assert_eq!(row.source_digest, kept_row.digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_platform_fails_or_is_skipped() {
    let samples = Samples::serve().await;
    let host = samples.host();
    let of = |name: &str| Reference::parse(&format!("{host}/{name}")).unwrap();
    let references = [of("demo/app:1.0"), of("demo/single:1.0"), of("helm-charts/mysql:8.8.19")];
    let dir = Scratch::new();
    let report = save(options(dir.path(), "s390x"), &references).await;
    let statuses: Vec<Status> = report.images.iter().map(|image| image.status).collect();
    assert_eq!(statuses, [Status::Failed, Status::Failed, Status::Saved], "a chart has no platform");
    for image in &report.images[..2] {
        let error = image.error.as_ref().unwrap();
        assert_eq!(error.kind, ErrorKind::PlatformNotFound);
        assert!(
            error.message.contains("linux/s390x") && error.message.contains("linux/amd64"),
            "{}",
            error.message
        );
    }
    let mut lenient = options(dir.path(), "s390x");
    lenient.transfer.missing_platform = MissingPlatform::Skip;
    let report = save(lenient, &references).await;
    assert_eq!(report.count(Status::Skipped), 2);
    assert!(report.is_success());
    assert_eq!(read_tag(dir.path(), "demo/app", "1.0"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_platforms_override_the_options() {
    let samples = Samples::serve().await;
    let reference = Reference::parse(&format!("{}/demo/app:1.0", samples.host())).unwrap();
    let dir = Scratch::new();
    let saver = ImageSaver::new(options(dir.path(), "amd64")).unwrap();
    let mut image = SaveImage::from(reference.clone());
    image.platforms = Some(PlatformSet::parse("arm64", "linux").unwrap());
    let report = saver.save(vec![image.clone()]).await.unwrap();
    assert_eq!(report.images[0].platforms, ["linux/arm64/v8"]);
    image.platforms = Some(PlatformSet::All);
    let report = saver.save(vec![image]).await.unwrap();
    assert_eq!(report.images[0].status, Status::Saved, "the index was there, the other children were not");
    assert!(report.images[0].platforms.len() > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_tag_that_moved_is_saved_with_a_warning() {
    let samples = Samples::serve().await;
    let host = samples.host();
    let upstream = Store::open_read_only(&Samples::dir()).unwrap();
    let repository: Repository = "demo/app".parse().unwrap();
    let old = upstream.read_tag(&repository, &"1.0".parse::<Tag>().unwrap()).unwrap().unwrap();
    let moved = Reference::parse(&format!("{host}/demo/app:1.1@{old}")).unwrap();
    let dir = Scratch::new();
    let report = save(options(dir.path(), "amd64"), &[moved]).await;
    assert!(report.is_success(), "{report:?}");
    assert_eq!(read_tag(dir.path(), "demo/app", "1.1"), Some(old));
    assert!(report.images[0].warnings[0].contains("1.1"), "{:?}", report.images[0].warnings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colliding_images_fail_before_anything_is_fetched() {
    let (one, two) = (Samples::serve().await, Samples::serve().await);
    let dir = Scratch::new();
    let saver = ImageSaver::new(options(dir.path(), "amd64")).unwrap();
    let upstream = Store::open_read_only(&Samples::dir()).unwrap();
    let digest = upstream.read_tag(&"demo/tool".parse().unwrap(), &"2.1".parse().unwrap()).unwrap().unwrap();
    let same = [format!("{}/demo/app:1.0", one.host()), format!("{}/demo/app:1.0", two.host())];
    let differ = [format!("{}/demo/app:1.0", one.host()), format!("{}/demo/app:1.0@{digest}", two.host())];
    let report = saver.save(&differ).await.unwrap();
    for image in &report.images {
        let error = image.error.as_ref().unwrap();
        assert_eq!(error.kind, ErrorKind::InvalidInput, "{error:?}");
        assert!(differ.iter().all(|name| error.message.contains(name)), "{error:?}");
    }
    assert!(!dir.path().join("docker").exists(), "something was written");
    assert!(saver.save(&same).await.unwrap().is_success(), "the same content under one name is fine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_image_does_not_collide() {
    let (one, two) = (Samples::serve().await, FaultServer::start().await);
    let dir = Scratch::new();
    let names = [format!("{}/demo/app:1.0", one.host()), format!("{}/demo/app:1.0", two.registry())];
    let references: Vec<Reference> = names.iter().map(|name| Reference::parse(name).unwrap()).collect();
    let report = save(options(dir.path(), "amd64"), &references).await;
    let statuses: Vec<Status> = report.images.iter().map(|image| image.status).collect();
    assert_eq!(statuses, [Status::Saved, Status::Failed]);
    assert_eq!(report.images[1].error.as_ref().unwrap().kind, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colliding_rewritten_indexes_fail_before_anything_is_fetched() {
    let samples = Samples::serve().await;
    let dir = Scratch::new();
    let reference = Reference::parse(&format!("{}/demo/app:1.0", samples.host())).unwrap();
    let images = || {
        ["amd64", "arm64"].map(|arch| {
            let mut image = SaveImage::from(reference.clone());
            image.platforms = Some(PlatformSet::parse(arch, "linux").unwrap());
            image
        })
    };
    for mode in [IndexMode::Prune, IndexMode::Flatten] {
        let mut options = options(dir.path(), "amd64");
        options.transfer.index = mode;
        let report = ImageSaver::new(options).unwrap().save(images()).await.unwrap();
        let kinds: Vec<_> = report.images.iter().map(|image| image.error.as_ref().unwrap().kind).collect();
        assert_eq!(kinds, [ErrorKind::InvalidInput; 2], "{report:?}");
    }
    assert!(!dir.path().join("docker").exists(), "something was written");
    let saver = ImageSaver::new(options(dir.path(), "amd64")).unwrap();
    assert!(saver.save(images()).await.unwrap().is_success(), "an index that is kept holds both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plan_matches_the_run_and_writes_nothing() {
    let samples = Samples::serve().await;
    let references = listed(&samples.host());
    let dir = Scratch::new();
    let saver = ImageSaver::new(options(dir.path(), "amd64")).unwrap();
    let images = || references.iter().cloned().map(SaveImage::from).collect::<Vec<_>>();
    let before = snapshot(dir.path());
    let plan = saver.plan(images()).await.unwrap();
    assert_eq!(snapshot(dir.path()), before);
    assert!(plan.images.iter().all(|image| image.error.is_none()), "{:?}", plan.images);
    let report = saver.save(images()).await.unwrap();
    assert_eq!(report.bytes_fetched, bytes_on_disk(dir.path()), "something came twice, or not at all");
    assert!(plan.fetch_bytes > 0 && plan.fetch_bytes < report.bytes_fetched, "manifests come on top");
    let again = saver.plan(images()).await.unwrap();
    assert_eq!(again.fetch_bytes, 0);
    assert!(again.images.iter().all(|image| image.status == Status::Unchanged));
}

/// Bytes of all content in the tree: blobs and manifests.
fn bytes_on_disk(dir: &Path) -> u64 {
    let files = walkdir::WalkDir::new(dir.join("docker/registry/v2/blobs")).into_iter().map(Result::unwrap);
    files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.metadata().unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colliding_image_that_is_missing_fails_alone() {
    let (one, two) = (Samples::serve().await, Samples::serve().await);
    let dir = Scratch::new();
    let tag = "artifacts/sbom:1.0";
    let gone = FaultServer::start().await;
    let names = [
        format!("{}/{tag}", one.host()),
        format!("{}/{tag}", gone.registry()),
        format!("{}/demo/app:1.0", two.host()),
    ];
    let references = names.map(|name| Reference::parse(&name).unwrap());
    let report = save(options(dir.path(), "amd64"), &references).await;
    let statuses: Vec<Status> = report.images.iter().map(|image| image.status).collect();
    assert_eq!(statuses, [Status::Saved, Status::Failed, Status::Saved]);
    assert_eq!(report.images[1].error.as_ref().unwrap().kind, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruning_for_another_platform_keeps_the_first() {
    let samples = Samples::serve().await;
    let reference = [Reference::parse(&format!("{}/demo/app:1.0", samples.host())).unwrap()];
    let dir = Scratch::new();
    let prune = |arch| {
        let mut options = options(dir.path(), arch);
        options.transfer.index = IndexMode::Prune;
        options
    };
    let first = save(prune("amd64"), &reference).await.images.remove(0);
    assert_eq!(first.replaced, None);
    let second = save(prune("arm64"), &reference).await.images.remove(0);
    assert_eq!(second.platforms.len(), 2, "{:?}", second.platforms);
    assert_eq!(second.replaced, first.digest);
    let Manifest::Index(index) = parsed(dir.path(), &second.digest.unwrap()) else { panic!("not an index") };
    assert_eq!(index.manifests.len(), 2);
    let third = save(prune("amd64"), &reference).await.images.remove(0);
    assert_eq!((third.status, third.digest), (Status::Unchanged, second.digest));

    // Another tag of the same index has nothing to do with what this one holds.
    let latest = [Reference::parse(&format!("{}/demo/app", samples.host())).unwrap()];
    let other = save(prune("amd64"), &latest).await.images.remove(0);
    assert_eq!((other.platforms.len(), other.digest), (1, first.digest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_run_reports_the_cause() {
    let samples = Samples::serve().await;
    let host = samples.host();
    let of = |name: &str| SaveImage::from(Reference::parse(&format!("{host}/{name}")).unwrap());
    let dir = Scratch::new();
    let cancelled = options(dir.path(), "amd64");
    cancelled.cancel.cancel();
    let report = ImageSaver::new(cancelled).unwrap().save([of("demo/app:1.0")]).await.unwrap();
    assert_eq!(report.aborted.unwrap().kind, ErrorKind::Cancelled);
    assert_eq!(report.images[0].error.as_ref().unwrap().kind, ErrorKind::Cancelled);

    let mut hasty = options(dir.path(), "amd64");
    hasty.transfer.fail_fast = true;
    let images = std::iter::once(of("demo/app:gone")).chain((0..200).map(|_| of("demo/tool:2.1")));
    let report = ImageSaver::new(hasty).unwrap().save(images).await.unwrap();
    let aborted = report.aborted.as_ref().unwrap();
    assert_eq!(aborted.kind, ErrorKind::NotFound);
    assert!(
        aborted.message.contains("demo/app:gone") && aborted.message.contains("first failure"),
        "{}",
        aborted.message
    );
}

/// Cancels the run when an image has been saved.
struct CancelWhenSaved(saver::CancellationToken);

impl saver::transfer::Observer for CancelWhenSaved {
    fn event(&self, event: &saver::transfer::Event<'_>) {
        if let saver::transfer::Event::ImageFinished { image } = event
            && image.status == Status::Saved
        {
            self.0.cancel();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_registry_delays_no_other() {
    let samples = Samples::serve().await;
    // It takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let mut images: Vec<SaveImage> = (0..200)
        .map(|number| Reference::parse(&format!("{address}/waiting/image{number}:1")).unwrap().into())
        .collect();
    images.push(Reference::parse(&format!("{}/demo/app:1.0", samples.host())).unwrap().into());
    let dir = Scratch::new();
    let options = options(dir.path(), "amd64");
    let observer = std::sync::Arc::new(CancelWhenSaved(options.cancel.clone()));
    let saver = ImageSaver::new(options.with_observer(observer)).unwrap();
    let report = saver.save(images).await.unwrap();
    assert_eq!(report.count(Status::Saved), 1);
    assert_eq!(report.images[200].status, Status::Saved);
    assert_eq!(report.aborted.unwrap().kind, ErrorKind::Cancelled);
}

/// What might collide with an image of a registry that does not answer waits for it; nothing else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collision_check_holds_up_no_other_image() {
    let samples = Samples::serve().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let host = samples.host();
    let names =
        [format!("{address}/demo/app:1.0"), format!("{host}/demo/app:1.0"), format!("{host}/demo/tool:2.1")];
    let dir = Scratch::new();
    let options = options(dir.path(), "amd64");
    let observer = std::sync::Arc::new(CancelWhenSaved(options.cancel.clone()));
    let report = ImageSaver::new(options.with_observer(observer)).unwrap().save(&names).await.unwrap();
    let statuses: Vec<Status> = report.images.iter().map(|image| image.status).collect();
    assert_eq!(statuses, [Status::Failed, Status::Failed, Status::Saved]);
}

/// Serves a tree written by hand, and ends when dropped.
async fn serve(tree: &Tree) -> (String, tokio::sync::oneshot::Sender<()>) {
    use saver::serve::http::{RegistryServer, ServeOptions};
    let store = Store::open_read_only(tree.dir()).unwrap();
    let server =
        RegistryServer::bind(store, ([127, 0, 0, 1], 0).into(), ServeOptions::default()).await.unwrap();
    let address = server.local_addr().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    (address, stop)
}

/// As BuildKit writes it.
fn attestation(tree: &Tree, image: &Descriptor) -> Descriptor {
    let mut entry = tree.image("app", "unknown/unknown", &[image.digest.to_string().as_bytes()]);
    let (kind, digest) = ("vnd.docker.reference.type", "vnd.docker.reference.digest");
    entry.annotations.insert(kind.into(), "attestation-manifest".into());
    entry.annotations.insert(digest.into(), image.digest.to_string());
    entry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attestations_of_selected_platforms_are_saved() {
    let tree = Tree::new();
    let images =
        ["linux/amd64", "linux/arm64"].map(|platform| tree.image("app", platform, &[platform.as_bytes()]));
    let attestations = [&images[0], &images[1]].map(|image| attestation(&tree, image));
    let index = tree.index("app", &[&images[..], &attestations[..]].concat());
    tree.tag("app", "1", &index.digest);
    let (host, _stop) = serve(&tree).await;
    let reference = [Reference::parse(&format!("{host}/app:1")).unwrap()];
    let app: Repository = "app".parse().unwrap();
    for (arch, wanted, expect, omitted) in [
        ("amd64", true, [true, false], &["attestation", "linux/arm64"][..]),
        ("arm64", true, [false, true], &["attestation", "linux/amd64"]),
        ("all", true, [true, true], &[]),
        ("amd64", false, [false, false], &["attestation", "linux/arm64"]),
        ("all", false, [false, false], &["attestation"]),
    ] {
        let dir = Scratch::new();
        let mut options = options(dir.path(), arch);
        options.transfer.attestations = wanted;
        let row = save(options, &reference).await.images.remove(0);
        assert_eq!(
            (row.status, row.omitted.as_slice()),
            (Status::Saved, &omitted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..]),
            "{arch}"
        );
        let store = Store::open_read_only(dir.path()).unwrap();
        let saved = attestations.each_ref().map(|entry| store.has_revision(&app, &entry.digest).unwrap());
        assert_eq!(saved, expect, "{arch}, attestations: {wanted}");
    }
    std::fs::remove_file(tree.revision_link("app", &attestations[0].digest)).unwrap();
    let dir = Scratch::new();
    let row = save(options(dir.path(), "amd64"), &reference).await.images.remove(0);
    assert_eq!(row.status, Status::Saved, "{:?}", row.error);
    assert!(row.warnings.iter().any(|warning| warning.contains("attestation")), "{:?}", row.warnings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_of_equal_platforms_is_flattened() {
    let tree = Tree::new();
    let twins = ["gzip", "zstd"].map(|twin| tree.image("twins", "linux/amd64", &[twin.as_bytes()]));
    let other = tree.image("twins", "linux/arm64", &[b"arm64"]);
    tree.tag("twins", "1", &tree.index("twins", &[&twins[..], &[other]].concat()).digest);
    let builds = ["10.0.17763.1", "10.0.20348.1"].map(|version| {
        let mut image = tree.image("win", "windows/amd64", &[version.as_bytes()]);
        image.platform.as_mut().unwrap().os_version = Some(version.into());
        image
    });
    tree.tag("win", "1", &tree.index("win", &builds).digest);
    let (host, _stop) = serve(&tree).await;
    for (name, arch, expect, choice) in [
        ("twins", "amd64", Some(&twins[0]), "by its digest"),
        ("win", "windows/amd64", Some(&builds[0]), "windows(10.0.20348.1)/amd64"),
        ("win", "windows(10.0.20348)/amd64", Some(&builds[1]), ""),
        ("win", "windows(10.0.1)/amd64", None, ""),
        ("twins", "amd64,arm64", None, ""),
        ("win", "all", Some(&builds[0]), "windows(10.0.20348.1)/amd64"),
    ] {
        let dir = Scratch::new();
        let mut options = options(dir.path(), arch);
        options.transfer.index = IndexMode::Flatten;
        let row =
            save(options, &[Reference::parse(&format!("{host}/{name}:1")).unwrap()]).await.images.remove(0);
        assert_eq!(row.digest, expect.map(|image| image.digest), "{name} for {arch}: {:?}", row.error);
        let warnings = row.warnings.join(" ");
        assert!(
            warnings.contains(choice) && warnings.is_empty() == choice.is_empty(),
            "{name} for {arch}: {warnings}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_without_a_platform_is_saved_for_any() {
    let tree = Tree::new();
    let signature = tree.image("sig", "/", &[b"signature"]);
    tree.tag("sig", "1", &signature.digest);
    // The index names the platform, the configuration does not.
    let mut alloy = tree.image("alloy", "/", &[b"alloy"]);
    alloy.platform = Some(saver::oci::Platform::new("linux", "amd64"));
    tree.tag("alloy", "1", &tree.index("alloy", &[alloy]).digest);
    let mut placeholder = tree.image("mixed", "unknown/unknown", &[b"artifact"]);
    placeholder.platform = Some(saver::oci::Platform::new("unknown", "unknown"));
    let image = tree.image("mixed", "linux/amd64", &[b"image"]);
    tree.tag("mixed", "1", &tree.index("mixed", &[placeholder, image]).digest);
    let (host, _stop) = serve(&tree).await;
    for (name, arch, expect) in [
        ("sig", "amd64", Status::Saved),
        ("alloy", "amd64", Status::Saved),
        ("alloy", "arm64", Status::Failed),
        ("mixed", "amd64", Status::Saved),
    ] {
        let dir = Scratch::new();
        let reference = [Reference::parse(&format!("{host}/{name}:1")).unwrap()];
        let row = save(options(dir.path(), arch), &reference).await.images.remove(0);
        assert_eq!(row.status, expect, "{name} for {arch}: {:?}", row.error);
        assert!(row.omitted.is_empty() || expect == Status::Failed, "{name}: {:?}", row.omitted);
    }
}

/// The registry deletes what a tag no longer names while the image is saved.
#[tokio::test]
async fn tag_that_moves_between_head_and_get_is_resolved_again() {
    use super::support::fault::Fault;
    let server = FaultServer::start().await;
    let image = server.add_image("app", "1", &[b"layer"]);
    let old = Digest::of(b"deleted").to_string();
    server.on("HEAD", "/manifests/1").times(1).answer(Fault::header("Docker-Content-Digest", &old));
    let dir = Scratch::new();
    let reference = Reference::parse(&format!("{}/app:1", server.registry())).unwrap();
    let row = save(options(dir.path(), "amd64"), &[reference]).await.images.remove(0);
    assert_eq!((row.status, row.digest), (Status::Saved, Some(image.manifest)), "{:?}", row.error);
}

#[tokio::test]
async fn pull_image_and_local_digest_agree() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Counting(AtomicU64);

    impl saver::transfer::Observer for Counting {
        fn event(&self, event: &saver::transfer::Event<'_>) {
            if let saver::transfer::Event::BlobAdvanced { bytes, .. } = event {
                self.0.fetch_add(*bytes, Ordering::Relaxed);
            }
        }
    }

    let samples = Samples::serve().await;
    let dir = Scratch::new();
    let name = format!("{}/demo/app:1.0", samples.host());
    let observer = Arc::new(Counting::default());
    let mut options = saver::SaveOptions::new(dir.path());
    options.transfer.referrers.kinds = saver::transfer::ReferrerKinds::None;
    options.transfer.platforms = "amd64".parse().unwrap();
    options.observer = observer.clone();
    assert_eq!(saver::local_digest(&name, dir.path()).unwrap(), None);
    let digest = saver::pull_image(&name, options.clone()).await.unwrap();
    assert!(observer.0.load(Ordering::Relaxed) > 1000);
    assert_eq!(saver::local_digest(&name, dir.path()).unwrap(), Some(digest));
    let pinned = format!("{}/demo/app@{digest}", samples.host());
    assert_eq!(saver::local_digest(&pinned, dir.path()).unwrap(), Some(digest));
    let gone = saver::pull_image(&format!("{}/demo/app:gone", samples.host()), options).await.unwrap_err();
    assert_eq!(gone.kind(), saver::ErrorKind::NotFound);
    assert!(saver::local_digest("UPPER", dir.path()).is_err());
}
