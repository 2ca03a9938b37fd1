//! Mirrors: tried in order, trusted with nothing.

use super::*;
use crate::support::fault::Fault;
use saver::content::Target;
use url::Url;

const LAYER: &[u8] = b"0123456789";

struct Pair {
    origin: FaultServer,
    mirror: FaultServer,
    session: Session,
    manifest: saver::oci::Digest,
    layer: Descriptor,
}

async fn pair(credential: Credential) -> Pair {
    let (origin, mirror) = (FaultServer::start().await, FaultServer::start().await);
    let image = origin.add_image("team/app", "v1", &[LAYER]);
    mirror.add_image("team/app", "v1", &[LAYER]);
    let mut options = options();
    options.mirrors = vec![Url::parse(&mirror.url()).unwrap()];
    let credentials = Fixed::only_for(origin.registry(), credential);
    let session = Session::new(origin.registry(), Arc::new(credentials), options).unwrap();
    Pair { origin, mirror, session, manifest: image.manifest, layer: image.layers[0].clone() }
}

async fn all(pair: &Pair) {
    let resolved = pair.session.resolve(&repository(), &tag()).await.unwrap();
    assert_eq!(resolved.digest, pair.manifest);
    let manifest = pair.session.manifest(&repository(), &Target::Digest(pair.manifest)).await.unwrap();
    assert_eq!(manifest.digest, pair.manifest);
    let (_, bytes) = fetch(&pair.session, &pair.layer, 0, None).await.unwrap();
    assert_eq!(bytes, LAYER);
}

#[tokio::test]
async fn good_mirror_serves_everything() {
    let pair = pair(Credential::Anonymous).await;
    all(&pair).await;
    assert_eq!(pair.mirror.seen().len(), 3);
    assert_eq!(pair.origin.seen().len(), 0);
}

#[tokio::test]
async fn any_mirror_failure_falls_back_to_the_origin() {
    for fault in [
        Fault::status(404),
        Fault::status(401),
        Fault::status(403),
        Fault::status(429),
        Fault::status(500),
        Fault::Close,
        Fault::web_page(),
        Fault::Redirect("file:///x".into()),
    ] {
        let pair = pair(Credential::Anonymous).await;
        pair.mirror.on("", "").answer(fault);
        all(&pair).await;
        assert_eq!(pair.origin.seen().len(), 3);
    }
}

#[tokio::test]
async fn unavailable_mirror_is_skipped_for_a_while() {
    let pair = pair(Credential::Anonymous).await;
    pair.mirror.on("", "").answer(Fault::status(503));
    all(&pair).await;
    assert_eq!(pair.mirror.seen().len(), 1);
}

#[tokio::test]
async fn mirror_with_a_corrupt_manifest_falls_back() {
    let pair = pair(Credential::Anonymous).await;
    pair.mirror.on("GET", "/manifests/").answer(Fault::Flip(30));
    let manifest = pair.session.manifest(&repository(), &Target::Digest(pair.manifest)).await.unwrap();
    assert_eq!(manifest.digest, pair.manifest);
    assert_eq!(pair.origin.count("GET", "/manifests/"), 1);
}

#[tokio::test]
async fn mirror_with_a_corrupt_blob_is_not_used_for_it_again() {
    let pair = pair(Credential::Anonymous).await;
    pair.mirror.on("GET", "/blobs/").answer(Fault::Flip(3));
    let (_, wrong) = fetch(&pair.session, &pair.layer, 0, None).await.unwrap();
    assert_ne!(wrong, LAYER);
    pair.session.report_corrupt(&repository(), &pair.layer.digest);
    let (_, right) = fetch(&pair.session, &pair.layer, 0, None).await.unwrap();
    assert_eq!(right, LAYER);
    assert_eq!(pair.mirror.count("GET", "/blobs/"), 1);
}

#[tokio::test]
async fn origin_sends_the_rest_after_a_mirror_cut() {
    for fault in [Fault::Cut(4), Fault::ChunkedEnd(4)] {
        let pair = pair(Credential::Anonymous).await;
        pair.mirror.on("GET", "/blobs/").answer(fault);
        let stream = pair.session.blob(&repository(), &pair.layer, 0, None).await.unwrap();
        let (first, error) = read(stream).await;
        assert!(error.is_some());
        let (start, rest) = fetch(&pair.session, &pair.layer, first.len() as u64, None).await.unwrap();
        assert_eq!(start, 4);
        assert_eq!([first, rest].concat(), LAYER);
    }
}

#[tokio::test]
async fn origin_credentials_are_not_sent_to_a_mirror() {
    let pair = pair(basic()).await;
    pair.origin.require_basic("ann", "hunter2");
    pair.mirror.require_basic("ann", "hunter2");
    all(&pair).await;
    assert!(pair.mirror.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert!(pair.origin.seen().iter().any(|seen| seen.header("authorization").is_some()));
}

#[tokio::test]
async fn origin_error_is_reported_with_mirror_failures() {
    let pair = pair(Credential::Anonymous).await;
    pair.mirror.on("", "").answer(Fault::status(500));
    pair.origin.on("", "").answer(Fault::status(404));
    let error = pair.session.resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), saver::ErrorKind::NotFound);
    // The mirror is left out the second time: why is said still.
    let again = pair.session.resolve(&repository(), &tag()).await.unwrap_err();
    for error in [error, again] {
        let message = format!("before that, mirror {}: {}", pair.mirror.registry(), pair.mirror.url());
        assert!(error.to_string().contains(&message), "{error}");
        assert!(error.to_string().contains("500"), "{error}");
    }
    // A HEAD that fails with 500 is decided by one GET; after that the mirror is left alone.
    assert_eq!(pair.mirror.seen().len(), 2);
}

#[tokio::test]
async fn loopback_mirror_may_speak_tls() {
    let authority = crate::support::fault::Authority::new();
    let mirror = FaultServer::start_tls(&authority, &["127.0.0.1"]).await;
    let image = mirror.add_image("team/app", "v1", &[LAYER]);
    let mut options = options();
    options.ca_certificates = vec![authority.pem().into_bytes()];
    options.mirrors = vec![Url::parse(&format!("http://{}", mirror.registry())).unwrap()];
    let session = session("registry.invalid".parse().unwrap(), options);
    assert_eq!(session.resolve(&repository(), &tag()).await.unwrap().digest, image.manifest);
}

#[tokio::test]
async fn mirror_path_is_a_repository_prefix() {
    let (origin, mirror) = (FaultServer::start().await, FaultServer::start().await);
    let image = mirror.add_image("hub/team/app", "v1", &[LAYER]);
    let mut options = options();
    options.mirrors = vec![Url::parse(&format!("{}/hub", mirror.url())).unwrap()];
    let session = session(origin.registry(), options);
    let resolved = session.resolve(&repository(), &tag()).await.unwrap();
    assert_eq!(resolved.digest, image.manifest);
    assert_eq!(origin.seen().len(), 0);
}
