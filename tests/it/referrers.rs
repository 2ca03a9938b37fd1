//! Signatures, attestations and SBOMs go where their images go.

use crate::support::fault::{Fault, FaultServer};
use crate::support::registry_model::assert_served;
use crate::support::scratch::Scratch;
use saver::ls::ListOptions;
use saver::oci::referrer::{ReferrerTag, ReferrerTagKind};
use saver::oci::{Descriptor, Digest, Repository, Tag, media_type};
use saver::store::Store;
use saver::transfer::{ImageReport, MissingReferrers, ReferrerKinds};
use saver::verify::{VerifyOptions, verify};
use saver::{ErrorKind, ImageSaver, Report, SaveImage, SaveOptions, Status};
use serde_json::json;
use std::time::Duration;

const SBOM: &str = "application/spdx+json";
const SIGNATURE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const REPOSITORY: &str = "team/app";

/// A registry with one image, and the tree that is saved into.
struct Scene {
    server: FaultServer,
    image: Digest,
    dir: Scratch,
    save: SaveOptions,
}

impl Scene {
    async fn start() -> Self {
        let server = FaultServer::start().await;
        server.serve_referrers();
        let image = server.add_image(REPOSITORY, "v1", &[b"layer"]).manifest;
        let dir = Scratch::new();
        let mut save = SaveOptions::new(dir.path());
        save.transfer.platforms = "amd64".parse().unwrap();
        save.transfer.retry.first_delay = Duration::from_millis(1);
        save.transfer.retry.max_delay = Duration::from_millis(10);
        Self { server, image, dir, save }
    }

    /// An SBOM of the image, a signature of the SBOM, and a signature by cosign's tag.
    fn sign(&self) -> [Digest; 3] {
        let sbom = self.server.add_referrer(REPOSITORY, &self.image, SBOM, "SBOM");
        let nested = self.server.add_referrer(REPOSITORY, &sbom, SIGNATURE, "signature of the SBOM");
        let kind = ReferrerTagKind::Signature;
        [sbom, nested, self.server.add_tagged_referrer(REPOSITORY, &self.image, kind, "signature")]
    }

    fn references(&self, tags: &[&str]) -> Vec<SaveImage> {
        let reference = |tag: &&str| format!("{}/{REPOSITORY}:{tag}", self.server.registry());
        tags.iter().map(|tag| SaveImage::try_from(reference(tag)).unwrap()).collect()
    }

    async fn run(&self, tags: &[&str]) -> Report {
        let saver = ImageSaver::new(self.save.clone()).unwrap();
        let report = saver.save(self.references(tags)).await.unwrap();
        assert!(report.aborted.is_none(), "{:?}", report.aborted);
        let verified = verify(&self.store(), &VerifyOptions::default());
        assert!(verified.as_ref().is_ok_and(|report| report.is_clean()), "{verified:?}");
        assert_served(self.dir.path());
        report
    }

    async fn saves(&self) -> ImageReport {
        let mut report = self.run(&["v1"]).await;
        let row = report.images.remove(0);
        assert_ne!(row.status, Status::Failed, "{:?}", row.error);
        row
    }

    async fn fails(&self, kind: ErrorKind, words: &str) {
        let report = self.run(&["v1"]).await;
        let error = report.images[0].error.clone().expect("it was saved");
        assert_eq!(error.kind, kind, "{error:?}");
        assert!(error.message.contains(words), "{error:?}");
        assert_eq!(self.tag("v1"), None, "a failed image has a tag");
    }

    fn store(&self) -> Store {
        Store::open_read_only(self.dir.path()).unwrap()
    }

    fn repository(&self) -> Repository {
        REPOSITORY.parse().unwrap()
    }

    fn tag(&self, tag: &str) -> Option<Digest> {
        let name = self.repositories().into_iter().next()?;
        self.store().read_tag(&name, &tag.parse().unwrap()).unwrap()
    }

    fn repositories(&self) -> Vec<Repository> {
        let found = self.store().repositories().unwrap();
        assert!(found.len() <= 1, "{found:?}");
        found
    }

    /// The listed referrers of `subject` in the tree.
    fn listed(&self, subject: &Digest) -> Vec<Digest> {
        let name = self.repositories().remove(0);
        let listed = self.store().listed_referrers(&name, subject).unwrap();
        listed.into_iter().map(|entry| entry.digest).collect()
    }

