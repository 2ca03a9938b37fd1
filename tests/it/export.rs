//! `saver export` with the real binary, read by podman, skopeo, umoci and containerd.

use crate::support::scratch::Scratch;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use saver::export::{ExportFrom, ExportOptions, ExportTo, Format, export};
use saver::oci::{Digest, Manifest, PlatformSet, RawManifest, Reference};
use saver::save::SaveImage;
use saver::transfer::IndexMode;
use serde_json::Value;

use super::interop::{manifest, parse, with_storage};
use super::support::mount::{apart, mount_small};
use super::support::peers::containerd::Containerd;
use super::support::peers::registry::Registry;
use super::support::peers::{samples, succeed};
use super::support::program::{Home, Ran, Victim, run};

/// A tree with samples for all platforms, and a directory for exports.
pub(super) struct Bench {
    source: Registry,
    pub(super) home: Home,
    dir: Scratch,
}

impl Bench {
    pub(super) fn new() -> Self {
        let bench = Self { source: Registry::serve(&samples()), home: Home::new(), dir: Scratch::new() };
        let images =
            ["demo/app:1.0", "demo/single:1.0", "demo/tool:2.1", "demo/zstd:1.0", "helm-charts/mysql:8.8.19"];
        let images = images.map(|name| bench.name(name));
        bench.home.save(&bench.path("tree"), "all", &images, &[], 0);
        bench
    }

    pub(super) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.source.address)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(super) fn command(&self, images: &[&str], format: &str, to: &str, more: &[&str]) -> Command {
        let mut command = self.home.saver(["export", "--format", format, "--output"]);
        command.arg(if to == "-" { PathBuf::from(to) } else { self.path(to) });
        command.args(images.iter().map(|image| self.name(image))).args(more);
        command
    }

    fn export(&self, images: &[&str], format: &str, to: &str, more: &[&str], expected: i32) -> Ran {
        let mut command = self.command(images, format, to, more);
        if !more.contains(&"--from-registry") {
            command.arg("--dir").arg(self.path("tree"));
        }
        run(&mut command).expect(expected)
    }

    /// Exports the smallest image from the tree.
    pub(super) fn export_one(&self, to: &str) {
        self.export(&["demo/single:1.0"], "oci-archive", to, &[], 0);
    }

    /// The files next to the tree, including hidden ones.
    pub(super) fn outputs(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "tree")
            .collect();
        names.sort();
        names
    }

    /// The configuration digest of an image for a platform.
    fn config(&self, image: &str, architecture: &str) -> Digest {
        let (repository, tag) = image.split_once(':').unwrap();
        config(&self.source.address, repository, tag, architecture)
    }
}

fn config(registry: &str, repository: &str, reference: &str, architecture: &str) -> Digest {
    match parse(&manifest(registry, repository, reference)) {
        Manifest::Image(image) => image.config.digest,
        Manifest::Index(index) => {
            let has = |platform: &saver::oci::Platform| platform.architecture == architecture;
            let entry =
                index.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(has)).unwrap();
            config(registry, repository, &entry.digest.to_string(), architecture)
        }
    }
}

/// The members of a tar file.
fn members(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let read = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, content)
    });
    read.collect()
}

/// The image's id and the text of a file in it, as podman has them.
fn in_podman(storage: &Path, image: &str, file: &str) -> (String, String) {
    let id = with_storage("podman", storage, &["image", "inspect", "--format", "{{.Id}}", image]);
    let mount = with_storage("podman", storage, &["image", "mount", image]);
    let text = fs::read_to_string(Path::new(mount.trim()).join(file)).unwrap();
    (id.trim().to_owned(), text)
}

