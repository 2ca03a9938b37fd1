//! k3s and RKE2: `registries.yaml` (docs.k3s.io, "Private Registry Configuration").

use super::upstream::Upstream;
use super::{ConfigFile, GENERATED, MirrorConfig, MirrorOptions, quoted};

const CA_FILE: &str = "saver-ca.crt";

pub(super) fn of_k3s(options: &MirrorOptions, upstreams: &[Upstream]) -> MirrorConfig {
    files(options, upstreams, "/etc/rancher/k3s")
}

pub(super) fn of_rke2(options: &MirrorOptions, upstreams: &[Upstream]) -> MirrorConfig {
    files(options, upstreams, "/etc/rancher/rke2")
}

fn files(options: &MirrorOptions, upstreams: &[Upstream], directory: &'static str) -> MirrorConfig {
    let mut config = MirrorConfig::default();
    let mut content = format!("{GENERATED}\nmirrors:\n");
    for upstream in upstreams {
        content.push_str(&mirror(options, upstream.registry.as_str(), &upstream.prefix));
    }
    if options.all_registries {
        content.push_str(&mirror(options, "*", &options.endpoint.repository_prefix("")));
    }
    if let Some(ca) = &options.ca {
        let authority = quoted(options.endpoint.authority());
        let file = quoted(&format!("{directory}/{CA_FILE}"));
        content.push_str(&format!("configs:\n  {authority}:\n    tls:\n      ca_file: {file}\n"));
        config.files.push(ConfigFile { directory, path: CA_FILE.to_owned(), content: ca.clone() });
    }
    config.files.push(ConfigFile { directory, path: "registries.yaml".to_owned(), content });
    let fallback = "run the servers and agents with --disable-default-registry-endpoint; otherwise they try the original \
                    registry after the mirror";
    config.notes.push(fallback.to_owned());
    config
}

/// Repository names are rewritten for the mirror only, and not for the registry's own endpoint.
fn mirror(options: &MirrorOptions, host: &str, prefix: &str) -> String {
    let endpoint = quoted(&options.endpoint.base());
    let mut text = format!("  {}:\n    endpoint:\n      - {endpoint}\n", quoted(host));
    if !prefix.is_empty() {
        let name = quoted(&format!("{prefix}/$1"));
        text.push_str(&format!("    rewrite:\n      \"^(.*)$\": {name}\n"));
    }
    text
}
