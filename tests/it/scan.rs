//! `saver scan`: what is sure, what is doubtful, and that hostile directories do no harm.

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
    "quay.io/team/helper:1.1",
    "quay.io/team/inner:1",
    "quay.io/team/model:3",
    "quay.io/team/setting:1",
    "quay.io/team/sidecar:2.0",
];

const DOUBTFUL: &[&str] = &[
    "$(IMAGE)",
    "Bad:1",
    "quay.io/team/agent:v0.3",
    "quay.io/team/default:1",
    "quay.io/team/metrics:4",
    "quay.io/team/migrate:7.0",
    "quay.io/team/script:1",
    "quay.io/team/untagged",
    "quay.io/team/worker",
    "registry.example.com/charts/search:2.0.0",
    "{{ .Registry }}/team/addon:{{ .Version }}",
    "{{ include \"shop.image\" . }}",
];

#[test]
fn build_context_is_listed_with_the_source_of_each_image() {
    let home = Home::new();
    context(&home, "localhost:5000");
    let ran = scan(&home, &["context"], 0);
    let (images, doubts) = read(&ran.stdout);
    assert_eq!(images, SURE);
    assert_eq!(doubts.iter().map(String::as_str).collect::<Vec<_>>(), DOUBTFUL);
    for line in [
        "localhost:5000/demo/app:1.0  # context/charts/shop/templates/deployment.yaml:8, context/manifests/workloads.yaml:16, context/manifests/workloads.yaml:36",
        "quay.io/team/helper:1.1  # context/manifests/workloads.yaml:20",
        "quay.io/team/inner:1  # context/manifests/workloads.yaml:56",
        "# quay.io/team/metrics:4  # context/charts/shop/values.yaml:12: chart value that no template is known to use",
    ] {
        assert!(ran.stdout.lines().any(|printed| printed == line), "{line}\n{}", ran.stdout);
    }
    for message in ["broken.yaml:8: invalid YAML", "16 images, 12 doubtful"] {
        assert!(ran.stderr.contains(message), "{message}: {}", ran.stderr);
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
            assert!(there.contains(name) || there.contains("{{ .Values"), "{line}: {there}");
        }
    }
}

#[test]
fn json_report_has_the_same_finds() {
    let home = Home::new();
    context(&home, "localhost:5000");
    let ran = scan(&home, &["context", "--json"], 0);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let images: Vec<&str> =
        json["images"].as_array().unwrap().iter().map(|image| image["reference"].as_str().unwrap()).collect();
    assert_eq!((json["schema"].as_u64(), images.as_slice()), (Some(2), SURE));
    assert_eq!(json["images"][2]["sources"][0], "context/manifests/imageList:2");
    assert_eq!(json["doubtful"][0]["reason"], "unrendered-template");
    assert_eq!(json["doubtful"].as_array().unwrap().len(), DOUBTFUL.len());
}

