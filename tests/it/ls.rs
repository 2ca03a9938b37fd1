//! `saver ls`: what it finds in a tree, and how it says so.

use super::support::handmade::{Tree, write};
use super::support::peers::samples;
use saver::ls::{ContentKind, ListOptions, list};
use saver::oci::{Descriptor, Digest, Repository};
use saver::store::Store;
use std::fs;
use std::path::Path;
use std::process::Command;

fn listing(tree: &Tree) -> saver::ls::Listing {
    list(&Store::open_read_only(tree.dir()).unwrap(), &ListOptions::default()).unwrap()
}

/// The only tag of a tree.
fn only_tag(tree: &Tree) -> saver::ls::TagListing {
    let listing = listing(tree);
    assert_eq!((listing.totals.repositories, listing.totals.tags), (1, 1));
    listing.repositories[0].tags[0].clone()
}

fn saver_ls(dir: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
    command.env_remove("SAVER_CONFIG").env("XDG_CONFIG_HOME", "/nonexistent");
    let output = command.args(["ls", "--dir"]).arg(dir).args(more).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn size_of(tree: &Tree, digest: &Digest) -> u64 {
    fs::metadata(tree.data(digest)).unwrap().len()
}

fn index_of_two(tree: &Tree) -> (Descriptor, Descriptor, Descriptor) {
    let amd64 = tree.image("app", "linux/amd64", &[b"shared", b"amd64 only"]);
    let arm = tree.image("app", "linux/arm/v7", &[b"shared", b"arm only"]);
    let index = tree.index("app", &[amd64.clone(), arm.clone()]);
    tree.tag("app", "1", &index.digest);
    (index, amd64, arm)
}

#[test]
fn index_lists_platforms_and_counts_shared_blobs_once() {
    let tree = Tree::new();
    let (index, ..) = index_of_two(&tree);
    let tag = only_tag(&tree);
    assert_eq!((tag.digest, tag.kind, tag.problems.len()), (Some(index.digest), ContentKind::Image, 0));
    let platforms: Vec<_> =
        tag.platforms.iter().map(|listed| (listed.platform.as_str(), listed.present)).collect();
    assert_eq!(platforms, [("linux/amd64", true), ("linux/arm/v7", true)]);
    // All the content that the tree has.
    let blobs = walkdir::WalkDir::new(tree.dir().join("docker/registry/v2/blobs"));
    let files = blobs.into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    let all: u64 = files.map(|entry| entry.metadata().unwrap().len()).sum();
    assert_eq!(tag.bytes, all);
    tree.tag("app", "2", &index.digest);
    assert_eq!(listing(&tree).totals.bytes, all);
}

#[test]
fn platform_that_was_not_saved_is_not_a_problem() {
    let tree = Tree::new();
    let (_, _, arm) = index_of_two(&tree);
    let whole = only_tag(&tree).bytes;
    fs::remove_file(tree.revision_link("app", &arm.digest)).unwrap();
    let tag = only_tag(&tree);
    assert_eq!((tag.platforms[0].present, tag.platforms[1].present, tag.problems.len()), (true, false, 0));
    let without_arm = tag.bytes;
    assert!(without_arm < whole - size_of(&tree, &arm.digest));
    write(&tree.revision_link("app", &arm.digest), arm.digest.to_string().as_bytes());
    fs::remove_file(tree.data(&arm.digest)).unwrap();
    let (code, table, _) = saver_ls(tree.dir(), &[]);
    assert_eq!(code, Some(1), "linked and gone is damage, as verify calls it");
    assert!(table.contains(&format!("manifest {} is missing", arm.digest.short())), "{table}");
    let tag = only_tag(&tree);
    assert_eq!((tag.platforms[1].present, tag.problems.len(), tag.bytes), (false, 1, without_arm));
    fs::remove_file(tree.revision_link("app", &arm.digest)).unwrap();
    let (code, table, _) = saver_ls(tree.dir(), &[]);
    assert_eq!(code, Some(0));
    assert!(table.contains("linux/amd64") && !table.contains("arm"), "{table}");
    let (_, json, _) = saver_ls(tree.dir(), &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let listed = &json["repositories"][0]["tags"][0]["platforms"][1];
    assert_eq!(*listed, serde_json::json!({"platform": "linux/arm/v7", "present": false}));
}

#[test]
fn charts_and_artifacts_are_distinguished() {
    let tree = Tree::new();
    let image = tree.image("app", "linux/amd64", &[b"layer"]);
    tree.tag("app", "image", &image.digest);
    tree.tag("app", "signature", &tree.artifact("app", "application/vnd.sig", &image).digest);
    tree.tag("charts/web", "1.0.0_build5", &tree.chart("charts/web", "1.0.0+build5").digest);
    let listing = listing(&tree);
    let kinds: Vec<_> = listing
        .repositories
        .iter()
        .flat_map(|repository| &repository.tags)
        .map(|tag| (tag.tag.as_ref().unwrap().as_str(), tag.kind, tag.artifact_type.as_deref()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("image", ContentKind::Image, None),
            ("signature", ContentKind::Artifact, Some("application/vnd.sig")),
            ("1.0.0_build5", ContentKind::HelmChart, None),
        ]
    );
}

#[test]
fn sort_by_size_orders_all_images() {
    let tree = Tree::new();
    for (repository, tag, layer) in [("a", "1", 300), ("a", "2", 100), ("b", "1", 400), ("b", "2", 200)] {
        let image = tree.image(repository, "linux/amd64", &[&vec![tag.as_bytes()[0]; layer]]);
        tree.tag(repository, tag, &image.digest);
    }
    let (code, table, _) = saver_ls(tree.dir(), &["--sort", "size"]);
    let rows = table.lines().skip(1).take_while(|line| !line.is_empty());
    let names = rows.map(|row| row.split_whitespace().take(2).collect::<Vec<_>>().join(":"));
    assert_eq!((code, names.collect::<Vec<_>>().join(" ")), (Some(0), "b:1 a:1 b:2 a:2".to_owned()));
}

/// A signature whose image is missing is listed, and is no image.
#[test]
fn tags_of_referrers_are_not_counted() {
    let tree = Tree::new();
    let image = tree.image("app", "linux/amd64", &[b"layer"]);
    let signature = tree.image("app", "linux/amd64", &[b"signature"]);
    tree.tag("app", "1", &image.digest);
    for subject in [image.digest, Digest::of(b"missing")] {
        tree.tag("app", &format!("sha256-{}.sig", subject.hex()), &signature.digest);
    }
    assert_eq!(listing(&tree).totals.tags, 1);
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_saver"))
            .env("XDG_CONFIG_HOME", "/nonexistent")
            .args(arguments)
            .arg("--dir")
            .arg(tree.dir())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["verify"]).starts_with("no problems: 1 tag, "), "{}", run(&["verify"]));
    let removed = run(&["rm", "app:1", "--dry-run"]);
    let last = removed.lines().last().unwrap();
    assert!(last.starts_with("would remove 1 tag, 1 referrer tag, "), "{removed}");
    assert!(last.ends_with(" 0 tags left"), "{removed}");
}