#[test]
fn docker_archive_is_loaded_by_podman_skopeo_and_containerd() {
    let bench = Bench::new();
    let images = ["demo/app:1.0", "demo/single:1.0", "demo/tool:2.1", "demo/zstd:1.0"];
    bench.export(&images, "docker-archive", "all.tar", &["--arch", "amd64"], 0);
    let read = members(&fs::read(bench.path("all.tar")).unwrap());
    let listing: Value = serde_json::from_slice(&read["manifest.json"]).unwrap();
    let layers: Vec<&str> = listing
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|item| item["Layers"].as_array().unwrap())
        .filter_map(Value::as_str)
        .collect();
    let tars = read.keys().filter(|name| name.ends_with(".tar")).count();
    assert!(layers.len() > tars, "shared layers are there once: {layers:?}");
    for (name, content) in read.iter().filter(|(name, _)| name.ends_with(".tar")) {
        assert_eq!(format!("{}.tar", Digest::of(content).hex()), *name);
    }
    let storage = bench.path("storage");
    with_storage("podman", &storage, &["load", "-q", "-i", &bench.text("all.tar")]);
    let containerd = Containerd::start();
    containerd.ctr(&["images", "import", "--no-unpack", &bench.text("all.tar")]);
    let listed = containerd.ctr(&["images", "ls", "-q"]);
    for image in images {
        let (name, expect) = (bench.name(image), bench.config(image, "amd64"));
        let id = with_storage("podman", &storage, &["image", "inspect", "--format", "{{.Id}}", &name]);
        assert_eq!(id.trim(), expect.hex(), "{image}");
        let from = format!("docker-archive:{}:{name}", bench.text("all.tar"));
        let manifest: Value = serde_json::from_str(&succeed("skopeo", ["inspect", "--raw", &from])).unwrap();
        assert_eq!(manifest["config"]["digest"], expect.to_string(), "{image}");
        assert!(listed.lines().any(|line| line == name), "{listed}");
    }
    let (_, platform) = in_podman(&storage, &bench.name("demo/tool:2.1"), "etc/platform");
    assert_eq!(platform, "amd64/linux\n");
}

#[test]
fn docker_archive_of_several_platforms_is_refused() {
    let bench = Bench::new();
    let ran = bench.export(&["demo/app:1.0"], "docker-archive", "a.tar", &[], 1);
    for word in ["linux/amd64", "linux/arm64", "--arch"] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    let ran = bench.export(&["demo/app:1.0"], "docker-archive", "a.tar", &["--arch", "s390x"], 1);
    assert!(ran.stderr.contains("s390x") || ran.stderr.contains("not there"), "{}", ran.stderr);
    assert_eq!(bench.outputs(), Vec::<String>::new());
}

