//! `saver inspect`, `saver tags`, `saver digest`: at a registry and in a tree.

use super::support::fault::{Fault, FaultServer};
use super::support::handmade::Tree;
use super::support::peers::{registry::Registry, samples};
use crate::support::scratch::Scratch;
use saver::oci::Digest;
use std::path::Path;
use std::process::Command;

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn saver(args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
    command.env_remove("SAVER_CONFIG").env("XDG_CONFIG_HOME", "/nonexistent").env("HOME", "/nonexistent");
    let output = command.args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// What a command says when it goes well.
fn out(args: &[&str]) -> String {
    let said = saver(args);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{args:?}: {}", said.out);
    said.out
}

fn skopeo_raw(image: &str) -> Vec<u8> {
    let image = format!("docker://{image}");
    let output =
        Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &image]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn inspect_agrees_for_registry_and_tree() {
    let registry = Registry::serve(&samples());
    let image = format!("{}/demo/app:1.0", registry.address);
    let work = Scratch::new();
    let dir = work.path().join("tree");
    let dir = dir.to_str().unwrap();
    out(&["save", "--dir", dir, "--arch", "all", "--referrers", "none", "--quiet", &image]);

    let expect = skopeo_raw(&image);
    assert_eq!(out(&["inspect", "--raw", &image]).as_bytes(), expect);
    assert_eq!(out(&["inspect", "--raw", "--dir", dir, &image]).as_bytes(), expect);
    let digest = format!("{}\n", Digest::of(&expect));
    assert_eq!(out(&["digest", &image]), digest);
    assert_eq!(out(&["digest", "--dir", dir, &image]), digest);
    assert_eq!(out(&["digest", "--dir", dir, "demo/app:1.0"]), digest);

    let remote: serde_json::Value = serde_json::from_str(&out(&["inspect", "--json", &image])).unwrap();
    let local: serde_json::Value =
        serde_json::from_str(&out(&["inspect", "--json", "--dir", dir, &image])).unwrap();
    assert_eq!(remote, local);
    let manifests = remote["manifests"].as_array().unwrap();
    assert!(
        manifests.iter().all(|manifest| manifest["present"] == true && manifest["bytes"].as_u64() > Some(0)),
        "{remote:#}"
    );
    let arm = out(&["digest", "--arch", "arm64", &image]);
    let of_arm = manifests.iter().find(|manifest| manifest["platform"]["architecture"] == "arm64").unwrap();
    assert_eq!(arm.trim(), of_arm["digest"].as_str().unwrap());

    let table = out(&["inspect", "--arch", "arm64", &image]);
    assert!(table.contains("linux/arm64") && !table.contains("linux/amd64"), "{table}");
    let there = out(&["tags", &format!("{}/demo/app", registry.address)]);
    assert!(there.starts_with("1.0\n1.1\nlatest\n"), "{there}");
    assert_eq!(out(&["tags", "--dir", dir, "demo/app"]), "1.0\n");
}

#[test]
fn short_name_is_found_by_every_spelling() {
    let tree = Tree::new();
    let image = tree.image("nginx", "linux/amd64", &[b"one"]);
    tree.tag("nginx", "1", &image.digest);
    let dir = tree.dir().to_str().unwrap();
    for name in
        ["nginx:1".to_owned(), "docker.io/library/nginx:1".to_owned(), format!("nginx@{}", image.digest)]
    {
        assert_eq!(out(&["digest", "--dir", dir, &name]), format!("{}\n", image.digest), "{name}");
        assert_eq!(saver::local_digest(&name, tree.dir()).unwrap(), Some(image.digest), "{name}");
    }
    assert_eq!(out(&["tags", "--dir", dir, "docker.io/library/nginx"]), "1\n");
    assert_eq!(saver::local_digest("nginx:2", tree.dir()).unwrap(), None);
}

#[test]
fn omitted_platform_is_shown_as_absent() {
    let tree = Tree::new();
    let amd64 = tree.image("app", "linux/amd64", &[b"one"]);
    let arm = tree.image("app", "linux/arm64", &[b"two"]);
    let index = tree.index("app", &[amd64, arm.clone()]);
    tree.tag("app", "1", &index.digest);
    std::fs::remove_file(tree.revision_link("app", &arm.digest)).unwrap();
    let dir = tree.dir().to_str().unwrap();
    let table = out(&["inspect", "--dir", dir, "app:1"]);
    assert!(table.contains("no (not saved)"), "{table}");
    let said = saver(&["inspect", "--dir", dir, "--arch", "s390x", "app:1"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("linux/amd64, linux/arm64"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_pages_stay_on_their_host() {
    let server = FaultServer::start().await;
    server.add_image("app", "v1", &[b"layer"]);
    let page = |tags: &str, next: &str| {
        let link = ("Link".to_owned(), format!("<{next}>; rel=\"next\""));
        Fault::Status(200, vec![link], format!(r#"{{"name":"app","tags":{tags}}}"#).into())
    };
    server
        .on("GET", "/tags/list?n=1000")
        .times(1)
        .answer(page(r#"["b","a"]"#, "https://evil.example/v2/x?last=b&n=2"));
    server
        .on("GET", "/tags/list?last=b")
        .times(1)
        .answer(page(r#"["c","not a tag"]"#, "/v2/app/tags/list?last=c"));
    // A page that is empty though others follow, and one that leads back.
    server.on("GET", "/tags/list?last=c").answer(page("null", "/v2/app/tags/list?last=d"));
    server.on("GET", "/tags/list?last=d").answer(page(r#"["e"]"#, "/v2/app/tags/list?last=b&n=2"));
    let repository = format!("{}/app", server.registry());
    let tags = tokio::task::spawn_blocking(move || out(&["tags", &repository])).await.unwrap();
    assert_eq!(tags, "a\nb\nc\ne\n");
    assert_eq!(server.count("GET", "/tags/list"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_pages_without_new_tags_end() {
    let server = FaultServer::start().await;
    server.add_image("app", "v1", &[b"layer"]);
    for page in 0..100 {
        let link = ("Link".to_owned(), format!("</v2/app/tags/list?at={}.>; rel=\"next\"", page + 1));
        let path = if page == 0 { "?n=1000".to_owned() } else { format!("?at={page}.") };
        server.on("GET", &path).answer(Fault::Status(200, vec![link], r#"{"tags":["a"]}"#.into()));
    }
    let repository = format!("{}/app", server.registry());
    let tags = tokio::task::spawn_blocking(move || out(&["tags", &repository])).await.unwrap();
    assert_eq!(tags, "a\n");
    assert!(server.count("GET", "/tags/list") < 20);
}

#[test]
fn inspect_json_has_a_schema_version() {
    let registry = Registry::serve(&samples());
    let name = format!("{}/demo/app", registry.address);
    let read = |args: &[&str]| -> serde_json::Value { serde_json::from_str(&out(args)).unwrap() };
    let tags = read(&["tags", "--json", &name]);
    assert_eq!((&tags["schema"], &tags["repository"]), (&1.into(), &name.clone().into()));
    assert!(tags["tags"].as_array().unwrap().contains(&"1.0".into()), "{tags}");
    let image = format!("{name}:1.0");
    let digest = read(&["digest", "--json", &image]);
    assert_eq!((&digest["schema"], &digest["reference"]), (&1.into(), &image.clone().into()));
    assert_eq!(digest["digest"], out(&["digest", &image]).trim());
    let said = saver(&["inspect", "--raw", "--json", &image]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("--raw") && said.err.contains("--json"), "{}", said.err);
}

#[test]
fn inspect_missing_image_is_named() {
    let registry = Registry::serve(&samples());
    let nowhere = format!("{}/demo/none:1", registry.address);
    let dir = Scratch::new();
    let dir: &Path = dir.path();
    for (args, code, words) in [
        (vec!["inspect", &nowhere], 1, "demo/none"),
        (vec!["digest", &nowhere], 1, "demo/none"),
        (vec!["tags", &nowhere], 2, "without tag"),
        (vec!["tags", nowhere.trim_end_matches(":1")], 1, "hint: check the repository's name"),
        (vec!["inspect"], 2, "missing required argument 'IMAGE'"),
        (vec!["inspect", "UPPER"], 2, "UPPER"),
        (vec!["digest", "--dir", dir.to_str().unwrap(), "a:1"], 2, "not a directory of images"),
        (vec!["tags", "--dir", dir.to_str().unwrap(), "a"], 2, "not a directory of images"),
        (vec!["inspect", "--dir", "/nonexistent/tree", "a:1"], 2, "/nonexistent/tree"),
    ] {
        let said = saver(&args);
        assert_eq!(said.code, Some(code), "{args:?}: {}", said.err);
        assert!(said.err.contains(words), "{args:?}: {}", said.err);
    }
}

/// Whichever command it is that reads a directory.
#[test]
fn inspect_missing_or_empty_directory_fails_alike() {
    let dir = Scratch::new();
    let empty = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("keep"), "x:1\n").unwrap();
    let (keep, out) = (format!("{empty}/keep"), format!("{empty}/a.tar"));
    for command in [
        vec!["ls"],
        vec!["verify"],
        vec!["prune", "--dry-run", "--keep", &keep],
        vec!["rm", "x:1"],
        vec!["push", "127.0.0.1:1"],
        vec!["export", "x:1", "--format", "oci-archive", "-o", &out],
        vec!["inspect", "x:1"],
        vec!["tags", "x"],
        vec!["digest", "x:1"],
        vec!["serve", "--listen", "127.0.0.1:0"],
    ] {
        let is_registry = matches!(command[0], "inspect" | "tags" | "digest");
        if !is_registry {
            let said = saver(&command);
            assert_eq!(said.code, Some(2), "{command:?}: {}", said.err);
            assert!(
                said.err.contains("missing required option '--dir'") && said.err.contains("hint: add --dir"),
                "{command:?}: {}",
                said.err
            );
        }
        for (path, words) in [
            ("/nonexistent/tree", "cannot open the directory: No such file"),
            ("/etc/passwd", "cannot open the directory: Not a directory"),
        ] {
            let said = saver(&[&command[..], &["--dir", path]].concat());
            assert_eq!(said.code, Some(2), "{command:?} {path}: {}", said.err);
            let message = format!("error: {path}: {words}");
            assert!(
                said.err.contains(&message)
                    && !said.err.contains("no images are saved")
                    && said.err.contains("hint: name the directory"),
                "{command:?}: {}",
                said.err
            );
        }
        if !matches!(command[0], "verify" | "serve") {
            let said = saver(&[&command[..], &["--dir", empty]].concat());
            assert!(said.err.contains("not a directory of images"), "{command:?}: {}", said.err);
        }
    }
}
