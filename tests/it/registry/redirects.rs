//! Redirects: where they may lead, and what is shown there.

use super::*;
use crate::support::fault::Fault;
use saver::ErrorKind;

const LAYER: &[u8] = b"0123456789";

/// A registry that wants a password and sends its readers to another server for blobs.
async fn with_cdn() -> (FaultServer, FaultServer, Descriptor) {
    let registry = FaultServer::start().await;
    let cdn = FaultServer::start().await;
    let layer = cdn.add_blob("application/octet-stream", LAYER);
    registry.require_basic("ann", "hunter2");
    let signed = format!("{}/cdn/{}?signature=secret", cdn.url(), layer.digest);
    registry.on("GET", "/blobs/").answer(Fault::Redirect(signed));
    (registry, cdn, layer)
}

#[tokio::test]
async fn content_server_gets_no_registry_credentials() {
    let (registry, cdn, layer) = with_cdn().await;
    let session = with_credential(&registry, basic());
    let (_, bytes) = fetch(&session, &layer, 0, None).await.unwrap();
    assert_eq!(bytes, LAYER);
    assert!(registry.seen().iter().any(|seen| seen.header("authorization").is_some()));
    assert!(cdn.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert!(
        cdn.seen().iter().all(|seen| seen.header("cookie").is_none() && seen.header("referer").is_none())
    );
}

#[tokio::test]
async fn ranges_reuse_the_redirect_target() {
    let (registry, cdn, layer) = with_cdn().await;
    let session = with_credential(&registry, basic());
    fetch(&session, &layer, 0, Some(4)).await.unwrap();
    let asked = registry.seen().len();
    let (start, bytes) = fetch(&session, &layer, 4, None).await.unwrap();
    assert_eq!((start, bytes.as_slice()), (4, &LAYER[4..]));
    assert_eq!(registry.seen().len(), asked, "the registry was not asked again");
    assert_eq!(cdn.seen().len(), 2);
}

#[tokio::test]
async fn expired_redirect_target_is_requested_again() {
    for status in [400, 401, 403, 404, 410] {
        let (registry, cdn, layer) = with_cdn().await;
        let session = with_credential(&registry, basic());
        fetch(&session, &layer, 0, Some(4)).await.unwrap();
        cdn.on("GET", "/cdn/").times(1).answer(Fault::status(status));
        let (_, bytes) = fetch(&session, &layer, 4, None).await.unwrap();
        assert_eq!(bytes, &LAYER[4..], "{status}");
        assert_eq!(registry.count("GET", "/blobs/"), 3, "a 401, then one for each address");
    }
}

#[tokio::test]
async fn failed_redirect_target_is_not_reused() {
    let (registry, cdn, layer) = with_cdn().await;
    let session = with_credential(&registry, basic());
    fetch(&session, &layer, 0, Some(4)).await.unwrap();
    cdn.on("GET", "/cdn/").times(1).answer(Fault::status(500));
    let error = fetch(&session, &layer, 4, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let asked = registry.count("GET", "/blobs/");
    fetch(&session, &layer, 4, None).await.unwrap();
    assert_eq!(registry.count("GET", "/blobs/"), asked + 1);
}

#[tokio::test]
async fn content_server_refusal_has_no_login_hint() {
    let (registry, cdn, layer) = with_cdn().await;
    cdn.on("GET", "/cdn/").answer(Fault::status(403));
    let error = fetch(&with_credential(&registry, basic()), &layer, 0, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(!error.hint().unwrap().contains("docker login"), "{:?}", error.hint());
    assert!(!error.to_string().contains("secret"), "the signature is not shown: {error}");
}

#[tokio::test]
async fn manifest_redirects_are_followed() {
    let server = FaultServer::start().await;
    let other = FaultServer::start().await;
    let image = other.add_image("elsewhere/app", "v1", &[LAYER]);
    let address = format!("{}/v2/elsewhere/app/manifests/v1", other.url());
    server.on("", "/manifests/").answer(Fault::Redirect(address));
    let resolved = anonymous(&server).resolve(&repository(), &tag()).await.unwrap();
    assert_eq!(resolved.digest, image.manifest);
}

#[tokio::test]
async fn redirect_loops_and_long_chains_end() {
    let server = FaultServer::start().await;
    let layer = server.add_blob("application/octet-stream", LAYER);
    server.on("GET", "/blobs/").answer(Fault::Redirect("/a".into()));
    server.on("GET", "/a").answer(Fault::Redirect("/b".into()));
    server.on("GET", "/b").answer(Fault::Redirect("/a".into()));
    let error = fetch(&anonymous(&server), &layer, 0, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("loop"), "{error}");
    let chain = FaultServer::start().await;
    for step in 0..9 {
        let next = format!("/step{}", step + 1);
        let part = if step == 0 { "/blobs/".to_owned() } else { format!("/step{step}") };
        chain.on("GET", &part).answer(Fault::Redirect(next));
    }
    let error = fetch(&anonymous(&chain), &layer, 0, None).await.unwrap_err();
    assert!(error.to_string().contains("more than 5"), "{error}");
    assert_eq!(chain.seen().len(), 6);
}

#[tokio::test]
async fn public_registry_cannot_redirect_to_a_private_address() {
    for address in
        ["http://127.0.0.1:1/x", "http://169.254.169.254/latest", "http://[::1]/x", "http://2130706433/x"]
    {
        let proxy = FaultServer::start().await;
        let layer = proxy.add_blob("application/octet-stream", LAYER);
        proxy.on("GET", "/blobs/").answer(Fault::Redirect(address.into()));
        let session = through_proxy(&proxy, "public.example", Credential::Anonymous);
        let error = fetch(&session, &layer, 0, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{address}: {error}");
        assert!(error.to_string().contains("private address"), "{address}: {error}");
    }
}

#[tokio::test]
async fn redirects_to_other_schemes_are_refused() {
    let server = FaultServer::start().await;
    let layer = server.add_blob("application/octet-stream", LAYER);
    server.on("GET", "/blobs/").answer(Fault::Redirect("file:///etc/passwd".into()));
    let error = fetch(&anonymous(&server), &layer, 0, None).await.unwrap_err();
    assert!(error.to_string().contains("scheme"), "{error}");
}
