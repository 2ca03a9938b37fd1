//! The real helm: what it renders is what a scan finds, and a chart that it pushed comes back from a tree.

use super::scan::{context, read};
use super::support::peers::helm;
use super::support::peers::registry::{Registry, RegistryOptions};
use super::support::peers::{samples, succeed};
use super::support::program::{Home, Ran, Victim, run};
use super::support::serving::Serving;
use crate::support::scratch::Scratch;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// `PATH` with the real helm on it.
fn path() -> String {
    format!("{}:/usr/bin:/bin", helm().parent().unwrap().display())
}

fn scan(home: &Home, arguments: &[&str], code: i32) -> Ran {
    run(home.saver(["scan"].iter().chain(arguments)).env("PATH", path())).expect(code)
}

/// Runs helm, which must succeed, in a home of its own; what it prints.
pub(super) fn helmed(home: &Home, arguments: &[&str]) -> String {
    let output =
        Command::new(helm()).args(arguments).current_dir(home.path("")).env("HOME", home.path("h")).output();
    let output = output.unwrap();
    assert!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A chart as people write them: helpers, a global registry, a subchart under an alias, one that is off, CRDs.
pub(super) fn shop(home: &Home) {
    let chart = |below: &str, text: &str| home.write(&format!("shop/{below}"), text);
    chart(
        "Chart.yaml",
        "apiVersion: v2\nname: shop\nversion: 1.2.3+build.5\nappVersion: \"4.5\"\ndependencies:\n\
         - {name: db, version: 0.1.0, alias: main, condition: main.enabled}\n\
         - {name: db, version: 0.1.0, alias: spare, condition: spare.enabled}\n",
    );
    chart(
        "values.yaml",
        "global: {imageRegistry: mirror.example.com}\nimage: {registry: quay.io, repository: team/shop, tag: \"\"}\n\
         exporter: {enabled: false, image: quay.io/team/exporter:1}\nnote: quay.io/team/unused:9\n\
         reloader: {image: {repository: quay.io/team/reloader, tag: \"\"}}\nbase: {image: {repository: quay.io/team/base, tag: 3}}\n\
         main: {enabled: true, image: {tag: \"16\"}}\nspare: {enabled: false}\n",
    );
    chart(
        "templates/_helpers.tpl",
        "{{- define \"shop.image\" -}}\n{{ .Values.global.imageRegistry | default .Values.image.registry }}/\
         {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}\n{{- end -}}\n",
    );
    chart(
        "templates/app.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\nspec:\n  template:\n    spec:\n      containers:\n\
         \x20     - name: shop\n        image: {{ include \"shop.image\" . }}\n\
         {{- if .Values.exporter.enabled }}\n      - name: exporter\n        image: {{ .Values.exporter.image }}\n{{- end }}\n\
         \x20     - name: {{ (lookup \"v1\" \"Namespace\" \"\" \"default\").kind | default \"none\" }}\n        image: quay.io/team/helper:2\n\
         \x20       args: [--reload={{ .Values.reloader.image.repository }}:v{{ .Chart.AppVersion }}, --base={{ .Values.base.image.repository }}:{{ .Values.base.image.tag }}]\n",
    );
    chart("charts/db/Chart.yaml", "apiVersion: v2\nname: db\nversion: 0.1.0\n");
    chart("charts/db/values.yaml", "image:\n  repository: team/db\n  tag: \"15\"\n");
    chart(
        "charts/db/templates/db.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: {{ .Chart.Name }}}\nspec:\n  containers:\n  - name: db\n\
         \x20   image: \"{{ .Values.global.imageRegistry }}/{{ .Values.image.repository }}:{{ .Values.image.tag }}\"\n",
    );
    chart(
        "crds/crd.yaml",
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\nspec: {default: {image: quay.io/team/crd:1}}\n",
    );
}

const RENDERED: [&str; 3] =
    ["mirror.example.com/team/db:16", "mirror.example.com/team/shop:4.5", "quay.io/team/helper:2"];

/// What is sure: the containers that helm renders, and whole names in their arguments.
const SURE: [&str; 5] =
    [RENDERED[0], RENDERED[1], "quay.io/team/base:3", RENDERED[2], "quay.io/team/reloader:v4.5"];

#[test]
fn rendered_images_are_sure() {
    let home = Home::new();
    shop(&home);
    // What helm itself prints, by its own lines.
    let printed = helmed(&home, &["template", "x", "shop"]);
    let lines = printed.lines().filter_map(|line| line.trim().strip_prefix("image: "));
    let theirs: BTreeSet<&str> = lines.map(|image| image.trim_matches('"')).collect();
    assert_eq!(theirs, BTreeSet::from(RENDERED));
    let ran = scan(&home, &["shop"], 0);
    let (images, doubts) = read(&ran.stdout);
    assert_eq!(images, SURE, "{}", ran.stderr);
    for line in [
        // The paths are those of helm, which names a subchart by its alias.
        "mirror.example.com/team/db:16  # shop/charts/main/templates/db.yaml",
        "quay.io/team/helper:2  # shop/templates/app.yaml",
        "quay.io/team/reloader:v4.5  # shop/templates/app.yaml",
        "# quay.io/team/crd:1  # shop/crds/crd.yaml: default or example in a custom resource definition",
    ] {
        assert!(ran.stdout.lines().any(|printed| printed == line), "{line}\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains("reloader:4.5"), "the rendered tag counts: {}", ran.stdout);
    for off in ["quay.io/team/exporter:1", "quay.io/team/unused:9"] {
        assert!(doubts.contains(off), "{doubts:?}");
    }
    // The same chart packed.
    helmed(&home, &["package", "shop", "-d", "packed"]);
    assert_eq!(read(&scan(&home, &["packed"], 0).stdout).0, SURE);
}

#[test]
fn charts_that_helm_cannot_render_are_evaluated() {
    for (name, template, why, is_rendered) in [
        ("required", "{{ required \"a domain is needed\" .Values.domain }}", "a domain is needed", true),
        ("fail", "{{ fail \"not on this cluster\" }}", "not on this cluster", true),
        ("syntax", "{{ if }}", "missing value for if", true),
        ("bomb", "{{ repeat 3000000 (repeat 1000 \"x\") | len }}", "out of memory", false),
    ] {
        let home = Home::new();
        shop(&home);
        home.write("shop/templates/x.yaml", &format!("a: {template}\n"));
        let ran = scan(&home, &["shop"], 0);
        let message = "shop: helm template failed (";
        assert!(ran.stderr.contains(message) && ran.stderr.contains(why), "{name}: {}", ran.stderr);
        assert!(!ran.stderr.contains("saver-helm-"), "the temporary directory is not named: {}", ran.stderr);
        let (images, doubts) = read(&ran.stdout);
        if is_rendered {
            assert_eq!(images, SURE, "{name}: {doubts:?}");
        } else {
            // Only what the templates join from values and write out.
            assert_eq!(images, [RENDERED[0], RENDERED[2]], "{name}: {doubts:?}");
            assert!(doubts.contains("{{ include \"shop.image\" . }}"), "{doubts:?}");
            assert_eq!(ran.stdout, scan(&home, &["shop", "--no-helm"], 0).stdout);
        }
        assert!(doubts.contains("quay.io/team/exporter:1"), "{doubts:?}");
    }
}

#[test]
fn charts_of_a_build_context_are_rendered() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    context(&home, &registry.address);
    // Without the dependency that is not there, helm renders it.
    let chart = home.path("context/charts/shop/Chart.yaml");
    let text = fs::read_to_string(&chart).unwrap();
    let (kept, _) = text.split_once("  - name: search").unwrap();
    fs::write(&chart, kept).unwrap();
    home.write(
        "context/charts/shop/templates/_helpers.tpl",
        &format!("{{{{ define \"shop.image\" }}}}{}/demo/zstd:1.0{{{{ end }}}}", registry.address),
    );
    home.write("ignore", super::build_context::IGNORED);
    let mut command = home.saver(["build-context", "context", "--arch", "amd64", "--ignore", "ignore"]);
    let ran = run(command.args(["--progress", "none"]).env("PATH", path())).expect(0);
    assert!(!ran.stderr.contains("helm template failed"), "{}", ran.stderr);
    let listed = run(home.saver(["ls", "--dir"]).arg(home.path("context/registry"))).expect(0).stdout;
    // Named by the template alone, which nobody could have read.
    assert!(listed.contains("demo/zstd "), "{listed}");
}

#[test]
fn pushed_chart_is_saved_and_pulled_again_by_helm() {
    let home = Home::new();
    shop(&home);
    helmed(&home, &["package", "shop", "-d", "packed"]);
    let storage = Scratch::new();
    let options = RegistryOptions { writable: true, ..RegistryOptions::default() };
    let source = Registry::start(storage.path(), &options);
    let packed = "packed/shop-1.2.3+build.5.tgz";
    helmed(&home, &["push", packed, &format!("oci://{}/charts", source.address), "--plain-http"]);
    let dir = home.path("tree");
    // The version has a + where the tag has a _ .
    let image = [format!("{}/charts/shop:1.2.3_build.5", source.address)];
    home.save(&dir, "amd64", &image, &[], 0);
    run(home.saver(["verify", "--deep", "--dir"]).arg(&dir)).expect(0);
    let listed = run(home.saver(["ls", "--dir"]).arg(&dir)).expect(0).stdout;
    assert!(listed.contains("helm chart"), "{listed}");
    let served = Serving::start(&dir);
    let theirs = Registry::serve(&dir);
    for (place, address) in [("ours", served.address.to_string()), ("theirs", theirs.address.clone())] {
        fs::create_dir(home.path(place)).unwrap();
        let chart = format!("oci://{address}/charts/shop");
        helmed(&home, &["pull", &chart, "--version", "1.2.3+build.5", "--plain-http", "-d", place]);
        let pulled = fs::read(home.path(&format!("{place}/shop-1.2.3+build.5.tgz"))).unwrap();
        assert!(pulled == fs::read(home.path(packed)).unwrap(), "{place}: the chart is another one");
        // Rendered straight from the registry, too.
        let rendered =
            helmed(&home, &["template", "x", &chart, "--version", "1.2.3+build.5", "--plain-http"]);
        assert!(rendered.contains("mirror.example.com/team/shop:4.5"), "{rendered}");
    }
}

/// A helm that starts a process of its own, notes its number, and does `then`.
fn starter(home: &Home, then: &str) -> String {
    let note = home.path("child");
    let script =
        format!("#!/bin/sh\nsleep 300 &\necho $! > {0}.new; mv {0}.new {0}\n{then}\n", note.display());
    let file = home.write("bin/helm", &script);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", home.path("bin").display())
}

/// Waits for the process that a `starter` noted to be gone.
fn is_gone(home: &Home) -> bool {
    let child = fs::read_to_string(home.path("child")).unwrap();
    let start = Instant::now();
    // A process that nobody waited for yet is gone too.
    let runs = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    while runs() && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    !runs()
}

#[test]
fn children_of_helm_are_killed_with_it() {
    for then in ["exec yes", "exit 1", "exit 0"] {
        let home = Home::new();
        shop(&home);
        let path = starter(&home, then);
        let ran = run(home.saver(["scan", "shop"]).env("PATH", &path)).expect(0);
        assert_eq!(ran.stderr.contains("helm template failed"), then != "exit 0", "{then}: {}", ran.stderr);
        assert!(is_gone(&home), "{then}");
    }
}

#[test]
fn signal_kills_helm_too() {
    for (verb, signal) in
        [("scan", rustix::process::Signal::INT), ("build-context", rustix::process::Signal::TERM)]
    {
        let home = Home::new();
        shop(&home);
        home.write("charts/x", "");
        fs::rename(home.path("shop"), home.path("charts/shop")).unwrap();
        let path = starter(&home, "wait");
        let mut command = home.saver([verb, "."]);
        if verb == "build-context" {
            command.args(["--arch", "amd64"]);
        }
        let temporary = home.path("tmp");
        fs::create_dir(&temporary).unwrap();
        let saver = Victim::start(command.env("PATH", &path).env("TMPDIR", &temporary));
        let start = Instant::now();
        while !home.path("child").exists() && start.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let id = rustix::process::Pid::from_raw(i32::try_from(saver.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
        saver.finish().expect(130);
        assert!(is_gone(&home), "{verb}");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "{verb}: its directory is left");
    }
}

#[test]
fn helm_runs_without_the_user_s_configuration() {
    let home = Home::new();
    shop(&home);
    // A plugin that would be seen in what helm knows, and a repository file that can't be read.
    home.write(".local/share/helm/plugins/bad/plugin.yaml", "name: bad\nversion: x\n");
    home.write(".config/helm/repositories.yaml", "not: [valid\n");
    let ran = run(home
        .saver(["scan", "shop"])
        .env("PATH", path())
        .env("HELM_PLUGINS", home.path(".local/share/helm/plugins"))
        .env("HELM_REPOSITORY_CONFIG", home.path(".config/helm/repositories.yaml"))
        .env("KUBECONFIG", "/nowhere"))
    .expect(0);
    assert!(ran.stderr.starts_with("5 images, "), "{}", ran.stderr);
    let before = succeed(
        "find",
        [home.path("").to_str().unwrap(), "-newer", home.path("shop").to_str().unwrap(), "-type", "f"],
    );
    assert!(!before.contains("cache"), "{before}");
}
