//! Authentication: what is shown to whom, and how often.

use super::*;
use crate::support::fault::{Fault, TokenAuth};
use crate::support::scratch::Scratch;
use saver::ErrorKind;
use saver::content::Target;

fn user() -> Option<(String, String)> {
    Some(("ann".into(), "hunter2".into()))
}

async fn serving() -> FaultServer {
    let server = FaultServer::start().await;
    server.add_image("team/app", "v1", &[b"layer"]);
    server
}

#[tokio::test]
async fn basic_challenge_is_learned_once() {
    let server = serving().await;
    server.require_basic("ann", "hunter2");
    let session = with_credential(&server, basic());
    for _ in 0..3 {
        session.resolve(&repository(), &tag()).await.unwrap();
    }
    assert_eq!(server.seen().len(), 4, "one 401, then none");
    let first = &server.seen()[0];
    assert!(first.header("authorization").is_none(), "nothing is shown unasked");
}

#[tokio::test]
async fn wrong_or_missing_credentials_fail_with_a_hint() {
    let wrong = Credential::Basic { username: "ann".into(), password: Secret::new("wrong") };
    for (credential, words) in [
        (Credential::Anonymous, "requires a login, and no credentials were found"),
        (wrong, "refused the credentials (user \"ann\")"),
    ] {
        let server = serving().await;
        server.require_basic("ann", "hunter2");
        let error = with_credential(&server, credential).resolve(&repository(), &tag()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(error.hint().unwrap().contains("docker login"), "{:?}", error.hint());
        assert!(server.seen().len() <= 2);
        assert!(error.to_string().contains(words), "{error}");
        assert!(!format!("{error} {error:?}").contains("wrong"));
    }
}

#[tokio::test]
async fn refused_credentials_differ_from_a_missing_login() {
    let wrong = Credential::Basic { username: "ann".into(), password: Secret::new("wrong") };
    for (credential, words) in [
        (Credential::Anonymous, "no credentials were found"),
        (wrong, "refused the credentials (user \"ann\")"),
    ] {
        let server = serving().await;
        server.require_tokens(TokenAuth { user: user(), ..TokenAuth::default() });
        let error = with_credential(&server, credential).resolve(&repository(), &tag()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(error.to_string().contains(words), "{error}");
        assert!(!format!("{error} {error:?}").contains("wrong"));
    }
}

#[tokio::test]
async fn one_token_serves_all_requests_of_a_repository() {
    let server = serving().await;
    server.add_image("other/app", "v1", &[b"layer"]);
    server.require_tokens(TokenAuth { user: user(), expires_in: Some(300), ..TokenAuth::default() });
    let session = with_credential(&server, basic());
    let other: Repository = "other/app".parse().unwrap();
    for _ in 0..3 {
        session.resolve(&repository(), &tag()).await.unwrap();
        session.resolve(&other, &tag()).await.unwrap();
    }
    assert_eq!(server.count("GET", "/token"), 2);
    assert_eq!(server.count("", "/manifests/"), 7, "one 401 for the whole session");
    let asked = server.seen().into_iter().find(|seen| seen.path.starts_with("/token")).unwrap();
    assert!(asked.path.contains("service=scripted"), "{}", asked.path);
    assert!(asked.path.contains("scope=repository%3Ateam%2Fapp%3Apull"), "{}", asked.path);
    assert_eq!(session.statistics().tokens, 2);
}

#[tokio::test]
async fn concurrent_requests_share_one_token_request() {
    let server = serving().await;
    server.require_tokens(TokenAuth::default());
    let session = anonymous(&server);
    session.resolve(&repository(), &tag()).await.unwrap();
    server.expire_tokens();
    server.on("GET", "/token").answer(Fault::Delay(Duration::from_millis(30)));
    let before = server.count("GET", "/token");
    let (repository, tag) = (repository(), tag());
    let all = futures::future::join_all((0..8).map(|_| session.resolve(&repository, &tag))).await;
    assert!(all.iter().all(saver::Result::is_ok));
    assert_eq!(server.count("GET", "/token") - before, 1);
}

#[tokio::test]
async fn token_is_read_from_either_field() {
    let server = serving().await;
    server.require_tokens(TokenAuth { field: Some("access_token".into()), ..TokenAuth::default() });
    anonymous(&server).resolve(&repository(), &tag()).await.unwrap();

    let server = serving().await;
    server.require_tokens(TokenAuth { uses: Some(0), ..TokenAuth::default() });
    server.on("GET", "/token").answer(Fault::Body(r#"{"token":"","access_token":"shown"}"#.into()));
    anonymous(&server).resolve(&repository(), &tag()).await.unwrap_err();
    let shown = |seen: &crate::support::fault::Seen| seen.header("authorization") == Some("Bearer shown");
    assert!(server.seen().iter().any(shown), "one that is empty is none");
}

#[tokio::test]
async fn expired_token_is_renewed() {
    for expired_status in [None, Some(400)] {
        let server = serving().await;
        let layer = server.add_blob("application/octet-stream", &b"0123456789"[..]);
        server.require_tokens(TokenAuth { uses: Some(1), expired_status, ..TokenAuth::default() });
        let session = anonymous(&server);
        session.resolve(&repository(), &tag()).await.unwrap();
        let (_, first) = fetch(&session, &layer, 0, Some(4)).await.unwrap();
        let (_, second) = fetch(&session, &layer, 4, None).await.unwrap();
        assert_eq!([first, second].concat(), b"0123456789");
        assert_eq!(server.count("GET", "/token"), 3, "{expired_status:?}");
    }
}

#[tokio::test]
async fn refused_fresh_token_is_not_requested_again() {
    let server = serving().await;
    server.require_tokens(TokenAuth { uses: Some(0), ..TokenAuth::default() });
    let error = anonymous(&server).resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!((server.count("", "/manifests/"), server.count("", "/token")), (2, 1));
}

#[tokio::test]
async fn short_lived_token_is_renewed_before_each_use() {
    let server = serving().await;
    server.require_tokens(TokenAuth { expires_in: Some(1), ..TokenAuth::default() });
    let session = anonymous(&server);
    session.resolve(&repository(), &tag()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(850)).await;
    session.resolve(&repository(), &tag()).await.unwrap();
    assert_eq!(server.count("", "/token"), 2, "renewed at four fifths of its second");
    assert_eq!(server.count("", "/manifests/"), 3, "without having been refused");
}

#[tokio::test]
async fn scope_required_by_the_registry_is_requested() {
    let server = serving().await;
    server.require_tokens(TokenAuth::default());
    let challenge = |scope: &str| {
        let value = format!(r#"Bearer realm="{}/token",scope="{scope}""#, server.url());
        Fault::Status(401, vec![("WWW-Authenticate".into(), value)], "".into())
    };
    server.on("HEAD", "").times(1).answer(challenge("repository:renamed/app:pull repository:team/app:pull"));
    anonymous(&server).resolve(&repository(), &tag()).await.unwrap();
    let scopes: Vec<String> =
        server.seen().into_iter().filter(|seen| seen.path.contains("/token")).map(|seen| seen.path).collect();
    assert!(scopes[0].contains("team%2Fapp"), "{scopes:?}");
    assert!(scopes.iter().all(|path| !path.contains("push")), "{scopes:?}");
    assert!(scopes[1].contains("renamed%2Fapp"), "{scopes:?}");
}

#[tokio::test]
async fn identity_token_is_exchanged_for_access_tokens() {
    for get_only in [false, true] {
        let server = serving().await;
        let identity = Some("refresh-me".to_owned());
        server.require_tokens(TokenAuth { identity, get_only, ..TokenAuth::default() });
        let session = with_credential(&server, Credential::IdentityToken(Secret::new("refresh-me")));
        session.resolve(&repository(), &tag()).await.unwrap();
        let posted = server.seen().into_iter().find(|seen| seen.method == "POST").unwrap();
        assert!(posted.body.contains("grant_type=refresh_token"), "{}", posted.body);
        assert_eq!(server.count("GET", "/token"), usize::from(get_only));
    }
}

#[tokio::test]
async fn registry_token_is_sent_unchanged() {
    let server = serving().await;
    server.on("HEAD", "").times(1).answer(Fault::Status(
        401,
        vec![("WWW-Authenticate".into(), "Bearer realm=\"https://unused.invalid/\"".into())],
        "".into(),
    ));
    let session = with_credential(&server, Credential::RegistryToken(Secret::new("as-it-is")));
    session.resolve(&repository(), &tag()).await.unwrap();
    assert_eq!(server.seen()[1].header("authorization"), Some("Bearer as-it-is"));
}

#[tokio::test]
async fn unreachable_token_server_is_named() {
    let server = serving().await;
    let gone = FaultServer::start().await;
    let realm = format!("{}/token", gone.url());
    drop(gone);
    // The listener closes once its task has ended.
    tokio::task::yield_now().await;
    server.require_tokens(TokenAuth { realm: Some(realm.clone()), ..TokenAuth::default() });
    let error = anonymous(&server).resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    assert!(error.to_string().contains(&realm), "{error}");
}

#[tokio::test]
async fn bad_token_responses_have_their_kinds() {
    for (fault, kind) in [
        (Fault::status(500), ErrorKind::Unavailable),
        (Fault::status(429), ErrorKind::RateLimited),
        (Fault::status(401), ErrorKind::Unauthorized),
        (Fault::status(400), ErrorKind::Unauthorized),
        (Fault::web_page(), ErrorKind::Unsupported),
        (Fault::Body("{}".into()), ErrorKind::Unsupported),
        (Fault::ChunkedEnd(5), ErrorKind::Unavailable),
        (Fault::Body(r#"{"token":"a\nb"}"#.into()), ErrorKind::Unsupported),
        (Fault::Body("x".repeat((1 << 20) + 1).into()), ErrorKind::Unsupported),
        (Fault::Redirect("/token".into()), ErrorKind::Unsupported),
        (Fault::Redirect("ftp://elsewhere.invalid/".into()), ErrorKind::Unsupported),
        (Fault::Status(302, Vec::new(), "".into()), ErrorKind::Unsupported),
        (Fault::Close, ErrorKind::Unavailable),
    ] {
        let server = serving().await;
        server.require_tokens(TokenAuth::default());
        let shown = format!("{fault:.60?}");
        server.on("", "/token").answer(fault);
        let error = anonymous(&server).resolve(&repository(), &tag()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{shown}: {error}");
    }
}

#[tokio::test]
async fn token_redirect_gets_no_credentials_at_another_origin() {
    let (server, other) = (serving().await, FaultServer::start().await);
    server.require_tokens(TokenAuth { user: user(), ..TokenAuth::default() });
    server.on("GET", "/token?service").times(1).answer(Fault::Redirect("/token?scope=x".into()));
    let elsewhere = Fault::Redirect(format!("{}/token", other.url()));
    server.on("GET", "/token?scope=x").times(1).answer(elsewhere);
    other.on("GET", "/token").answer(Fault::Body(r#"{"token":"none"}"#.into()));
    let session = with_credential(&server, basic());
    let error = session.resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "the token is none: {error}");
    let shown = |server: &FaultServer| -> Vec<bool> {
        let asked = server.seen().into_iter().filter(|seen| seen.path.starts_with("/token"));
        asked.map(|seen| seen.header("authorization").is_some()).collect()
    };
    assert_eq!((shown(&server), shown(&other)), (vec![true, true], vec![false]));

    let query = "/token?scope=repository:team/app:pull";
    server.on("GET", "/token?service").times(1).answer(Fault::Redirect(query.into()));
    session.resolve(&repository(), &tag()).await.unwrap();
}

#[tokio::test]
async fn credentials_are_not_sent_in_plain_text_to_another_host() {
    let proxy = serving().await;
    let realm = Some("http://auth.example/token".to_owned());
    proxy.require_tokens(TokenAuth { user: user(), realm, ..TokenAuth::default() });
    let session = through_proxy(&proxy, "public.example", basic());
    let error = session.resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(error.to_string().contains("another host"), "{error}");
    assert_eq!(proxy.count("", "/token"), 0);
    assert!(proxy.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn public_registry_cannot_name_a_private_token_server() {
    let proxy = serving().await;
    let realm = Some("http://127.0.0.1:1/token".to_owned());
    proxy.require_tokens(TokenAuth { realm, ..TokenAuth::default() });
    let session = through_proxy(&proxy, "public.example", Credential::Anonymous);
    let error = session.resolve(&repository(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(error.to_string().contains("private address"), "{error}");
}

#[tokio::test]
async fn session_debug_output_has_no_secrets() {
    let server = serving().await;
    server.require_basic("ann", "hunter2");
    let session = with_credential(&server, basic());
    session.manifest(&repository(), &Target::Tag(tag())).await.unwrap();
    assert!(!format!("{session:?}").contains("hunter2"));
}

#[tokio::test]
async fn origin_of_refused_credentials_is_named() {
    let server = serving().await;
    server.require_basic("ann", "hunter2");
    let dir = Scratch::new();
    let mut options = saver::SaveOptions::new(dir.path());
    options.transfer.referrers.kinds = saver::transfer::ReferrerKinds::None;
    options.transfer.platforms = "all".parse().unwrap();
    let name = format!("{}/team/app:v1", server.registry());
    let mut image = saver::SaveImage::from(name.parse::<saver::oci::Reference>().unwrap());
    image.credential = Some(Credential::Basic { username: "ann".into(), password: Secret::new("wrong-one") });
    let report = saver::ImageSaver::new(options).unwrap().save(vec![image]).await.unwrap();
    let shown = format!("{report:?}");
    assert!(shown.contains("refused the credentials from the image list or request"), "{shown}");
    assert!(!shown.contains("wrong-one"), "{shown}");
}

/// Some registries answer anonymous requests with 404 or 403 and have a challenge at /v2/ only.
#[tokio::test]
async fn challenge_at_v2_only_is_found_with_credentials() {
    for status in [400, 403, 404] {
        let server = FaultServer::start().await;
        server.add_image("team/app", "v1", &[b"layer"]);
        server.require_basic("ann", "hunter2");
        // The first HEAD is anonymous; with credentials the registry behaves.
        server.on_anonymous(status);
        with_credential(&server, basic()).resolve(&repository(), &tag()).await.unwrap();
        assert_eq!(server.seen().iter().filter(|seen| seen.path == "/v2/").count(), 1, "{status}");
        let error = anonymous(&server).resolve(&repository(), &tag()).await.unwrap_err();
        assert_eq!(error.http_status(), Some(status), "{error}");
        assert_eq!(
            server.seen().iter().filter(|seen| seen.path == "/v2/").count(),
            1,
            "nothing to log in with"
        );
    }
}

/// A registry that redirects to another one, which has a challenge of its own.
#[tokio::test]
async fn moved_registry_gets_the_credentials_for_its_new_host_only() {
    let (old, new) = (FaultServer::start().await, FaultServer::start().await);
    new.add_image("team/app", "v1", &[b"layer"]);
    new.require_basic("ann", "hunter2");
    old.on("", "/manifests/v1").answer(Fault::Redirect(format!("{}/v2/team/app/manifests/v1", new.url())));
    let only_new = Fixed::only_for(new.registry(), basic());
    let moved = Session::new(old.registry(), Arc::new(only_new), options()).unwrap();
    moved.resolve(&repository(), &tag()).await.unwrap();
    assert!(old.seen().iter().all(|seen| seen.header("authorization").is_none()));
    let only_old = Fixed::only_for(old.registry(), basic());
    let moved = Session::new(old.registry(), Arc::new(only_old), options()).unwrap();
    let before = new.seen().len();
    let error = moved.resolve(&repository(), &tag()).await.unwrap_err();
    assert!(new.seen()[before..].iter().all(|seen| seen.header("authorization").is_none()));
    assert!(
        error.hint().unwrap().contains(&format!("docker login {}", new.registry())),
        "{:?}",
        error.hint()
    );
}
