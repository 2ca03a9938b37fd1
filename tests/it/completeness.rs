//! `saver verify --list`: which images and platforms of a list a directory lacks, without any registry.

use super::support::handmade::Tree;
use super::support::program::{Home, Ran, run};
use super::support::samples::Samples;
use crate::support::scratch::Scratch;
use serde_json::{Value, json};
use std::path::Path;

fn verify(home: &Home, dir: &Path, list: &Path, more: &[&str]) -> Ran {
    run(home.saver(["verify", "--dir"]).arg(dir).arg("--list").arg(list).args(more))
}

fn missing(ran: &Ran) -> Value {
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    report["expected"]["missing"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_images_and_platforms_are_found_offline() {
    let samples = Samples::serve().await;
    let (home, dir) = (Home::new(), Scratch::new());
    let image = |name: &str| format!("{}/demo/{name}:1.0", samples.host());
    home.save(dir.path(), "amd64", &[image("app"), image("single"), image("nested")], &[], 0);
    let (app, single, nested, bare) = (image("app"), image("single"), image("nested"), image("bare"));
    // Nothing listens any more.
    drop(samples);
    let list = home.write("images", &format!("{app}\n{single}\n{nested}\n"));
    let ran = verify(&home, dir.path(), &list, &["--arch", "amd64"]).expect(0);
    assert!(ran.stdout.contains("no problems, complete (3 images of the list): 3 tags"), "{}", ran.stdout);
    let list = home.write("more", &format!("{app}\n{bare}\n{nested} platform=linux/amd64\n"));
    let ran = verify(&home, dir.path(), &list, &["--arch", "amd64,arm64", "--json"]).expect(1);
    let expected = json!([
        { "reference": app, "kind": "platform", "platforms": ["linux/arm64"] },
        { "reference": bare, "kind": "image" },
    ]);
    assert_eq!(missing(&ran), expected);
    let ran = verify(&home, dir.path(), &list, &["--arch", "amd64,arm64"]).expect(1);
    let lines = format!("missing platform: {app}\n  linux/arm64\nmissing image: {bare}\n");
    let hint = format!("  hint: saver save --dir {} --list {} ", dir.path().display(), list.display());
    assert!(ran.stdout.contains(&hint) && !ran.stdout.contains("no problems"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains(&lines) && ran.stdout.contains("\nincomplete (2 of 3 images of the list): "),
        "{}",
        ran.stdout
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_of_another_registry_does_not_count() {
    let samples = Samples::serve().await;
    let (home, dir) = (Home::new(), Scratch::new());
    let image = format!("{}/demo/app:1.0", samples.host());
    home.save(dir.path(), "amd64", std::slice::from_ref(&image), &[], 0);
    let list = home.write("images", "quay.io/demo/app:1.0\n");
    let ran = verify(&home, dir.path(), &list, &["--arch", "amd64", "--json"]).expect(1);
    let expected = json!([{ "reference": "quay.io/demo/app:1.0", "kind": "other-source", "source": image }]);
    assert_eq!(missing(&ran), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_with_the_same_content_is_recorded_with_replace() {
    let samples = Samples::serve().await;
    let (home, dir) = (Home::new(), Scratch::new());
    let by_address = format!("{}/demo/app:1.0", samples.host());
    let by_name = by_address.replace("127.0.0.1", "localhost");
    assert_ne!(by_address, by_name);
    home.save(dir.path(), "amd64", std::slice::from_ref(&by_address), &[], 0);
    let list = home.write("images", &format!("{by_name}\n"));
    let ran = verify(&home, dir.path(), &list, &["--arch", "amd64"]).expect(1);
    assert!(ran.stdout.contains(" --replace "), "{}", ran.stdout);
    // The content is the same, so a save leaves it, and its record too unless that may be replaced.
    home.save(dir.path(), "amd64", std::slice::from_ref(&by_name), &[], 0);
    verify(&home, dir.path(), &list, &["--arch", "amd64"]).expect(1);
    home.save(dir.path(), "amd64", std::slice::from_ref(&by_name), &["--replace"], 0);
    verify(&home, dir.path(), &list, &["--arch", "amd64"]).expect(0);
}

#[test]
fn tree_of_another_tool_is_compared_by_its_names() {
    let tree = Tree::new();
    let image = tree.image("team/app", "linux/amd64", &[b"layer"]);
    tree.tag("team/app", "1", &image.digest);
    let home = Home::new();
    let list = home.write("images", &format!("quay.io/team/app:1\nquay.io/team/app@{}\n", image.digest));
    verify(&home, tree.dir(), &list, &["--arch", "amd64"]).expect(0);
    verify(&home, tree.dir(), &list, &["--arch", "arm64"]).expect(1);
    let ran = verify(&home, tree.dir(), &list, &[]).expect(2);
    assert!(ran.stderr.contains("missing required option '--arch'"), "{}", ran.stderr);
}
