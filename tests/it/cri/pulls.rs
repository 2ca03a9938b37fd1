//! Pulls: credentials, concurrency, cancellation, restarts.

use crate::support::cri::{Cri, Refusal};
use crate::support::fault::{Fault, FaultServer, TokenAuth};
use crate::support::images::noise;
use crate::support::mount::{apart, mount_small};
use crate::support::peers::registry::Registry;
use crate::support::program::Home;
use crate::support::samples::{Samples, listed};
use saver::cri::proto::{AuthConfig, ImageFsInfoRequest, ImageFsInfoResponse};
use std::time::{Duration, Instant};

const NOT_FOUND: u32 = 5;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNAVAILABLE: u32 = 14;
const DATA_LOSS: u32 = 15;
const UNAUTHENTICATED: u32 = 16;

fn user(name: &str, password: &str) -> Option<AuthConfig> {
    Some(AuthConfig { username: name.into(), password: password.into(), ..AuthConfig::default() })
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "not after 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn request_credentials_reach_only_their_registry() {
    let server = FaultServer::start().await;
    server.add_image("app", "v1", &[b"a layer"]);
    server.require_basic("ann", "secret");
    let cri = Cri::start();
    let client = cri.client().await;
    let name = format!("{}/app:v1", server.registry());
    for wrong in [
        None,
        user("ann", "wrong"),
        user("ann", "secret").map(|auth| AuthConfig { server_address: "https://other.io".into(), ..auth }),
    ] {
        let (code, message) = client.pull_as(&name, wrong).await.unwrap_err();
        assert_eq!(code, UNAUTHENTICATED, "{message}");
        assert!(!message.contains("secret") && message.contains("docker login"), "{message}");
    }
    let encoded = AuthConfig {
        auth: "YW5uOnNlY3JldA==".into(),
        server_address: server.registry().to_string(),
        ..AuthConfig::default()
    };
    client.pull_as(&name, Some(encoded)).await.unwrap();
    client.pull_as(&name, user("ann", "secret")).await.unwrap();
    // The credentials of one request are not used for the next.
    assert_eq!(client.pull(&name).await.unwrap_err().0, UNAUTHENTICATED);
}

#[tokio::test]
async fn identity_token_reaches_the_registry() {
    let server = FaultServer::start().await;
    server.add_image("app", "v1", &[b"a layer"]);
    server.require_tokens(TokenAuth { identity: Some("refresh".into()), ..TokenAuth::default() });
    let cri = Cri::start();
    let client = cri.client().await;
    let name = format!("{}/app:v1", server.registry());
    assert_eq!(client.pull(&name).await.unwrap_err().0, UNAUTHENTICATED);
    let auth = AuthConfig { identity_token: "refresh".into(), ..AuthConfig::default() };
    client.pull_as(&name, Some(auth)).await.unwrap();
}

#[tokio::test]
async fn failures_have_grpc_codes() {
    let server = FaultServer::start().await;
    server.add_image("app", "v1", &[b"a layer"]);
    let cri = Cri::start();
    let client = cri.client().await;
    let name = |tag: &str| format!("{}/app:{tag}", server.registry());
    assert_eq!(client.pull(&name("none")).await.unwrap_err().0, NOT_FOUND);
    for (part, fault, expect) in [
        ("/manifests/", Fault::retry_after(429, "86400"), RESOURCE_EXHAUSTED),
        ("/manifests/", Fault::status(503), UNAVAILABLE),
        ("/blobs/", Fault::Flip(3), DATA_LOSS),
    ] {
        server.on("", part).answer(fault);
        let (code, message): Refusal = client.pull(&name("v1")).await.unwrap_err();
        assert_eq!(code, expect, "{message}");
        server.behave();
    }
    let refused = client.pull("127.0.0.1:1/app:v1").await.unwrap_err();
    assert_eq!(refused.0, UNAVAILABLE, "{refused:?}");
    assert_eq!(client.list("").await.unwrap(), []);
    client.pull(&name("v1")).await.unwrap();
}

