//! `saver diff`: what differs between directories, reports and lists.

use super::support::handmade::Tree;
use super::support::peers::registry::Registry;
use super::support::program::{Home, Ran, run};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn compare(home: &Home, a: &Path, b: &Path) -> (Option<i32>, Value) {
    let ran: Ran = run(home.saver(["diff", "--json"]).arg(a).arg(b));
    (ran.code, serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}")))
}

fn names(images: &Value) -> Vec<&str> {
    images.as_array().unwrap().iter().map(|image| image["image"].as_str().unwrap()).collect()
}

/// A tree with an image for each name and the size of all that the last ones need.
fn tree(images: &[(&str, &str, &[u8])]) -> Tree {
    let tree = Tree::new();
    for (name, tag, layer) in images {
        let image = tree.image(name, "linux/amd64", &[b"base", layer]);
        tree.tag(name, tag, &image.digest);
    }
    tree
}

#[test]
fn directories_differ_by_tags_and_content() {
    let home = Home::new();
    let old = tree(&[("team/one", "1", b"one"), ("team/two", "1", b"two"), ("team/three", "1", b"three")]);
    let new =
        tree(&[("team/one", "1", b"one"), ("team/two", "1", b"two, moved"), ("team/four", "1", b"four")]);
    let (code, found) = compare(&home, old.dir(), new.dir());
    assert_eq!(code, Some(1));
    assert_eq!(names(&found["added"]), ["team/four:1"]);
    assert_eq!(names(&found["removed"]), ["team/three:1"]);
    assert_eq!(names(&found["moved"]), ["team/two:1"]);
    assert_eq!((&found["unchanged"], &found["a"]["kind"]), (&json!(1), &json!("directory")));
    // The configuration and the base layer are there already, unless it differs between the images.
    let files = |tree: &Tree| super::support::tree::files(&tree.dir().join("docker/registry/v2/blobs"));
    let (before, after) = (files(&old), files(&new));
    let lacking = after.iter().filter(|(path, _)| !before.contains_key(*path)).map(|(_, data)| data.len());
    assert_eq!(found["bytes"], json!(lacking.sum::<usize>()));
    let (code, found) = compare(&home, old.dir(), old.dir());
    assert_eq!((code, &found["bytes"]), (Some(0), &json!(0)));
    let ran = run(home.saver(["diff"]).arg(old.dir()).arg(new.dir())).expect(1);
    assert!(ran.stdout.contains("1 added, 1 removed, 1 moved, 1 unchanged; "), "{}", ran.stdout);
}

#[test]
fn directory_report_and_list_of_one_run_are_equal() {
    let home = Home::new();
    let source = tree(&[("team/one", "1", b"one"), ("team/two", "1", b"two")]);
    let registry = Registry::serve(source.dir());
    let images = ["one", "two"].map(|name| format!("{}/team/{name}:1", registry.address));
    let dir = home.path("tree");
    home.save(&dir, "amd64", &images, &[], 0);
    let report = home.path("report.json");
    let list = home.write("images", &images.join("\n"));
    for (a, b) in [(&list, &dir), (&dir, &list), (&report, &dir), (&dir, &report), (&report, &list)] {
        let (code, found) = compare(&home, a, b);
        assert_eq!((code, &found["unchanged"]), (Some(0), &json!(2)), "{a:?} {b:?}: {found}");
    }
    let longer = home.write("longer", &format!("{}\nquay.io/other/app:1\n", images.join("\n")));
    let (code, found) = compare(&home, &dir, &longer);
    assert_eq!((code, names(&found["added"])), (Some(1), vec!["quay.io/other/app:1"]));
    assert_eq!(found["bytes"], Value::Null);
}

#[test]
fn what_is_no_set_of_images_is_refused() {
    let home = Home::new();
    let list = home.write("images", "quay.io/a/b:1\n");
    let bad = home.write("bad", "not an image!\n");
    fs::create_dir(home.path("empty")).unwrap();
    for (other, says) in [
        (home.path("missing"), "cannot be read"),
        (home.path("empty"), "not a directory of images"),
        (bad, "problem"),
    ] {
        let ran = run(home.saver(["diff"]).arg(&list).arg(&other)).expect(2);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
    run(home.saver(["diff"]).arg(&list)).expect(2);
}
