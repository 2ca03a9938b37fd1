//! Tags and manifests.

use super::*;
use crate::support::fault::Fault;
use saver::ErrorKind;
use saver::content::Target;
use saver::oci::{Digest, media_type};

#[tokio::test]
async fn tag_takes_one_head_and_manifest_one_get() {
    let server = FaultServer::start().await;
    let image = server.add_image("team/app", "v1", &[b"layer"]);
    let session = anonymous(&server);
    let resolved = session.resolve(&repository(), &tag()).await.unwrap();
    assert_eq!(resolved.digest, image.manifest);
    assert!(resolved.manifest.is_none());
    let manifest = session.manifest(&repository(), &Target::Digest(image.manifest)).await.unwrap();
    assert_eq!(manifest.media_type, media_type::OCI_MANIFEST);
    let methods: Vec<String> = server.seen().into_iter().map(|seen| seen.method).collect();
    assert_eq!(methods, ["HEAD", "GET"]);
    assert_eq!(server.seen()[0].header("accept"), Some(media_type::ACCEPT));
    assert_eq!(session.statistics().requests, 2);
    assert_eq!(server.connections(), 1, "the probe for TLS aside");
}

#[tokio::test]
async fn api_requests_have_their_own_limit() {
    let server = FaultServer::start().await;
    server.on("HEAD", "").answer(Fault::Silence);
    let mut options = options();
    (options.max_connections, options.max_requests) = (2, 6);
    let session = session(server.registry(), options);
    let (repository, tag) = (repository(), tag());
    let mut asked = futures::future::join_all((0..20).map(|_| session.resolve(&repository, &tag)));
    let six_came = async {
        while server.count("HEAD", "") < 6 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // A seventh would be under way by now.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    tokio::select! {
        _ = &mut asked => panic!("nobody answers"),
        () = six_came => {}
    }
    assert_eq!(server.count("HEAD", ""), 6);
}

#[tokio::test]
async fn tags_that_need_two_requests_do_not_deadlock() {
    for status in [404, 405] {
        let server = FaultServer::start().await;
        server.on("HEAD", "").answer(Fault::status(status));
        let session = anonymous(&server);
        let (repository, tag) = (repository(), tag());
        let asked = futures::future::join_all((0..60).map(|_| session.resolve(&repository, &tag)));
        let answers = tokio::time::timeout(std::time::Duration::from_secs(60), asked).await;
        for answer in answers.expect("all places are taken by who waits for another") {
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::NotFound, "{status}");
        }
    }
}

#[tokio::test]
async fn head_without_digest_is_followed_by_get() {
    for fault in [
        Fault::header("Docker-Content-Digest", ""),
        Fault::header("Docker-Content-Digest", "sha256:nonsense"),
        Fault::status(405),
    ] {
        let server = FaultServer::start().await;
        let image = server.add_image("team/app", "v1", &[b"layer"]);
        server.on("HEAD", "").answer(fault);
        let resolved = anonymous(&server).resolve(&repository(), &tag()).await.unwrap();
        assert_eq!(resolved.digest, image.manifest);
        assert_eq!(resolved.manifest.unwrap().digest, image.manifest);
    }
}

#[tokio::test]
async fn manifest_without_content_type_or_length_is_read() {
    for fault in [Fault::header("Content-Type", ""), Fault::Chunked] {
        let server = FaultServer::start().await;
        let image = server.add_image("team/app", "v1", &[b"layer"]);
        server.on("GET", "").answer(fault);
        let manifest = anonymous(&server).manifest(&repository(), &Target::Tag(tag())).await.unwrap();
        assert_eq!(manifest.digest, image.manifest);
        assert_eq!(manifest.media_type, media_type::OCI_MANIFEST);
    }
}

#[tokio::test]
async fn manifest_faults_have_their_kind_and_message() {
    let huge = "x".repeat((4 << 20) + 1);
    let cases = [
        (Fault::web_page(), ErrorKind::Unsupported, "web page"),
        (Fault::Body("<html>".into()), ErrorKind::Unsupported, "web page"),
        (Fault::Flip(9), ErrorKind::Corrupt, "Docker-Content-Digest"),
        (Fault::Body(huge.clone().into()), ErrorKind::Corrupt, "4194304"),
        (
            Fault::Status(200, vec![("Content-Encoding".into(), "br".into())], "compressed".into()),
            ErrorKind::Unsupported,
            "Content-Encoding: br",
        ),
        (Fault::Cut(5), ErrorKind::Unavailable, "connection"),
        (Fault::Close, ErrorKind::Unavailable, "connection"),
        (Fault::status(404), ErrorKind::NotFound, "SCRIPTED: answer 404"),
        (Fault::status(401), ErrorKind::Unauthorized, "401"),
        (Fault::status(403), ErrorKind::Unauthorized, "403"),
        (Fault::status(500), ErrorKind::Unavailable, "500"),
        (Fault::status(503), ErrorKind::Unavailable, "503"),
        (Fault::status(429), ErrorKind::RateLimited, "429"),
        (Fault::status(418), ErrorKind::Unsupported, "418"),
    ];
    for (fault, kind, words) in cases {
        let server = FaultServer::start().await;
        server.add_image("team/app", "v1", &[b"layer"]);
        let shown = format!("{fault:.60?}");
        server.on("GET", "").answer(fault);
        let error = anonymous(&server).manifest(&repository(), &Target::Tag(tag())).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{shown}: {error}");
        assert!(error.to_string().contains(words), "{shown}: {error}");
        assert!(error.subject().ends_with("/team/app:v1"), "{error}");
    }
}

