//! TLS: what is trusted, and when plain HTTP is spoken.

use super::*;
use crate::support::fault::{Authority, Fault};
use crate::support::peers::registry::{self as peers, RegistryOptions};
use crate::support::peers::tls::Tls;
use crate::support::scratch::Scratch;
use saver::ErrorKind;

async fn serving(authority: &Authority, names: &[&str]) -> FaultServer {
    let server = FaultServer::start_tls(authority, names).await;
    server.add_image("team/app", "v1", &[b"layer"]);
    server
}

#[tokio::test]
async fn named_private_authority_is_trusted() {
    let authority = Authority::new();
    let server = serving(&authority, &["127.0.0.1"]).await;
    let error = anonymous(&server).resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Certificate, "{error}");
    assert!(error.to_string().contains("not trusted"), "{error}");
    assert!(error.hint().unwrap().contains("--ca-file"), "{:?}", error.hint());
    assert_eq!(server.seen().len(), 0, "no fall back to anything");
    let mut options = options();
    options.ca_certificates = vec![authority.pem().into_bytes()];
    session(server.registry(), options).resolve(&repository(), &tag()).await.unwrap();
}

#[tokio::test]
async fn certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let server = serving(&authority, &["registry.example"]).await;
    let mut options = options();
    options.ca_certificates = vec![authority.pem().into_bytes()];
    let error = session(server.registry(), options).resolve(&repository(), &tag()).await.unwrap_err();
    assert!(error.to_string().contains("it is not valid for 127.0.0.1"), "{error}");
}

#[tokio::test]
async fn insecure_tls_applies_to_the_named_registry_only() {
    let authority = Authority::new();
    let server = serving(&authority, &["127.0.0.1"]).await;
    let layer = server.add_blob("application/octet-stream", &b"0123456789"[..]);
    let mut options = options();
    options.insecure_tls = true;
    let session = session(server.registry(), options);
    session.resolve(&repository(), &tag()).await.unwrap();
    // The same server by another name: a host that nobody called insecure.
    let elsewhere = format!("https://{}/cdn/{}", server.localhost(), layer.digest);
    server.on("GET", "/blobs/").answer(Fault::Redirect(elsewhere));
    let error = fetch(&session, &layer, 0, None).await.unwrap_err();
    assert!(error.to_string().contains("not trusted"), "{error}");
}

#[tokio::test]
async fn client_certificate_is_sent_where_required() {
    let authority = Authority::new();
    let server = FaultServer::start_mutual_tls(&authority, &["127.0.0.1"]).await;
    server.add_image("team/app", "v1", &[b"layer"]);
    let mut options = options();
    options.ca_certificates = vec![authority.pem().into_bytes()];
    let without = session(server.registry(), options.clone());
    let error = without.resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(error.hint().unwrap().contains("--cert-dir"), "{:?}", error.hint());
    options.client_identity = Some(authority.client_identity());
    session(server.registry(), options).resolve(&repository(), &tag()).await.unwrap();
}

#[tokio::test]
async fn https_never_leads_to_http() {
    let authority = Authority::new();
    let server = serving(&authority, &["127.0.0.1"]).await;
    let plain = FaultServer::start().await;
    let layer = plain.add_blob("application/octet-stream", &b"0123456789"[..]);
    let lower = format!("{}/cdn/{}", plain.url(), layer.digest);
    server.on("GET", "/blobs/").answer(Fault::Redirect(lower));
    let mut options = options();
    options.ca_certificates = vec![authority.pem().into_bytes()];
    let error = fetch(&session(server.registry(), options), &layer, 0, None).await.unwrap_err();
    assert!(error.to_string().contains("from HTTPS to plain HTTP"), "{error}");
    assert_eq!(plain.seen().len(), 0);
}

#[tokio::test]
async fn loopback_registry_is_probed_once() {
    let server = FaultServer::start().await;
    server.add_image("team/app", "v1", &[b"layer"]);
    for registry in [server.registry(), server.localhost()] {
        let session = session(registry, options());
        let (repository, tag) = (repository(), tag());
        let all = futures::future::join_all((0..4).map(|_| session.resolve(&repository, &tag))).await;
        assert!(all.iter().all(saver::Result::is_ok));
    }
}