#[test]
fn archive_on_stdout_is_piped_into_podman() {
    let bench = Bench::new();
    let tree = bench.text("tree");
    let mut export =
        bench.command(&["demo/app:1.0"], "docker-archive", "-", &["--arch", "arm64", "--dir", &tree]);
    let mut export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let storage = bench.path("storage");
    let path = |name: &str| storage.join(name).to_str().unwrap().to_owned();
    let loaded = Command::new("podman")
        .args(["--root", &path("root"), "--runroot", &path("run"), "--storage-driver", "vfs", "load", "-q"])
        .stdin(export.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(export.wait().unwrap().success());
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    let (id, platform) = in_podman(&storage, &bench.name("demo/app:1.0"), "etc/platform");
    assert_eq!(id, bench.config("demo/app:1.0", "arm64").hex());
    assert!(platform.starts_with("arm64/linux"), "{platform}");
    // A reader that closes the pipe makes the export fail.
    let mut export = bench.command(&["demo/app:1.0"], "oci-archive", "-", &["--dir", &tree]);
    let mut export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(export.stdout.take());
    assert_eq!(export.wait_with_output().unwrap().status.code(), Some(3));
}

#[test]
fn oci_archive_is_read_by_podman_skopeo_and_containerd() {
    let bench = Bench::new();
    bench.export(&["demo/app:1.0"], "oci-archive", "one.tar", &[], 0);
    bench.export(
        &["demo/app:1.0", "demo/zstd:1.0", "helm-charts/mysql:8.8.19"],
        "oci-archive",
        "all.tar",
        &[],
        0,
    );
    let storage = bench.path("storage");
    with_storage("podman", &storage, &["load", "-q", "-i", &bench.text("one.tar")]);
    let (id, _) = in_podman(&storage, &bench.name("demo/app:1.0"), "etc/platform");
    assert_eq!(id, bench.config("demo/app:1.0", "amd64").hex());
    let containerd = Containerd::start();
    containerd.ctr(&["images", "import", "--no-unpack", "--all-platforms", &bench.text("all.tar")]);
    let listed = containerd.ctr(&["images", "ls"]);
    for (repository, tag) in [("demo/app", "1.0"), ("demo/zstd", "1.0"), ("helm-charts/mysql", "8.8.19")] {
        let expect = Digest::of(&manifest(&bench.source.address, repository, tag).body);
        let name = bench.name(&format!("{repository}:{tag}"));
        let row = listed.lines().find(|line| line.starts_with(&name)).unwrap();
        assert!(row.contains(&expect.to_string()), "{row}");
        let from = format!("oci-archive:{}:{name}", bench.text("all.tar"));
        let raw = succeed("skopeo", ["inspect", "--raw", &from]);
        assert_eq!(Digest::of(raw.as_bytes()), expect, "{name}");
    }
    // Imported again, the bytes are the same.
    let back = bench.text("back");
    run(&mut bench.home.saver(["import", &bench.text("all.tar"), "--dir", &back])).expect(0);
    let copy = Registry::serve(Path::new(&back));
    for (repository, tag) in [("demo/app", "1.0"), ("helm-charts/mysql", "8.8.19")] {
        let body = |registry: &str| manifest(registry, repository, tag).body;
        assert_eq!(body(&copy.address), body(&bench.source.address));
    }
}

#[test]
fn layout_is_extended_and_read_by_umoci_and_skopeo() {
    let bench = Bench::new();
    let layout = bench.text("layout");
    let from = format!("docker://{}", bench.name("demo/single:1.0"));
    succeed("skopeo", ["copy", "-q", "--src-tls-verify=false", &from, &format!("oci:{layout}:theirs")]);
    bench.export(&["demo/app:1.0"], "oci-layout", "layout", &[], 0);
    bench.export(&["demo/app:1.0", "demo/zstd:1.0"], "oci-layout", "layout", &[], 0);
    let index = fs::read(bench.path("layout/index.json")).unwrap();
    bench.export(&["demo/zstd:1.0", "demo/app:1.0"], "oci-layout", "layout", &[], 0);
    assert_eq!(fs::read(bench.path("layout/index.json")).unwrap(), index, "nothing to do changes nothing");
    let mut names: Vec<String> =
        succeed("umoci", ["ls", "--layout", &layout]).lines().map(str::to_owned).collect();
    names.sort();
    let mut expect = vec![bench.name("demo/app:1.0"), bench.name("demo/zstd:1.0"), "theirs".to_owned()];
    expect.sort();
    assert_eq!(names, expect);
    let raw = succeed("skopeo", ["inspect", "--raw", &format!("oci:{layout}:{}", expect[0])]);
    assert_eq!(raw.into_bytes(), manifest(&bench.source.address, "demo/app", "1.0").body);
    // umoci needs a single manifest with OCI media types.
    bench.export(&["demo/app:1.0"], "oci-layout", "flat", &["--arch", "arm64", "--index", "flatten"], 0);
    let image = format!("{}:{}", bench.text("flat"), bench.name("demo/app:1.0"));
    let bundle = bench.text("bundle");
    succeed("umoci", ["unpack", "--rootless", "--image", &image, &bundle]);
    let platform = fs::read_to_string(Path::new(&bundle).join("rootfs/etc/platform")).unwrap();
    assert!(platform.starts_with("arm64/linux"), "{platform}");
    assert!(!bench.path("layout/.saver").exists());
}

/// The files of an exported directory or tar, by path.
fn exported_files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    if path.is_file() {
        return members(&fs::read(path).unwrap());
    }
    super::support::tree::files(path).into_iter().collect()
}

/// How many manifests an export must list and contain.
struct Case {
    name: String,
    /// Entries of the image's index; `None` for a single manifest.
    listed: Option<usize>,
    contained: usize,
}