#[tokio::test]
async fn oversized_body_without_length_is_refused() {
    let server = FaultServer::start().await;
    let bytes = format!(r#"{{"manifests":[],"x":"{}"}}"#, "x".repeat(5 << 20));
    server.add_manifest("team/app", Some("v1"), media_type::OCI_INDEX, bytes);
    server.on("GET", "").answer(Fault::Chunked);
    let error = anonymous(&server).manifest(&repository(), &Target::Tag(tag())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn manifest_of_another_digest_is_refused() {
    let server = FaultServer::start().await;
    let image = server.add_image("team/app", "v1", &[b"layer"]);
    server.on("GET", "").answer(Fault::Flip(20));
    let target = Target::Digest(image.manifest);
    let error = anonymous(&server).manifest(&repository(), &target).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn actionable_failures_have_hints() {
    let server = FaultServer::start().await;
    server.on("", "").answer(Fault::status(401));
    let error = anonymous(&server).resolve(&repository(), &tag()).await.unwrap_err();
    let login = format!("docker login {}", server.registry());
    assert!(error.hint().unwrap().contains(&login), "{:?}", error.hint());
}

#[tokio::test]
async fn registry_messages_cannot_control_the_terminal() {
    let server = FaultServer::start().await;
    let body = "{\"errors\":[{\"code\":\"X\",\"message\":\"\\u001b[2Jcleared\\r\\nforged line\"}]}";
    server.on("GET", "").answer(Fault::Status(404, Vec::new(), body.into()));
    let error = anonymous(&server).manifest(&repository(), &Target::Tag(tag())).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("cleared forged line"), "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

#[tokio::test]
async fn missing_tag_differs_from_missing_repository() {
    let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    for (list, words) in [
        (Fault::Body(r#"{"tags":["v2"]}"#.into()), "the repository has no tag v1"),
        (Fault::status(404), "the repository does not exist"),
        (Fault::status(401), "returned 404"),
    ] {
        let server = FaultServer::start().await;
        server.on("HEAD", "").answer(Fault::status(404));
        server.on("GET", "/manifests/").answer(Fault::Status(404, Vec::new(), unknown.into()));
        server.on("GET", "/tags/list").answer(list);
        let error = anonymous(&server).resolve(&repository(), &tag()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("MANIFEST_UNKNOWN: manifest unknown"), "{error}");
        assert_eq!(server.seen().len(), 3);
    }
}

#[tokio::test]
async fn retry_after_holds_back_other_requests() {
    for code in [429, 503] {
        let server = FaultServer::start().await;
        server.add_image("team/app", "v1", &[b"layer"]);
        server.on("", "").times(1).answer(Fault::retry_after(code, "3600"));
        let session = anonymous(&server);
        let error = session.resolve(&repository(), &tag()).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)), "{error}");
        assert!(error.to_string().contains("asks to wait 1 h"), "{error}");
        // Beyond what the session waits for at most: it fails at once, and asks nothing.
        let error = session.resolve(&repository(), &tag()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RateLimited);
        assert!(error.retry_after().unwrap() > Duration::from_secs(3000));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn requests_wait_for_retry_after() {
    let server = FaultServer::start().await;
    server.add_image("team/app", "v1", &[b"layer"]);
    server.on("", "").times(1).answer(Fault::retry_after(429, "1"));
    let session = anonymous(&server);
    session.resolve(&repository(), &tag()).await.unwrap_err();
    let begun = std::time::Instant::now();
    session.resolve(&repository(), &tag()).await.unwrap();
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn silent_server_fails_after_the_idle_timeout() {
    let server = FaultServer::start().await;
    server.on("", "").answer(Fault::Silence);
    let mut options = options();
    options.idle_timeout = Duration::from_millis(50);
    let error = session(server.registry(), options).resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("sent no data before the timeout"), "{error}");
}

#[tokio::test]
async fn request_timeout_is_independent_of_the_idle_timeout() {
    let server = FaultServer::start().await;
    server.on("", "").answer(Fault::Silence);
    let mut options = options();
    options.idle_timeout = Duration::from_secs(3600);
    options.request_timeout = Duration::from_millis(50);
    let session = session(server.registry(), options);
    let (repository, tag) = (repository(), tag());
    let asked = session.resolve(&repository, &tag);
    let error = tokio::time::timeout(Duration::from_secs(60), asked).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn unknown_digest_is_not_found() {
    let server = FaultServer::start().await;
    let target = Target::Digest(Digest::of(b"nothing"));
    let error = anonymous(&server).manifest(&repository(), &target).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn get_decides_when_head_is_refused() {
    for status in [400, 403, 404, 405, 406, 410, 415, 422, 500, 501, 502] {
        let server = FaultServer::start().await;
        let image = server.add_image("team/app", "v1", &[b"layer"]);
        server.on("HEAD", "").answer(Fault::Status(status, Vec::new(), "".into()));
        let resolved = anonymous(&server).resolve(&repository(), &tag()).await.unwrap();
        assert_eq!(resolved.digest, image.manifest, "{status}");
    }
    // A refused password is not sent again.
    let server = FaultServer::start().await;
    server.on("HEAD", "").answer(Fault::status(401));
    anonymous(&server).resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(server.count("GET", "/manifests/"), 0);
}