#[tokio::test]
async fn plain_http_to_a_tls_port_is_recognised() {
    let authority = Authority::new();
    // Its TLS library sends an alert.
    let server = serving(&authority, &["127.0.0.1"]).await;
    let dir = Scratch::new();
    let tls = Some(Tls::make(dir.path()));
    // Go's sends a 400.
    let go = peers::Registry::start(dir.path(), &RegistryOptions { tls, ..RegistryOptions::default() });
    for registry in [server.registry(), go.address.parse().unwrap()] {
        let mut options = options();
        options.plain_http = true;
        let error = session(registry.clone(), options).resolve(&repository(), &tag()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(&format!("{registry} speaks HTTPS at this port")), "{error}");
        assert_eq!(error.hint(), Some(&*format!("remove --plain-http {registry}")));
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn https_to_a_plain_http_port_is_recognised() {
    let server = FaultServer::start().await;
    let dir = Scratch::new();
    let go = peers::Registry::serve(dir.path());
    for registry in [server.registry(), go.address.parse().unwrap()] {
        // A mirror's scheme is taken as it is.
        let mut options = options();
        options.mirrors = vec![format!("https://{registry}").parse().unwrap()];
        options.plain_http = true;
        let error = session("127.0.0.1:1".parse().unwrap(), options)
            .resolve(&repository(), &tag())
            .await
            .unwrap_err();
        let causes: String = error.causes().iter().map(ToString::to_string).collect();
        assert!(causes.contains(&format!("{registry} does not speak TLS")), "{error}");
    }
}

#[tokio::test]
async fn plain_http_is_not_used_for_other_hosts_unasked() {
    let proxy = FaultServer::start().await;
    let mut options = options();
    options.proxy.http = Some(proxy.url().parse().unwrap());
    options.proxy.https = Some(proxy.url().parse().unwrap());
    let error =
        session("public.example".parse().unwrap(), options).resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(proxy.seen().iter().all(|seen| seen.method == "CONNECT"), "{:?}", proxy.seen());
}

#[tokio::test]
async fn refused_connection_is_reported() {
    let gone = FaultServer::start().await;
    let registry = gone.registry();
    drop(gone);
    tokio::task::yield_now().await;
    let error = session(registry.clone(), options()).resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains(registry.as_str()), "{error}");
}

#[tokio::test]
async fn unknown_host_is_reported() {
    let registry: Registry = "no-such-registry.invalid".parse().unwrap();
    let error = session(registry, options()).resolve(&repository(), &tag()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnknownHost | ErrorKind::Unavailable), "{error}");
    assert!(error.to_string().contains("cannot resolve no-such-registry.invalid"), "{error}");
}

async fn self_signed(names: &[&str], years: std::ops::Range<i32>, trusted: bool) -> saver::Result<()> {
    let (server, pem) = FaultServer::start_self_signed(names, years).await;
    server.add_image("team/app", "v1", &[b"layer"]);
    // Another one of the same names, which is trusted in any case.
    let (_, other) = FaultServer::start_self_signed(names, 2020..2090).await;
    let mut options = options();
    options.ca_certificates = vec![other.into_bytes()];
    if trusted {
        options.ca_certificates.push(pem.into_bytes());
    }
    let layer = server.add_blob("application/octet-stream", &b"0123456789"[..]);
    let session = session(server.registry(), options);
    session.resolve(&repository(), &tag()).await?;
    fetch(&session, &layer, 0, None).await.map(|_| ())
}

#[tokio::test]
async fn named_self_signed_certificate_is_trusted() {
    self_signed(&["127.0.0.1"], 2020..2090, true).await.unwrap();
    for (names, years, trusted, words) in [
        (["127.0.0.1"], 2020..2090, false, "not trusted"),
        (["r.example"], 2020..2090, true, "it is not valid for 127.0.0.1 but for r.example"),
        (["127.0.0.1"], 2020..2021, true, "it expired on Fri, 01 Jan 2021"),
        (["127.0.0.1"], 2089..2090, true, "it is not valid before Sat, 01 Jan 2089"),
    ] {
        let error = self_signed(&names, years, trusted).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Certificate, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.to_string().contains("Other"), "{error}");
    }
}

#[tokio::test]
async fn unreachable_proxy_is_named_without_its_password() {
    let gone = FaultServer::start().await;
    let place = gone.registry();
    drop(gone);
    tokio::task::yield_now().await;
    let mut options = options();
    options.proxy.https = Some(format!("http://ann:hunter2@{place}").parse().unwrap());
    let registry: Registry = "public.example".parse().unwrap();
    let error = session(registry, options).resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    assert!(error.to_string().contains(&format!("cannot connect to the proxy {place}")), "{error}");
    assert!(!format!("{error} {:?}", error.hint()).contains("hunter2"), "{error}");
}

#[tokio::test]
async fn refusing_proxy_is_named() {
    let proxy = FaultServer::start().await;
    proxy.on("CONNECT", "").answer(Fault::status(403));
    let mut options = options();
    options.proxy.https = Some(proxy.url().parse().unwrap());
    let registry: Registry = "public.example".parse().unwrap();
    let error = session(registry, options).resolve(&repository(), &tag()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("the proxy {}", proxy.registry())), "{error}");
    assert!(error.to_string().contains("public.example"), "{error}");
}