/// Asserts how many manifests an export of the attested sample lists and contains, and that their blobs exist.
fn check_layout(case: &Case, files: &BTreeMap<String, Vec<u8>>) {
    let blob = |digest: &Digest| files.get(&format!("blobs/sha256/{}", digest.hex()));
    let listing: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let entries = listing["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{}", case.name);
    let root: Digest = entries[0]["digest"].as_str().unwrap().parse().unwrap();
    let parse = |digest: &Digest| {
        let bytes = blob(digest)?.clone();
        let raw = RawManifest::new(bytes.into(), None).unwrap();
        assert_eq!(raw.digest, *digest, "{}", case.name);
        Some(raw.parse().unwrap())
    };
    let (listed, contained) = match parse(&root).unwrap() {
        Manifest::Index(index) => {
            let children: Vec<Manifest> =
                index.manifests.iter().filter_map(|entry| parse(&entry.digest)).collect();
            (Some(index.manifests.len()), children)
        }
        image => (None, vec![image]),
    };
    assert_eq!((listed, contained.len()), (case.listed, case.contained), "{}", case.name);
    for manifest in contained {
        let Manifest::Image(image) = manifest else { panic!("{}: a nested index", case.name) };
        assert!(image.blobs().all(|part| blob(&part.digest).is_some()), "{}", case.name);
    }
}

fn check_docker_archive(case: &Case, files: &BTreeMap<String, Vec<u8>>) {
    let listing: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let items = listing.as_array().unwrap();
    assert_eq!(items.len(), case.contained, "{}", case.name);
    let layers = items[0]["Layers"].as_array().unwrap().iter();
    for name in layers.chain([&items[0]["Config"]]) {
        assert!(files.contains_key(name.as_str().unwrap()), "{}: {name}", case.name);
    }
}

#[tokio::test]
async fn export_contains_what_its_index_lists() {
    let dir = Scratch::new();
    let mut number = 0;
    for format in [Format::OciArchive, Format::OciLayout, Format::DockerArchive] {
        for (index, arch, attestations, listed, contained) in [
            (IndexMode::Keep, "all", true, Some(4), 4),
            (IndexMode::Keep, "all", false, Some(4), 2),
            (IndexMode::Keep, "amd64", true, Some(4), 2),
            (IndexMode::Keep, "amd64", false, Some(4), 1),
            (IndexMode::Prune, "all", true, Some(4), 4),
            (IndexMode::Prune, "all", false, Some(2), 2),
            (IndexMode::Prune, "amd64", true, Some(2), 2),
            (IndexMode::Prune, "amd64", false, Some(1), 1),
            (IndexMode::Flatten, "amd64", true, None, 1),
            (IndexMode::Flatten, "amd64", false, None, 1),
        ] {
            if format == Format::DockerArchive && index != IndexMode::Flatten {
                continue;
            }
            let name = format!("{format:?} {index:?} {arch} attestations: {attestations}");
            let case = Case { name, listed, contained };
            let from = ExportFrom::Tree(samples(), None);
            let mut options = ExportOptions::new(format, from);
            options.transfer.index = index;
            options.transfer.attestations = attestations;
            options.transfer.platforms = PlatformSet::parse(arch, "linux").unwrap();
            number += 1;
            let path = dir.path().join(number.to_string());
            let image = SaveImage::from(Reference::parse("any.io/demo/attested:1.0").unwrap());
            let to = ExportTo::Path(path.clone());
            let exported = export([image], to, options).await.unwrap();
            assert!(exported.report.is_success(), "{}: {:?}", case.name, exported.report.images[0].error);
            let files = exported_files(&path);
            match format {
                Format::DockerArchive => check_docker_archive(&case, &files),
                Format::OciLayout | Format::OciArchive => check_layout(&case, &files),
            }
        }
    }
}

#[test]
fn attestations_survive_export_and_import() {
    let bench = Bench::new();
    let image = bench.name("demo/attested:1.0");
    bench.home.save(&bench.path("tree"), "all", std::slice::from_ref(&image), &["--attestations"], 0);
    let source = Digest::of(&manifest(&bench.source.address, "demo/attested", "1.0").body);
    for (format, from) in [
        ("oci-archive", &[][..]),
        ("oci-layout", &[][..]),
        ("oci-archive", &["--from-registry"]),
        ("oci-layout", &["--from-registry"]),
    ] {
        let to = format!("{format}{}", from.len());
        bench.export(&["demo/attested:1.0"], format, &to, from, 0);
        let copy = bench.text(&format!("{to}-tree"));
        run(&mut bench.home.saver(["import", &bench.text(&to), "--dir", &copy])).expect(0);
        let registry = Registry::serve(Path::new(&copy));
        let root = manifest(&registry.address, "demo/attested", "1.0");
        assert_eq!(Digest::of(&root.body), source, "{to}");
        let Manifest::Index(index) = parse(&root) else { panic!("no index") };
        for entry in index.manifests {
            let child = manifest(&registry.address, "demo/attested", &entry.digest.to_string());
            assert_eq!(Digest::of(&child.body), entry.digest, "{to}");
        }
    }
}