    fn signature_tag(&self) -> Option<Digest> {
        let tag = ReferrerTag { subject: self.image, kind: ReferrerTagKind::Signature };
        self.tag(tag.tag().as_str())
    }

    fn requests(&self, part: &str) -> usize {
        self.server.count("", part)
    }
}

#[tokio::test]
async fn referrers_are_saved_with_their_image() {
    for has_api in [true, false] {
        let scene = Scene::start().await;
        let [sbom, nested, signature] = scene.sign();
        if !has_api {
            scene.server.serve_tags();
            scene.server.add_fallback(REPOSITORY, &scene.image, &[sbom]);
            scene.server.add_fallback(REPOSITORY, &sbom, &[nested]);
        }
        let row = scene.saves().await;
        assert_eq!(row.referrers.len(), 3, "API: {has_api}: {:?}", row.referrers);
        assert_eq!(scene.listed(&scene.image), [sbom], "API: {has_api}");
        assert_eq!(scene.listed(&sbom), [nested], "API: {has_api}");
        assert_eq!(scene.signature_tag(), Some(signature), "API: {has_api}");
        let listing = saver::ls::list(&scene.store(), &ListOptions::default()).unwrap();
        assert_eq!(listing.totals.unreferenced.files, 0, "API: {has_api}: {listing:?}");
        let again = scene.saves().await;
        assert_eq!(again.status, Status::Unchanged, "API: {has_api}");
        // A new signature changes nothing but itself.
        let late = scene.server.add_referrer(REPOSITORY, &scene.image, SIGNATURE, "late");
        if !has_api {
            scene.server.add_fallback(REPOSITORY, &scene.image, &[sbom, late]);
        }
        assert_eq!(scene.saves().await.status, Status::Saved, "API: {has_api}");
        let mut expect = [sbom, late];
        expect.sort();
        assert_eq!(scene.listed(&scene.image), expect, "API: {has_api}");
    }
}

/// As garbage collection of a registry leaves them with `--delete-untagged`.
#[tokio::test]
async fn removed_referrers_are_saved_again() {
    let scene = Scene::start().await;
    let [sbom, nested, _] = scene.sign();
    scene.saves().await;
    let (store, repository) = (scene.store(), scene.repositories().remove(0));
    for digest in [sbom, nested] {
        store.remove_revision(&repository, &digest).unwrap();
        store.remove_blob(&digest).unwrap();
    }
    scene.saves().await;
    for digest in [sbom, nested] {
        assert!(scene.store().has_revision(&repository, &digest).unwrap(), "{digest}");
    }
}

#[tokio::test]
async fn unchanged_image_costs_one_more_request() {
    for tags in [1, 4] {
        let scene = Scene::start().await;
        let mut names = vec!["v1".to_owned()];
        for number in 2..=tags {
            let layer = format!("layer {number}");
            let image = scene.server.add_image(REPOSITORY, &format!("v{number}"), &[layer.as_bytes()]);
            scene.server.add_referrer(REPOSITORY, &image.manifest, SIGNATURE, &format!("signature {number}"));
            names.push(format!("v{number}"));
        }
        scene.server.add_referrer(REPOSITORY, &scene.image, SIGNATURE, "signature");
        scene.server.add_referrer(REPOSITORY, &scene.image, SBOM, "SBOM");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        scene.run(&names).await;
        let before = scene.server.seen().len();
        let report = scene.run(&names).await;
        assert_eq!(report.count(Status::Unchanged), tags);
        // A HEAD for the tag and the list of referrers for each image, and one list of tags for the repository.
        assert_eq!(scene.server.seen().len() - before, 2 * tags + 1, "{tags} tags");
    }
}

#[tokio::test]
async fn unsigned_image_costs_one_more_request() {
    let scene = Scene::start().await;
    let mut plain = scene.save.clone();
    plain.dir = scene.dir.path().join("plain");
    plain.transfer.referrers.kinds = ReferrerKinds::None;
    let report = ImageSaver::new(plain).unwrap().save(scene.references(&["v1"])).await.unwrap();
    assert!(report.is_success());
    assert_eq!(scene.requests("/referrers/") + scene.requests("/tags/list"), 0, "none were to be asked for");
    let plain = scene.server.seen().len();
    scene.saves().await;
    assert_eq!(scene.requests("/referrers/"), 1);
    assert_eq!(scene.server.seen().len() - plain, plain + 2, "the referrers, and the tags of the repository");
}

