//! Image lists: through the public interface, and tags that lists select at a real registry.

use super::support::peers::registry::Registry;
use super::support::peers::samples;
use super::support::program::{Home, run};
use crate::support::scratch::Scratch;
use saver::list;

#[test]
fn lists_of_several_formats_are_merged() {
    let read = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/lists").join(name);
        list::parse(name, &std::fs::read(path).unwrap())
    };
    let names = ["kubeadm.list", "windows.list", "imageListWithAuth.yaml", "kubeadm.list"];
    let all = list::merge(names.map(read));
    assert!(all.problems.is_empty(), "{:?}", all.problems);
    assert_eq!(all.entries.len(), 7 + 4 + 6);
    assert_eq!(all.duplicates.len(), 7, "each line of the second kubeadm.list is a duplicate");
    assert_eq!(all.entries.iter().filter(|entry| entry.credential.is_some()).count(), 5);
}

#[test]
fn failed_lines_read_back_as_the_same_list() {
    for name in ["kubeadm.list", "cilium.list", "rook.list", "kubesphere.list", "windows.list"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/lists").join(name);
        let first = list::parse(name, &std::fs::read(path).unwrap());
        let lines: Vec<String> = first
            .entries
            .iter()
            .map(|entry| list::failed_line(&entry.reference, entry.platforms.as_ref(), "because"))
            .collect();
        let second = list::parse(name, lines.join("\n").as_bytes());
        assert!(second.problems.is_empty() && second.notes.is_empty());
        let names = |parsed: &list::ImageList| {
            let key = |entry: &list::ListEntry| (entry.reference.to_string(), entry.platforms.clone());
            parsed.entries.iter().map(key).collect::<Vec<_>>()
        };
        assert_eq!(names(&first), names(&second), "{name}");
    }
}

#[test]
fn selected_tags_are_saved() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    let host = &registry.address;
    for (line, expected) in [
        ("demo/app:* newest=1", &["demo/app:1.1"][..]),
        ("demo/app tags=semver:^1 except=1.1", &["demo/app:1.0"]),
        ("demo/app tags=re:1\\.\\d", &["demo/app:1.0", "demo/app:1.1"]),
        ("demo/app:l*", &["demo/app:latest"]),
    ] {
        let dir = Scratch::new();
        home.write("l.list", &format!("{host}/{line}\n"));
        let ran = run(home.saver(["--list", "l.list", "--arch", "amd64", "--dir"]).arg(dir.path())).expect(0);
        let message = format!("note: l.list:1: {host}/demo/app: selected {} of 4 tags", expected.len());
        assert!(ran.stderr.contains(&message), "{line}: {}", ran.stderr);
        let listed = run(home.saver(["ls", "--json", "--dir"]).arg(dir.path())).expect(0);
        let listing: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
        let tags = listing["repositories"][0]["tags"].as_array().unwrap();
        let tags: Vec<String> =
            tags.iter().map(|tag| format!("demo/app:{}", tag["tag"].as_str().unwrap())).collect();
        assert_eq!(tags, expected, "{line}");
    }
}

#[test]
fn selections_without_a_match_or_above_the_limit_are_refused() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    let host = &registry.address;
    for (line, more, code, why) in [
        ("demo/app tags=9.*", &[][..], 1, "none of the 4 tags matches tags=9.*"),
        ("demo/app:*", &["--max-images", "2"], 2, "the lists select 3 images, more than 2"),
        ("demo/gone:*", &[], 1, "demo/gone"),
    ] {
        home.write("l.list", &format!("{host}/{line}\n"));
        let arguments = ["--list", "l.list", "--arch", "amd64", "--dir", "d", "--retries", "0"];
        let ran = run(home.saver(arguments).args(more)).expect(code);
        assert!(ran.stderr.contains(why), "{line}: {}", ran.stderr);
        assert!(!home.path("d/docker").exists(), "{line}");
    }
    home.write("l.list", "nginx:*\n");
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/registry");
    let ran = run(&mut home.saver(["push", "--list", "l.list", "--dir", tree, "127.0.0.1:1"])).expect(2);
    assert!(ran.stderr.contains("this command does not select tags"), "{}", ran.stderr);
}
