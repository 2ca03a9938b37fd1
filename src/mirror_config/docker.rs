//! Docker: `daemon.json` (docs.docker.com, "Registry as a pull through cache"). It mirrors Docker Hub and no other registry.

use super::{ConfigFile, MirrorConfig, MirrorOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Registry;

const DIRECTORY: &str = "/etc/docker";

/// # Errors
/// `Unsupported` if the mirror would need another name for a repository.
pub(super) fn files(options: &MirrorOptions) -> Result<MirrorConfig> {
    let is_renamed = options.names.prefix(&Registry::docker_hub()).is_none_or(|prefix| !prefix.is_empty());
    if is_renamed || options.endpoint.has_prefix() {
        let why =
            "Docker sends a mirror the original name, and this directory or endpoint has another name for it";
        return Err(Error::new(ErrorKind::Unsupported, "docker", why).with_hint(
            "use a directory saved with --names strip and an endpoint without a path, or saver rewrite",
        ));
    }
    let mut config = MirrorConfig::default();
    if let Some(ca) = &options.ca {
        let path = format!("certs.d/{}/ca.crt", options.endpoint.authority());
        config.files.push(ConfigFile { directory: DIRECTORY, path, content: ca.clone() });
    }
    let document = serde_json::json!({ "registry-mirrors": [options.endpoint.base()] });
    let content = format!("{document:#}\n");
    config.files.push(ConfigFile { directory: DIRECTORY, path: "daemon.json".to_owned(), content });
    if !options.registries.is_empty() && !options.registries.iter().any(Registry::is_docker_hub) {
        config.notes.push(
            "none of the registries is docker.io, so Docker pulls no image through the mirror".to_owned(),
        );
    }
    config.notes.push(
        "Docker mirrors docker.io only; pull images of other registries by their names at the mirror (saver rewrite)"
            .to_owned(),
    );
    config.notes.push("Docker tries docker.io after the mirror; this cannot be turned off".to_owned());
    Ok(config)
}
