//! CRI-O, Podman, Buildah and Skopeo: a drop-in for `registries.conf.d` (containers-registries.conf(5)).

use super::upstream::Upstream;
use super::{ConfigFile, GENERATED, MirrorConfig, MirrorOptions, quoted};

/// The mirror is the `location` of the registry itself: with a `mirror` table, clients would try the original registry after it.
pub(super) fn files(options: &MirrorOptions, upstreams: &[Upstream]) -> MirrorConfig {
    let mut content = format!("{GENERATED}\n");
    for upstream in upstreams {
        let prefix = quoted(upstream.registry.as_str());
        let location = quoted(&options.endpoint.location(&upstream.prefix));
        content.push_str(&format!("\n[[registry]]\nprefix = {prefix}\nlocation = {location}\n"));
        if !options.endpoint.is_https() {
            content.push_str("insecure = true\n");
        }
    }
    let mut config = MirrorConfig::default();
    let directory = "/etc/containers";
    if let Some(ca) = &options.ca {
        let path = format!("certs.d/{}/ca.crt", options.endpoint.authority());
        config.files.push(ConfigFile { directory, path, content: ca.clone() });
    }
    let path = "registries.conf.d/50-saver.conf".to_owned();
    config.files.push(ConfigFile { directory, path, content });
    config
}
