//! Scanning: what is found, what is doubtful, and what hostile directories can't do.

use super::support::program::{Home, Ran, finish, run};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The sample build context, with the registry's name replaced, below `home`.
pub(crate) fn context(home: &Home, host: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/context");
    for entry in walkdir::WalkDir::new(&from) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let below = entry.path().strip_prefix(&from).unwrap().to_str().unwrap();
            let text = fs::read_to_string(entry.path()).unwrap().replace("localhost:5000", host);
            home.write(&format!("context/{below}"), &text);
        }
    }
    home.path("context")
}

fn scan(home: &Home, arguments: &[&str], code: i32) -> Ran {
    run(&mut home.saver(["scan"].iter().chain(arguments))).expect(code)
}

/// The images of a printed list, and the doubtful lines without their places.
pub(crate) fn read(printed: &str) -> (Vec<String>, BTreeSet<String>) {
    let parsed = saver::list::parse("printed", printed.as_bytes());
    assert!(parsed.problems.is_empty() && parsed.notes.is_empty(), "{parsed:?}");
    let images = parsed.entries.iter().map(|entry| entry.reference.to_string()).collect();
    let doubt = |line: &str| Some(line.strip_prefix("# ")?.split("  # ").next()?.to_owned());
    let doubts = printed.lines().filter(|line| line.contains("  # ")).filter_map(doubt).collect();
    (images, doubts)
}

const SURE: &[&str] = &[
    "docker.io/library/busybox:1.36",
    "localhost:5000/demo/app:1.0",
    "localhost:5000/demo/tool:2.1",
    "localhost:5000/helm-charts/mysql:8.8.19",
    "localhost:5000/library/hello:1.0",
    "quay.io/ceph/ceph:v18.2.4",
    "quay.io/team/after:1",
    "quay.io/team/before:1",
    "quay.io/team/cache:6.2",
    "quay.io/team/exporter:1.10",
    "quay.io/team/fixed:2",
    "quay.io/team/inner:1",
    "quay.io/team/migrate:7.0",
    "quay.io/team/model:3",
];

const DOUBTFUL: &[&str] = &[
    "$(IMAGE)",
    "Bad:1",
    "quay.io/team/agent:v0.3",
    "quay.io/team/default:1",
    "quay.io/team/helper:1.1",
    "quay.io/team/metrics:4",
    "quay.io/team/script:1",
    "quay.io/team/setting:1",
    "quay.io/team/sidecar:2.0",
    "quay.io/team/untagged",
    "quay.io/team/worker:1.0",
    "registry.example.com/charts/search:2.0.0",
    "{{ .Registry }}/team/addon:{{ .Version }}",
    "{{ include \"shop.image\" . }}",
];

