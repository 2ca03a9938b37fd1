//! `saver load` with real containerd. Only the socket is used: neither registry of the names can be reached.

use super::upstreams::{IMAGES, config, digest, tree};
use crate::support::crictl::Crictl;
use crate::support::peers::containerd::Containerd;
use crate::support::program::{Home, run};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Loads with these arguments into the namespace of `ctr`; the report.
fn load(home: &Home, containerd: &Containerd, dir: &Path, more: &[&str], code: i32) -> Value {
    let mut command = home.saver(["load", "--json", "--names", "domain", "--namespace", "default"]);
    command.arg("--dir").arg(dir).arg("--containerd").arg(containerd.socket()).args(more);
    let ran = run(&mut command).expect(code);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", ran.stdout, ran.stderr))
}

/// The names of the images to load: some samples are no images.
fn names() -> [&'static str; 2] {
    IMAGES.map(|(name, _)| name)
}

/// The digests in containerd's content store.
fn content(containerd: &Containerd) -> Vec<String> {
    let mut digests: Vec<String> =
        containerd.ctr(&["content", "ls", "-q"]).lines().map(str::to_owned).collect();
    digests.sort();
    digests
}

/// Deleting a lease with `--sync` waits for a garbage collection.
fn collect_garbage(containerd: &Containerd) {
    let lease = containerd.ctr(&["leases", "create"]);
    containerd.ctr(&["leases", "delete", "--sync", lease.trim()]);
}

/// Mounts the root file system of an image.
fn mount(containerd: &Containerd, image: &str, target: &str) {
    containerd.ctr(&[
        "images",
        "mount",
        "--snapshotter",
        "native",
        "--platform",
        "linux/amd64",
        image,
        target,
    ]);
}

#[test]
fn loaded_images_survive_collection_and_unpack() {
    let home = Home::new();
    let dir = tree("domain");
    let containerd = Containerd::start();
    let report = load(&home, &containerd, dir.path(), &names(), 0);
    let listed = containerd.ctr(&["images", "ls"]);
    for (name, sample) in IMAGES {
        let line = listed.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{listed}"));
        assert!(line.contains(&digest(sample).to_string()), "{line}");
    }
    assert!(report["images"].as_array().unwrap().iter().all(|image| image["status"] == "loaded"), "{report}");
    assert_eq!(containerd.ctr(&["leases", "ls", "-q"]), "");
    let before = content(&containerd);
    collect_garbage(&containerd);
    assert_eq!(content(&containerd), before);
    let labels = containerd.ctr(&["content", "ls"]);
    assert!(labels.contains("containerd.io/distribution.source.quay.example=demo/app"), "{labels}");
    for (name, _) in IMAGES {
        let checked =
            containerd.ctr(&["images", "check", "--snapshotter", "native", &format!("name=={name}")]);
        assert!(checked.contains("complete"), "{checked}");
        // As for the first container: with everything present, nothing is downloaded.
        let target = home.path(&name.replace(['/', ':'], "-"));
        std::fs::create_dir(&target).unwrap();
        let target = target.to_str().unwrap();
        mount(&containerd, name, target);
        containerd.ctr(&["images", "unmount", "--snapshotter", "native", target]);
    }
    // Removing the images makes all of it garbage, so it was kept by them alone.
    for (name, _) in IMAGES {
        containerd.ctr(&["images", "rm", "--sync", name]);
    }
    assert_eq!(content(&containerd), Vec::<String>::new());
}

#[test]
fn second_load_sends_nothing() {
    let home = Home::new();
    let dir = tree("domain");
    let containerd = Containerd::start();
    let first = load(&home, &containerd, dir.path(), &names(), 0);
    assert!(first["bytes_sent"].as_u64() > Some(0), "{first}");
    let second = load(&home, &containerd, dir.path(), &names(), 0);
    assert_eq!(second["bytes_sent"], 0);
    for image in second["images"].as_array().unwrap() {
        assert_eq!((&image["status"], &image["sent"]), (&Value::from("unchanged"), &Value::from(0)));
    }
    // Another platform adds its own content and the links to it.
    let other = load(&home, &containerd, dir.path(), &["--arch", "arm64", names()[1]], 0);
    assert_eq!(other["images"][0]["status"], "loaded");
    // What is lost is sent again, and nothing else. It is a configuration: without a manifest, containerd may collect what is below it.
    let lost = config(IMAGES[0].1).to_string();
    containerd.ctr(&["content", "rm", &lost]);
    collect_garbage(&containerd);
    let third = load(&home, &containerd, dir.path(), &names(), 0);
    assert_eq!(third["images"][0]["sent"], 1, "{third}");
    assert_eq!(third["images"][1]["status"], "unchanged");
}

