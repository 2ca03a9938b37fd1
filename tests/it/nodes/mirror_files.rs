//! The files of `saver mirror-config` for clients that no test can run, against the structure that their documentation gives; and
//! how files are printed, written and refused.

use super::upstreams::tree;
use crate::support::program::{Home, Ran, run};
use saver::yaml::{self, YamlNode};
use serde_json::{Value, json};
use std::path::Path;

const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn mirror_config(home: &Home, client: &str, dir: &Path, more: &[&str]) -> Ran {
    run(home.saver(["mirror-config", client, "--dir"]).arg(dir).args(more))
}

/// Documents of YAML as JSON, every scalar as a string.
fn documents(text: &str) -> Vec<Value> {
    fn value(node: &YamlNode) -> Value {
        if node.is_mapping() {
            let pairs = node.pairs().iter().map(|(key, child)| (key.text.clone(), value(child)));
            return Value::Object(pairs.collect());
        }
        match node.text() {
            Some(text) => Value::from(text),
            None => node.items().iter().map(|item| value(item)).collect(),
        }
    }
    let parsed = yaml::parse(&"stdout".into(), text);
    assert!(parsed.error.is_none(), "{text}");
    parsed.documents.iter().map(|document| value(document)).collect()
}

/// Each client's documents for a tree with names with hosts, as <https://docs.k3s.io/installation/private-registry>,
/// <https://docs.siderolabs.com/talos/v1.12/reference/configuration/cri/registrymirrorconfig> and the custom resource definitions
/// of config.openshift.io/v1 describe them.
#[test]
fn yaml_documents_have_the_documented_structure() {
    let home = Home::new();
    let dir = tree("domain");
    let ca = home.write("ca.pem", CA);
    let common = ["--names", "domain", "--endpoint", "https://mirror.lan:5000", "--registry", "quay.io"];
    let with_ca = [&common[..], &["--ca", ca.to_str().unwrap()]].concat();
    let mirror_set = |kind: &str, field: &str| {
        let mirror = json!({
            "source": "quay.io", "mirrors": ["mirror.lan:5000/quay.io"], "mirrorSourcePolicy": "NeverContactSource",
        });
        json!({
            "apiVersion": "config.openshift.io/v1", "kind": kind, "metadata": {"name": "saver"}, "spec": {field: [mirror]},
        })
    };
    let registries = |directory: &str| {
        json!({
            "mirrors": {"quay.io": {
                "endpoint": ["https://mirror.lan:5000"], "rewrite": {"^(.*)$": "quay.io/$1"},
            }},
            "configs": {"mirror.lan:5000": {"tls": {"ca_file": format!("{directory}/saver-ca.crt")}}},
        })
    };
    let cases = [
        ("k3s", "registries.yaml", vec![registries("/etc/rancher/k3s")]),
        ("rke2", "registries.yaml", vec![registries("/etc/rancher/rke2")]),
        (
            "talos",
            "registry-mirrors.yaml",
            vec![
                json!({
                    "apiVersion": "v1alpha1", "kind": "RegistryMirrorConfig", "name": "quay.io",
                    "endpoints": [{"url": "https://mirror.lan:5000/v2/quay.io", "overridePath": "true"}],
                    "skipFallback": "true",
                }),
                json!({
                    "apiVersion": "v1alpha1", "kind": "RegistryTLSConfig", "name": "mirror.lan:5000", "ca": CA,
                }),
            ],
        ),
        (
            "openshift",
            "mirror-sets.yaml",
            vec![
                mirror_set("ImageDigestMirrorSet", "imageDigestMirrors"),
                mirror_set("ImageTagMirrorSet", "imageTagMirrors"),
                json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": "saver-mirror-ca", "namespace": "openshift-config"},
                    "data": {"mirror.lan..5000": CA},
                }),
            ],
        ),
    ];
    for (client, file, expected) in cases {
        let output = home.path(client);
        let output = output.to_str().unwrap();
        let ran = mirror_config(&home, client, dir.path(), &[&with_ca[..], &["-o", output]].concat());
        ran.expect(0);
        let text = std::fs::read_to_string(home.path(client).join(file)).unwrap();
        assert_eq!(documents(&text), expected, "{client}");
    }
}