#[test]
fn layout_named_by_tag_is_read_by_skopeo_and_umoci() {
    let bench = Bench::new();
    let images = ["demo/app:1.0", "demo/tool:2.1"];
    bench.export(&images, "oci-layout", "layout", &["--ref-name", "tag"], 0);
    let layout = bench.text("layout");
    let raw = succeed("skopeo", ["inspect", "--raw", &format!("oci:{layout}:1.0")]);
    assert_eq!(raw.into_bytes(), manifest(&bench.source.address, "demo/app", "1.0").body);
    assert_eq!(succeed("umoci", ["ls", "--layout", &layout]).lines().collect::<Vec<_>>(), ["1.0", "2.1"]);
    // The full name is still there for saver and containerd.
    run(&mut bench.home.saver(["import", &layout, "--dir", &bench.text("back")])).expect(0);
    for images in [&["demo/app:1.0", "demo/zstd:1.0"][..], &["demo/zstd:1.0"]] {
        let code = if images.len() > 1 { 2 } else { 1 };
        let ran = bench.export(images, "oci-layout", "layout", &["--ref-name", "tag"], code);
        assert!(ran.stderr.contains("--ref-name full"), "{}", ran.stderr);
    }
}

#[test]
fn docker_media_types_are_replaced_on_request() {
    let bench = Bench::new();
    let more = ["--arch", "arm64", "--index", "flatten", "--media-types", "oci"];
    for format in ["oci-layout", "oci-archive"] {
        bench.export(&["demo/tool:2.1"], format, format, &more, 0);
    }
    let name = bench.name("demo/tool:2.1");
    let unpack = format!("{}:{name}", bench.text("oci-layout"));
    let bundle = bench.text("bundle");
    succeed("umoci", ["unpack", "--rootless", "--image", &unpack, &bundle]);
    let platform = fs::read_to_string(Path::new(&bundle).join("rootfs/etc/platform")).unwrap();
    assert!(platform.starts_with("arm64/linux"), "{platform}");
    let raw = |transport: &str, path: &str| {
        succeed("skopeo", ["inspect", "--raw", &format!("{transport}:{}:{name}", bench.text(path))])
    };
    let image = raw("oci", "oci-layout");
    assert!(!image.contains("vnd.docker"), "{image}");
    assert_eq!(raw("oci-archive", "oci-archive"), image);
    let index = fs::read(bench.path("oci-layout/index.json")).unwrap();
    bench.export(&["demo/tool:2.1"], "oci-layout", "oci-layout", &more, 0);
    assert_eq!(fs::read(bench.path("oci-layout/index.json")).unwrap(), index);
}

#[test]
fn export_of_same_images_is_byte_identical() {
    let bench = Bench::new();
    let images = ["demo/app:1.0", "demo/zstd:1.0"];
    let other = Bench::new();
    for (format, more) in [("docker-archive", &["--arch", "amd64"][..]), ("oci-archive", &[])] {
        bench.export(&images, format, "first.tar", more, 0);
        bench.export(&images, format, "second.tar", more, 0);
        let first = fs::read(bench.path("first.tar")).unwrap();
        assert!(first == fs::read(bench.path("second.tar")).unwrap(), "{format}");
        // From another tree with other names for the same content, only the names differ.
        other.export(&images, format, "other.tar", more, 0);
        let blobs = |tar: &[u8]| -> BTreeMap<String, Vec<u8>> {
            let is_listing = |name: &str| ["manifest.json", "repositories", "index.json"].contains(&name);
            members(tar).into_iter().filter(|(name, _)| !is_listing(name)).collect()
        };
        assert_eq!(blobs(&first), blobs(&fs::read(other.path("other.tar")).unwrap()));
        // The same directly from the registry.
        let flags = [more, &["--from-registry"]].concat();
        bench.export(&images, format, "fetched.tar", &flags, 0);
        assert!(first == fs::read(bench.path("fetched.tar")).unwrap(), "{format} from the registry");
    }
    assert_eq!(bench.outputs(), ["fetched.tar", "first.tar", "second.tar"]);
}