#[tokio::test]
async fn concurrent_pulls_of_one_image_share_work() {
    let server = FaultServer::start().await;
    let image = server.add_image("app", "v1", &[&noise("a", 400_000), &noise("b", 400_000)]);
    server.on("GET", "/blobs/").answer(Fault::Delay(Duration::from_millis(300)));
    let cri = Cri::start();
    let name = format!("{}/app:v1", server.registry());
    let clients = futures::future::join_all((0..3).map(|_| cri.client())).await;
    let pulls = (0..12).map(|number| clients[number % 3].pull(&name));
    for response in futures::future::join_all(pulls).await {
        assert_eq!(response.unwrap(), image.config.digest.to_string());
    }
    assert_eq!(server.count("GET", &image.layers[0].digest.to_string()), 1);
    assert_eq!(server.count("", "/manifests/v1"), 1);
}

#[tokio::test]
async fn abandoned_pull_is_cancelled() {
    let server = FaultServer::start().await;
    let image = server.add_image("app", "v1", &[&noise("a", 600_000)]);
    let layer = image.layers[0].digest.to_string();
    server.on("GET", &layer).answer(Fault::Stall(300_000));
    let cri = Cri::start();
    let (client, name) = (cri.client().await, format!("{}/app:v1", server.registry()));
    let pull = |client: crate::support::cri::Client| {
        let name = name.clone();
        tokio::spawn(async move { client.pull(&name).await })
    };
    let (one, two) = (pull(client.clone()), pull(client.clone()));
    eventually("the layer is requested", || server.count("GET", &layer) == 1).await;
    one.abort();
    // The pull continues while another caller waits, and blocks removals.
    let removal = tokio::time::timeout(Duration::from_millis(500), client.remove(&name)).await;
    assert!(removal.is_err(), "{removal:?}");
    assert!(server.open_connections() > 0);
    two.abort();
    eventually("the registry sees it hang up", || server.open_connections() == 0).await;
    // Without callers it is cancelled. The removal then gets its turn, and the next pull resumes.
    tokio::time::timeout(Duration::from_secs(10), client.remove(&name)).await.unwrap().unwrap();
    server.behave();
    assert_eq!(client.pull(&name).await.unwrap(), image.config.digest.to_string());
    let range = server
        .seen()
        .iter()
        .rev()
        .find(|seen| seen.path.contains(&layer))
        .unwrap()
        .header("range")
        .map(str::to_owned);
    assert!(range.is_some(), "the layer was fetched from the start");
}

#[tokio::test]
async fn killed_pull_is_resumed_after_restart() {
    let server = FaultServer::start().await;
    let image = server.add_image("app", "v1", &[&noise("a", 800_000)]);
    let layer = image.layers[0].digest.to_string();
    server.on("GET", &layer).times(1).answer(Fault::Stall(500_000));
    let cri = Cri::start();
    let (client, name) = (cri.client().await, format!("{}/app:v1", server.registry()));
    let pull = tokio::spawn({
        let name = name.clone();
        async move { client.pull(&name).await }
    });
    let partial = cri.tree().join(".saver/partial");
    eventually("half of the layer is there", || {
        walkdir::WalkDir::new(&partial).into_iter().flatten().any(|entry| {
            entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() >= 400_000)
        })
    })
    .await;
    // The stale socket is replaced.
    let home: Home = cri.kill();
    assert!(pull.await.unwrap().is_err());
    let cri = Cri::with(home, &[]);
    let client = cri.client().await;
    assert_eq!(client.list("").await.unwrap(), []);
    assert_eq!(client.pull(&name).await.unwrap(), image.config.digest.to_string());
    assert!(server.seen().last().unwrap().header("range").is_some());
}

