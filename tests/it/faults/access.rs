//! Finding the registry and getting in: tokens, redirects, mirrors, portals, names, certificates.

use super::*;
use crate::support::fault::{Authority, Fault, TokenAuth};
use url::Url;

#[tokio::test]
async fn failing_token_server_is_named_and_retried() {
    let scene = Scene::start().await;
    scene.image("app", &[b"a layer"]);
    scene.server.require_tokens(TokenAuth::default());
    scene.server.on("", "/token").answer(Fault::status(503));
    let report = scene.run_at(&scene.server.registry(), &["app"]).await;
    let failure = report.images[0].error.as_ref().unwrap();
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure:?}");
    assert!(failure.message.contains("/token"), "{failure:?}");
    assert_eq!(report.images[0].attempts, 8, "{report:?}");
    scene.then_completes("app").await;

    let scene = Scene::start().await;
    scene.image("app", &[b"a layer"]);
    scene.server.require_tokens(TokenAuth::default());
    scene.server.on("", "/token").times(3).answer(Fault::Close);
    scene.saves("app").await;
}

#[tokio::test]
async fn redirect_loop_fails_and_the_next_run_completes() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    let layer = of(&image.layers[0]);
    let circle = format!("{}/v2/team/app{layer}", scene.server.url());
    scene.server.on("GET", &layer).answer(Fault::Redirect(circle));
    let report = scene.run_at(&scene.server.registry(), &["app", "good"]).await;
    let failure = report.images[0].error.as_ref().unwrap();
    assert!(failure.message.contains("redirect"), "{failure:?}");
    assert!(scene.ranges(&image.layers[0]).len() < 100, "{}", scene.ranges(&image.layers[0]).len());
    assert_eq!(report.images[1].status, Status::Saved);
    scene.then_completes("app").await;
}

#[tokio::test]
async fn expired_redirect_is_requested_again_within_a_layer() {
    for status in [403, 400, 404] {
        let scene = Scene::start().await;
        let (image, layer) = scene.sized("app", LARGE);
        let content = FaultServer::start().await;
        let described = content.add_blob("application/octet-stream", layer);
        let signed = format!("{}/cdn/{}?signature=secret", content.url(), described.digest);
        scene.server.on("GET", &of(&image.layers[0])).answer(Fault::Redirect(signed));
        content.on("GET", "/cdn/").times(1).answer(Fault::Cut(100_000));
        content.on("GET", "/cdn/").times(1).answer(Fault::status(status));
        let report = scene.saves("app").await;
        assert_eq!(scene.server.count("GET", &of(&image.layers[0])), 2, "asked anew once: {status}");
        assert_eq!(content.seen().last().unwrap().header("range"), Some("bytes=100000-"), "{status}");
        assert!(report.bytes_fetched < LARGE as u64 + 10_000);
    }
}

#[tokio::test]
async fn captive_portal_is_recognised() {
    let scene = Scene::start().await;
    scene.image("app", &[b"a layer"]);
    scene.server.on("", "/v2/team/app/").answer(Fault::web_page());
    let failure = scene.fails("app", ErrorKind::Unsupported, "web page").await;
    assert!(failure.hint.as_ref().unwrap().contains("login page"), "{failure:?}");
    scene.then_completes("app").await;
    // For layers alone.
    let (image, _) = scene.sized("large", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).answer(Fault::web_page());
    scene.fails("large", ErrorKind::Unsupported, "web page").await;
    scene.then_completes("large").await;
}

#[tokio::test]
async fn mislabelled_captive_portal_is_no_image() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).answer(Fault::Body(noise("a page", LARGE)));
    scene.fails("app", ErrorKind::Corrupt, "does not match its digest").await;
    scene.server.behave();
    scene.server.on("", "/v2/team/app/manifests/").answer(Fault::Body("<html>Log in</html>".into()));
    scene.fails("app", ErrorKind::Unsupported, "web page").await;
    scene.then_completes("app").await;
}

/// The scene with a mirror in front that has the same images.
async fn mirrored(lies: impl Fn(&FaultServer, &Image)) -> (Scene, FaultServer) {
    let mut scene = Scene::start().await;
    let layer = noise("app", LARGE);
    let image = scene.image("app", &[&layer, b"small"]);
    let mirror = FaultServer::start().await;
    mirror.add_image("team/app", "v1", &[&layer, b"small"]);
    lies(&mirror, &image);
    scene.save.access.session.mirrors = vec![Url::parse(&mirror.url()).unwrap()];
    (scene, mirror)
}

#[tokio::test]
async fn mirror_with_a_corrupt_layer_falls_back_to_the_origin() {
    let (scene, mirror) = mirrored(|mirror, _| mirror.on("GET", "/blobs/").answer(Fault::Flip(9))).await;
    scene.saves("app").await;
    assert_eq!(mirror.count("GET", "/blobs/"), 3, "asked once for each blob");
    assert_eq!(scene.server.count("GET", "/blobs/"), 3);
}

