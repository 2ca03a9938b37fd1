//! Selections of tags at real registries: `saver select`, `--match`, patterns of repositories, dates.

use super::support::handmade::Tree;
use super::support::peers::registry::{Registry, RegistryOptions};
use super::support::peers::samples;
use super::support::peers::token::{TokenOptions, TokenServer};
use super::support::program::{Home, run};
use crate::support::scratch::Scratch;
use saver::oci::media_type;
use serde_json::{Value, json};

/// An image that was created at a time.
fn dated(tree: &Tree, name: &str, tag: &str, created: Option<&str>) {
    let mut config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    if let Some(created) = created {
        config["created"] = json!(created);
    }
    let config = tree.blob(name, media_type::OCI_CONFIG, &serde_json::to_vec(&config).unwrap());
    let document = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [],
    });
    let image = tree.manifest(name, media_type::OCI_MANIFEST, &document);
    let root = tree.index(name, &[image]);
    tree.tag(name, tag, &root.digest);
}

fn select(home: &Home, rules: &[&str], code: i32) -> Value {
    let ran = run(home.saver(["select", "--json"]).args(rules)).expect(code);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
}

fn selected(report: &Value) -> Vec<String> {
    let selections = report["selections"].as_array().unwrap();
    let names = |one: &Value| -> Vec<String> {
        let name = one["repository"].as_str().unwrap().split_once('/').unwrap().1.to_owned();
        let tags = one["selected"].as_array().unwrap();
        tags.iter().map(|tag| format!("{name}:{}", tag.as_str().unwrap())).collect()
    };
    selections.iter().flat_map(names).collect()
}