#[test]
fn files_and_standard_input_are_scanned() {
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
    assert!(
        printed.contains("# compose.yml:3: invalid list entry: the variable \"TAG\" has no default"),
        "{printed}"
    );
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
fn lists_of_sealos_cluster_images_are_read() {
    let home = Home::new();
    home.write("image/images/shim/addonImages", "a.io/b:1\n# a comment\nc\n");
    home.write("image/images/other", "a.io/not:1\n");
    let ran = scan(&home, &["image"], 0);
    assert_eq!(read(&ran.stdout).0, ["a.io/b:1", "docker.io/library/c:latest"]);
}

#[test]
fn ignored_images_are_left_out() {
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
    let message = scan(&home, &["context", "--ignore", long.to_str().unwrap()], 2).stderr;
    assert!(message.contains("long: the ignore list is larger than 16777216 bytes"), "{message}");
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
fn charts_are_rendered_if_helm_is_installed() {
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
    let unused =
        "quay.io/team/cache:6.2  # context/charts/shop/charts/cache/values.yaml:3: not used by the chart";
    assert!(ran.stdout.contains(unused), "{}", ran.stdout);
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
    let message = "helm template failed (chart requires kubeVersion): evaluated the templates";
    assert!(failed.stderr.contains(message), "{}", failed.stderr);
}

#[test]
fn helm_with_endless_output_is_killed() {
    let home = Home::new();
    context(&home, "localhost:5000");
    for script in ["exec yes", "exec yes >&2"] {
        let path = helm(&home, script);
        let ran = run(home.saver(["scan", "context/charts/shop"]).env("PATH", &path));
        assert!(
            ran.stderr.contains("helm template failed (the output is too large)"),
            "{script}: {}",
            ran.stderr
        );
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
        ("cache/templates/x.yaml", b"image: {{ .Values.image.repository }}:{{ .Values.image.tag }}\n"),
    ]);
    let outer = packed(&[
        ("shop/Chart.yaml", b"name: shop\nappVersion: 1\n"),
        ("shop/values.yaml", b"image: {repository: a.io/shop, tag: 2}\ncache: {image: {tag: 7}}\n"),
        ("shop/templates/x.yaml", b"image: {{ .Values.image.repository }}:{{ .Values.image.tag }}\n"),
        ("../../outside.yaml", b"image: quay.io/team/outside:1\n"),
        ("shop/charts/cache-1.0.0.tgz", &inner),
    ]);
    home.write("x/a.txt", "");
    fs::write(home.path("x/shop-1.0.0.tgz"), outer).unwrap();
    fs::write(home.path("x/other.tgz"), packed(&[("a/b.yaml", b"image: a.io/not:1\n")])).unwrap();
    let ran = scan(&home, &["x"], 0);
    assert_eq!(
        ran.stdout,
        "a.io/shop:2  # x/shop-1.0.0.tgz/templates/x.yaml:1\n\
         quay.io/team/cache:7  # x/shop-1.0.0.tgz/charts/cache/templates/x.yaml:1\n"
    );
    // One that unfolds to far more than it is.
    let zeros = vec![0; 17 << 20];
    fs::write(home.path("x/bomb.tgz"), packed(&[("shop/Chart.yaml", &zeros)])).unwrap();
    fs::write(home.path("x/broken.tgz"), b"\x1f\x8b\x08 no").unwrap();
    let ran = scan(&home, &["x"], 1);
    assert!(ran.stderr.contains("bomb.tgz: the archive is too large when unpacked"), "{}", ran.stderr);
    assert!(ran.stderr.contains("broken.tgz: cannot read the archive"), "{}", ran.stderr);
}

#[test]
fn two_archives_with_the_same_path_are_reported() {
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
fn lists_that_are_not_regular_files_are_reported() {
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
            let message = format!("c/{name}: not a regular file");
            assert!(
                ran.stderr.contains(&message) && read(&ran.stdout).0 == ["a.io/b:1"],
                "{message}: {}",
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
    for message in [
        "nested too deeply",
        "pipe.yaml: not a regular file",
        "link.yaml: skipped a symbolic link",
        "binary.yaml: skipped a binary file",
        "bomb.yaml:",
    ] {
        assert!(ran.stderr.contains(message), "{message}: {}", ran.stderr);
    }
    let huge = format!("{}\n", "# x".repeat(6 << 20));
    home.write("big/a.yaml", &huge);
    assert!(scan(&home, &["big"], 1).stderr.contains("larger than 16 MiB"));
    // Names that would write on the terminal, or end a line of the list.
    home.write("odd/\u{1b}[31m\n: x.yaml", &pod("odd"));
    let ran = scan(&home, &["odd"], 0);
    assert!(!ran.stdout.contains('\u{1b}') && read(&ran.stdout).0 == ["a.io/odd:1"], "{:?}", ran.stdout);
}

/// What a case of the corpus expects: sure names, open doubts, images that are not rendered, and invalid entries.
#[derive(Debug, Default, PartialEq)]
struct Labels {
    sure: BTreeSet<String>,
    doubtful: BTreeSet<String>,
    unrendered: BTreeSet<String>,
    invalid: BTreeSet<String>,
}

impl Labels {
    fn of_case(case: &Path) -> Self {
        let mut labels = Self::default();
        for line in fs::read_to_string(case.join("expected")).unwrap().lines() {
            let set = match line.get(..2) {
                Some("? ") => &mut labels.doubtful,
                Some("- ") => &mut labels.unrendered,
                Some("! ") => &mut labels.invalid,
                _ => {
                    labels.sure.insert(line.to_owned());
                    continue;
                }
            };
            set.insert(line[2..].to_owned());
        }
        labels
    }

    fn of_scan(case: &Path, home: &Home, more: &[&str]) -> Self {
        let helm = super::support::peers::helm();
        let path = format!("{}:/usr/bin:/bin", helm.parent().unwrap().display());
        let input = case.join("input");
        let ran = run(home.saver(["scan", "--json"]).args(more).arg(&input).env("PATH", path));
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let texts = |list: &str, key: &str, wanted: &dyn Fn(&serde_json::Value) -> bool| {
            let items = report[list].as_array().unwrap().iter().filter(|item| wanted(item));
            items.map(|item| item[key].as_str().unwrap().to_owned()).collect()
        };
        let head = format!("warning: {}/", input.display());
        let invalid = ran.stderr.lines().filter_map(|line| line.strip_prefix(&head)?.split(": ").next());
        Self {
            sure: texts("images", "reference", &|_| true),
            doubtful: texts("doubtful", "text", &|item| item["reason"] != "not-rendered"),
            unrendered: texts("doubtful", "text", &|item| item["reason"] == "not-rendered"),
            invalid: invalid.map(str::to_owned).collect(),
        }
    }
}

#[test]
fn corpus_is_found_completely_and_precisely() {
    let home = Home::new();
    let mut cases = 0;
    for entry in
        walkdir::WalkDir::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/scan")).sort_by_file_name()
    {
        let entry = entry.unwrap();
        if entry.file_name() != "expected" {
            continue;
        }
        cases += 1;
        let case = entry.path().parent().unwrap();
        let labels = Labels::of_case(case);
        assert_eq!(Labels::of_scan(case, &home, &[]), labels, "{}", case.display());
        // Without helm less is sure, and nothing is invented.
        let found = Labels::of_scan(case, &home, &["--no-helm"]);
        assert!(found.sure.is_subset(&labels.sure), "{}: {:?}", case.display(), found.sure);
    }
    assert!(cases > 30, "{cases}");
}

#[test]
fn doubtful_finds_fail_on_request_unless_ignored() {
    let home = Home::new();
    home.write("c/a.yaml", "apiVersion: v1\nkind: Pod\nimage: a.io/b\n");
    scan(&home, &["c"], 0);
    scan(&home, &["c", "--fail-on-doubtful"], 1);
    for pattern in ["a.io/b", "file:c/a.yaml"] {
        home.write("ignore", pattern);
        scan(&home, &["c", "--fail-on-doubtful", "--ignore", "ignore"], 0);
    }
}

#[test]
fn values_files_apply_to_charts() {
    let home = Home::new();
    home.write("c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n");
    home.write("c/values.yaml", "image: {repository: a.io/b, tag: 1}\n");
    home.write(
        "c/templates/x.yaml",
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: \"{{ .Values.image.repository }}:{{ .Values.image.tag }}\"}]}\n",
    );
    home.write("prod.yaml", "image: {tag: \"9\"}\n");
    let helm = super::support::peers::helm();
    let path = format!("{}:/usr/bin:/bin", helm.parent().unwrap().display());
    for more in [&[][..], &["--no-helm"]] {
        let ran =
            run(home.saver(["scan", "c", "--values", "prod.yaml"]).args(more).env("PATH", &path)).expect(0);
        assert!(ran.stdout.starts_with("a.io/b:9  # "), "{}", ran.stdout);
    }
    assert!(scan(&home, &["c", "--values", "none.yaml"], 2).stderr.contains("cannot read the values file"));
}