#[test]
fn unpacked_images_have_the_snapshots_of_containerd() {
    let home = Home::new();
    let dir = tree("domain");
    let containerd = Containerd::start();
    let more = ["--unpack", "--snapshotter", "native", names()[1]];
    let report = load(&home, &containerd, dir.path(), &more, 0);
    assert!(report["images"][0]["unpacked"].as_u64() > Some(0), "{report}");
    let committed = || {
        let listed = containerd.ctr(&["snapshots", "--snapshotter", "native", "ls"]);
        listed.lines().filter(|line| line.contains("Committed")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = committed();
    assert_eq!(Value::from(before.len()), report["images"][0]["unpacked"]);
    collect_garbage(&containerd);
    assert_eq!(committed(), before);
    let again = load(&home, &containerd, dir.path(), &more, 0);
    assert_eq!(again["images"][0]["status"], "unchanged");
    // containerd finds the layers unpacked: a mount unpacks none, and it has the files of the platform.
    let target = home.path("mounted");
    std::fs::create_dir(&target).unwrap();
    let mounted = target.to_str().unwrap();
    mount(&containerd, names()[1], mounted);
    assert_eq!(committed(), before);
    let platform = std::fs::read_to_string(target.join("etc/platform")).unwrap();
    assert!(platform.starts_with("amd64"), "{platform}");
    containerd.ctr(&["images", "unmount", "--snapshotter", "native", mounted]);
}

/// The kubelet sees the images, in the namespace of Kubernetes and by their original names.
#[test]
fn kubelet_sees_loaded_images() {
    let home = Home::new();
    let dir = tree("strip");
    let containerd = Containerd::with_cri(&home.path("no-hosts"));
    let mut command = home.saver(["load", "--pin", "--dir"]);
    command.arg(dir.path()).arg("--containerd").arg(containerd.socket()).args(names());
    let ran = run(&mut command).expect(0);
    assert!(ran.stdout.contains("loaded    docker.io/library/hello:1.0"), "{}", ran.stdout);
    let crictl = Crictl::at(&containerd.socket(), "v1", Some("localhost"));
    // The service learns of images by events.
    let deadline = Instant::now() + Duration::from_secs(30);
    for (name, _) in IMAGES {
        while crictl.succeed(&["images", "-quiet", name]).is_empty() {
            assert!(Instant::now() < deadline, "{name} is not listed");
        }
    }
    let labels = containerd.ctr(&["--namespace", "k8s.io", "images", "ls"]);
    assert!(labels.contains("io.cri-containerd.pinned=pinned"), "{labels}");
}

#[test]
fn failed_image_is_a_row_and_resumes() {
    let home = Home::new();
    let dir = tree("domain");
    let containerd = Containerd::start();
    let store = saver::store::Store::open_read_only(dir.path()).unwrap();
    let layers = |name: &str| store.layers(&name.parse().unwrap()).unwrap();
    let shared = layers("docker.io/library/hello");
    let blobs = layers("quay.example/demo/app").into_iter().filter(|blob| !shared.contains(blob));
    let paths: Vec<_> = blobs.map(|blob| dir.path().join(store.blob_path(&blob))).collect();
    let whole: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    for (path, content) in paths.iter().zip(&whole) {
        std::fs::write(path, vec![0; content.len()]).unwrap();
    }
    let all = [&names()[..], &["quay.example/none:1", "--arch", "all"]].concat();
    let report = load(&home, &containerd, dir.path(), &all, 1);
    let statuses: Vec<&str> =
        report["images"].as_array().unwrap().iter().map(|image| image["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["loaded", "failed", "failed"], "{report}");
    assert_eq!(report["images"][1]["error"]["kind"], "corrupt", "{report}");
    assert_eq!(report["images"][2]["error"]["kind"], "not-found", "{report}");
    assert!(!containerd.ctr(&["images", "ls", "-q"]).contains("demo/app"));
    for (path, content) in paths.iter().zip(&whole) {
        std::fs::write(path, content).unwrap();
    }
    let report = load(&home, &containerd, dir.path(), &[&names()[..], &["--arch", "all"]].concat(), 0);
    assert_eq!(report["images"][0]["status"], "unchanged");
    assert_eq!(report["images"][1]["status"], "loaded");
}

#[test]
fn wrong_command_lines_name_what_is_wrong() {
    let home = Home::new();
    let dir = tree("strip");
    let dir = dir.path().to_str().unwrap();
    for (more, code, words) in [
        (&["--dir", dir][..], 2, "--containerd"),
        (&["--dir", dir, "--containerd", "/none"], 2, "--list FILE"),
        (&["--dir", dir, "--containerd", "/none", "a:1"], 3, "/none: cannot connect"),
        (&["--containerd", "/none", "a:1"], 2, "--dir"),
    ] {
        let ran = run(home.saver(["load"]).args(more)).expect(code);
        assert!(ran.stderr.contains(words), "{more:?}: {}", ran.stderr);
    }
}