/// Registries create the directory of a tag before its `current` link.
#[test]
fn tag_without_current_link_is_not_listed() {
    let tree = Tree::new();
    tree.allow_damage("a tag has no current link");
    let image = tree.image("app", "linux/amd64", &[b"layer"]);
    tree.tag("app", "1", &image.digest);
    tree.tag("app", "unfinished", &image.digest);
    fs::remove_file(tree.tag_link("app", "unfinished")).unwrap();
    assert_eq!(only_tag(&tree).tag.unwrap().as_str(), "1");
    assert_eq!(saver_ls(tree.dir(), &[]).0, Some(0));
    let store = Store::open_read_only(tree.dir()).unwrap();
    let tags = store.tags(&"app".parse().unwrap()).unwrap();
    assert_eq!(tags.iter().map(ToString::to_string).collect::<Vec<_>>(), ["1"]);
}

#[test]
fn every_kind_of_damage_is_listed() {
    type Damage = fn(&Tree, &Descriptor, &Descriptor);
    let cases: [(&str, Damage); 8] = [
        ("its link is damaged", |tree, _, _| write(&tree.tag_link("app", "1"), b"sha256:12")),
        ("manifest IMAGE is missing", |tree, image, _| fs::remove_file(tree.data(&image.digest)).unwrap()),
        ("manifest IMAGE is missing", |tree, image, _| {
            fs::remove_file(tree.revision_link("app", &image.digest)).unwrap();
        }),
        ("manifest IMAGE is damaged", |tree, image, _| {
            let mut bytes = fs::read(tree.data(&image.digest)).unwrap();
            bytes.push(b'\n');
            write(&tree.data(&image.digest), &bytes);
        }),
        ("manifest IMAGE: not a manifest", |tree, image, _| write(&tree.data(&image.digest), b"")),
        ("blob LAYER is missing", |tree, _, layer| fs::remove_file(tree.data(&layer.digest)).unwrap()),
        ("blob LAYER has no link", |tree, _, layer| {
            fs::remove_file(tree.layer_link("app", &layer.digest)).unwrap();
        }),
        ("blob LAYER has 2 bytes instead of 5", |tree, _, layer| write(&tree.data(&layer.digest), b"la")),
    ];
    for (expected, damage) in cases {
        let tree = Tree::new();
        tree.allow_damage(expected);
        let image = tree.image("app", "linux/amd64", &[b"layer"]);
        tree.tag("app", "1", &image.digest);
        let layer = Descriptor::new("", Digest::of(b"layer"), 5);
        assert!(only_tag(&tree).problems.is_empty());
        damage(&tree, &image, &layer);
        let expected =
            expected.replace("IMAGE", &image.digest.short()).replace("LAYER", &layer.digest.short());
        let problems = only_tag(&tree).problems;
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{expected}: {problems:?}");
        let (code, table, _) = saver_ls(tree.dir(), &[]);
        assert_eq!(code, Some(1), "{expected}");
        assert!(table.contains(&format!("app:1: {expected}")), "{table}");
        assert_eq!(saver_ls(tree.dir(), &["--json"]).0, Some(1));
    }
}

