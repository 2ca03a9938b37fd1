//! Real clients with the files of `saver mirror-config` pull original names. Neither registry can be reached.

use super::upstreams::{IMAGES, REGISTRIES, digest, tree};
use crate::interop::with_storage;
use crate::support::crictl::Crictl;
use crate::support::peers::containerd::Containerd;
use crate::support::peers::registry::Registry;
use crate::support::peers::succeed;
use crate::support::peers::tls::Tls;
use crate::support::program::{Home, run};
use crate::support::serving::Serving;
use saver::oci::Digest;
use saver::serve::http::{ServeOptions, TlsIdentity};
use std::path::{Path, PathBuf};

/// Writes the files for `client` and returns the directory that they are in.
fn configure(home: &Home, client: &str, dir: &Path, names: &str, endpoint: &str, more: &[&str]) -> PathBuf {
    let output = home.path(&format!("{client}-{names}"));
    let mut command =
        home.saver(["mirror-config", client, "--names", names, "--endpoint", endpoint, "--dir"]);
    command.arg(dir).arg("--output").arg(&output).args(more);
    if names == "strip" && !more.contains(&"--all-registries") {
        command.args(REGISTRIES.iter().flat_map(|host| ["--registry", host]));
    }
    run(&mut command).expect(0);
    output
}

/// Pulls all original names with `ctr`, which must give the digests of the samples.
fn pull_with_ctr(hosts: &Path) {
    let containerd = Containerd::start();
    for (name, sample) in IMAGES {
        let hosts = hosts.to_str().unwrap();
        let snapshotter = ["--snapshotter", "native", "--platform", "linux/amd64"];
        containerd.ctr(&[&["images", "pull", "--hosts-dir", hosts], &snapshotter[..], &[name]].concat());
        let listed = containerd.ctr(&["images", "ls", &format!("name=={name}")]);
        assert!(listed.contains(&digest(sample).to_string()), "{name}: {listed}");
    }
}

#[test]
fn containerd_pulls_from_both_servers_with_either_names() {
    for names in ["strip", "domain"] {
        let home = Home::new();
        let dir = tree(names);
        let registry = Registry::serve(dir.path());
        let serving = Serving::start(dir.path());
        for address in [registry.address.clone(), serving.address.to_string()] {
            let endpoint = format!("http://{address}");
            pull_with_ctr(&configure(&home, "containerd", dir.path(), names, &endpoint, &[]));
        }
    }
}

/// One file for all registries: `saver serve` evaluates `?ns=`.
#[test]
fn containerd_pulls_from_saver_by_the_default_file() {
    for names in ["strip", "domain"] {
        let home = Home::new();
        let dir = tree(names);
        let serving = Serving::start(dir.path());
        let endpoint = format!("http://{}", serving.address);
        let hosts = configure(&home, "containerd", dir.path(), names, &endpoint, &["--all-registries"]);
        for registry in REGISTRIES {
            let _ = std::fs::remove_dir_all(hosts.join(registry));
        }
        pull_with_ctr(&hosts);
    }
}

#[test]
fn containerd_trusts_the_ca_of_the_endpoint() {
    let home = Home::new();
    let dir = tree("domain");
    let tls = Tls::make(&home.path(""));
    let identity = TlsIdentity::from_files(&tls.certificate, &tls.key).unwrap();
    let serving = Serving::with(dir.path(), ServeOptions::new(Some(identity)));
    let endpoint = format!("https://{}", serving.address);
    let ca = tls.ca.to_str().unwrap();
    pull_with_ctr(&configure(&home, "containerd", dir.path(), "domain", &endpoint, &["--ca", ca]));
}

#[test]
fn kubelet_pulls_by_the_cri_of_containerd() {
    let home = Home::new();
    let dir = tree("domain");
    let registry = Registry::serve(dir.path());
    let endpoint = format!("http://{}", registry.address);
    let hosts = configure(&home, "containerd", dir.path(), "domain", &endpoint, &[]);
    let containerd = Containerd::with_cri(&hosts);
    let crictl = Crictl::at(&containerd.socket(), "v1", Some("localhost"));
    for (name, _) in IMAGES {
        crictl.succeed(&["pull", name]);
        assert!(crictl.succeed(&["images"]).contains(name.split(':').next().unwrap()), "{name}");
    }
}

#[test]
fn podman_and_skopeo_pull_original_names() {
    for names in ["strip", "domain"] {
        let home = Home::new();
        let dir = tree(names);
        let registry = Registry::serve(dir.path());
        let endpoint = format!("http://{}", registry.address);
        let config = configure(&home, "podman", dir.path(), names, &endpoint, &[]);
        let drop_in = config.join("registries.conf.d/50-saver.conf");
        let drop_in = drop_in.to_str().unwrap();
        let storage = home.path("storage");
        for (name, sample) in IMAGES {
            let source = format!("docker://{name}");
            let raw = succeed("skopeo", ["--registries-conf", drop_in, "inspect", "--raw", &source]);
            assert_eq!(Digest::of(raw.as_bytes()), digest(sample), "{name}");
            with_storage("podman", &storage, &["--registries-conf", drop_in, "pull", "-q", name]);
            let named = with_storage("podman", &storage, &["images", "--format", "{{.Repository}}:{{.Tag}}"]);
            assert!(named.lines().any(|line| line == name), "{named}");
        }
    }
}