#[test]
fn select_prints_a_list_and_the_reasons() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    let host = &registry.address;
    let rule = format!("{host}/demo/app:* tags=semver:^1 newest=1");
    let ran = run(&mut home.saver(["select", &rule])).expect(0);
    assert_eq!(
        ran.stdout,
        format!(
            "# {host}/demo/app tags=semver:^1 newest=1: selected 1 of 4 tags (1 not an image, 1 not a version, 1 older)\n\
             {host}/demo/app:1.1\n# not an image: {}\n# not a version: latest\n# older: 1.0\n",
            ran.stdout.lines().find_map(|line| line.strip_prefix("# not an image: ")).unwrap(),
        )
    );
    home.write("selected.list", &ran.stdout);
    run(&mut home.saver(["--list", "selected.list", "--arch", "amd64", "--dir", "d"])).expect(0);
    let report = select(&home, &[&rule], 0);
    let others = report["selections"][0]["others"].as_array().unwrap();
    let reasons: Vec<&str> = others.iter().map(|other| other["reason"].as_str().unwrap()).collect();
    assert!(reasons.contains(&"not-a-version") && reasons.contains(&"older"), "{reasons:?}");
    assert_eq!(selected(&select(&home, &[&format!("{host}/demo/app tags=9.*")], 1)), [""; 0]);
    for (arguments, why) in [
        (vec!["select"], "no images to select"),
        (vec!["select", "nginx:1"], "selects no tags"),
        (vec!["select", "nginx:* tags=re:("], "invalid tags=re:("),
        (
            vec!["--match", "nginx:1", "--dir", "d", "--arch", "amd64"],
            "rule 1: docker.io/library/nginx:1 selects no tags",
        ),
    ] {
        let ran = run(&mut home.saver(arguments.clone())).expect(2);
        assert!(ran.stderr.contains(why), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn rules_of_the_command_line_select_tags() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    let rule = format!("{}/demo/app:* tags=semver:^1", registry.address);
    let ran = run(&mut home.saver(["--match", &rule, "--arch", "amd64", "--dir", "d"])).expect(0);
    assert!(ran.stderr.contains("rule 1: ") && ran.stderr.contains("selected 2 of 4 tags"), "{}", ran.stderr);
    let ran = run(&mut home.saver(["resolve", "--match", &rule, "--arch", "amd64"])).expect(0);
    assert!(ran.stdout.contains("rule 1 tags=semver:^1\n"), "{}", ran.stdout);
}

#[test]
fn patterns_select_repositories_of_the_catalog() {
    let home = Home::new();
    let tree = Tree::new();
    for name in ["charts/app", "charts/team/app", "charts/team/other", "apps/app"] {
        let image = tree.image(name, "linux/amd64", &[name.as_bytes()]);
        tree.tag(name, "1.0", &image.digest);
        tree.tag(name, "latest", &image.digest);
    }
    tree.image("charts/untagged", "linux/amd64", &[b"untagged"]);
    let registry = Registry::serve(tree.dir());
    let host = &registry.address;
    for (rule, expected) in [
        ("charts/** tags=1.*", &["charts/app:1.0", "charts/team/app:1.0", "charts/team/other:1.0"][..]),
        ("charts/*:1.*", &["charts/app:1.0"]),
        ("**/app:latest", &["apps/app:latest", "charts/app:latest", "charts/team/app:latest"]),
    ] {
        let report = select(&home, &[&format!("{host}/{rule}")], 0);
        assert_eq!(selected(&report), expected, "{rule}");
    }
    home.write("want.list", &format!("{host}/charts/** tags=1.*\n"));
    run(&mut home.saver(["--list", "want.list", "--arch", "amd64", "--dir", "d"])).expect(0);
    run(&mut home.saver(["verify", "--dir", "d"])).expect(0);
    let args = ["--list", "want.list", "--arch", "amd64", "--dir", "e", "--max-images", "2"];
    let ran = run(&mut home.saver(args)).expect(2);
    assert!(ran.stderr.contains("the lists select 3 images, more than 2"), "{}", ran.stderr);
    let none = format!("{host}/nothing/**");
    let ran = run(&mut home.saver(["--match", &none, "--arch", "amd64", "--dir", "e"])).expect(1);
    assert!(ran.stderr.contains("no tag in 0 repositories matches"), "{}", ran.stderr);
    assert!(!home.path("e/docker").exists());
    // Other tools' patterns of repositories.
    home.write(
        "regsync.yml",
        &format!("version: 1\nsync:\n- source: {host}\n  target: other\n  type: registry\n  repos: {{allow: ['charts/.*'], deny: ['.*/other']}}\n  tags: {{allow: ['1\\.0']}}\n"),
    );
    let report = select(&home, &["--list", "regsync.yml"], 0);
    assert_eq!(selected(&report), ["charts/app:1.0", "charts/team/app:1.0"]);
}

#[test]
fn catalog_is_listed_with_a_token() {
    let home = Home::new();
    let dir = Scratch::new();
    let options =
        TokenOptions { user: Some(("reader", "pass")), lifetime: std::time::Duration::from_secs(300) };
    let tokens = TokenServer::start(dir.path(), options);
    let options = RegistryOptions { token: Some(tokens.auth()), ..RegistryOptions::default() };
    let registry = Registry::start(&samples(), &options);
    let list = format!(
        "- registry: {}\n  username: reader\n  password: pass\n  images: ['demo/**:1.0']\n",
        registry.address
    );
    home.write("want.yaml", &list);
    let report = select(&home, &["--list", "want.yaml"], 0);
    assert!(selected(&report).contains(&"demo/app:1.0".to_owned()), "{report}");
    assert!(tokens.asked().iter().any(|query| query.contains("registry%3Acatalog")), "{:?}", tokens.asked());
}

#[test]
fn dates_select_images_that_passed_everything_else() {
    let home = Home::new();
    let tree = Tree::new();
    for (tag, created) in [
        ("1.0", Some("2026-05-31T23:59:59Z")),
        ("1.1", Some("2026-06-01T00:00:00Z")),
        ("1.2", Some("2026-07-01T00:00:00.5+02:00")),
        ("1.3", None),
        ("other", Some("2026-07-01T00:00:00Z")),
    ] {
        dated(&tree, "team/app", tag, created);
    }
    let registry = Registry::serve(tree.dir());
    let rule = format!("{}/team/app:1.* since=2026-06-01", registry.address);
    let report = select(&home, &[&rule], 0);
    assert_eq!(selected(&report), ["team/app:1.1", "team/app:1.2"]);
    let others = &report["selections"][0]["others"];
    let reason = |tag: &str| {
        let other = others.as_array().unwrap().iter().find(|other| other["tag"] == tag).unwrap();
        other["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(["1.0", "1.3", "other"].map(reason), ["before-date", "without-date", "no-match"]);
}