#[test]
fn damaged_image_fails_and_others_are_exported() {
    let bench = Bench::new();
    let Manifest::Image(single) = parse(&manifest(&bench.source.address, "demo/single", "1.0")) else {
        panic!("no image")
    };
    let hex = single.layers.last().unwrap().digest.hex();
    let victim = bench.path("tree/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(&hex).join("data");
    let mut bytes = fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&victim, &bytes).unwrap();
    for (format, more) in [("docker-archive", &["--arch", "amd64"][..]), ("oci-archive", &[])] {
        let ran = bench.export(&["demo/single:1.0", "demo/app:1.0", "no/such:1"], format, "a.tar", more, 1);
        for word in ["demo/single:1.0", "no/such:1", &hex] {
            assert!(ran.stderr.contains(word), "{}", ran.stderr);
        }
        let read = members(&fs::read(bench.path("a.tar")).unwrap());
        assert!(read.keys().all(|name| !name.contains(&hex)));
        fs::remove_file(bench.path("a.tar")).unwrap();
        bench.export(&["demo/single:1.0"], format, "a.tar", more, 1);
        assert_eq!(bench.outputs(), Vec::<String>::new(), "nothing is left of an archive that never was");
    }
    // In a layout each image is written on its own.
    bench.export(&["demo/single:1.0", "demo/app:1.0"], "oci-layout", "layout", &[], 1);
    assert!(!bench.path("layout/blobs/sha256").join(&hex).exists());
    // A truncated blob is found by its size.
    fs::write(&victim, &bytes[..100]).unwrap();
    let ran = bench.export(&["demo/single:1.0"], "oci-archive", "a.tar", &[], 1);
    assert!(ran.stderr.contains("100 bytes"), "{}", ran.stderr);
}

/// Adds an image with an incompressible layer to the tree; returns the image's name.
pub(super) fn large(bench: &Bench, megabytes: usize) -> String {
    let mut tar = tar::Builder::new(Vec::new());
    let mut random = fastrand::Rng::with_seed(7);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(megabytes << 20).collect();
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "content", &content[..]).unwrap();
    let layer = tar.into_inner().unwrap();
    let small = tar::Builder::new(Vec::new()).into_inner().unwrap();
    let diff_ids = [&layer, &small].map(|layer| Digest::of(layer).to_string());
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids }
    });
    let listing = serde_json::json!([
        { "Config": "c.json", "RepoTags": ["big.io/a/big:1"], "Layers": ["l.tar", "s.tar"] }
    ]);
    let mut archive = tar::Builder::new(fs::File::create(bench.path("big.tar")).unwrap());
    for (name, content) in [
        ("c.json", config.to_string().into_bytes()),
        ("manifest.json", listing.to_string().into_bytes()),
        ("l.tar", layer),
        ("s.tar", small),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, &content[..]).unwrap();
    }
    archive.finish().unwrap();
    let tree = bench.text("tree");
    run(&mut bench.home.saver(["import", &bench.text("big.tar"), "--dir", &tree])).expect(0);
    fs::remove_file(bench.path("big.tar")).unwrap();
    "big.io/a/big:1".to_owned()
}

#[test]
fn killed_export_leaves_no_partial_archive() {
    let bench = Bench::new();
    let image = large(&bench, 24);
    let tree = bench.text("tree");
    let command = || {
        let mut command = bench.home.saver(["export", "--format", "docker-archive", "--dir", &tree, &image]);
        command.arg("--output").arg(bench.path("a.tar"));
        command
    };
    let begun = bench.path(".a.tar.saver-tmp");
    for wait in [100, 50, 20, 5, 0] {
        let _ = fs::remove_file(&begun);
        let mut victim = Victim::start(&mut command());
        while !begun.exists() && victim.is_running() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(wait));
        victim.kill();
        if let Ok(whole) = fs::read(bench.path("a.tar")) {
            assert_eq!(members(&whole).len(), 5, "a file under its name is whole");
        }
    }
    assert!(begun.exists(), "the last run was killed while it wrote");
    run(&mut command()).expect(0);
    assert_eq!(bench.outputs(), ["a.tar"], "what a killed run left is taken away by the next");
}

