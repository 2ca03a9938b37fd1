//! containerd: `certs.d/HOST/hosts.toml` (containerd, docs/hosts.md).

use super::upstream::Upstream;
use super::{ConfigFile, GENERATED, MirrorConfig, MirrorOptions, quoted};

const DIRECTORY: &str = "/etc/containerd/certs.d";

/// One directory for each registry, and `_default` for all others.
pub(super) fn files(options: &MirrorOptions, upstreams: &[Upstream]) -> MirrorConfig {
    let mut config = MirrorConfig::default();
    for upstream in upstreams {
        add_host(&mut config, options, upstream.registry.as_str(), &upstream.prefix);
    }
    if options.all_registries {
        add_host(&mut config, options, "_default", &options.endpoint.repository_prefix(""));
    }
    let path = format!("config_path = {}", quoted(DIRECTORY));
    config.notes.push(format!("containerd reads these files if its configuration of the CRI has {path}"));
    config
}

/// The mirror is the `server` itself and no `host` before it: containerd tries the server last, and without the setting it would
/// try the original registry.
fn add_host(config: &mut MirrorConfig, options: &MirrorOptions, host: &str, prefix: &str) {
    let mut content = format!("{GENERATED}\n");
    let base = options.endpoint.base();
    let server = if prefix.is_empty() { base } else { format!("{base}/v2/{prefix}") };
    content.push_str(&format!("server = {}\n", quoted(&server)));
    content.push_str("capabilities = [\"pull\", \"resolve\"]\n");
    if !prefix.is_empty() {
        content.push_str("override_path = true\n");
    }
    if let Some(ca) = &options.ca {
        // A relative path starts at the directory of hosts.toml.
        content.push_str("ca = \"ca.crt\"\n");
        let path = format!("{host}/ca.crt");
        config.files.push(ConfigFile { directory: DIRECTORY, path, content: ca.clone() });
    }
    // containerd 1 rejects a file without the table.
    content.push_str("\n[host]\n");
    config.files.push(ConfigFile { directory: DIRECTORY, path: format!("{host}/hosts.toml"), content });
}