#[test]
fn docker_config_mirrors_docker_hub_only() {
    let home = Home::new();
    let endpoint = ["--endpoint", "http://10.0.0.5:5000"];
    let ran = mirror_config(&home, "docker", tree("strip").path(), &endpoint).expect(0);
    let (heading, document) = ran.stdout.split_once('\n').unwrap();
    assert_eq!(heading, "# /etc/docker/daemon.json");
    let document: Value = serde_json::from_str(document).unwrap();
    assert_eq!(document, json!({"registry-mirrors": ["http://10.0.0.5:5000"]}));
    assert!(ran.stderr.contains("docker.io only"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("none of the registries"), "{}", ran.stderr);
    let arguments = [&endpoint[..], &["--registry", "quay.io"]].concat();
    let ran = mirror_config(&home, "docker", tree("strip").path(), &arguments).expect(0);
    assert!(ran.stderr.contains("none of the registries is docker.io"), "{}", ran.stderr);
    let domain = [&endpoint[..], &["--names", "domain"]].concat();
    let ran = mirror_config(&home, "docker", tree("domain").path(), &domain).expect(2);
    assert!(ran.stderr.contains("--names strip"), "{}", ran.stderr);
}

#[test]
fn existing_file_of_others_is_kept() {
    let home = Home::new();
    let dir = tree("strip");
    let theirs = home.write("docker/daemon.json", "{\"debug\": true}\n");
    let output = home.path("docker");
    let arguments = ["--endpoint", "http://10.0.0.5:5000", "-o", output.to_str().unwrap()];
    let ran = mirror_config(&home, "docker", dir.path(), &arguments).expect(2);
    assert!(ran.stderr.contains("daemon.json") && ran.stderr.contains("exists"), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "{\"debug\": true}\n");
    std::fs::remove_file(&theirs).unwrap();
    mirror_config(&home, "docker", dir.path(), &arguments).expect(0);
    // Its own files are replaced.
    mirror_config(&home, "docker", dir.path(), &arguments).expect(0);
    for endpoint in ["http://10.0.0.5:5000", "http://10.0.0.6:5000"] {
        let more = ["--all-registries", "--endpoint", endpoint, "-o", output.to_str().unwrap()];
        mirror_config(&home, "containerd", dir.path(), &more).expect(0);
    }
    let hosts = std::fs::read_to_string(output.join("_default/hosts.toml")).unwrap();
    assert!(hosts.contains("10.0.0.6"), "{hosts}");
}

#[test]
fn wrong_command_lines_name_what_is_wrong() {
    let home = Home::new();
    let dir = tree("strip");
    let ca = home.write("key.pem", "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n");
    let ca = ca.to_str().unwrap();
    let url = ["--endpoint", "https://mirror.lan"];
    for (client, more, words) in [
        ("containerd", &[][..], "--endpoint"),
        ("containerd", &["--endpoint", "mirror.lan"], "no scheme"),
        ("containerd", &url, "--registry HOST"),
        ("podman", &[url[0], url[1], "--all-registries"], "no such setting"),
        ("podman", &[url[0], url[1], "--registry", "a/b"], "a/b"),
        ("podman", &[url[0], url[1], "--registry", "quay.io", "--ca", ca], "private key"),
        ("podman", &[url[0], url[1], "--registry", "quay.io", "--ca", "/none"], "/none"),
        ("podman", &[url[0], url[1], "--registry", "a.io", "--names", "x-{repository}"], "--names"),
        ("nerdctl", &url, "nerdctl"),
    ] {
        let ran = mirror_config(&home, client, dir.path(), more).expect(2);
        assert!(ran.stderr.contains(words), "{client} {more:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{client} {more:?}");
    }
}