#[tokio::test]
async fn referrers_are_selected_by_kind_and_type() {
    let [all, signatures, none] = [ReferrerKinds::All, ReferrerKinds::Signatures, ReferrerKinds::None];
    for (kinds, types, expect) in [
        (all, &[][..], "sbom nested tagged"),
        (signatures, &[], "tagged"),
        (none, &[], ""),
        (all, &["application/spdx*"], "sbom"),
        (all, &["*sigstore*", "*spdx*"], "sbom nested"),
        (all, &["*cosign*"], "tagged"),
        (all, &["text/*"], ""),
    ] {
        let mut scene = Scene::start().await;
        let [sbom, nested, signature] = scene.sign();
        scene.save.transfer.referrers.kinds = kinds;
        scene.save.transfer.referrers.types = types.iter().map(|one| (*one).to_owned()).collect();
        scene.saves().await;
        let mut found = Vec::new();
        found.extend(scene.listed(&scene.image).contains(&sbom).then_some("sbom"));
        found.extend(scene.listed(&sbom).contains(&nested).then_some("nested"));
        found.extend((scene.signature_tag() == Some(signature)).then_some("tagged"));
        assert_eq!(found.join(" "), expect, "{kinds:?} {types:?}");
    }
}

#[tokio::test]
async fn failure_of_a_referrer_fails_its_image() {
    let garbage = || Fault::Body("not a manifest".into());
    for (part, fault, kind, words) in [
        ("/referrers/", Fault::status(401), ErrorKind::Unauthorized, "refers to it"),
        ("/referrers/", Fault::status(403), ErrorKind::Unauthorized, "refers to it"),
        ("/referrers/", Fault::status(429), ErrorKind::RateLimited, "refers to it"),
        ("/referrers/", Fault::status(500), ErrorKind::Unavailable, "refers to it"),
        ("/referrers/", garbage(), ErrorKind::Corrupt, "refers to it"),
        ("/referrers/", Fault::Close, ErrorKind::Unavailable, "refers to it"),
        ("/tags/list", Fault::status(401), ErrorKind::Unauthorized, ""),
        ("/tags/list", Fault::status(500), ErrorKind::Unavailable, ""),
        ("/tags/list", garbage(), ErrorKind::Corrupt, ""),
        ("SBOM", Fault::status(401), ErrorKind::Unauthorized, ""),
        ("SBOM", Fault::status(429), ErrorKind::RateLimited, ""),
        ("SBOM", Fault::status(500), ErrorKind::Unavailable, ""),
        ("SBOM", garbage(), ErrorKind::Corrupt, ""),
        ("SBOM", Fault::status(404), ErrorKind::NotFound, "listed as a referrer"),
        ("tag", Fault::status(403), ErrorKind::Unauthorized, ""),
        ("tag", Fault::status(500), ErrorKind::Unavailable, ""),
    ] {
        let mut scene = Scene::start().await;
        scene.save.transfer.retry.retries = 1;
        let [sbom, _, signature] = scene.sign();
        let tag = ReferrerTag { subject: scene.image, kind: ReferrerTagKind::Signature }.tag();
        let place = match part {
            "SBOM" => format!("/manifests/{sbom}"),
            "tag" => format!("/manifests/{tag}"),
            part => part.to_owned(),
        };
        scene.server.on("", &place).answer(fault.clone());
        scene.fails(kind, words).await;
        // The same is a warning where that is allowed.
        scene.save.transfer.referrers.missing = MissingReferrers::Warn;
        let row = scene.saves().await;
        assert!(
            row.warnings.iter().any(|warning| warning.contains("a referrer is missing")),
            "{place}: {row:?}"
        );
        assert!(row.referrers.iter().any(|referrer| referrer.error.is_some()), "{place}: {row:?}");
        // The fault is over: the next run completes.
        scene.server.behave();
        scene.save.transfer.referrers.missing = MissingReferrers::Fail;
        assert_eq!(scene.saves().await.status, Status::Saved, "{place} {fault:?}");
        assert_eq!(scene.listed(&scene.image), [sbom], "{place}");
        assert_eq!(scene.signature_tag(), Some(signature), "{place}");
    }
}

