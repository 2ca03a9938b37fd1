//! The sample images are what they claim to be: real registries serve them, real clients read them.

use crate::support::scratch::Scratch;

use super::support::peers::containerd::Containerd;
use super::support::peers::registry::{Registry, RegistryOptions, garbage_collect};
use super::support::peers::tls::Tls;
use super::support::peers::token::{TokenOptions, TokenServer};
use super::support::peers::{run, samples, succeed};
use super::support::tree::copy_tree;

/// The references of testdata/imageList, without the registry and what may stand around them.
fn listed() -> Vec<String> {
    let list = include_str!("../../testdata/imageList");
    let references = list.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    references
        .filter(|line| !line.is_empty())
        .map(|line| line.split_once("localhost:5000/").expect("the placeholder").1.to_owned())
        .collect()
}

#[test]
fn every_listed_image_can_be_inspected() {
    let registry = Registry::serve(&samples());
    for name in listed() {
        let reference = format!("docker://{}/{name}", registry.address);
        let manifest = succeed("skopeo", ["inspect", "--raw", "--tls-verify=false", &reference]);
        assert!(manifest.starts_with(r#"{"schemaVersion":2"#), "{name}: {manifest}");
    }
    assert!(registry.daemon.id() > 0);
}

#[test]
fn sample_layer_unpacks_to_its_platform_files() {
    let registry = Registry::serve(&samples());
    let dir = Scratch::new();
    let layout = format!("oci:{}:image", dir.path().join("layout").display());
    let source = format!("docker://{}/demo/tool:2.1", registry.address);
    succeed("skopeo", ["--override-arch", "arm64", "copy", "-q", "--src-tls-verify=false", &source, &layout]);
    let bundle = dir.path().join("bundle");
    let image = format!("{}:image", dir.path().join("layout").display());
    succeed("umoci", ["unpack", "--rootless", "--image", &image, bundle.to_str().expect("UTF-8")]);
    let platform = std::fs::read_to_string(bundle.join("rootfs/etc/platform")).expect("the file");
    assert_eq!(platform, "arm64/linux/v8\n");
}

#[test]
fn containerd_pulls_the_sample_index() {
    let registry = Registry::serve(&samples());
    let link = samples().join("docker/registry/v2/repositories/demo/app/_manifests/tags/1.0/current/link");
    let digest = std::fs::read_to_string(link).expect("a tag");
    let containerd = Containerd::start();
    assert_eq!(containerd.pull(&format!("{}/demo/app:1.0", registry.address), "linux/amd64"), digest);
}

#[test]
fn garbage_collection_keeps_the_samples() {
    let dir = Scratch::new();
    copy_tree(&samples(), dir.path());
    let said = garbage_collect(dir.path(), false);
    assert!(said.contains("0 blobs and 0 manifests eligible for deletion"), "{said}");
}

#[test]
fn token_server_grants_access() {
    let dir = Scratch::new();
    let options =
        TokenOptions { user: Some(("reader", "pass")), lifetime: std::time::Duration::from_secs(300) };
    let tokens = TokenServer::start(dir.path(), options);
    let options = RegistryOptions { token: Some(tokens.auth()), ..RegistryOptions::default() };
    let registry = Registry::start(&samples(), &options);
    let reference = format!("docker://{}/demo/app:1.0", registry.address);
    let inspect = |credentials: &str| {
        run("skopeo", ["inspect", "--raw", "--tls-verify=false", "--creds", credentials, &reference])
    };
    let said = inspect("reader:pass");
    assert!(said.status.success(), "{}", said.stderr);
    assert!(tokens.asked().iter().any(|query| query.contains("demo%2Fapp%3Apull")), "{:?}", tokens.asked());
    assert!(!inspect("reader:wrong").status.success());
}

#[test]
fn private_ca_is_required_and_sufficient() {
    let dir = Scratch::new();
    let tls = Tls::make(dir.path());
    let options = RegistryOptions { tls: Some(tls.clone()), ..RegistryOptions::default() };
    let registry = Registry::start(&samples(), &options);
    let url = format!("https://{}/v2/", registry.address);
    let ca = tls.ca.to_str().expect("UTF-8");
    assert_eq!(succeed("curl", ["-q", "-sS", "--cacert", ca, &url]), "{}");
    assert!(!run("curl", ["-q", "-sS", &url]).status.success());
}
