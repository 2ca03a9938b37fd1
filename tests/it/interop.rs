//! End-to-end tests with real programs: docker-registry as the source, and docker-registry, skopeo, podman, buildah,
//! umoci and containerd as readers of the saved tree.

use crate::support::scratch::Scratch;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use saver::oci::{Descriptor, Digest, Manifest, RawManifest};

use super::support::peers::containerd::Containerd;
use super::support::peers::registry::{Registry, RegistryOptions, garbage_collect};
use super::support::peers::tls::Tls;
use super::support::peers::token::{TokenOptions, TokenServer};
use super::support::peers::{run, samples, succeed};
use super::support::program::{Home, finish};
use super::support::samples::listed;
use super::support::serving::{Reply, ask};
use super::support::tree::files;

/// The output of `htpasswd -nbB reader hunter2`.
const PASSWORDS: &str = "reader:$2y$05$9pVdx45SxJAf7bV349BS0Ozv4QNt1gsym2bljk1C7h03Uxi/My3sW\n";
/// `reader:hunter2` in base64, as in Docker's configuration.
const READER: &str = "cmVhZGVyOmh1bnRlcjI=";
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// The names of the sample images at `registry`.
fn images(registry: &str) -> Vec<String> {
    listed(registry).iter().map(ToString::to_string).collect()
}

/// `repository` and `tag` of each sample image.
fn places() -> Vec<(String, String)> {
    let place = |image: &String| {
        let (name, tag) = image.strip_prefix("any:1/").unwrap().rsplit_once(':').unwrap();
        (name.to_owned(), tag.to_owned())
    };
    images("any:1").iter().map(place).collect()
}

fn temporary() -> Scratch {
    Scratch::new()
}

pub(crate) fn manifest(registry: &str, repository: &str, reference: &str) -> Reply {
    ask(registry, "GET", &format!("/v2/{repository}/manifests/{reference}"), &[("Accept", ACCEPT)])
}

pub(crate) fn parse(reply: &Reply) -> Manifest {
    let media_type = reply.header("Content-Type");
    RawManifest::new(reply.body.clone().into(), media_type).unwrap().parse().unwrap()
}

/// Whether a run for `arch` selects this entry of an index.
fn wanted(entry: &Descriptor, arch: &str) -> bool {
    let Some(platform) = &entry.platform else { return true };
    arch == "all" || arch.split(',').any(|arch| arch == platform.architecture)
}

/// Asserts that `copy` serves an image like `source`: the same bytes by tag and by digest, the selected children
/// and their blobs, and 404 for the omitted children. Returns the number of blobs compared.
fn assert_same(source: &str, copy: &str, repository: &str, reference: &str, arch: &str) -> usize {
    let theirs = manifest(source, repository, reference);
    let ours = manifest(copy, repository, reference);
    let subject = format!("{repository} {reference} for {arch}");
    assert_eq!((theirs.status, ours.status), (200, 200), "{subject}");
    assert_eq!(ours.body, theirs.body, "{subject}");
    for header in ["Docker-Content-Digest", "Content-Type"] {
        assert_eq!(ours.header(header), theirs.header(header), "{subject}");
    }
    let digest = Digest::of(&ours.body);
    assert_eq!(ours.header("Docker-Content-Digest"), Some(digest.to_string().as_str()));
    assert_eq!(manifest(copy, repository, &digest.to_string()).body, theirs.body, "{subject} by digest");
    match parse(&ours) {
        Manifest::Index(index) => {
            let mut blobs = 0;
            for entry in &index.manifests {
                let child = entry.digest.to_string();
                let nested = entry.media_type.contains("index") || entry.media_type.contains("list");
                let described =
                    index.manifests.iter().find(|image| entry.attestation_of() == Some(image.digest));
                if nested || wanted(described.unwrap_or(entry), arch) {
                    blobs += assert_same(source, copy, repository, &child, arch);
                } else if manifest(copy, repository, &child).status != 404 {
                    panic!("{subject}: {child} was not asked for and is there");
                }
            }
            blobs
        }
        Manifest::Image(image) => {
            let mut count = 0;
            for blob in image.blobs() {
                let path = format!("/v2/{repository}/blobs/{}", blob.digest);
                let reply = ask(copy, "GET", &path, &[]);
                assert_eq!(reply.status, 200, "{subject}: {path}");
                assert_eq!(Digest::of(&reply.body), blob.digest, "{subject}");
                assert_eq!(ask(copy, "HEAD", &path, &[]).status, 200, "{subject}: {path}");
                count += 1;
            }
            count
        }
    }
}