#[tokio::test]
async fn silent_list_of_referrers_fails_its_image() {
    let mut scene = Scene::start().await;
    scene.save.transfer.retry.retries = 0;
    scene.save.access.session.idle_timeout = Duration::from_millis(200);
    scene.server.on("GET", "/referrers/").answer(Fault::Silence);
    scene.fails(ErrorKind::Unavailable, "").await;
}

#[tokio::test]
async fn transient_failures_of_referrers_are_retried() {
    for part in ["/referrers/", "/tags/list"] {
        let scene = Scene::start().await;
        let [sbom, ..] = scene.sign();
        scene.server.on("GET", part).times(2).answer(Fault::status(503));
        scene.server.on("GET", &format!("/manifests/{sbom}")).times(2).answer(Fault::status(500));
        assert_eq!(scene.saves().await.status, Status::Saved, "{part}");
        assert_eq!(scene.listed(&scene.image), [sbom], "{part}");
    }
}

#[tokio::test]
async fn registry_without_the_api_is_asked_for_tags() {
    for fault in [Fault::status(404), Fault::status(405), Fault::status(501), Fault::web_page()] {
        let scene = Scene::start().await;
        let [sbom, nested, signature] = scene.sign();
        scene.server.add_fallback(REPOSITORY, &scene.image, &[sbom]);
        scene.server.add_fallback(REPOSITORY, &sbom, &[nested]);
        scene.server.on("GET", "/referrers/").answer(fault.clone());
        scene.saves().await;
        assert_eq!(scene.listed(&sbom), [nested], "{fault:?}");
        assert_eq!(scene.signature_tag(), Some(signature), "{fault:?}");
        assert_eq!(scene.requests("/referrers/"), 1, "{fault:?}: decided once");
        assert_eq!(scene.requests("/tags/list"), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn tags_are_requested_one_by_one_where_they_cannot_be_listed() {
    for fault in [Fault::status(403), Fault::status(404), Fault::status(405)] {
        let scene = Scene::start().await;
        let [sbom, nested, signature] = scene.sign();
        scene.server.add_fallback(REPOSITORY, &scene.image, &[sbom]);
        scene.server.add_fallback(REPOSITORY, &sbom, &[nested]);
        scene.server.on("GET", "/referrers/").answer(Fault::status(404));
        scene.server.on("GET", "/tags/list").answer(fault.clone());
        scene.saves().await;
        assert_eq!(scene.listed(&sbom), [nested], "{fault:?}");
        assert_eq!(scene.signature_tag(), Some(signature), "{fault:?}");
    }
}

#[tokio::test]
async fn referrer_that_vanishes_is_left_out() {
    let scene = Scene::start().await;
    let [sbom, ..] = scene.sign();
    // Listed once; when its manifest is missing, the list is read again and does not have it any more.
    let gone = scene.server.add_referrer(REPOSITORY, &scene.image, SBOM, "gone");
    let entry = |digest: &Digest| {
        let size = scene.server.manifest(REPOSITORY, &digest.to_string()).unwrap().1.len();
        let mut entry = Descriptor::new(media_type::OCI_MANIFEST, *digest, size as u64);
        entry.artifact_type = Some(SBOM.into());
        entry
    };
    let first = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry(&sbom), entry(&gone)],
    });
    scene.server.remove_manifest(&gone);
    scene
        .server
        .on("GET", &format!("/referrers/{}", scene.image))
        .times(1)
        .answer(Fault::Body(first.to_string().into()));
    scene.saves().await;
    assert_eq!(scene.listed(&scene.image), [sbom]);
}

#[tokio::test]
async fn referrer_of_another_subject_is_refused() {
    let scene = Scene::start().await;
    let other = scene.server.add_image("team/other", "v1", &[b"other"]).manifest;
    let size = scene.server.manifest("team/other", &other.to_string()).unwrap().1.len();
    let lie = scene.server.add_manifest(
        REPOSITORY,
        None,
        media_type::OCI_MANIFEST,
        json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": SBOM,
            "config": scene.server.add_blob(media_type::OCI_EMPTY, "{}"), "layers": [],
            "subject": { "mediaType": media_type::OCI_MANIFEST, "digest": other, "size": size },
        })
        .to_string(),
    );
    scene.server.add_fallback(REPOSITORY, &scene.image, &[lie]);
    scene.server.serve_tags();
    scene.fails(ErrorKind::Corrupt, &format!("refers to {other}")).await;
}

