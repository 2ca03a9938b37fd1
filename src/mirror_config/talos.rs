//! Talos 1.12 and later: machine configuration documents (docs.siderolabs.com, "RegistryMirrorConfig").

use super::upstream::Upstream;
use super::{ConfigFile, GENERATED, MirrorConfig, MirrorOptions, pem_block, quoted};

pub(super) fn files(options: &MirrorOptions, upstreams: &[Upstream]) -> MirrorConfig {
    let mut documents: Vec<String> = upstreams
        .iter()
        .map(|upstream| mirror(options, upstream.registry.as_str(), &upstream.prefix))
        .collect();
    if options.all_registries {
        documents.push(mirror(options, "*", &options.endpoint.repository_prefix("")));
    }
    if let Some(ca) = &options.ca {
        let name = quoted(options.endpoint.authority());
        let ca = pem_block(ca, 2);
        documents.push(format!("apiVersion: v1alpha1\nkind: RegistryTLSConfig\nname: {name}\nca: |\n{ca}"));
    }
    let content = format!("{GENERATED}\n{}", documents.join("---\n"));
    let path = "registry-mirrors.yaml".to_owned();
    let notes = vec!["apply with talosctl patch machineconfig --patch @registry-mirrors.yaml".to_owned()];
    MirrorConfig { files: vec![ConfigFile { directory: "", path, content }], notes }
}

fn mirror(options: &MirrorOptions, host: &str, prefix: &str) -> String {
    let base = options.endpoint.base();
    let url = if prefix.is_empty() { base } else { format!("{base}/v2/{prefix}") };
    let mut text = format!(
        "apiVersion: v1alpha1\nkind: RegistryMirrorConfig\nname: {}\nendpoints:\n  - url: {}\n",
        quoted(host),
        quoted(&url)
    );
    if !prefix.is_empty() {
        text.push_str("    overridePath: true\n");
    }
    text.push_str("skipFallback: true\n");
    text
}
