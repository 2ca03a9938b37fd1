//! The same policies in skopeo. (Debian builds it without sigstore, so that only scopes and the format can be compared.)

use super::Signed;
use crate::support::peers::registry::Registry;
use crate::support::peers::run as run_peer;
use crate::support::program::run;
use serde_json::json;

/// Runs skopeo, and saver's dry run, over one image by a policy: whether each accepts it.
async fn accepted(signed: &Signed, policy: &str, image: &str) -> (bool, bool) {
    let file = signed.home.write("policy.json", policy);
    let to = format!("dir:{}", signed.home.path("skopeo").display());
    let (file, image) = (file.to_str().unwrap().to_owned(), image.to_owned());
    let dir = signed.home.path("dry-run");
    let mut saver = signed.home.saving(&dir, "amd64", std::slice::from_ref(&image));
    saver.args(["--dry-run", "--policy", &file]);
    tokio::task::spawn_blocking(move || {
        let from = format!("docker://{image}");
        let skopeo = run_peer("skopeo", ["--policy", &file, "copy", "--src-tls-verify=false", &from, &to]);
        (skopeo.status.success(), run(&mut saver).code == Some(0))
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_and_malformed_policies_are_judged_as_by_skopeo() {
    let mut signed = Signed::start().await;
    let digest = signed.image("app", json!([{ "type": "insecureAcceptAnything" }]));
    signed.save(&[], 0).await;
    let served = Registry::serve(&signed.home.path("tree"));
    let registry = served.address.clone();
    let (host, _) = registry.split_once(':').unwrap();
    let (accept, reject) = (json!([{ "type": "insecureAcceptAnything" }]), json!([{ "type": "reject" }]));
    let (_, parent) = host.split_once('.').unwrap();
    let name = format!("{registry}/team/app");
    let mut verdicts = [0, 0];
    for (scope, applies) in [
        (format!("{name}:v1"), true),
        (format!("{name}:v2"), false),
        (format!("{name}@{digest}"), false),
        (name.clone(), true),
        (format!("{registry}/team"), true),
        (format!("{registry}/te"), false),
        (format!("{registry}/team/"), false),
        (registry.clone(), true),
        (host.to_owned(), false),
        (format!("*.{parent}"), true),
        (format!("*.{host}"), false),
        ("*".to_owned(), false),
        (String::new(), true),
    ] {
        for (inside, outside) in [(&accept, &reject), (&reject, &accept)] {
            let mut scopes = serde_json::Map::new();
            scopes.insert(scope.clone(), inside.clone());
            let policy = json!({ "default": outside, "transports": { "docker": scopes } }).to_string();
            let expected = applies == (inside == &accept);
            let found = accepted(&signed, &policy, &format!("{name}:v1")).await;
            assert_eq!(found, (expected, expected), "{policy}");
            verdicts[usize::from(expected)] += 1;
        }
    }
    assert!(verdicts.iter().all(|count| *count > 5), "{verdicts:?}");
    // By digest, the scopes of the digest apply.
    let mut scopes = serde_json::Map::new();
    scopes.insert(format!("{name}@{digest}"), accept.clone());
    let policy = json!({ "default": reject, "transports": { "docker": scopes } }).to_string();
    assert_eq!(accepted(&signed, &policy, &format!("{name}@{digest}")).await, (true, true));
    let fine = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
    assert_eq!(accepted(&signed, fine, &format!("{name}:v1")).await, (true, true));
    for policy in [
        "",
        "[]",
        "{}",
        r#"{"default":[]}"#,
        r#"{"default":{"type":"insecureAcceptAnything"}}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"more":1}"#,
        r#"{"Default":[{"type":"insecureAcceptAnything"}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything","more":1}]}"#,
        r#"{"default":[{"type":"InsecureAcceptAnything"}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"default":[{"type":"insecureAcceptAnything"}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"":[]}}}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":[]}}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{},"docker":{}}}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"dir":{"":[{"type":"unknown"}]}}}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}]} trailing"#,
    ] {
        assert_eq!(accepted(&signed, policy, &format!("{name}:v1")).await, (false, false), "{policy}");
    }
}
