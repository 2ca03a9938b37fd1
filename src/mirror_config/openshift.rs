//! OpenShift 4.13 and later: mirror sets (docs.redhat.com, "Image configuration resources").

use super::upstream::Upstream;
use super::{ConfigFile, GENERATED, MirrorConfig, MirrorOptions, pem_block, quoted};

const CA_NAME: &str = "saver-mirror-ca";

/// Pulls by digest and by tag are redirected by resources of their own.
pub(super) fn files(options: &MirrorOptions, upstreams: &[Upstream]) -> MirrorConfig {
    let mut documents: Vec<String> =
        [("ImageDigestMirrorSet", "imageDigestMirrors"), ("ImageTagMirrorSet", "imageTagMirrors")]
            .map(|(kind, field)| mirror_set(options, upstreams, kind, field))
            .into();
    let mut notes = Vec::new();
    let authority = options.endpoint.authority();
    if let Some(ca) = &options.ca {
        // The key is the host; the colon before a port is written as two dots.
        let key = quoted(&authority.replace(':', ".."));
        documents.push(format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {CA_NAME}\n  namespace: openshift-config\ndata:\n  {key}: |\n{}",
            pem_block(ca, 4)
        ));
        notes.push(format!(
            "set spec.additionalTrustedCA.name of image.config.openshift.io/cluster to {CA_NAME}"
        ));
    }
    if !options.endpoint.is_https() {
        notes.push(format!(
            "add {authority} to spec.registrySources.insecureRegistries of image.config.openshift.io/cluster"
        ));
    }
    let content = format!("{GENERATED}\n{}", documents.join("---\n"));
    let path = "mirror-sets.yaml".to_owned();
    notes.push("apply with oc apply -f mirror-sets.yaml; nodes may restart".to_owned());
    MirrorConfig { files: vec![ConfigFile { directory: "", path, content }], notes }
}

fn mirror_set(options: &MirrorOptions, upstreams: &[Upstream], kind: &str, field: &str) -> String {
    let mut text = format!(
        "apiVersion: config.openshift.io/v1\nkind: {kind}\nmetadata:\n  name: saver\nspec:\n  {field}:\n"
    );
    for upstream in upstreams {
        text.push_str(&format!(
            "    - source: {}\n      mirrors:\n        - {}\n      mirrorSourcePolicy: NeverContactSource\n",
            quoted(upstream.registry.as_str()),
            quoted(&options.endpoint.location(&upstream.prefix))
        ));
    }
    text
}