#[test]
fn export_to_full_disk_fails_and_leaves_no_archive() {
    let bench = Bench::new();
    let image = large(&bench, 12);
    apart(move || {
        let disk = Scratch::new();
        if !mount_small(disk.path(), "size=8m") {
            return;
        }
        let tree = bench.text("tree");
        for format in ["docker-archive", "oci-archive", "oci-layout"] {
            let mut command = bench.home.saver(["export", "--format", format, "--dir", &tree, &image]);
            let ran = run(command.arg("--output").arg(disk.path().join("out")));
            assert!(matches!(ran.code, Some(1 | 3)), "{format}: {:?} {}", ran.code, ran.stderr);
            assert!(ran.stderr.contains("room") || ran.stderr.contains("space"), "{format}: {}", ran.stderr);
            assert!(!disk.path().join("out").is_file());
        }
    });
}

#[test]
fn export_from_registry_resumes_downloaded_content() {
    let bench = Bench::new();
    let good = bench.name("demo/app:1.0");
    let mut command =
        bench.command(&["demo/app:1.0", "no/such:1"], "oci-archive", "a.tar", &["--from-registry"]);
    let ran = run(&mut command).expect(1);
    assert!(ran.stderr.contains("is kept in"), "{}", ran.stderr);
    let ran = run(&mut bench.command(&["no/such:1"], "oci-archive", "b.tar", &["--from-registry"])).expect(1);
    assert!(!ran.stderr.contains("is kept in"), "nothing was fetched: {}", ran.stderr);
    assert_eq!(bench.outputs(), [".a.tar.saver-fetched", "a.tar"]);
    let report = bench.text("report.json");
    let mut again =
        bench.command(&["demo/app:1.0"], "oci-archive", "a.tar", &["--from-registry", "--report", &report]);
    run(&mut again).expect(0);
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(
        (&report["images"][0]["reference"], &report["bytes_fetched"]),
        (&Value::from(good), &Value::from(0))
    );
    assert_eq!(bench.outputs(), ["a.tar", "report.json"]);
}

/// Each export has committed blobs that the other waits for, which must not deadlock.
#[test]
fn concurrent_exports_into_one_layout_both_finish() {
    let bench = Bench::new();
    let big = large(&bench, 6);
    let single = bench.name("demo/single:1.0");
    for round in 0..6 {
        let layout = bench.path(&format!("layout{round}"));
        let started = Instant::now();
        // In opposite orders, so that each has what the other needs next.
        let mut both = [[&big, &single], [&single, &big]].map(|images| {
            let mut command = bench.home.saver(["export", "--format", "oci-layout", "--output"]);
            command.arg(&layout).args(images).arg("--dir").arg(bench.path("tree"));
            Victim::start(&mut command)
        });
        while both.iter_mut().any(Victim::is_running) {
            assert!(started.elapsed() < Duration::from_secs(20), "round {round}: they wait for each other");
            std::thread::sleep(Duration::from_millis(20));
        }
        for saver in both {
            saver.finish().expect(0);
        }
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn invalid_export_arguments_are_refused_early() {
    let bench = Bench::new();
    let (tree, file) = (bench.text("tree"), bench.text("a.tar"));
    for (arguments, word) in [
        (vec!["--dir", &tree, "-o", &file, "--format", "oci-archive"], "no images to export"),
        (vec!["x:1", "-o", &file, "--format", "oci-archive"], "--from-registry"),
        (vec!["x:1", "--dir", &tree, "--format", "oci-archive"], "--output"),
        (vec!["x:1", "--dir", &tree, "-o", &file], "--format"),
        (vec!["x:1", "--dir", &tree, "-o", "-", "--format", "oci-layout"], "directory"),
        (vec!["x:1", "--dir", &tree, "-o", &tree, "--format", "oci-layout"], "not an OCI image layout"),
        (vec!["x:1", "--dir", &tree, "-o", &tree, "--format", "oci-archive"], "a directory"),
    ] {
        let ran = run(bench.home.saver(["export"]).args(&arguments)).expect(2);
        assert!(ran.stderr.contains(word), "{arguments:?}: {}", ran.stderr);
    }
    assert_eq!(bench.outputs(), Vec::<String>::new());
}