#[tokio::test]
async fn shutdown_drains_running_pulls() {
    let server = FaultServer::start().await;
    server.add_image("app", "v1", &[b"a layer"]);
    server.on("GET", "/blobs/").answer(Fault::Delay(Duration::from_secs(1)));
    let cri = Cri::start();
    let (client, name) = (cri.client().await, format!("{}/app:v1", server.registry()));
    let pull = tokio::spawn(async move { client.pull(&name).await });
    eventually("a blob is requested", || server.count("GET", "/blobs/") > 0).await;
    cri.terminate();
    pull.await.unwrap().unwrap();
    let socket = cri.socket();
    let ran = cri.finish();
    assert!(ran.code == Some(0) && ran.stdout.starts_with("listening on unix://"), "{ran:?}");
    assert!(!socket.exists());

    // A call that exceeds the drain timeout is aborted.
    server.behave();
    server.add_image("slow", "v1", &[b"another layer"]);
    server.on("GET", "/blobs/").answer(Fault::Silence);
    let cri = Cri::with(Home::new(), &["--drain-timeout", "1"]);
    let (client, name) = (cri.client().await, format!("{}/slow:v1", server.registry()));
    let before = server.count("GET", "/blobs/");
    let pull = tokio::spawn(async move { client.pull(&name).await });
    eventually("a blob is requested", || server.count("GET", "/blobs/") > before).await;
    cri.terminate();
    let begin = Instant::now();
    cri.finish().expect(0);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(pull.await.unwrap().is_err());
}

#[tokio::test]
async fn second_signal_exits_immediately() {
    let server = FaultServer::start().await;
    server.add_image("slow", "v1", &[b"a layer"]);
    server.on("GET", "/blobs/").answer(Fault::Silence);
    let cri = Cri::start();
    let (client, name) = (cri.client().await, format!("{}/slow:v1", server.registry()));
    let pull = tokio::spawn(async move { client.pull(&name).await });
    eventually("a blob is requested", || server.count("GET", "/blobs/") > 0).await;
    cri.terminate();
    eventually("it listens no more", || !cri.socket().exists()).await;
    cri.terminate();
    let begin = Instant::now();
    cri.finish().expect(130);
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(pull.await.unwrap().is_err());
}

#[tokio::test]
async fn pull_waits_for_prune_of_other_process() {
    let server = FaultServer::start().await;
    server.add_image("app", "v1", &[b"a layer"]);
    let cri = Cri::start();
    let client = cri.client().await;
    let store = saver::store::Store::open(&cri.tree(), Default::default()).unwrap();
    let lock = store.lock_exclusive("prune", std::time::Duration::ZERO).unwrap();
    let name = format!("{}/app:v1", server.registry());
    let pull = tokio::spawn({
        let (client, name) = (client.clone(), name.clone());
        async move { client.pull(&name).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!pull.is_finished());
    drop(lock);
    pull.await.unwrap().unwrap();
}

#[tokio::test]
async fn every_sample_of_a_real_registry_is_pulled() {
    let registry = Registry::serve(&Samples::dir());
    let cri = Cri::start();
    let client = cri.client().await;
    let references = listed(&registry.address);
    assert!(references.len() > 3);
    for reference in references {
        let name = reference.to_string();
        let id = client.pull(&name).await.unwrap();
        let image = client.status(&id[7..19]).await.unwrap().unwrap();
        assert!(image.repo_tags.contains(&name), "{image:?}");
    }
}

#[test]
fn full_disk_is_resource_exhausted() {
    apart(|| {
        let home = Home::new();
        let tree = home.path("tree");
        std::fs::create_dir(&tree).unwrap();
        if !mount_small(&tree, "size=1m") {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = FaultServer::start().await;
            // One layer that is announced to be too large, and several that together are.
            server.add_image("large", "v1", &[&noise("a", 3 << 20)]);
            let parts: Vec<_> = (0..8).map(|part: u8| noise(&part.to_string(), 200_000)).collect();
            server.add_image("parts", "v1", &parts.iter().map(|part| &part[..]).collect::<Vec<_>>());
            let cri = Cri::with(home, &[]);
            let client = cri.client().await;
            for name in ["large", "parts"] {
                let refusal = client.pull(&format!("{}/{name}:v1", server.registry())).await.unwrap_err();
                assert_eq!(refusal.0, RESOURCE_EXHAUSTED, "{refusal:?}");
            }
            let usage: ImageFsInfoResponse =
                client.call("ImageService/ImageFsInfo", &ImageFsInfoRequest {}).await.unwrap();
            let mount_point = &usage.image_filesystems[0].fs_id.as_ref().unwrap().mountpoint;
            assert_eq!(*mount_point, tree.canonicalize().unwrap().display().to_string());
        });
    });
}