#[tokio::test]
async fn corrupt_mirror_manifest_falls_back_to_the_origin() {
    let (scene, _mirror) = mirrored(|mirror, _| mirror.on("GET", "/manifests/").answer(Fault::Flip(9))).await;
    scene.saves("app").await;
    assert_eq!(scene.server.count("GET", "/manifests/"), 1);
}

/// A mirror's word on what a tag names can't be checked against anything. What it names must exist, though.
#[tokio::test]
async fn mirror_digest_that_no_one_has_fails_the_image() {
    let nobody_has = saver::oci::Digest::of(b"nobody has this").to_string();
    let lie = Fault::header("Docker-Content-Digest", &nobody_has);
    let (mut scene, mirror) = mirrored(|mirror, _| mirror.on("HEAD", "").answer(lie.clone())).await;
    let report = scene.run_at(&scene.server.registry(), &["app"]).await;
    assert_eq!(report.images[0].status, Status::Failed);
    let failure = report.images[0].error.as_ref().unwrap();
    assert_eq!(failure.kind, ErrorKind::NotFound, "{failure:?}");
    assert!(failure.message.contains(&nobody_has), "{failure:?}");
    drop(mirror);
    scene.save.access.session.mirrors.clear();
    scene.then_completes("app").await;
}

#[tokio::test]
async fn origin_resumes_a_layer_after_a_mirror_failed() {
    let (scene, mirror) = mirrored(|mirror, image| {
        mirror.on("GET", &of(&image.layers[0])).times(1).answer(Fault::Cut(100_000));
        mirror.on("", "").skip(5).answer(Fault::Close);
    })
    .await;
    let report = scene.saves("app").await;
    assert!(report.bytes_fetched < LARGE as u64 + 10_000, "{}", report.bytes_fetched);
    assert!(!mirror.seen().is_empty());
}

#[tokio::test]
async fn unknown_host_fails_only_its_image() {
    let scene = Scene::start().await;
    let mut images = Scene::references(&"no-such-registry.invalid".parse().unwrap(), &["app"]);
    images.extend(Scene::references(&scene.server.registry(), &["good"]));
    let report = ImageSaver::new(scene.save.clone()).unwrap().save(images).await.unwrap();
    let failure = report.images[0].error.as_ref().unwrap();
    assert!(failure.message.contains("cannot resolve no-such-registry.invalid"), "{failure:?}");
    assert!(failure.hint.as_ref().unwrap().contains("DNS"), "{failure:?}");
    assert_eq!(report.images[1].status, Status::Saved);
    assert_tree(scene.dir.path());
}

#[tokio::test]
async fn untrusted_certificate_fails_only_its_image() {
    let authority = Authority::new();
    let stranger = FaultServer::start_tls(&authority, &["127.0.0.1"]).await;
    stranger.add_image("team/app", "v1", &[b"a layer"]);
    let mut scene = Scene::start().await;
    let images = || {
        let mut images = Scene::references(&stranger.registry(), &["app"]);
        images.extend(Scene::references(&scene.server.registry(), &["good"]));
        images
    };
    let report = ImageSaver::new(scene.save.clone()).unwrap().save(images()).await.unwrap();
    let failure = report.images[0].error.clone().unwrap();
    assert!(failure.message.contains("not trusted"), "{failure:?}");
    assert!(failure.hint.as_ref().unwrap().contains("--ca-file"), "{failure:?}");
    assert_eq!(report.images[1].status, Status::Saved);
    assert!(stranger.seen().is_empty(), "something was asked all the same");
    let images = images();
    scene.save.access.session.ca_certificates = vec![authority.pem().into_bytes()];
    let report = ImageSaver::new(scene.save.clone()).unwrap().save(images).await.unwrap();
    assert!(report.is_success(), "{:?}", report.images[0].error);
    assert_tree(scene.dir.path());
}

#[tokio::test]
async fn refused_connection_fails_only_its_image() {
    let gone = FaultServer::start().await;
    let registry = gone.registry();
    drop(gone);
    tokio::task::yield_now().await;
    let scene = Scene::start().await;
    let mut images = Scene::references(&registry, &["app"]);
    images.extend(Scene::references(&scene.server.registry(), &["good"]));
    let report = ImageSaver::new(scene.save.clone()).unwrap().save(images).await.unwrap();
    let failure = report.images[0].error.as_ref().unwrap();
    assert_eq!(failure.kind, ErrorKind::ConnectionRefused, "{failure:?}");
    assert!(failure.message.contains(registry.as_str()), "{failure:?}");
    assert_eq!(report.images[1].status, Status::Saved);
}
