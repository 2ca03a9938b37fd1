//! `saver have`, `bundle` and `unbundle` with the real binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use saver::Digest;
use saver::oci::media_type;
use serde_json::{Value, json};

use super::interop::manifest;
use super::support::fleet::{Fleet, assert_true, noise};
use super::support::handmade::Tree;
use super::support::mount::{apart, mount_small, remount};
use super::support::peers::registry::Registry;
use super::support::peers::{samples, succeed};
use super::support::program::{Home, Ran, Victim, run};
use super::support::scratch::Scratch;
use super::support::tree::{Files, copy_tree, files};

/// Places for trees and bundles.
struct Bench {
    home: Home,
    dir: Scratch,
}

impl Bench {
    fn new() -> Self {
        Self { home: Home::new(), dir: Scratch::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn saver(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.saver(arguments);
        command.current_dir(self.dir.path());
        command
    }

    fn run(&self, arguments: &[&str], expected: i32) -> Ran {
        run(&mut self.saver(arguments)).expect(expected)
    }

    fn json(&self, arguments: &[&str], expected: i32) -> Value {
        serde_json::from_str(&self.run(arguments, expected).stdout).unwrap()
    }

    fn bundle(&self, near: &Path, name: &str, more: &[&str]) -> Value {
        let near = near.to_str().unwrap();
        self.json(&[&["bundle", "--json", "--dir", near, "-o", name], more].concat(), 0)
    }

    /// The files of a tree.
    fn tree(&self, name: &str) -> Files {
        files(&self.path(name).join("docker"))
    }

    /// Whether a tree has links.
    fn has_links(&self, name: &str) -> bool {
        self.tree(name).keys().any(|path| path.starts_with("registry/v2/repositories/"))
    }

    fn parts(&self, name: &str) -> Vec<String> {
        let files = fs::read_dir(self.path(name)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = files.map(|file| file.into_string().unwrap()).collect();
        names.retain(|file| file.starts_with("part-"));
        names.sort();
        names.into_iter().map(|file| format!("{name}/{file}")).collect()
    }
}

/// Three images of several megabytes, two of which share a base, so that blobs are cut in parts of a megabyte.
fn fleet() -> Fleet {
    Fleet::make(4)
}

#[test]
fn bundle_of_saved_images_is_served_and_pulled() {
    let bench = Bench::new();
    let source = Registry::serve(&samples());
    let names = ["demo/app:1.0", "demo/single:1.0", "demo/nested:1.0"];
    let images: Vec<String> = names.iter().map(|name| format!("{}/{name}", source.address)).collect();
    bench.home.save(&bench.path("near"), "all", &images, &[], 0);
    bench.run(&["bundle", "--dir", "near", "-o", "gap"], 0);
    bench.run(&["bundle-verify", "gap"], 0);
    let ran = bench.run(&["unbundle", "gap", "--dir", "far"], 0);
    assert!(ran.stdout.starts_with("3 images published, 0 unchanged"), "{}", ran.stdout);
    assert_eq!(bench.tree("far"), bench.tree("near"));
    assert_true(&bench.path("far"), "unbundled");
    // Where the images come from travels with them.
    let ls = |dir: &str| {
        let mut listing = bench.json(&["ls", "--json", dir], 0);
        for repository in listing["repositories"].as_array_mut().unwrap() {
            repository["tags"].as_array_mut().unwrap().iter_mut().for_each(|tag| tag["saved"] = Value::Null);
        }
        listing
    };
    assert_eq!(ls("far"), ls("near"));
    assert!(ls("far").to_string().contains(&images[0]));
    let copy = Registry::serve(&bench.path("far"));
    for name in names {
        let (repository, tag) = name.split_once(':').unwrap();
        let bytes = |registry: &Registry| manifest(&registry.address, repository, tag).body;
        assert_eq!(bytes(&copy), bytes(&source), "{name}");
    }
    let from = format!("docker://{}/demo/single:1.0", copy.address);
    let to = format!("dir:{}", bench.path("pulled").display());
    succeed("skopeo", ["copy", "-q", "--src-tls-verify=false", &from, &to]);
    let ran = bench.run(&["unbundle", "gap", "--dir", "far"], 0);
    assert!(ran.stdout.starts_with("0 images published, 3 unchanged; 0 B written"), "{}", ran.stdout);
}

#[test]
fn increment_brings_only_what_the_far_side_lacks() {
    let bench = Bench::new();
    let fleet = fleet();
    let near = fleet.tree.dir();
    bench.bundle(near, "full", &[]);
    bench.run(&["unbundle", "full", "--dir", "far"], 0);
    bench.run(&["have", "far", "-o", "have"], 0);
    let renewed = fleet.renew("fleet/app-01", 77);
    let full = bench.bundle(near, "all", &[])["blob_bytes"].as_u64().unwrap();
    let mut plans = Vec::new();
    for since in ["have", "full", "full/bundle.json", "far"] {
        let plan = bench
            .json(&["bundle", "--json", "--dry-run", "--dir", near.to_str().unwrap(), "--since", since], 0);
        let sent = plan["blob_bytes"].as_u64().unwrap();
        assert!(sent > 1 << 20 && sent < full / 3, "{since}: {sent} of {full} bytes");
        plans.push((plan["blobs"].clone(), plan["bytes"].clone()));
    }
    assert!(plans.iter().all(|plan| *plan == plans[0]), "{plans:?}");
    let list = fs::File::open(bench.path("have")).unwrap();
    let mut command = bench.saver(&["bundle", "--since", "-", "-o", "news", "--dir", near.to_str().unwrap()]);
    run(command.stdin(list)).expect(0);
    let report = bench.json(&["unbundle", "--json", "news", "--dir", "far"], 0);
    let rows: Vec<_> =
        report["images"].as_array().unwrap().iter().map(|row| row["status"].as_str().unwrap()).collect();
    assert_eq!(rows, ["unchanged", "published", "unchanged", "unchanged"]);
    assert_true(&bench.path("far"), "after the increment");
    let link =
        bench.path("far/docker/registry/v2/repositories/fleet/app-01/_manifests/tags/1.0/current/link");
    assert_eq!(fs::read_to_string(link).unwrap(), renewed.digest.to_string());
}

#[test]
fn equal_input_gives_equal_bytes() {
    let bench = Bench::new();
    let fleet = fleet();
    let near = fleet.tree.dir().to_str().unwrap();
    for name in ["one", "two"] {
        bench.bundle(fleet.tree.dir(), name, &["--part-size", "1M"]);
    }
    assert_eq!(files(&bench.path("one")), files(&bench.path("two")));
    let sizes = bench.parts("one").into_iter().map(|part| fs::metadata(bench.path(&part)).unwrap().len());
    assert!(sizes.max().unwrap() < 1 << 20);
    let mut sums = Command::new("sha256sum");
    sums.args(["--quiet", "-c", "SHA256SUMS"]).current_dir(bench.path("one"));
    assert!(sums.status().unwrap().success());
    // A stream holds the same files.
    fs::create_dir(bench.path("unpacked")).unwrap();
    let stream = fs::File::create(bench.path("stream.tar")).unwrap();
    let mut command = bench.saver(&["bundle", "--dir", near, "--part-size", "1M", "-o", "-"]);
    assert!(command.stdout(stream).status().unwrap().success());
    let at = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    succeed("tar", ["xf", &at("stream.tar"), "-C", &at("unpacked")]);
    assert_eq!(files(&bench.path("unpacked")), files(&bench.path("one")));
    // And is read as one, whatever order its files are in.
    succeed("tar", ["cf", &at("reordered.tar"), "-C", &at("."), "one"]);
    for name in ["stream", "reordered"] {
        let input = fs::File::open(bench.path(&format!("{name}.tar"))).unwrap();
        run(bench.saver(&["unbundle", "-", "-q", "--dir", name]).stdin(input)).expect(0);
        assert_eq!(bench.tree(name), files(&fleet.tree.dir().join("docker")), "{name}");
    }
}

#[test]
fn parts_are_accepted_in_any_order_and_run() {
    let bench = Bench::new();
    let fleet = fleet();
    bench.bundle(fleet.tree.dir(), "gap", &["--part-size", "1M"]);
    let document: Value = serde_json::from_slice(&fs::read(bench.path("gap/bundle.json")).unwrap()).unwrap();
    let cut = |content: &&Value| content["parts"].as_array().is_some_and(|parts| parts.len() > 2);
    assert!(document["content"].as_array().unwrap().iter().filter(cut).count() > 2);
    for seed in 0..3 {
        let far = format!("far-{seed}");
        let mut parts = bench.parts("gap");
        let mut rng = fastrand::Rng::with_seed(seed);
        rng.shuffle(&mut parts);
        while !parts.is_empty() {
            let taken: Vec<String> = parts.drain(..rng.usize(1..=parts.len().min(4))).collect();
            let mut command = bench.saver(&["unbundle", "--dir", &far]);
            let ran = run(command.args(taken)).expect(0);
            assert!(ran.stdout.contains("0 images published"), "{}", ran.stdout);
            assert!(!bench.has_links(&far), "a repository appeared early");
        }
        bench.run(&["unbundle", "gap/bundle.json", "--dir", &far], 0);
        assert_true(&bench.path(&far), &far);
        assert_eq!(bench.tree(&far), files(&fleet.tree.dir().join("docker")), "{far}");
        let left = files(&bench.path(&far).join(".saver/partial"));
        assert!(left.is_empty(), "{far}: {:?}", left.keys());
    }
}

#[test]
fn tar_unpacks_the_parts_into_a_valid_tree() {
    let bench = Bench::new();
    let fleet = fleet();
    for (name, size) in [("whole", "4G"), ("cut", "1M")] {
        bench.bundle(fleet.tree.dir(), name, &["--part-size", size]);
        let far = format!("{name}-far");
        fs::create_dir(bench.path(&far)).unwrap();
        for part in bench.parts(name) {
            succeed(
                "tar",
                ["xf", bench.path(&part).to_str().unwrap(), "-C", bench.path(&far).to_str().unwrap()],
            );
        }
        // As docs/bundles.md says.
        let join = "find docker -name 'data.*' | sort | while read -r range; do cat \"$range\" >> \"${range%.*}\"; rm \"$range\"; done";
        let joined = Command::new("sh").args(["-ec", join]).current_dir(bench.path(&far)).status().unwrap();
        assert!(joined.success());
        assert_true(&bench.path(&far), name);
        assert_eq!(bench.tree(&far), files(&fleet.tree.dir().join("docker")), "{name}");
    }
}

#[test]
fn missing_base_is_reported_and_brought_by_a_second_bundle() {
    let bench = Bench::new();
    let fleet = fleet();
    let near = fleet.tree.dir();
    bench.bundle(near, "full", &[]);
    fleet.renew("fleet/app-00", 99);
    bench.bundle(near, "news", &["--since", "full"]);
    // The far side never got the full bundle.
    let ran = bench.run(&["unbundle", "news", "--dir", "far", "--missing", "lacks.json"], 1);
    assert!(ran.stderr.contains("assumed to be present; no image was published"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: make a bundle of it: saver bundle --only FILE"), "{}", ran.stderr);
    assert!(!bench.has_links("far"));
    let before = bench.tree("far");
    let report = bench.bundle(near, "rest", &["--only", "lacks.json"]);
    assert!(report["blob_bytes"].as_u64().unwrap() > 10 << 20);
    bench.run(&["unbundle", "rest", "--dir", "far"], 0);
    assert_true(&bench.path("far"), "after the second bundle");
    assert!(before.keys().all(|path| bench.tree("far").contains_key(path)));
    let ran = bench.run(&["unbundle", "news", "--dir", "far"], 0);
    assert!(ran.stdout.contains("0 images published, 4 unchanged"), "{}", ran.stdout);
}

#[test]
fn damaged_parts_are_reported_and_nothing_is_published() {
    let bench = Bench::new();
    let fleet = Fleet::make(2);
    bench.bundle(fleet.tree.dir(), "good", &["--part-size", "1M"]);
    let other = Fleet::make(3);
    bench.bundle(other.tree.dir(), "other", &["--part-size", "1M"]);
    let good = files(&bench.path("good"));
    let part = "part-00002.tar";
    let bytes = good[part].clone();
    let mut flipped = bytes.clone();
    flipped[300_000] ^= 1;
    let mut header = bytes.clone();
    header[1024] ^= 1;
    let truncated = bytes[..bytes.len() / 2].to_vec();
    let foreign = files(&bench.path("other"))[part].clone();
    for (what, damage, expected) in [
        ("flipped", Some(flipped), "part-00002.tar"),
        ("header", Some(header), "checksum of a tar header is wrong"),
        ("truncated", Some(truncated), "it is truncated"),
        ("foreign", Some(foreign), "it is a part of another bundle"),
        ("empty", Some(Vec::new()), "it is truncated"),
        ("absent", None, "missing, of which 0 assumed to be present"),
    ] {
        let name = format!("{what}-gap");
        copy_tree(&bench.path("good"), &bench.path(&name));
        let file = bench.path(&name).join(part);
        match damage {
            Some(bytes) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let far = format!("{what}-far");
        bench.run(&["bundle-verify", &name], 1);
        let ran = bench.run(&["unbundle", &name, "--dir", &far], 1);
        assert!(
            ran.stderr.contains(expected) && ran.stderr.contains("no image was published"),
            "{what}: {}",
            ran.stderr
        );
        assert!(!bench.has_links(&far), "{what}");
        let ran = bench.run(&["unbundle", "good", "--dir", &far], 0);
        assert!(ran.stdout.contains("2 images published"), "{what}: {}", ran.stdout);
        assert_true(&bench.path(&far), what);
    }
    let text = String::from_utf8(good["bundle.json"].clone()).unwrap();
    fs::write(bench.path("good/bundle.json"), text.replace("app-00", "app-09")).unwrap();
    let ran = bench.run(&["unbundle", "good", "--dir", "far"], 2);
    assert!(ran.stderr.contains("it does not match its ID"), "{}", ran.stderr);
}

/// Gives a document the ID that docs/reference/bundle-format.md describes.
fn with_id(mut document: Value) -> Vec<u8> {
    let zero = format!("sha256:{}", "0".repeat(64));
    let (tool, parts) = (document["tool"].take(), document["parts"].clone());
    document["tool"] = json!("");
    document["id"] = json!(zero);
    document["parts"].as_array_mut().unwrap().iter_mut().for_each(|part| part["digest"] = json!(zero));
    let id = Digest::of(&serde_json::to_vec(&document).unwrap());
    document["id"] = json!(id);
    document["tool"] = tool;
    document["parts"] = parts;
    serde_json::to_vec(&document).unwrap()
}

#[test]
fn image_needs_its_layers_whatever_the_document_says() {
    let bench = Bench::new();
    bench.dir.allow_damage("a layer is missing");
    let tree = Tree::new();
    let layer = noise(5, 5000);
    let image = tree.image("team/app", "linux/amd64", &[&layer]);
    tree.tag("team/app", "1", &image.digest);
    bench.bundle(tree.dir(), "gap", &[]);
    let bytes = fs::read(bench.path("gap/bundle.json")).unwrap();
    let mut document: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(with_id(document.clone()), bytes, "the ID is as documented");
    let digest = Digest::of(&layer);
    document["content"].as_array_mut().unwrap().retain(|content| content["digest"] != json!(digest));
    fs::write(bench.path("gap/bundle.json"), with_id(document)).unwrap();
    // All but the layer is there.
    copy_tree(tree.dir(), &bench.path("far"));
    fs::remove_file(bench.path("far").join(tree.data(&digest).strip_prefix(tree.dir()).unwrap())).unwrap();
    fs::remove_dir_all(bench.path("far/docker/registry/v2/repositories/team")).unwrap();
    fs::remove_file(bench.path("gap/part-00001.tar")).unwrap();
    let report = bench.json(&["unbundle", "--json", "gap", "--dir", "far"], 1);
    assert_eq!(report["missing"][0]["content"][0]["digest"], json!(digest), "{report}");
    assert!(!bench.path("far/docker/registry/v2/repositories/team").exists());
}

#[test]
fn signatures_and_referrers_travel_with_their_image() {
    let bench = Bench::new();
    let tree = Tree::new();
    let image = tree.image("team/app", "linux/amd64", &[b"layer"]);
    tree.tag("team/app", "1", &image.digest);
    let sbom = tree.artifact("team/app", "application/spdx+json", &image);
    let list = tree.index("team/app", std::slice::from_ref(&sbom));
    tree.tag("team/app", &format!("sha256-{}", image.digest.hex()), &list.digest);
    let signature = tree.artifact("team/app", media_type::OCI_EMPTY, &image);
    tree.tag("team/app", &format!("sha256-{}.sig", image.digest.hex()), &signature.digest);
    tree.image("team/other", "linux/amd64", &[b"another"]);
    bench.bundle(tree.dir(), "gap", &["team/app:1"]);
    bench.run(&["unbundle", "gap", "--dir", "far"], 0);
    let listed = bench.json(&["ls", "--json", "--referrers", "far"], 0);
    let referrers = &listed["repositories"][0]["tags"][0]["referrers"];
    let digests: Vec<_> = referrers.as_array().unwrap().iter().map(|one| one["digest"].clone()).collect();
    assert!(digests.contains(&json!(sbom.digest)) && digests.contains(&json!(signature.digest)), "{listed}");
    assert_eq!(listed["repositories"].as_array().unwrap().len(), 1, "only the image that was named");
    assert_true(&bench.path("far"), "with referrers");
}

#[test]
fn unsigned_or_changed_bundles_are_refused_where_a_signature_is_required() {
    let bench = Bench::new();
    let tree = Tree::new();
    let image = tree.image("team/app", "linux/amd64", &[b"layer"]);
    tree.tag("team/app", "1", &image.digest);
    let near = tree.dir().to_str().unwrap();
    let (key, public) = (bench.path("key.pem"), bench.path("public.pem"));
    let (key, public) = (key.to_str().unwrap(), public.to_str().unwrap());
    succeed("openssl", ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key]);
    succeed("openssl", ["ec", "-in", key, "-pubout", "-out", public]);
    let path = std::env::var("PATH").unwrap();
    let with_path = |arguments: &[&str]| {
        let mut command = bench.saver(arguments);
        command.env("PATH", &path);
        command
    };
    let sign = format!("openssl dgst -sha256 -sign {key}");
    let verify = format!("openssl dgst -sha256 -verify {public} -signature \"$SAVER_SIGNATURE\"");
    run(&mut with_path(&["bundle", "--dir", near, "-o", "gap", "--sign-with", &sign])).expect(0);
    run(&mut with_path(&["bundle-verify", "gap", "--verify-with", &verify])).expect(0);
    run(&mut with_path(&["unbundle", "gap", "--dir", "far", "--verify-with", &verify])).expect(0);
    assert_eq!(bench.tree("far"), files(&tree.dir().join("docker")));
    let stream = fs::File::create(bench.path("stream.tar")).unwrap();
    let mut command = with_path(&["bundle", "--dir", near, "-o", "-", "--sign-with", &sign]);
    assert!(command.stdout(stream).status().unwrap().success());
    run(&mut with_path(&["unbundle", "stream.tar", "--dir", "far-2", "--verify-with", &verify])).expect(0);
    let mut document: Value =
        serde_json::from_slice(&fs::read(bench.path("gap/bundle.json")).unwrap()).unwrap();
    document["images"][0]["tag"] = json!("2");
    fs::write(bench.path("gap/bundle.json"), with_id(document)).unwrap();
    bench.bundle(tree.dir(), "unsigned", &[]);
    succeed(
        "tar",
        [
            "cf",
            bench.path("unsigned.tar").to_str().unwrap(),
            "-C",
            bench.path("unsigned").to_str().unwrap(),
            ".",
        ],
    );
    for (name, expected) in [
        ("gap", "--verify-with: the command failed"),
        ("gap/bundle.json", "--verify-with: the command failed"),
        ("unsigned", "the bundle is not signed"),
        ("unsigned.tar", "the bundle is not signed"),
    ] {
        let ran =
            run(&mut with_path(&["unbundle", name, "--dir", "refused", "--verify-with", &verify])).expect(2);
        assert!(ran.stderr.contains(expected), "{name}: {}", ran.stderr);
        assert!(!bench.path("refused/docker").exists() || !bench.has_links("refused"), "{name}");
    }
    let ran = run(&mut with_path(&["bundle", "--dir", near, "-o", "none", "--sign-with", "false"])).expect(2);
    assert!(
        ran.stderr.contains("--sign-with: the command failed") && !bench.path("none").exists(),
        "{}",
        ran.stderr
    );
}

#[test]
fn damage_in_the_near_directory_stops_the_bundle() {
    let bench = Bench::new();
    let tree = Tree::new();
    tree.allow_damage("a layer has other bytes, and one is missing");
    let image = tree.image("team/app", "linux/amd64", &[b"layer"]);
    tree.tag("team/app", "1", &image.digest);
    let broken = tree.image("team/broken", "linux/amd64", &[b"gone"]);
    tree.tag("team/broken", "1", &broken.digest);
    fs::remove_file(tree.data(&Digest::of(b"gone"))).unwrap();
    let near = tree.dir().to_str().unwrap();
    let ran = bench.run(&["bundle", "--dir", near, "-o", "gap"], 1);
    assert!(ran.stderr.contains("team/broken:1: left out of the bundle: blob"), "{}", ran.stderr);
    assert!(ran.stdout.contains("wrote 1 image "), "{}", ran.stdout);
    fs::write(tree.data(&Digest::of(b"layer")), b"Layer").unwrap();
    let ran = bench.run(&["bundle", "--dir", near, "-o", "again"], 1);
    assert!(ran.stderr.contains("the directory is damaged"), "{}", ran.stderr);
    let left: Vec<_> =
        fs::read_dir(bench.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["gap"], "nothing is left of what failed");
    let ran = bench.run(&["bundle", "--dir", near, "-o", "gap"], 2);
    assert!(ran.stderr.contains("the directory is not empty"), "{}", ran.stderr);
}

#[test]
fn full_disk_stops_the_run_and_the_next_one_resumes() {
    let bench = Bench::new();
    let fleet = Fleet::make(2);
    bench.bundle(fleet.tree.dir(), "gap", &["--part-size", "1M"]);
    let (near, small) = (fleet.tree.dir().to_owned(), bench.path("small"));
    fs::create_dir(&small).unwrap();
    apart(move || {
        if !mount_small(&small, "size=3m") {
            return;
        }
        let near = near.to_str().unwrap();
        let ran = bench.run(&["bundle", "--dir", near, "-o", "small/gap"], 3);
        assert!(ran.stderr.contains("not enough disk space"), "{}", ran.stderr);
        assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
        fs::create_dir(small.join("far")).unwrap();
        let ran = bench.run(&["unbundle", "gap", "--dir", "small/far"], 3);
        assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
        remount(&small, "size=40m");
        bench.run(&["unbundle", "gap", "--dir", "small/far"], 0);
        assert_true(&small.join("far"), "after the disk had room");
    });
}

/// `SAVER_KILLS=200` kills as often; `SAVER_SEED` picks other moments.
#[test]
fn killed_unbundle_leaves_a_consistent_tree_and_resumes() {
    let setting =
        |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (kills, seed) = (setting("SAVER_KILLS", 10), setting("SAVER_SEED", 1));
    let bench = Bench::new();
    let fleet = Fleet::make(6);
    bench.bundle(fleet.tree.dir(), "gap", &["--part-size", "1M"]);
    let expected = files(&fleet.tree.dir().join("docker"));
    let start = |far: &str| Victim::start(&mut bench.saver(&["unbundle", "gap", "--dir", far]));
    let begin = Instant::now();
    start("undisturbed").finish().expect(0);
    let takes = begin.elapsed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut killed, mut tree) = (0, 0);
    while killed < kills {
        tree += 1;
        let far = format!("far-{tree}");
        for _ in 0..5 {
            let mut victim = start(&far);
            let due = Instant::now() + takes.mul_f64(rng.f64());
            while Instant::now() < due && victim.is_running() {
                std::thread::sleep(Duration::from_micros(200));
            }
            if !victim.is_running() {
                victim.finish().expect(0);
                break;
            }
            victim.kill();
            killed += 1;
            if bench.path(&far).join("docker").exists() {
                assert_true(&bench.path(&far), &format!("seed {seed}, kill {killed}"));
            }
        }
        start(&far).finish().expect(0);
        assert_true(&bench.path(&far), &format!("seed {seed}, after {killed} kills"));
        assert_eq!(bench.tree(&far), expected, "seed {seed}, after {killed} kills");
        let left = files(&bench.path(&far).join(".saver/partial"));
        assert!(left.is_empty(), "seed {seed}: {:?}", left.keys());
        fs::remove_dir_all(bench.path(&far)).unwrap();
    }
}

#[test]
fn killed_bundle_leaves_nothing_that_looks_complete() {
    let bench = Bench::new();
    let fleet = Fleet::make(6);
    let near = fleet.tree.dir().to_str().unwrap();
    bench.bundle(fleet.tree.dir(), "good", &["--part-size", "1M"]);
    for parts in [0, 1, 5] {
        let mut victim =
            Victim::start(&mut bench.saver(&["bundle", "--dir", near, "--part-size", "1M", "-o", "gap"]));
        let hidden = bench.path(".gap.saver-tmp");
        let count = || fs::read_dir(&hidden).map_or(0, Iterator::count);
        while victim.is_running() && count() <= parts {
            std::thread::yield_now();
        }
        victim.kill();
        assert!(!bench.path("gap").exists() || files(&bench.path("gap")) == files(&bench.path("good")));
        let _ = fs::remove_dir_all(bench.path("gap"));
    }
    bench.bundle(fleet.tree.dir(), "gap", &["--part-size", "1M"]);
    assert_eq!(files(&bench.path("gap")), files(&bench.path("good")));
    assert!(!bench.path(".gap.saver-tmp").exists());
}

#[test]
fn wrong_input_is_named() {
    let bench = Bench::new();
    let tree = Tree::new();
    let image = tree.image("team/app", "linux/amd64", &[b"layer"]);
    tree.tag("team/app", "1", &image.digest);
    let near = tree.dir().to_str().unwrap();
    fs::write(bench.path("text"), "neither").unwrap();
    fs::create_dir(bench.path("empty")).unwrap();
    for (arguments, code, expected) in [
        (vec!["bundle", "--dir", near], 2, "missing required option '--output'"),
        (
            vec!["bundle", "--dir", near, "-o", "gap", "--since", "text"],
            2,
            "text: it is neither a list of content",
        ),
        (vec!["bundle", "--dir", near, "-o", "gap", "--since", "gone"], 2, "gone: cannot read it"),
        (
            vec!["bundle", "--dir", near, "-o", "gap", "--part-size", "1K"],
            2,
            "a part of 1024 bytes is too small",
        ),
        (vec!["bundle", "--dir", near, "-o", "gap", "--part-size", "x"], 2, "'--part-size <SIZE>'"),
        (vec!["bundle", "--dir", near, "-o", "gap", "team/gone:1"], 1, "no such image in the directory"),
        (
            vec!["bundle", "--dir", near, "-o", "gap", "--only", "text"],
            2,
            "text: it is not a list of missing content",
        ),
        (vec!["unbundle", "--dir", "far"], 2, "missing required argument 'NAME'"),
        (vec!["unbundle", "empty", "--dir", "far"], 2, "empty: it is not a bundle: it has no bundle.json"),
        (vec!["unbundle", "text", "--dir", "far"], 2, "it is not a bundle"),
        (vec!["unbundle", "gone", "--dir", "far"], 2, "gone: cannot read it"),
        (vec!["bundle-inspect", "empty"], 2, "bundle.json: cannot read it"),
        (vec!["have", "empty"], 2, "not a directory of images"),
    ] {
        let ran = bench.run(&arguments, code);
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
    }
}