/// Compares all sample images; returns the number of blobs.
fn assert_all_same(source: &str, copy: &str, arch: &str) -> usize {
    places().iter().map(|(repository, tag)| assert_same(source, copy, repository, tag, arch)).sum()
}

fn catalog(registry: &str) -> BTreeSet<String> {
    let json = ask(registry, "GET", "/v2/_catalog?n=1000", &[]).json();
    json["repositories"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn tags(registry: &str, repository: &str) -> BTreeSet<String> {
    let json = ask(registry, "GET", &format!("/v2/{repository}/tags/list"), &[]).json();
    json["tags"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Saves every sample from `source`; returns the directory.
fn save_all(source: &str, arch: &str) -> Scratch {
    let (home, dir) = (Home::new(), temporary());
    let more = ["--missing-platform", "skip"];
    let (_, report) = home.save(dir.path(), arch, &images(source), &more, 0);
    assert!(report["images"].as_array().unwrap().len() >= 10, "{report}");
    dir
}

#[test]
fn registry_serves_saved_tree_like_its_source() {
    let source = Registry::serve(&samples());
    let mut counts = Vec::new();
    for arch in ["amd64", "amd64,arm64", "all"] {
        let dir = save_all(&source.address, arch);
        let copy = Registry::serve(dir.path());
        counts.push(assert_all_same(&source.address, &copy.address, arch));
        let repositories: BTreeSet<String> = places().into_iter().map(|(name, _)| name).collect();
        assert_eq!(catalog(&copy.address), repositories);
        for repository in &repositories {
            let listed = places().into_iter().filter(|(name, _)| name == repository);
            assert_eq!(tags(&copy.address, repository), listed.map(|(_, tag)| tag).collect());
        }
    }
    assert!(counts[0] < counts[1] && counts[1] < counts[2], "{counts:?}");
}

/// The digest that skopeo reports for `reference`, of its own platform if that is an index.
fn inspect(reference: &str) -> Digest {
    let raw = succeed("skopeo", ["inspect", "--raw", "--tls-verify=false", reference]);
    Digest::of(raw.as_bytes())
}

#[test]
fn skopeo_copies_by_tag_index_digest_and_child_digest() {
    let source = Registry::serve(&samples());
    let dir = save_all(&source.address, "amd64");
    let copy = Registry::serve(dir.path());
    for (repository, tag) in [("demo/app", "1.0"), ("demo/tool", "2.1"), ("library/hello", "1.0")] {
        let index = manifest(&source.address, repository, tag);
        let Manifest::Index(parsed) = parse(&index) else { panic!("{repository} is no index") };
        let child = parsed.manifests.iter().find(|entry| wanted(entry, "amd64")).unwrap().digest;
        let index = Digest::of(&index.body);
        let by = |text: String| format!("docker://{}/{repository}{text}", copy.address);
        assert_eq!(inspect(&by(format!(":{tag}"))), index);
        assert_eq!(inspect(&by(format!("@{index}"))), index);
        assert_eq!(inspect(&by(format!("@{child}"))), child);
        for (number, reference) in
            [format!(":{tag}"), format!("@{index}"), format!("@{child}")].into_iter().enumerate()
        {
            let target = temporary();
            let path = target.path().join(number.to_string());
            succeed(
                "skopeo",
                [
                    "--override-arch",
                    "amd64",
                    "copy",
                    "-q",
                    "--src-tls-verify=false",
                    &by(reference),
                    &format!("dir:{}", path.display()),
                ],
            );
            let copied = std::fs::read(path.join("manifest.json")).unwrap();
            assert_eq!(Digest::of(&copied), child, "{repository}");
        }
        let other = format!("docker://{}/{repository}:{tag}", copy.address);
        let target = format!("dir:{}", temporary().path().join("x").display());
        let refused = run(
            "skopeo",
            ["--override-arch", "arm64", "copy", "-q", "--src-tls-verify=false", &other, &target],
        );
        assert!(!refused.status.success(), "arm64 was not saved");
    }
}

#[test]
fn all_platforms_are_copied_and_unpacked() {
    let source = Registry::serve(&samples());
    let dir = save_all(&source.address, "all");
    let copy = Registry::serve(dir.path());
    let target = temporary();
    let layout = target.path().join("layout");
    let from = format!("docker://{}/demo/tool:2.1", copy.address);
    let to = |name: &str| format!("oci:{}:{name}", layout.display());
    succeed("skopeo", ["copy", "-q", "--all", "--src-tls-verify=false", &from, &to("all")]);
    for (arch, words) in [("amd64", "amd64/linux\n"), ("arm64", "arm64/linux/v8\n")] {
        succeed(
            "skopeo",
            ["--override-arch", arch, "copy", "-q", "--src-tls-verify=false", &from, &to(arch)],
        );
        let bundle = target.path().join(arch);
        let image = format!("{}:{arch}", layout.display());
        succeed("umoci", ["unpack", "--rootless", "--image", &image, bundle.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(bundle.join("rootfs/etc/platform")).unwrap(), words);
    }
}

/// Runs podman or buildah with separate storage.
pub(crate) fn with_storage(program: &str, storage: &Path, arguments: &[&str]) -> String {
    let path = |name: &str| storage.join(name).to_str().unwrap().to_owned();
    let mut all = vec!["--root".to_owned(), path("root"), "--runroot".to_owned(), path("run")];
    all.extend(["--storage-driver".to_owned(), "vfs".to_owned()]);
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    succeed(program, all)
}

#[test]
fn podman_buildah_and_containerd_pull_saved_images() {
    let source = Registry::serve(&samples());
    let dir = save_all(&source.address, "amd64");
    let copy = Registry::serve(dir.path());
    let storage = temporary();
    let containerd = Containerd::start();
    for (repository, tag) in
        [("demo/app", "1.0"), ("demo/single", "1.0"), ("demo/nested", "1.0"), ("demo/zstd", "1.0")]
    {
        let digest = Digest::of(&manifest(&source.address, repository, tag).body).to_string();
        let reference = format!("{}/{repository}:{tag}", copy.address);
        assert_eq!(containerd.pull(&reference, "linux/amd64"), digest, "{reference}");
        if repository == "demo/nested" {
            // containers/image does not support nested indexes.
            continue;
        }
        for program in ["podman", "buildah"] {
            with_storage(
                program,
                storage.path(),
                &["pull", "-q", "--tls-verify=false", "--arch", "amd64", &reference],
            );
        }
        let format = "{{range .RepoDigests}}{{.}} {{end}}{{.Architecture}}";
        let listed =
            with_storage("podman", storage.path(), &["image", "inspect", "--format", format, &reference]);
        assert!(listed.contains(&format!("@{digest} ")) && listed.trim().ends_with(" amd64"), "{listed}");
    }
    // By the digest of an index and of its child.
    let index = manifest(&source.address, "demo/tool", "2.1");
    let Manifest::Index(parsed) = parse(&index) else { panic!("no index") };
    for digest in [Digest::of(&index.body), parsed.manifests[0].digest] {
        let reference = format!("{}/demo/tool@{digest}", copy.address);
        with_storage(
            "podman",
            storage.path(),
            &["pull", "-q", "--tls-verify=false", "--arch", "amd64", &reference],
        );
        assert_eq!(containerd.pull(&reference, "linux/amd64"), digest.to_string());
    }
}

#[test]
fn garbage_collection_keeps_sparse_tree() {
    let source = Registry::serve(&samples());
    let dir = save_all(&source.address, "amd64");
    let before = files(&dir.path().join("docker"));
    let said = garbage_collect(dir.path(), false);
    assert!(said.contains("0 blobs and 0 manifests eligible for deletion"), "{said}");
    assert_eq!(files(&dir.path().join("docker")), before);
    let copy = Registry::serve(dir.path());
    assert!(assert_all_same(&source.address, &copy.address, "amd64") > 10);
    let storage = temporary();
    let reference = format!("{}/demo/app:1.0", copy.address);
    with_storage(
        "podman",
        storage.path(),
        &["pull", "-q", "--tls-verify=false", "--arch", "amd64", &reference],
    );
}

#[test]
fn garbage_collection_of_untagged_keeps_flattened_tree() {
    let source = Registry::serve(&samples());
    let (home, dir) = (Home::new(), temporary());
    let image = [format!("{}/demo/app:1.0", source.address)];
    home.save(dir.path(), "amd64", &image, &["--index", "flatten"], 0);
    let before = files(&dir.path().join("docker"));
    garbage_collect(dir.path(), true);
    assert_eq!(files(&dir.path().join("docker")), before);
}

/// The command in docs/serving.md for registries with their own storage.
#[test]
fn pruned_tree_skopeo_sync_command_of_the_docs_works() {
    let source = Registry::serve(&samples());
    let (home, dir, store) = (Home::new(), temporary(), temporary());
    let images = ["1.0", "1.1"].map(|tag| format!("{}/demo/app:{tag}", source.address));
    home.save(dir.path(), "amd64", &images, &["--index", "prune"], 0);
    let tree = Registry::serve(dir.path());
    let options = RegistryOptions { writable: true, ..RegistryOptions::default() };
    let harbor = Registry::start(store.path(), &options);
    let page = include_str!("../../docs/serving.md");
    let command = page.split('`').find(|code| code.starts_with("skopeo sync --")).expect("the command");
    let command = command.replace("127.0.0.1:5000", &tree.address);
    let command = command.replace("harbor.example.com", &harbor.address);
    // Unlike Harbor, this registry has no TLS.
    let mut arguments: Vec<&str> = command.split(' ').skip(1).collect();
    arguments.insert(1, "--dest-tls-verify=false");
    succeed("skopeo", &arguments);
    assert_eq!(tags(&harbor.address, "demo/app"), BTreeSet::from(["1.0", "1.1"].map(str::to_owned)));
    let theirs = manifest(&tree.address, "demo/app", "1.0");
    assert_eq!(manifest(&harbor.address, "demo/app", "1.0").body, theirs.body);
}

#[test]
fn helm_chart_is_byte_identical_after_round_trip() {
    let source = Registry::serve(&samples());
    let dir = save_all(&source.address, "arm64");
    let copy = Registry::serve(dir.path());
    for (repository, tag) in [("helm-charts/mysql", "8.8.19"), ("helm-charts/web", "1.0.0_build5")] {
        let target = temporary();
        let read = |registry: &str| {
            let path = target.path().join(registry);
            let from = format!("docker://{registry}/{repository}:{tag}");
            let to = format!("dir:{}", path.display());
            succeed("skopeo", ["copy", "-q", "--src-tls-verify=false", &from, &to]);
            files(&path)
        };
        let (theirs, ours) = (read(&source.address), read(&copy.address));
        assert!(ours.len() >= 3, "a manifest, a config and a layer: {:?}", ours.keys());
        assert_eq!(ours, theirs);
        assert_eq!(assert_same(&source.address, &copy.address, repository, tag, "arm64"), 2);
    }
}

#[test]
fn official_images_have_two_names() {
    let source = Registry::serve(&samples());
    let (home, dir) = (Home::new(), temporary());
    let mirror = format!("docker.io=http://{}", source.address);
    let names = ["hello:1.0", "docker.io/library/hello", "demo/tool:2.1", "index.docker.io/demo/single:1.0"];
    home.save(dir.path(), "amd64", &names.map(str::to_owned), &["--mirror", &mirror], 0);
    let copy = Registry::serve(dir.path());
    let expected = ["demo/single", "demo/tool", "hello", "library/hello"].map(str::to_owned);
    assert_eq!(catalog(&copy.address), BTreeSet::from(expected));
    let storage = temporary();
    for tag in ["1.0", "latest"] {
        assert_same(&source.address, &copy.address, "library/hello", tag, "amd64");
        let short = manifest(&copy.address, "hello", tag);
        assert_eq!(short.body, manifest(&source.address, "library/hello", tag).body);
        for name in ["hello", "library/hello"] {
            let reference = format!("{}/{name}:{tag}", copy.address);
            with_storage(
                "podman",
                storage.path(),
                &["pull", "-q", "--tls-verify=false", "--arch", "amd64", &reference],
            );
        }
    }
    assert_same(&source.address, &copy.address, "demo/tool", "2.1", "amd64");
    assert_same(&source.address, &copy.address, "demo/single", "1.0", "amd64");
}

#[test]
fn registry_and_saver_share_a_tree() {
    let source = Registry::serve(&samples());
    let (home, dir) = (Home::new(), temporary());
    let options = RegistryOptions { writable: true, ..RegistryOptions::default() };
    let registry = Registry::start(dir.path(), &options);
    let push = |from: &str, to: &str| {
        let (from, to) =
            (format!("docker://{}/{from}", source.address), format!("docker://{}/{to}", registry.address));
        succeed(
            "skopeo",
            ["copy", "-q", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to],
        );
    };
    push("demo/zstd:1.0", "pushed/zstd:1.0");
    push("demo/tool:2.1", "demo/app:pushed");
    // The registry keeps running, and accepts pushes afterwards.
    let image = [format!("{}/demo/app:1.0", source.address), format!("{}/demo/single:1.0", source.address)];
    home.save(dir.path(), "amd64", &image, &[], 0);
    push("demo/bare:1.0", "demo/single:pushed");
    assert_eq!(tags(&registry.address, "demo/app"), BTreeSet::from(["1.0", "pushed"].map(str::to_owned)));
    assert_same(&source.address, &registry.address, "demo/app", "1.0", "amd64");
    assert_same(&source.address, &registry.address, "demo/single", "1.0", "amd64");
    let pushed = |from: (&str, &str), to: (&str, &str)| {
        let theirs = manifest(&source.address, from.0, from.1);
        assert_eq!(manifest(&registry.address, to.0, to.1).body, theirs.body, "{to:?}");
    };
    pushed(("demo/zstd", "1.0"), ("pushed/zstd", "1.0"));
    pushed(("demo/tool", "2.1"), ("demo/app", "pushed"));
    pushed(("demo/bare", "1.0"), ("demo/single", "pushed"));
    drop(registry);
    super::support::program::run(&mut home.saver([
        "verify",
        "--deep",
        "--dir",
        dir.path().to_str().unwrap(),
    ]))
    .expect(0);
    garbage_collect(dir.path(), false);
    let registry = Registry::serve(dir.path());
    assert_same(&source.address, &registry.address, "demo/app", "1.0", "amd64");
    assert_eq!(catalog(&registry.address).len(), 3);
}

#[test]
fn modes_of_the_tree_follow_the_umask() {
    let source = Registry::serve(&samples());
    let (home, dir) = (Home::new(), temporary());
    let tree = dir.path().join("made/by/saver");
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 027; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_saver")]);
    shell.args(["--progress", "none", "--arch", "amd64", "--dir"]).arg(&tree).args(images(&source.address));
    super::support::program::run(shell.env_clear().env("HOME", home.path("")).env("PATH", "/usr/bin:/bin"))
        .expect(0);
    let mut seen = [0, 0];
    for entry in walkdir::WalkDir::new(&tree) {
        let entry = entry.unwrap();
        let (which, expected) = if entry.file_type().is_dir() { (0, 0o750) } else { (1, 0o640) };
        if entry.path().starts_with(tree.join("docker")) {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, expected, "{}: {mode:o}", entry.path().display());
            seen[which] += 1;
        }
    }
    assert!(seen[0] > 100 && seen[1] > 100, "{seen:?}");
}

/// Saves one image from a registry with requirements, and compares it with the sample.
fn save_one(home: &Home, registry: &str, more: &[&str], expected: i32) -> String {
    let dir = temporary();
    let image = [format!("{registry}/demo/app:1.0"), format!("{registry}/helm-charts/mysql:8.8.19")];
    let (ran, _) = home.save(dir.path(), "amd64", &image, more, expected);
    if expected == 0 {
        let (source, copy) = (Registry::serve(&samples()), Registry::serve(dir.path()));
        assert_same(&source.address, &copy.address, "demo/app", "1.0", "amd64");
        assert_same(&source.address, &copy.address, "helm-charts/mysql", "8.8.19", "amd64");
    }
    format!("{}{}", ran.stdout, ran.stderr)
}

/// A home directory after `docker login` with the reader's password.
fn logged_in(registry: &str, auth: &str) -> Home {
    let home = Home::new();
    home.write(".docker/config.json", &format!(r#"{{"auths":{{"{registry}":{{"auth":"{auth}"}}}}}}"#));
    home
}

#[test]
fn docker_login_authenticates_with_tokens() {
    let dir = temporary();
    let options = TokenOptions { user: Some(("reader", "hunter2")), lifetime: Duration::from_secs(300) };
    let tokens = TokenServer::start(dir.path(), options);
    let options = RegistryOptions { token: Some(tokens.auth()), ..RegistryOptions::default() };
    let registry = Registry::start(&samples(), &options);
    save_one(&logged_in(&registry.address, READER), &registry.address, &[], 0);
    assert!(tokens.asked().iter().any(|query| query.contains("demo%2Fapp%3Apull")), "{:?}", tokens.asked());
    // reader:wrong
    let said = save_one(&logged_in(&registry.address, "cmVhZGVyOndyb25n"), &registry.address, &[], 1);
    assert!(!said.contains("wrong") && !said.contains("cmVhZGVyOndyb25n"), "a secret was printed: {said}");
    let said = save_one(&Home::new(), &registry.address, &[], 1);
    assert!(said.contains(&format!("docker login {}", registry.address)), "{said}");
}

#[test]
fn password_authenticates_with_basic_auth() {
    let dir = temporary();
    let passwords = dir.path().join("htpasswd");
    std::fs::write(&passwords, PASSWORDS).unwrap();
    let options = RegistryOptions { htpasswd: Some(passwords), ..RegistryOptions::default() };
    let registry = Registry::start(&samples(), &options);
    save_one(&logged_in(&registry.address, READER), &registry.address, &[], 0);
    let said = save_one(&Home::new(), &registry.address, &[], 1);
    assert!(said.contains(&format!("docker login {}", registry.address)), "{said}");

    let (home, target) = (Home::new(), temporary());
    let image = [format!("{}/demo/app:1.0", registry.address)];
    let mut command = home.saving(target.path(), "amd64", &image);
    command.args(["--username", "reader", "--password-stdin"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hunter2\n").unwrap();
    finish(child).expect(0);
}

#[test]
fn private_ca_is_trusted_from_file_and_directory() {
    let dir = temporary();
    let tls = Tls::make(dir.path());
    let options = RegistryOptions { tls: Some(tls.clone()), ..RegistryOptions::default() };
    let registry = Registry::start(&samples(), &options);
    let home = Home::new();
    let said = save_one(&home, &registry.address, &["--retries", "0"], 1);
    assert!(said.contains("--ca-file"), "{said}");
    save_one(&home, &registry.address, &["--ca-file", tls.ca.to_str().unwrap()], 0);
    let certificates = dir.path().join("certs.d");
    let own = certificates.join(&registry.address);
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(&tls.ca, own.join("ca.crt")).unwrap();
    save_one(&home, &registry.address, &["--cert-dir", certificates.to_str().unwrap()], 0);
}