#[tokio::test]
async fn cycle_of_lists_ends() {
    let scene = Scene::start().await;
    let sbom = scene.server.add_referrer(REPOSITORY, &scene.image, SBOM, "SBOM");
    // Content addresses admit no cycle, but a list may claim one.
    scene.server.add_fallback(REPOSITORY, &scene.image, &[sbom, scene.image]);
    scene.server.add_fallback(REPOSITORY, &sbom, &[sbom, scene.image]);
    scene.server.serve_tags();
    scene.fails(ErrorKind::Corrupt, "refers to").await;
}

#[tokio::test]
async fn nested_referrers_are_bounded() {
    let scene = Scene::start().await;
    let mut subject = scene.image;
    for depth in 0..6 {
        subject = scene.server.add_referrer(REPOSITORY, &subject, SBOM, &format!("depth {depth}"));
    }
    scene.fails(ErrorKind::Unsupported, "nested more than 4 levels").await;
}

#[tokio::test]
async fn endless_list_of_referrers_is_refused() {
    let scene = Scene::start().await;
    let entry =
        |number: usize| Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&number.to_le_bytes()), 7);
    // A million, in pages that always name another.
    let entries: Vec<Descriptor> = (0..1000).map(entry).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
    for page in 0..1000 {
        let link = format!("</v2/{REPOSITORY}/referrers/{}?last={page}>; rel=\"next\"", scene.image);
        let headers = vec![("Content-Type".into(), media_type::OCI_INDEX.into()), ("Link".into(), link)];
        scene.server.on("GET", "/referrers/").times(1).answer(Fault::Status(
            200,
            headers,
            index.to_string().into(),
        ));
    }
    scene.fails(ErrorKind::TooLarge, "more than 2000 referrers").await;
    assert!(scene.requests("/referrers/") <= 3);
}

#[tokio::test]
async fn referrers_beyond_a_limit_may_be_missing() {
    for (limit, kind, words) in [
        ("depth", ErrorKind::Unsupported, "nested more than 4 levels"),
        ("size", ErrorKind::TooLarge, "more than 1073741824 bytes"),
        ("number", ErrorKind::TooLarge, "more than 2000 referrers"),
        ("list", ErrorKind::TooLarge, "the list of what refers to"),
    ] {
        let mut scene = Scene::start().await;
        let mut kept = vec![scene.server.add_referrer(REPOSITORY, &scene.image, SBOM, "SBOM")];
        match limit {
            "depth" => {
                for depth in 0..6 {
                    let text = format!("depth {depth}");
                    kept.push(scene.server.add_referrer(REPOSITORY, &kept[depth], SBOM, &text));
                }
                kept.truncate(4);
            }
            "size" => {
                let image = scene.server.manifest(REPOSITORY, &scene.image.to_string()).unwrap().1.len();
                let size = 2_u64 << 30;
                let layer = Descriptor::new(SBOM, Digest::of(b"large"), size);
                let large = json!({
                    "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": SBOM,
                    "config": scene.server.add_blob(media_type::OCI_EMPTY, "{}"), "layers": [layer],
                    "subject": { "mediaType": media_type::OCI_MANIFEST, "digest": scene.image, "size": image },
                });
                scene.server.add_manifest(REPOSITORY, None, media_type::OCI_MANIFEST, large.to_string());
            }
            "list" => {
                let describe = |digest: &Digest| {
                    let length = scene.server.manifest(REPOSITORY, &digest.to_string()).unwrap().1.len();
                    Descriptor::new(media_type::OCI_MANIFEST, *digest, length as u64)
                };
                let mut entries = vec![describe(&kept[0])];
                let image = scene.server.manifest(REPOSITORY, &scene.image.to_string()).unwrap().1.len();
                for number in 0..6 {
                    let large = json!({
                        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": SBOM,
                        "config": scene.server.add_blob(media_type::OCI_EMPTY, "{}"), "layers": [],
                        "subject": {
                            "mediaType": media_type::OCI_MANIFEST, "digest": scene.image, "size": image
                        },
                        "annotations": { "number": number.to_string(), "text": "x".repeat(900 << 10) },
                    });
                    let digest = scene.server.add_manifest(
                        REPOSITORY,
                        None,
                        media_type::OCI_MANIFEST,
                        large.to_string(),
                    );
                    entries.push(describe(&digest));
                }
                // Without the annotations, which are in the list that saver writes.
                let index = json!({
                    "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries,
                });
                let headers = vec![("Content-Type".into(), media_type::OCI_INDEX.into())];
                let list = format!("/referrers/{}", scene.image);
                scene.server.on("GET", &list).answer(Fault::Status(200, headers, index.to_string().into()));
            }
            _ => {
                for number in 0..2000 {
                    let text = format!("number {number}");
                    scene.server.add_referrer(REPOSITORY, &kept[0], SIGNATURE, &text);
                }
            }
        }
        scene.fails(kind, words).await;
        scene.save.transfer.referrers.missing = MissingReferrers::Warn;
        let row = scene.saves().await;
        assert!(row.warnings.iter().any(|warning| warning.contains(words)), "{limit}: {row:?}");
        for digest in &kept {
            assert!(row.referrers.iter().any(|one| one.digest == Some(*digest)), "{limit}: {digest} {row:?}");
        }
    }
}

