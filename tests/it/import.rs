//! `saver import` with the real binary: archives and layouts of skopeo, podman, buildah, umoci and others, and
//! hostile ones.

use crate::support::scratch::Scratch;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use saver::oci::{Digest, Manifest};
use serde_json::{Value, json};

use super::interop::{manifest, parse, with_storage};
use super::support::peers::registry::Registry;
use super::support::peers::{run as run_peer, samples, succeed};
use super::support::program::{Home, Ran, finish, run};
use super::support::tree::files;

/// A registry with the samples, and a directory for archives and a tree.
struct Bench {
    source: Registry,
    home: Home,
    dir: Scratch,
}

impl Bench {
    fn new() -> Self {
        Self { source: Registry::serve(&samples()), home: Home::new(), dir: Scratch::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn skopeo(&self, image: &str, to: &str, more: &[&str]) {
        let from = format!("docker://{}/{image}", self.source.address);
        let arguments = ["copy", "-q", "--src-tls-verify=false"].iter().chain(more);
        succeed("skopeo", arguments.copied().chain([from.as_str(), to]));
    }

    fn import(&self, path: &str, more: &[&str], expected: i32) -> (Ran, Value) {
        let report = self.home.path("report.json");
        let _ = fs::remove_file(&report);
        let mut command = self.home.saver(["import", "--referrers", "all", "--progress", "none", "--report"]);
        command.arg(&report).arg("--dir").arg(self.path("tree")).arg(self.path(path)).args(more);
        let ran = run(&mut command).expect(expected);
        let json = fs::read(&report).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
        (ran, json)
    }

    fn verify(&self) {
        run(&mut self.home.saver(["verify", "--deep", "--dir", &self.text("tree")])).expect(0);
    }
}

fn names(report: &Value) -> Vec<String> {
    let rows = report["images"].as_array().unwrap().iter();
    rows.map(|row| format!("{} {}", row["reference"].as_str().unwrap(), row["status"].as_str().unwrap()))
        .collect()
}

fn config(registry: &str, repository: &str, reference: &str) -> Digest {
    match parse(&manifest(registry, repository, reference)) {
        Manifest::Image(image) => image.config.digest,
        Manifest::Index(index) => config(registry, repository, &index.manifests[0].digest.to_string()),
    }
}

#[test]
fn archives_of_skopeo_podman_and_buildah_are_imported() {
    let bench = Bench::new();
    let at = |name: &str| bench.text(name);
    bench.skopeo("demo/app:1.0", &format!("docker-archive:{}:skopeo/app:1.0", at("docker.tar")), &[]);
    bench.skopeo("demo/app:1.0", &format!("oci-archive:{}:q.io/skopeo/oci:1.0", at("oci.tar")), &[]);
    bench.skopeo("demo/zstd:1.0", &format!("oci-archive:{}:q.io/skopeo/zstd:1.0", at("zstd.tar")), &[]);
    let storage = bench.path("storage");
    let image = |name: &str| format!("{}/{name}", bench.source.address);
    let (app, single) = (image("demo/app:1.0"), image("demo/single:1.0"));
    for name in [&app, &single] {
        with_storage("podman", &storage, &["pull", "-q", "--tls-verify=false", name]);
    }
    with_storage("podman", &storage, &["save", "-q", "-m", "-o", &at("podman.tar"), &app, &single]);
    with_storage(
        "podman",
        &storage,
        &["save", "-q", "--format", "oci-archive", "-o", &at("podman-oci.tar"), &app],
    );
    with_storage(
        "buildah",
        &storage,
        &["push", "-q", &app, &format!("docker-archive:{}:built/app:1", at("built.tar"))],
    );
    succeed("gzip", ["-k", &at("built.tar")]);
    fs::remove_file(bench.path("built.tar")).unwrap();
    for (file, expect) in [
        ("docker.tar", vec!["docker.io/skopeo/app:1.0 imported".to_owned()]),
        ("oci.tar", vec!["q.io/skopeo/oci:1.0 imported".to_owned()]),
        ("zstd.tar", vec!["q.io/skopeo/zstd:1.0 imported".to_owned()]),
        ("podman.tar", vec![format!("{app} imported"), format!("{single} imported")]),
        ("podman-oci.tar", vec![format!("{app} imported")]),
        ("built.tar.gz", vec!["docker.io/built/app:1 imported".to_owned(), format!("{app} imported")]),
    ] {
        let (_, report) = bench.import(file, &[], 0);
        assert_eq!(names(&report), expect, "{file}");
        let (_, report) = bench.import(file, &[], 0);
        assert!(names(&report).iter().all(|row| row.ends_with(" unchanged")), "{file}: {report}");
    }
    bench.verify();
    let copy = Registry::serve(&bench.path("tree"));
    let expect = config(&bench.source.address, "demo/app", "1.0");
    for repository in ["skopeo/app", "demo/app"] {
        assert_eq!(config(&copy.address, repository, "1.0"), expect, "{repository}");
    }
    let bytes = |registry: &str, repository: &str| manifest(registry, repository, "1.0").body;
    assert_eq!(bytes(&copy.address, "skopeo/zstd"), bytes(&bench.source.address, "demo/zstd"));
    // Imported images can be pulled from the tree.
    for name in ["skopeo/app:1.0", "built/app:1", "demo/single:1.0"] {
        let name = format!("{}/{name}", copy.address);
        with_storage("podman", &bench.path("other"), &["pull", "-q", "--tls-verify=false", &name]);
    }
}

#[test]
fn layouts_of_skopeo_and_umoci_are_imported_with_a_name() {
    let bench = Bench::new();
    let layout = bench.text("layout");
    bench.skopeo("demo/app:1.0", &format!("oci:{layout}:2.1"), &["--all"]);
    succeed("umoci", ["new", "--image", &format!("{layout}:empty")]);
    let (ran, _) = bench.import("layout", &[], 2);
    for word in ["2.1 (", "empty (", "--as"] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    let (ran, _) = bench.import("layout", &["--as", "q.io/team/tool:9"], 2);
    assert!(ran.stderr.contains("2 images"), "{}", ran.stderr);
    let (_, report) = bench.import("layout", &["--as", "q.io/team/tool", "--names", "domain"], 0);
    assert_eq!(names(&report), ["q.io/team/tool:2.1 imported", "q.io/team/tool:empty imported"]);
    let copy = Registry::serve(&bench.path("tree"));
    let theirs = manifest(&bench.source.address, "demo/app", "1.0");
    assert_eq!(manifest(&copy.address, "q.io/team/tool", "2.1").body, theirs.body);
    bench.verify();
}

/// A layout as `docker save --platform` and `oras cp -r` write them: one entry with a name, and entries without one
/// that refer to it.
struct ReferrerLayout {
    image: Value,
    attestation: Value,
    referrer: Value,
}

impl ReferrerLayout {
    fn create(bench: &Bench, name: &str) -> Self {
        bench.skopeo("demo/attested:1.0", &format!("oci:{}:x", bench.text(name)), &["--all"]);
        let Manifest::Index(index) = parse(&manifest(&bench.source.address, "demo/attested", "1.0")) else {
            panic!("no index")
        };
        let image = &index.manifests[0];
        let attestation = index.manifests.iter().find(|entry| entry.attestation_of() == Some(image.digest));
        let empty = Digest::of(b"{}");
        let config = json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.to_string(), "size": 2 });
        let referrer = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.example.sbom", "config": config.clone(), "layers": [config],
            "subject": { "mediaType": image.media_type, "digest": image.digest.to_string(), "size": image.size },
        });
        let referrer = referrer.to_string().into_bytes();
        let blobs = bench.path(name).join("blobs/sha256");
        fs::write(blobs.join(empty.hex()), b"{}").unwrap();
        fs::write(blobs.join(Digest::of(&referrer).hex()), &referrer).unwrap();
        let entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(&referrer).to_string(), "size": referrer.len(),
            "artifactType": "application/vnd.example.sbom",
        });
        Self { image: json!(image), attestation: json!(attestation.unwrap()), referrer: entry }
    }

    fn digest(entry: &Value) -> &str {
        entry["digest"].as_str().unwrap()
    }

    /// Writes `index.json`, with `annotations` on the image.
    fn list(&self, bench: &Bench, name: &str, annotations: &Value, others: &[&Value]) {
        let mut image = self.image.clone();
        image["annotations"] = annotations.clone();
        let entries: Vec<&Value> = others.iter().copied().chain([&image]).collect();
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        fs::write(bench.path(name).join("index.json"), index.to_string()).unwrap();
    }
}

