//! Authentication, the access log, metrics and the health check.

use super::super::support::handmade::Tree;
use super::super::support::peers::tls::Tls;
use super::super::support::peers::{run, samples, succeed};
use super::super::support::serving::{Serving, ask};
use crate::support::scratch::Scratch;
use saver::serve::http::{AccessRecord, Htpasswd, ServeOptions, TlsIdentity};
use std::sync::{Arc, Mutex};

/// Basic credentials: `ann:secret` and `bob:other`.
const ANN: (&str, &str) = ("Authorization", "Basic YW5uOnNlY3JldA==");
const BOB: (&str, &str) = ("Authorization", "Basic Ym9iOm90aGVy");

fn users() -> Option<Arc<Htpasswd>> {
    let hash = bcrypt::hash("secret", 4).unwrap();
    Some(Arc::new(Htpasswd::parse(&format!("ann:{hash}\n")).unwrap()))
}

#[test]
fn password_is_required_for_everything_but_health() {
    let mut options = ServeOptions::default();
    options.users = users();
    options.metrics = true;
    let serving = Serving::with(&samples(), options);
    for path in ["/", "/v2/", "/v2/_catalog", "/v2/library/hello/manifests/1.0", "/metrics", "/other"] {
        for headers in [&[][..], &[BOB], &[("Authorization", "Bearer x")]] {
            let reply = serving.get_with(path, headers);
            assert_eq!((reply.status, reply.code().as_str()), (401, "UNAUTHORIZED"), "{path}");
            let challenge = reply.header("www-authenticate").unwrap();
            assert!(challenge.starts_with("Basic realm="), "{challenge}");
        }
    }
    for path in ["/v2/", "/v2/library/hello/manifests/1.0", "/metrics"] {
        assert_eq!(serving.get_with(path, &[ANN]).status, 200, "{path}");
    }
    assert_eq!(serving.get("/healthz").status, 200);
}

#[test]
fn skopeo_logs_in_over_tls() {
    let dir = Scratch::new();
    let tls = Tls::make(dir.path());
    let identity = TlsIdentity::from_files(&tls.certificate, &tls.key).unwrap();
    let mut options = ServeOptions::new(Some(identity));
    options.users = users();
    let serving = Serving::with(&samples(), options);
    let trusted = dir.path().join("trusted");
    std::fs::create_dir(&trusted).unwrap();
    std::fs::copy(&tls.ca, trusted.join("ca.crt")).unwrap();
    let certificates = format!("--cert-dir={}", trusted.display());
    let reference = format!("docker://{}/library/hello:1.0", serving.address);
    let inspect = |credentials: &str| {
        ["inspect", "--raw", &certificates, "--creds", credentials, &reference].map(str::to_owned)
    };
    assert!(succeed("skopeo", inspect("ann:secret")).contains("schemaVersion"));
    assert!(!run("skopeo", inspect("ann:wrong")).status.success());
}

#[test]
fn each_request_is_recorded_with_its_user() {
    let records = Arc::new(Mutex::new(Vec::<AccessRecord>::new()));
    let log = records.clone();
    let mut options = ServeOptions::default();
    options.users = users();
    options.access_log = Some(Arc::new(move |record| log.lock().unwrap().push(record)));
    let mut serving = Serving::with(&samples(), options);
    let path = "/v2/library/hello/manifests/1.0?ns=docker.io";
    let length = serving.get_with(path, &[ANN, ("User-Agent", "test/1")]).body.len() as u64;
    serving.get("/v2/");
    ask(&serving.address.to_string(), "HEAD", "/healthz", &[]);
    serving.end();
    let records = records.lock().unwrap();
    let found: Vec<_> = records
        .iter()
        .map(|record| (record.method.as_str(), record.target.as_str(), record.status, record.bytes))
        .collect();
    assert_eq!(found.len(), 3);
    for expected in [("GET", path, 200, length), ("HEAD", "/healthz", 200, 0)] {
        assert!(found.contains(&expected), "{found:?}");
    }
    let users: Vec<_> = records.iter().map(|record| (record.status, record.user.as_deref())).collect();
    assert!(users.contains(&(200, Some("ann"))) && users.contains(&(401, None)), "{users:?}");
    assert!(records.iter().any(|record| record.user_agent.as_deref() == Some("test/1")));
    assert!(!format!("{records:?}").contains("secret"));
}

#[test]
fn metrics_count_requests() {
    let mut options = ServeOptions::default();
    options.metrics = true;
    let serving = Serving::with(&samples(), options);
    let length = serving.get("/v2/").body.len();
    serving.get("/v2/none/tags/list");
    serving.head("/v2/");
    ask(&serving.address.to_string(), "BREW", "/v2/", &[]);
    let expected = [
        r#"saver_http_requests_total{method="GET",status="200"} 1"#.to_owned(),
        r#"saver_http_requests_total{method="GET",status="404"} 1"#.to_owned(),
        r#"saver_http_requests_total{method="HEAD",status="200"} 1"#.to_owned(),
        r#"saver_http_requests_total{method="other",status="405"} 1"#.to_owned(),
        "saver_http_request_duration_seconds_count 4".to_owned(),
        format!("saver_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ];
    let reply = serving.get("/metrics");
    let text = String::from_utf8(reply.body.clone()).unwrap();
    for line in &expected {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(length > 0 && text.contains("saver_http_response_bytes_total"));
    assert!(reply.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok() && line.starts_with("saver_"), "{line}");
    }
    assert_eq!(Serving::start(&samples()).get("/metrics").status, 404);
}

#[test]
fn health_needs_the_directory() {
    let tree = Tree::new();
    let root = tree.dir().join("tree");
    std::fs::create_dir_all(root.join("docker/registry/v2/repositories")).unwrap();
    let serving = Serving::open(&root);
    assert_eq!(serving.get("/healthz").json(), serde_json::json!({"status": "ok"}));
    std::fs::rename(&root, tree.dir().join("moved")).unwrap();
    assert_eq!(serving.get("/healthz").status, 503);
}