/// tag -> index -> [index -> amd64, index -> arm]; the manifests that are named are not in the repository.
fn nested_without(absent: &[&str]) -> Vec<String> {
    let tree = Tree::new();
    let inner = ["linux/amd64", "linux/arm/v7"].map(|platform| {
        let image = tree.image("app", platform, &[platform.as_bytes()]);
        if absent.contains(&platform) {
            fs::remove_file(tree.revision_link("app", &image.digest)).unwrap();
        }
        tree.index("app", &[image])
    });
    let outer = tree.index("app", &inner);
    tree.tag("app", "1", &outer.digest);
    only_tag(&tree).problems
}

#[test]
fn nested_index_may_be_empty() {
    assert_eq!(nested_without(&["linux/arm/v7"]), Vec::<String>::new());
    let problems = nested_without(&["linux/amd64", "linux/arm/v7"]);
    assert!(problems.len() == 1 && problems[0].contains("none of its manifests is stored"), "{problems:?}");
}

#[test]
fn index_without_any_manifest_is_damaged() {
    let tree = Tree::new();
    let (_, amd64, arm) = index_of_two(&tree);
    for child in [amd64, arm] {
        fs::remove_file(tree.revision_link("app", &child.digest)).unwrap();
    }
    let problems = only_tag(&tree).problems;
    assert!(problems.len() == 1 && problems[0].contains("none of its manifests is stored"), "{problems:?}");
}

#[test]
fn control_characters_are_escaped_on_the_terminal() {
    let tree = Tree::new();
    tree.allow_damage("a tag and a repository have names with control characters");
    let mut entry = tree.image("app", "linux/amd64", &[b"layer"]);
    entry.platform.as_mut().unwrap().os = "\u{1b}]0;owned\u{7}linux".into();
    let index = tree.index("app", &[entry]);
    tree.tag("app", "1", &index.digest);
    // Names that no repository or tag can have are not listed at all.
    fs::create_dir_all(tree.repository("app").join("_manifests/tags/\u{1b}[31m/current")).unwrap();
    fs::create_dir_all(tree.repository("\u{1b}[31mred").join("_manifests")).unwrap();
    for more in [&[][..], &["--json"]] {
        let (code, stdout, stderr) = saver_ls(tree.dir(), more);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.contains("linux"), "{stdout}");
        assert!(!stdout.contains(|c: char| c.is_control() && c != '\n'), "{stdout:?}");
    }
}

#[test]
fn repositories_can_be_selected() {
    let store = Store::open_read_only(&samples()).unwrap();
    let names = |text: &str| vec![text.parse::<Repository>().unwrap()];
    let listing =
        list(&store, &ListOptions::default().with_repositories(names("helm-charts/mysql"))).unwrap();
    assert_eq!((listing.totals.tags, listing.repositories[0].tags[0].kind), (1, ContentKind::HelmChart));
    let error = list(&store, &ListOptions::default().with_repositories(names("no/such"))).unwrap_err();
    assert_eq!(error.kind(), saver::ErrorKind::NotFound);
    assert_eq!(saver_ls(&samples(), &["no/such"]).0, Some(1));
    assert_eq!(saver_ls(&samples(), &["Not/Valid"]).0, Some(2));
    assert_eq!(saver_ls(Path::new("/nonexistent"), &[]).0, Some(2));
}

#[test]
fn sample_trees_are_listed() {
    let (code, table, stderr) = saver_ls(&samples(), &[]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for words in [
        &["REPOSITORY", "TAG", "DIGEST", "KIND", "PLATFORMS", "SIZE"][..],
        &["demo/app", "1.0", "image", "linux/amd64", "linux/arm64", "linux/arm/v7"],
        &["helm-charts/mysql", "8.8.19", "helm", "chart", "-"],
        &["12 repositories, 15 tags"],
    ] {
        assert!(
            table.lines().any(|line| words.iter().all(|word| line.contains(word))),
            "{words:?}:\n{table}"
        );
    }
}