#[test]
fn unnamed_attestations_and_referrers_are_imported_by_digest() {
    let bench = Bench::new();
    let layout = ReferrerLayout::create(&bench, "layout");
    let docker =
        json!({ "io.containerd.image.name": "q.io/team/app:1", "org.opencontainers.image.ref.name": "1" });
    let oras = json!({ "org.opencontainers.image.ref.name": "1" });
    for (annotations, others, more) in [
        (&docker, vec![&layout.attestation], &["--arch", "amd64"][..]),
        (&docker, vec![&layout.attestation, &layout.referrer], &[]),
        (&oras, vec![&layout.referrer], &["--as", "q.io/team/app"]),
        (&oras, vec![&layout.referrer], &["--as", "q.io/team/app:1"]),
        (&json!({}), vec![&layout.referrer], &["--as", "q.io/team/app:1"]),
    ] {
        layout.list(&bench, "layout", annotations, &others);
        succeed("tar", ["-C", &bench.text("layout"), "-cf", &bench.text("layout.tar"), "."]);
        for source in ["layout", "layout.tar"] {
            let (_, report) = bench.import(source, more, 0);
            // A referrer belongs to its image, and is no row of its own.
            let attestations = others.iter().filter(|entry| **entry != &layout.referrer);
            let digests = attestations.map(|entry| ReferrerLayout::digest(entry));
            let expected: Vec<String> = std::iter::once("q.io/team/app:1 imported".to_owned())
                .chain(digests.map(|digest| format!("q.io/team/app@{digest} imported")))
                .collect();
            assert_eq!(names(&report), expected, "{annotations} {more:?}");
            bench.verify();
            let copy = Registry::serve(&bench.path("tree"));
            for entry in &others {
                let digest = ReferrerLayout::digest(entry);
                let body = manifest(&copy.address, "team/app", digest).body;
                assert_eq!(Digest::of(&body).to_string(), digest);
            }
            drop(copy);
            fs::remove_dir_all(bench.path("tree")).unwrap();
        }
    }
}

