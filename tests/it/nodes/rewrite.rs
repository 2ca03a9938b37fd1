//! `saver rewrite`: names, kustomizations, and manifests as Helm's post-renderer.

use super::upstreams::{IMAGES, tree};
use crate::support::peers::registry::Registry;
use crate::support::peers::{helm, samples, succeed};
use crate::support::program::{Home, Ran, run};
use std::io::Write;
use std::process::Stdio;

const MANIFEST: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: hello   # docker.io/library/hello:1.0
spec:
  containers:
  - image: \"hello:1.0\"\r
    name: a
  - {name: b, image: quay.example/demo/app:1.0}
  - name: c
    image:   quay.example/demo/none:1.0
";

fn rewrite_stdin(home: &Home, dir: &std::path::Path, names: &str, text: &str) -> Ran {
    let mut command = home.saver(["rewrite", "mirror.lan/edge", "-", "--names", names, "--dir"]);
    command.arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    crate::support::program::finish(child)
}

#[test]
fn manifest_keeps_everything_but_sure_names() {
    let home = Home::new();
    for (names, hello, app) in [
        ("strip", "mirror.lan/edge/library/hello:1.0", "mirror.lan/edge/demo/app:1.0"),
        (
            "domain",
            "mirror.lan/edge/docker.io/library/hello:1.0",
            "mirror.lan/edge/quay.example/demo/app:1.0",
        ),
    ] {
        let dir = tree(names);
        let ran = rewrite_stdin(&home, dir.path(), names, MANIFEST).expect(0);
        let expected = MANIFEST
            .replace("\"hello:1.0\"", &format!("\"{hello}\""))
            .replace("quay.example/demo/app:1.0", app);
        assert_eq!(ran.stdout, expected);
        assert!(
            ran.stderr.contains("stdin:11: quay.example/demo/none:1.0 is unchanged: not in the directory")
        );
        assert!(ran.stderr.contains("replaced 2 image names"), "{}", ran.stderr);
        // What has a new name already stays as it is.
        let again = rewrite_stdin(&home, dir.path(), names, &ran.stdout).expect(0);
        assert_eq!(again.stdout, ran.stdout);
    }
}

#[test]
fn composed_and_doubtful_names_are_kept() {
    let home = Home::new();
    let dir = tree("strip");
    let text = "\
apiVersion: example.com/v1
kind: App
spec:
  image:
    repository: quay.example/demo/app
    tag: \"1.0\"
";
    let ran = rewrite_stdin(&home, dir.path(), "strip", text).expect(0);
    assert_eq!(ran.stdout, text);
    assert!(ran.stderr.contains("quay.example/demo/app:1.0 is unchanged"), "{}", ran.stderr);
    for text in ["", "not: [yaml\n", "\u{feff}a: b\n"] {
        assert_eq!(rewrite_stdin(&home, dir.path(), "strip", text).expect(0).stdout, text);
    }
}

#[test]
fn helm_uses_it_as_a_post_renderer() {
    let home = Home::new();
    let dir = tree("domain");
    home.write("chart/Chart.yaml", "apiVersion: v2\nname: chart\nversion: 1.0.0\n");
    home.write("chart/templates/pod.yaml", MANIFEST);
    let chart = home.path("chart");
    let mut arguments = vec!["template".to_owned(), chart.to_str().unwrap().to_owned()];
    arguments.extend(["--post-renderer".to_owned(), env!("CARGO_BIN_EXE_saver").to_owned()]);
    let dir = dir.path().to_str().unwrap();
    for own in ["rewrite", "mirror.lan", "-", "--names=domain", "--dir", dir] {
        arguments.extend(["--post-renderer-args".to_owned(), own.to_owned()]);
    }
    let rendered = succeed(helm().to_str().unwrap(), &arguments);
    assert!(rendered.contains("image: \"mirror.lan/docker.io/library/hello:1.0\""), "{rendered}");
    assert!(rendered.contains("image: mirror.lan/quay.example/demo/app:1.0}"), "{rendered}");
    assert!(rendered.contains("quay.example/demo/none:1.0"), "{rendered}");
}

#[test]
fn names_are_printed_for_scripts_and_kustomize() {
    let home = Home::new();
    let list = home.write("list", &IMAGES.map(|(name, _)| format!("{name}\n")).concat());
    let dir = tree("strip");
    let rewrite = |more: &[&str]| {
        let mut command = home.saver(["rewrite", "mirror.lan:5000", "--dir"]);
        run(command.arg(dir.path()).arg("--list").arg(&list).args(more)).expect(0).stdout
    };
    assert_eq!(
        rewrite(&[]),
        "docker.io/library/hello:1.0\tmirror.lan:5000/library/hello:1.0\n\
         quay.example/demo/app:1.0\tmirror.lan:5000/demo/app:1.0\n"
    );
    let images = rewrite(&["--format", "kustomize"]);
    assert!(images.starts_with("images:\n  - name: docker.io/hello\n"), "{images}");
    assert!(images.contains("  - name: hello\n    newName: mirror.lan:5000/library/hello\n"), "{images}");
    let domain = tree("domain");
    let mut command = home.saver(["rewrite", "mirror.lan", "--names", "domain", "--dir"]);
    let all = run(command.arg(domain.path())).expect(0).stdout;
    assert!(all.contains("quay.example/demo/app:1.0\tmirror.lan/quay.example/demo/app:1.0\n"), "{all}");
}

/// saver records the sources, so that neither list nor registries have to be named.
#[test]
fn recorded_sources_are_the_original_names() {
    let home = Home::new();
    let source = Registry::serve(&samples());
    let dir = home.path("tree");
    let name = format!("{}/demo/app:1.0", source.address);
    home.save(&dir, "amd64", std::slice::from_ref(&name), &[], 0);
    let names = run(home.saver(["rewrite", "mirror.lan", "--dir"]).arg(&dir)).expect(0).stdout;
    assert_eq!(names, format!("{name}\tmirror.lan/demo/app:1.0\n"));
    let podman = ["mirror-config", "podman", "--endpoint", "http://mirror.lan", "--dir"];
    let config = run(home.saver(podman).arg(&dir)).expect(0).stdout;
    assert!(config.contains(&format!("prefix = \"{}\"", source.address)), "{config}");
}

#[test]
fn wrong_command_lines_name_what_is_wrong() {
    let home = Home::new();
    let dir = tree("strip");
    let dir = dir.path().to_str().unwrap();
    let list = home.write("list", "quay.example/none:1\n");
    for (more, words) in [
        (&["--dir", dir][..], "REGISTRY"),
        (&["mirror.lan"], "--dir"),
        (&["mirror.lan", "--dir", dir], "--list FILE"),
        (&["http://mirror.lan", "--dir", dir], "without a scheme"),
        (&["mirror.lan", "none.yaml", "--dir", dir], "none.yaml"),
    ] {
        let ran = run(home.saver(["rewrite"]).args(more)).expect(2);
        assert!(ran.stderr.contains(words), "{more:?}: {}", ran.stderr);
    }
    let more = ["rewrite", "mirror.lan", "--dir", dir, "--list", list.to_str().unwrap()];
    let ran = run(&mut home.saver(more));
    assert!(ran.code != Some(0) && ran.stderr.contains("quay.example/none:1"), "{}", ran.stderr);
}