#[tokio::test]
async fn link_to_another_host_is_not_followed() {
    let scene = Scene::start().await;
    let [sbom, ..] = scene.sign();
    let elsewhere = FaultServer::start().await;
    let link = format!("<{}/v2/x/referrers/y?n=1>; rel=\"next\"", elsewhere.url());
    scene.server.on("GET", "/referrers/").times(1).answer(Fault::header("Link", &link));
    scene.saves().await;
    assert_eq!(scene.listed(&scene.image), [sbom]);
    assert!(elsewhere.seen().is_empty());
    assert!(scene.server.seen().iter().any(|seen| seen.path.ends_with("?n=1")), "the page is requested here");
}

#[tokio::test]
async fn source_index_stays_for_its_signatures() {
    for (index, mode) in
        [(saver::transfer::IndexMode::Prune, "prune"), (saver::transfer::IndexMode::Flatten, "flatten")]
    {
        let mut scene = Scene::start().await;
        scene.save.transfer.index = index;
        let child = scene.server.manifest(REPOSITORY, &scene.image.to_string()).unwrap().1.len();
        let platform = |architecture: &str| json!({ "os": "linux", "architecture": architecture });
        let document = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [
            { "mediaType": media_type::OCI_MANIFEST, "digest": scene.image, "size": child, "platform": platform("amd64") },
            { "mediaType": media_type::OCI_MANIFEST, "digest": Digest::of(b"x"), "size": 1, "platform": platform("arm64") },
        ]});
        let root =
            scene.server.add_manifest(REPOSITORY, Some("v1"), media_type::OCI_INDEX, document.to_string());
        let signature = scene.server.add_referrer(REPOSITORY, &root, SIGNATURE, "signature");
        scene.saves().await;
        assert_ne!(scene.tag("v1"), Some(root), "{mode}");
        assert_eq!(scene.listed(&root), [signature], "{mode}");
        let name = scene.repositories().remove(0);
        assert!(scene.store().has_revision(&name, &root).unwrap(), "{mode}");
        assert_eq!(scene.saves().await.status, Status::Unchanged, "{mode}");
        // It goes with the image, and stays as long as that does.
        let reference: saver::oci::Reference =
            format!("{}/{REPOSITORY}:v1", scene.server.registry()).parse().unwrap();
        let store = Store::open(scene.dir.path(), saver::store::StoreOptions::default()).unwrap();
        let options = saver::prune::PruneOptions::default();
        saver::prune::prune(&store, std::slice::from_ref(&reference), &options).unwrap();
        assert_eq!(scene.listed(&root), [signature], "{mode}");
        saver::prune::remove(&store, &[reference], &options).unwrap();
        assert!(scene.repositories().is_empty(), "{mode}");
    }
}

#[tokio::test]
async fn signature_that_is_listed_is_saved_whatever_the_platform() {
    let mut scene = Scene::start().await;
    scene.save.transfer.platforms = "s390x".parse().unwrap();
    let [.., signature] = scene.sign();
    let tag: Tag = ReferrerTag { subject: scene.image, kind: ReferrerTagKind::Signature }.tag();
    let report = scene.run(&[tag.as_str()]).await;
    assert_eq!(report.images[0].status, Status::Saved, "{:?}", report.images[0].error);
    assert_eq!(scene.signature_tag(), Some(signature));
    let _ = scene.repository();
}