#[test]
fn archive_with_unsupported_compression_is_named() {
    let bench = Bench::new();
    bench.skopeo("demo/single:1.0", &format!("docker-archive:{}:a/b:1", bench.text("a.tar")), &[]);
    for (program, extension, format) in [("xz", "xz", "xz"), ("bzip2", "bz2", "bzip2")] {
        succeed(program, ["-k", &bench.text("a.tar")]);
        let file = format!("a.tar.{extension}");
        let (ran, _) = bench.import(&file, &[], 2);
        assert!(ran.stderr.contains(&format!("{format} archives are not supported")), "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("{program} -dc")), "{}", ran.stderr);
        let tree = bench.text("tree");
        let mut command = bench.home.saver(["import", "--dir", &tree, "-"]);
        let ran = run(command.stdin(fs::File::open(bench.path(&file)).unwrap())).expect(2);
        assert!(ran.stderr.contains(&format!("{format} archives are not supported")), "{}", ran.stderr);
    }
}

#[test]
fn missing_source_creates_no_directory() {
    let bench = Bench::new();
    fs::create_dir(bench.path("empty")).unwrap();
    for path in ["nope.tar", "empty"] {
        bench.import(path, &[], 2);
        assert!(!bench.path("tree").exists(), "{path}");
    }
}

#[test]
fn failed_import_leaves_no_new_directory() {
    let bench = Bench::new();
    let tree = bench.text("tree");
    let import = |code: i32| {
        let mut command = bench.home.saver(["import", "--dir", &tree, "-"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"no archive").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    };
    import(2);
    assert!(!bench.path("tree").exists());
    // One that was there before stays.
    fs::create_dir(bench.path("tree")).unwrap();
    import(2);
    assert!(bench.path("tree").exists());
}

#[test]
fn damaged_archive_exits_with_invalid_input() {
    let bench = Bench::new();
    bench.skopeo("demo/single:1.0", &format!("docker-archive:{}:a/b:1", bench.text("whole.tar")), &[]);
    let whole = fs::read(bench.path("whole.tar")).unwrap();
    let packed = gzip(&whole);
    fs::create_dir_all(bench.path("layout")).unwrap();
    fs::write(bench.path("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(bench.path("layout/index.json"), "{").unwrap();
    for (name, content) in [
        ("cut.tar", &whole[..whole.len() / 2]),
        ("head.tar", &whole[..700]),
        ("text.tar", &[b'x'; 5000][..]),
        ("short.tar", b"no"),
        ("empty.tar", b""),
        ("cut.tar.gz", &packed[..packed.len() / 2]),
        ("text.tar.gz", &gzip(b"no archive")),
        ("layout", b""),
    ] {
        if name != "layout" {
            fs::write(bench.path(name), content).unwrap();
        }
        let (ran, _) = bench.import(name, &[], 2);
        assert!(ran.stderr.contains(name), "{name}: {}", ran.stderr);
        // A compressed archive is spooled into the directory, so that is created.
        assert!(name.ends_with(".gz") || name == "layout" || !bench.path("tree").exists(), "{name}");
        let _ = fs::remove_dir_all(bench.path("tree"));
    }
}

#[test]
fn archive_is_imported_from_stdin() {
    let bench = Bench::new();
    bench.skopeo("demo/app:1.0", &format!("docker-archive:{}:demo/app:1.0", bench.text("app.tar")), &[]);
    let tree = bench.text("tree");
    let mut command = bench.home.saver(["import", "--dir", &tree, "-", "--as", "a.io/b:1"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let archive = fs::read(bench.path("app.tar")).unwrap();
    child.stdin.take().unwrap().write_all(&zstd::encode_all(&archive[..], 1).unwrap()).unwrap();
    finish(child).expect(0);
    bench.verify();
    // The spooled archive is removed.
    let own: Vec<_> = fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(own.len(), 2, "{own:?}");
}

/// A handmade docker-archive.
struct Handmade {
    members: Vec<(String, Vec<u8>)>,
    links: Vec<(String, String)>,
}

impl Handmade {
    /// An archive of one image. Each layer is a file name in the archive, the file's content, and the uncompressed tar.
    fn new(layers: &[(&str, Vec<u8>, &[u8])]) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|(_, _, tar)| Digest::of(tar).to_string()).collect();
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let names: Vec<&str> = layers.iter().map(|(name, ..)| *name).collect();
        let listing =
            json!([{ "Config": "config.json", "RepoTags": ["made.io/by/hand:1"], "Layers": names }]);
        let mut members: Vec<(String, Vec<u8>)> =
            layers.iter().map(|(name, content, _)| ((*name).to_owned(), content.clone())).collect();
        members.push(("config.json".into(), config.to_string().into_bytes()));
        members.push(("manifest.json".into(), listing.to_string().into_bytes()));
        Self { members, links: Vec::new() }
    }

    fn write(&self, path: &Path) {
        let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
        for (name, target) in &self.links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, name, target).unwrap();
        }
        for (name, content) in &self.members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &content[..]).unwrap();
        }
        tar.finish().unwrap();
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn layer(word: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(word.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", word.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn null_fields_of_configuration_count_as_absent() {
    let bench = Bench::new();
    let mut made = Handmade::new(&[]);
    let config =
        json!({ "architecture": "amd64", "os": "linux", "config": null, "rootfs": { "diff_ids": null } });
    made.members[0].1 = config.to_string().into_bytes();
    made.write(&bench.path("made.tar"));
    let (_, report) = bench.import("made.tar", &[], 0);
    assert_eq!(names(&report), ["made.io/by/hand:1 imported"]);
    bench.verify();
}

#[test]
fn layers_of_any_compression_and_links_are_imported() {
    let bench = Bench::new();
    let (plain, packed, small) = (layer("plain"), layer("packed"), layer("small"));
    let mut made = Handmade::new(&[
        ("sha256:0000.tar.gz", gzip(&packed), &packed),
        ("one/layer.tar", plain.clone(), &plain),
        ("small.zst", zstd::encode_all(&small[..], 1).unwrap(), &small),
    ]);
    made.links.push(("two/layer.tar".into(), "../one/layer.tar".into()));
    made.write(&bench.path("made.tar"));
    let (_, report) = bench.import("made.tar", &[], 0);
    assert_eq!(names(&report), ["made.io/by/hand:1 imported"]);
    bench.verify();
    let copy = Registry::serve(&bench.path("tree"));
    let Manifest::Image(image) = parse(&manifest(&copy.address, "by/hand", "1")) else { panic!("no image") };
    let sizes: Vec<u64> = image.layers.iter().map(|layer| layer.size).collect();
    assert_eq!(sizes[1], plain.len() as u64);
    assert_eq!(image.layers[1].digest, Digest::of(&plain));
    assert_eq!(image.layers[0].digest, Digest::of(&gzip(&packed)));
    let target = format!("oci:{}:x", bench.text("out"));
    let from = format!("docker://{}/by/hand:1", copy.address);
    succeed("skopeo", ["copy", "-q", "--src-tls-verify=false", &from, &target]);
}

#[test]
fn hostile_archive_imports_nothing() {
    let bench = Bench::new();
    let (good, other) = (layer("good"), layer("other"));
    let one = |content: Vec<u8>, tar: &[u8]| Handmade::new(&[("layer.tar", content, tar)]);
    let honest = || one(good.clone(), &good);
    let changed = |change: &dyn Fn(&mut Handmade)| {
        let mut made = honest();
        change(&mut made);
        made
    };
    let listing = |text: &'static str| {
        changed(&move |made| made.members.last_mut().unwrap().1 = text.as_bytes().to_vec())
    };
    let link = |target: &'static str| {
        changed(&move |made| {
            made.members.remove(0);
            made.links.push(("layer.tar".into(), target.into()));
        })
    };
    fs::write(bench.path("secret"), b"outside").unwrap();
    for (number, (made, word, code)) in [
        (one(other.clone(), &good), "", 1),
        (one(gzip(&other), &good), "the configuration lists", 1),
        (one(gzip(&good)[..40].to_vec(), &good), "cannot decompress", 1),
        (link("../secret"), "not in the archive", 1),
        (link("/etc/passwd"), "not in the archive", 1),
        (link("layer.tar"), "a cycle", 1),
        (changed(&|made| made.members.push(("layer.tar".into(), vec![1; 10]))), "several members", 1),
        (changed(&|made| made.members.push(("manifest.json".into(), b"[]".to_vec()))), "several members", 2),
        (listing("[]"), "no images", 2),
        (listing("{}"), "manifest.json", 2),
        (listing(r#"[{"Config":"../secret","RepoTags":["a/b:1"],"Layers":[]}]"#), "not in the archive", 1),
        (listing(r#"[{"Config":"config.json","RepoTags":["a/b:1"],"Layers":[]}]"#), "lists 0 layers", 1),
        (
            listing(r#"[{"Config":"config.json","RepoTags":["../../x"],"Layers":["layer.tar"]}]"#),
            "without a full name",
            2,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        made.write(&bench.path("bad.tar"));
        let (ran, _) = bench.import("bad.tar", &[], code);
        assert!(ran.stderr.contains(word), "{number}: {}", ran.stderr);
        let tree = files(&bench.path("tree"));
        assert!(
            tree.keys().all(|path| !path.starts_with("docker/registry/v2/repositories")),
            "{number}: {:?}",
            tree.keys()
        );
    }
    // A name with the digest of other content.
    let lying = format!("a/b@sha256:{}", "0".repeat(64));
    let text = json!([{ "Config": "config.json", "RepoTags": [&lying, "a/c:1"], "Layers": ["layer.tar"] }]);
    changed(&|made| made.members.last_mut().unwrap().1 = text.to_string().into_bytes())
        .write(&bench.path("lying.tar"));
    let (ran, report) = bench.import("lying.tar", &[], 1);
    assert!(ran.stderr.contains("the name says sha256:0000"), "{}", ran.stderr);
    assert_eq!(names(&report), [format!("docker.io/{lying} failed"), "docker.io/a/c:1 imported".into()]);
    honest().write(&bench.path("whole.tar"));
    let whole = fs::read(bench.path("whole.tar")).unwrap();
    for length in [1, 511, 700, 1500, whole.len() / 2] {
        fs::write(bench.path("cut.tar"), &whole[..length]).unwrap();
        let (ran, _) = bench.import("cut.tar", &[], 2);
        assert!(ran.stderr.contains("cut.tar"), "{length}: {}", ran.stderr);
    }
    bench.import("whole.tar", &[], 0);
    bench.verify();
}

#[test]
fn damaged_image_in_oci_archive_fails_alone() {
    let bench = Bench::new();
    let unpacked = bench.path("unpacked");
    bench.skopeo("demo/app:1.0", &format!("oci:{}:a.io/x:1", unpacked.display()), &[]);
    bench.skopeo("demo/single:1.0", &format!("oci:{}:a.io/y:1", unpacked.display()), &[]);
    let source = &bench.source.address;
    let Manifest::Image(single) = parse(&manifest(source, "demo/single", "1.0")) else { panic!("no image") };
    let victim = unpacked.join("blobs/sha256").join(single.layers.last().unwrap().digest.hex());
    let mut bytes = fs::read(&victim).unwrap();
    bytes[20] ^= 1;
    fs::write(&victim, bytes).unwrap();
    let archive = bench.text("bad.tar");
    succeed("tar", ["-C", unpacked.to_str().unwrap(), "-cf", &archive, "."]);
    for path in ["bad.tar", "unpacked"] {
        let (ran, report) = bench.import(path, &[], 1);
        assert!(names(&report)[1].ends_with("y:1 failed"), "{report}");
        assert!(!names(&report)[0].ends_with("failed"), "{report}");
        assert!(ran.stderr.contains("does not match its digest"), "{}", ran.stderr);
    }
    // A symbolic link out of a layout is not followed.
    fs::rename(&victim, bench.path("outside")).unwrap();
    std::os::unix::fs::symlink(bench.path("outside"), &victim).unwrap();
    let (ran, _) = bench.import("unpacked", &[], 1);
    assert!(ran.stderr.contains("symbolic link"), "{}", ran.stderr);
    bench.verify();
    assert!(!run_peer("ls", [bench.path("tree/docker/registry/v2/repositories/y")]).status.success());
}