#[test]
fn a_build_context_is_a_list_with_the_source_of_each_image() {
    let home = Home::new();
    context(&home, "localhost:5000");
    let ran = scan(&home, &["context"], 0);
    let (images, doubts) = read(&ran.stdout);
    assert_eq!(images, SURE);
    assert_eq!(doubts.iter().map(String::as_str).collect::<Vec<_>>(), DOUBTFUL);
    for line in [
        "localhost:5000/demo/app:1.0  # context/charts/shop/values.yaml:5, context/manifests/workloads.yaml:16, context/manifests/workloads.yaml:36",
        "# quay.io/team/helper:1.1  # context/manifests/workloads.yaml:20: the value of an environment variable",
        "quay.io/team/inner:1  # context/manifests/workloads.yaml:56",
        "# quay.io/team/metrics:4  # context/charts/shop/values.yaml:12: metrics.enabled is false",
    ] {
        assert!(ran.stdout.lines().any(|printed| printed == line), "{line}\n{}", ran.stdout);
    }
    for told in ["a build context", "broken.yaml:8: not valid YAML", "14 images, 14 doubtful"] {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
    assert!(!ran.stdout.contains("sample-password") && !ran.stdout.contains("old.example.com"));
    // The same twice is the same.
    assert_eq!(scan(&home, &["context", "-q"], 0).stdout, ran.stdout);
    // Every place is where the name is.
    for line in ran.stdout.lines().filter(|line| !line.starts_with('#')) {
        let Some((image, places)) = line.split_once("  # ") else { continue };
        let name = image.rsplit('/').next().unwrap().split(':').next().unwrap();
        for place in places.split(", ") {
            let (file, number) = place.rsplit_once(':').unwrap();
            let text = fs::read_to_string(home.path(file)).unwrap();
            let there = text.lines().nth(number.parse::<usize>().unwrap() - 1).unwrap();
            assert!(there.contains(name) || there.contains("repository"), "{line}: {there}");
        }
    }
}

#[test]
fn json_says_the_same() {
    let home = Home::new();
    context(&home, "localhost:5000");
    let ran = scan(&home, &["context", "--json"], 0);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let images: Vec<&str> =
        json["images"].as_array().unwrap().iter().map(|image| image["reference"].as_str().unwrap()).collect();
    assert_eq!((json["schema"].as_u64(), images.as_slice()), (Some(1), SURE));
    assert_eq!(json["images"][2]["sources"][0], "context/manifests/imageList:2");
    assert_eq!(json["doubtful"].as_array().unwrap().len(), DOUBTFUL.len());
}

#[test]
fn a_file_and_stdin_are_scanned_too() {
    let home = Home::new();
    let pod = "kind: Pod\napiVersion: v1\nspec:\n  containers:\n  - image: a.io/b:1\n";
    home.write("pod.txt", pod);
    assert_eq!(scan(&home, &["pod.txt"], 0).stdout, "a.io/b:1  # pod.txt:5\n");
    let mut child = home.saver(["scan", "-", "-q"]);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(pod.as_bytes()).unwrap();
    assert_eq!(finish(child).expect(0).stdout, "a.io/b:1  # stdin:5\n");
    home.write(
        "compose.yml",
        "services:\n  a: {image: \"nginx:1\", platform: linux/arm64}\n  b: {image: \"x:$TAG\"}\n",
    );
    let printed = scan(&home, &["compose.yml"], 0).stdout;
    assert!(
        printed.starts_with("docker.io/library/nginx:1 platform=linux/arm64  # compose.yml:2\n"),
        "{printed}"
    );
    assert!(printed.contains("# compose.yml:3: the variable \"TAG\" has no default"), "{printed}");
    home.write("chart/Chart.yaml", "name: x\n");
    home.write("chart/values.yaml", "image: {repository: a.io/b, tag: 1}\n");
    let ran = scan(&home, &["chart/values.yaml"], 0);
    assert!(
        ran.stdout.starts_with("# Doubtful") && ran.stderr.contains("part of the chart in chart:"),
        "{ran:?}"
    );
    assert!(scan(&home, &["nowhere"], 2).stderr.contains("nowhere: cannot be read"));
}

#[test]
fn the_lists_of_sealos_cluster_images_are_read() {
    let home = Home::new();
    home.write("image/images/shim/addonImages", "a.io/b:1\n# a comment\nc\n");
    home.write("image/images/other", "a.io/not:1\n");
    let ran = scan(&home, &["image"], 0);
    assert_eq!(read(&ran.stdout).0, ["a.io/b:1", "docker.io/library/c:latest"]);
}

#[test]
fn what_is_ignored_is_not_there() {
    let home = Home::new();
    context(&home, "localhost:5000");
    let ignore = home.write("ignore", "quay.io/*\nbusybox  # in the base\nlocalhost:5000/demo/app:1.0\n");
    let (images, doubts) = read(&scan(&home, &["context", "--ignore", ignore.to_str().unwrap()], 0).stdout);
    assert_eq!(
        images,
        [
            "localhost:5000/demo/tool:2.1",
            "localhost:5000/helm-charts/mysql:8.8.19",
            "localhost:5000/library/hello:1.0"
        ]
    );
    assert!(doubts.iter().all(|text| !text.starts_with("quay.io/")), "{doubts:?}");
    let long = home.write("long", "");
    fs::File::options().write(true).open(&long).unwrap().set_len((16 << 20) + 1).unwrap();
    let told = scan(&home, &["context", "--ignore", long.to_str().unwrap()], 2).stderr;
    assert!(told.contains("long: an ignore list has at most 16777216 bytes"), "{told}");
    home.write("ignore", "a b\n");
    assert!(scan(&home, &["context", "--ignore", "ignore"], 2).stderr.contains("ignore:1: a line holds one"));
}

/// A program named helm, in a directory of its own.
fn helm(home: &Home, script: &str) -> String {
    let path = home.write("bin/helm", &format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", home.path("bin").display())
}

#[test]
fn charts_are_rendered_where_helm_is_installed() {
    let home = Home::new();
    context(&home, "localhost:5000");
    fs::write(home.path("secret"), "image: leaked.example.com/secret:1\n").unwrap();
    symlink(home.path("secret"), home.path("context/charts/shop/templates/link.yaml")).unwrap();
    let record = home.path("record");
    let path = helm(
        &home,
        &format!(
            "echo \"$@\" > {0}; env >> {0}; ls \"$3\"/templates >> {0}\n\
             printf -- '---\\n# Source: shop/templates/deployment.yaml\\napiVersion: apps/v1\\nkind: Deployment\\nspec:\\n'\n\
             printf '  template:\\n    spec:\\n      containers:\\n      - image: localhost:5000/demo/app:1.0\\n'\n\
             printf '      - image: quay.io/team/rendered:1\\n'",
            record.display()
        ),
    );
    let ran =
        run(home.saver(["scan", "context/charts"]).env("PATH", &path).env("KUBECONFIG", "/x")).expect(0);
    let (images, doubts) = read(&ran.stdout);
    assert_eq!(images, ["localhost:5000/demo/app:1.0", "quay.io/team/rendered:1"]);
    assert!(
        ran.stdout.contains("quay.io/team/rendered:1  # context/charts/shop/templates/deployment.yaml\n")
    );
    assert!(ran.stdout.contains("quay.io/team/cache:6.2  # context/charts/shop/charts/cache/values.yaml:3: helm template does not use it"));
    assert!(doubts.contains("quay.io/team/metrics:4"), "{doubts:?}");
    let recorded = fs::read_to_string(&record).unwrap();
    assert!(recorded.starts_with("template saver /") && recorded.contains("--include-crds"), "{recorded}");
    assert!(
        recorded.contains("deployment.yaml")
            && !recorded.contains("link.yaml")
            && !recorded.contains("KUBECONFIG")
    );
    // Without it, by choice or because it fails, the values are read.
    let by_choice = run(home.saver(["scan", "context/charts", "--no-helm"]).env("PATH", &path)).expect(0);
    assert!(by_choice.stdout.contains("\nquay.io/team/cache:6.2  # "), "{}", by_choice.stdout);
    let path = helm(&home, "echo 'Error: chart requires kubeVersion' >&2; exit 1");
    let failed = run(home.saver(["scan", "context/charts"]).env("PATH", &path)).expect(0);
    assert_eq!(failed.stdout, by_choice.stdout);
    assert!(failed.stderr.contains("helm template failed (chart requires kubeVersion)"), "{}", failed.stderr);
}

#[test]
fn a_helm_that_prints_without_end_is_ended() {
    let home = Home::new();
    context(&home, "localhost:5000");
    for script in ["exec yes", "exec yes >&2"] {
        let path = helm(&home, script);
        let ran = run(home.saver(["scan", "context/charts/shop"]).env("PATH", &path));
        assert!(ran.stderr.contains("helm template failed (it prints too much)"), "{script}: {}", ran.stderr);
        assert!(!read(&ran.stdout).0.is_empty(), "{script}");
    }
}

/// A .tgz of these files.
fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Set as bytes: hostile names are refused by the builder.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

#[test]
fn packed_charts_are_read_in_memory() {
    let home = Home::new();
    let inner = packed(&[
        ("cache/Chart.yaml", b"name: cache\n"),
        ("cache/values.yaml", b"image: {repository: quay.io/team/cache, tag: 6}\n"),
    ]);
    let outer = packed(&[
        ("shop/Chart.yaml", b"name: shop\nappVersion: 1\n"),
        ("shop/values.yaml", b"image: {repository: a.io/shop, tag: 2}\ncache: {image: {tag: 7}}\n"),
        ("../../outside.yaml", b"image: quay.io/team/outside:1\n"),
        ("shop/charts/cache-1.0.0.tgz", &inner),
    ]);
    home.write("x/a.txt", "");
    fs::write(home.path("x/shop-1.0.0.tgz"), outer).unwrap();
    fs::write(home.path("x/other.tgz"), packed(&[("a/b.yaml", b"image: a.io/not:1\n")])).unwrap();
    let ran = scan(&home, &["x"], 0);
    assert_eq!(
        ran.stdout,
        "a.io/shop:2  # x/shop-1.0.0.tgz/values.yaml:1\n\
         quay.io/team/cache:7  # x/shop-1.0.0.tgz/charts/cache/values.yaml:1\n"
    );
    // One that unfolds to far more than it is.
    let zeros = vec![0; 17 << 20];
    fs::write(home.path("x/bomb.tgz"), packed(&[("shop/Chart.yaml", &zeros)])).unwrap();
    fs::write(home.path("x/broken.tgz"), b"\x1f\x8b\x08 no").unwrap();
    let ran = scan(&home, &["x"], 1);
    assert!(ran.stderr.contains("bomb.tgz: the archive unfolds to more"), "{}", ran.stderr);
    assert!(ran.stderr.contains("broken.tgz: the archive can't be read"), "{}", ran.stderr);
}

#[test]
fn an_archive_that_brings_another_in_its_own_place_is_told() {
    let home = Home::new();
    let chart = |name: &str| {
        packed(&[
            ("b/Chart.yaml", b"name: b\n"),
            ("b/values.yaml", format!("image: a.io/{name}:1\n").as_bytes()),
        ])
    };
    home.write("q/Chart.yaml", "name: q\n");
    home.write("q/charts/a/Chart.yaml", "name: a\n");
    home.write("q/charts/a/charts/x", "");
    fs::write(home.path("q/charts/a/charts/b.tgz"), chart("first")).unwrap();
    let other = packed(&[("a/Chart.yaml", b"name: a\n"), ("a/charts/b.tgz", &chart("second"))]);
    fs::write(home.path("q/charts/z.tgz"), other).unwrap();
    let ran = scan(&home, &["q"], 1);
    assert!(ran.stderr.contains("q/charts/a/charts/b.tgz: the chart holds two archives"), "{}", ran.stderr);
    assert!(ran.stdout.contains("a.io/first:1") && !ran.stdout.contains("second"), "{}", ran.stdout);
}

#[test]
fn lists_that_are_no_regular_files_are_told() {
    for (name, root_is_context) in [
        ("manifests/imageList", true),
        ("manifests/imageListIgnore", true),
        ("imageList", true),
        ("imageList", false),
    ] {
        for is_pipe in [true, false] {
            let home = Home::new();
            home.write("c/manifests/a.yaml", "spec:\n  containers:\n  - image: a.io/b:1\n");
            if root_is_context {
                home.write("c/Kubefile", "");
            }
            home.write("list", "a.io/b:1\n");
            let path = home.path(&format!("c/{name}"));
            if is_pipe {
                assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            } else {
                symlink(home.path("list"), &path).unwrap();
            }
            let ran = scan(&home, &["c"], 1);
            let told = format!("c/{name}: this is no regular file");
            assert!(
                ran.stderr.contains(&told) && read(&ran.stdout).0 == ["a.io/b:1"],
                "{told}: {}",
                ran.stderr
            );
        }
    }
}

#[test]
fn hostile_directories_do_no_harm() {
    let home = Home::new();
    let pod = |name: &str| format!("spec:\n  containers:\n  - image: a.io/{name}:1\n");
    home.write("outside/secret.yaml", &pod("secret"));
    home.write("in/good.yaml", &pod("good"));
    home.write("in/.git/hidden.yaml", &pod("hidden"));
    home.write("in/tree/docker/registry/v2/x.yaml", &pod("tree"));
    symlink(home.path("outside"), home.path("in/dir")).unwrap();
    symlink(home.path("outside/secret.yaml"), home.path("in/link.yaml")).unwrap();
    symlink("/", home.path("in/root")).unwrap();
    fs::write(home.path("in/binary.yaml"), b"image: a.io/binary:1\0").unwrap();
    let deep = (0..60).map(|_| "d/").collect::<String>();
    home.write(&format!("in/{deep}deep.yaml"), &pod("deep"));
    let mut bomb = String::from("a0: &a0 [x, x]\n");
    for level in 1..60 {
        bomb.push_str(&format!("a{level}: &a{level} [*a{0}, *a{0}, *a{0}]\n", level - 1));
    }
    home.write("in/bomb.yaml", &format!("{bomb}image: a.io/bomb:1\n"));
    assert!(std::process::Command::new("mkfifo").arg(home.path("in/pipe.yaml")).status().unwrap().success());
    let ran = scan(&home, &["in"], 1);
    assert_eq!(read(&ran.stdout).0, ["a.io/bomb:1", "a.io/good:1"]);
    for told in [
        "nested deeper",
        "pipe.yaml: this is no regular file",
        "link.yaml: this is a symbolic link",
        "binary.yaml: this is no text",
        "bomb.yaml:",
    ] {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
    let huge = format!("{}\n", "# x".repeat(6 << 20));
    home.write("big/a.yaml", &huge);
    assert!(scan(&home, &["big"], 1).stderr.contains("larger than 16 MiB"));
    // Names that would write on the terminal, or end a line of the list.
    home.write("odd/\u{1b}[31m\n: x.yaml", &pod("odd"));
    let ran = scan(&home, &["odd"], 0);
    assert!(!ran.stdout.contains('\u{1b}') && read(&ran.stdout).0 == ["a.io/odd:1"], "{:?}", ran.stdout);
}
