//! Replaces Docker's media types by their OCI equivalents, on request: umoci and other OCI tools do not read Docker's.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, RawManifest, media_type};
use bytes::Bytes;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The annotation of an attestation's entry that names its image.
const ATTESTED_DIGEST: &str = "vnd.docker.reference.digest";

/// Rewrites `manifests`, which are in order, children before parents. Blobs are unchanged. A manifest without Docker media types
/// keeps its digest, unless it names one that was rewritten.
///
/// # Errors
/// `Corrupt` for a document that is not an object.
pub(super) fn rewrite(manifests: Vec<Arc<RawManifest>>) -> Result<Vec<Arc<RawManifest>>> {
    let mut rewritten: HashMap<Digest, Descriptor> = HashMap::new();
    let mut result = Vec::with_capacity(manifests.len());
    for raw in manifests {
        match rewrite_one(&raw, &rewritten)? {
            Some(new) => {
                rewritten.insert(raw.digest, new.descriptor());
                result.push(Arc::new(new));
            }
            None => result.push(raw),
        }
    }
    Ok(result)
}

/// The rewritten document; `None` if nothing in it changes.
fn rewrite_one(raw: &RawManifest, rewritten: &HashMap<Digest, Descriptor>) -> Result<Option<RawManifest>> {
    let corrupt =
        || Error::new(ErrorKind::Corrupt, format!("manifest {}", raw.digest), "cannot rewrite the manifest");
    let original: Value = serde_json::from_slice(&raw.bytes).map_err(|_| corrupt())?;
    let mut document = original.clone();
    let Some(fields) = document.as_object_mut() else { return Err(corrupt()) };
    if let Some(media_type) = media_type::oci_equivalent(&raw.media_type) {
        fields.insert("mediaType".into(), media_type.into());
    }
    if let Some(config) = fields.get_mut("config") {
        replace_media_type(config);
    }
    if let Some(layers) = fields.get_mut("layers").and_then(Value::as_array_mut) {
        layers.iter_mut().for_each(replace_media_type);
    }
    if let Some(subject) = fields.get_mut("subject") {
        replace_descriptor(subject, rewritten);
    }
    if let Some(entries) = fields.get_mut("manifests").and_then(Value::as_array_mut) {
        for entry in entries {
            replace_descriptor(entry, rewritten);
            replace_attested_digest(entry, rewritten);
        }
    }
    if document == original {
        return Ok(None);
    }
    let bytes = serde_json::to_vec(&document).map_err(|_| corrupt())?;
    RawManifest::new(Bytes::from(bytes), None).map(Some)
}

fn replace_media_type(descriptor: &mut Value) {
    let equivalent = descriptor["mediaType"].as_str().and_then(media_type::oci_equivalent);
    if let Some(media_type) = equivalent {
        descriptor["mediaType"] = media_type.into();
    }
}

/// Points a descriptor to the rewritten manifest. One of a manifest that was not transferred is unchanged.
fn replace_descriptor(descriptor: &mut Value, rewritten: &HashMap<Digest, Descriptor>) {
    let Some(new) = lookup(&descriptor["digest"], rewritten) else { return };
    descriptor["mediaType"] = new.media_type.as_str().into();
    descriptor["digest"] = new.digest.to_string().into();
    descriptor["size"] = new.size.into();
}

fn replace_attested_digest(entry: &mut Value, rewritten: &HashMap<Digest, Descriptor>) {
    let Some(new) = lookup(&entry["annotations"][ATTESTED_DIGEST], rewritten) else { return };
    entry["annotations"][ATTESTED_DIGEST] = new.digest.to_string().into();
}

fn lookup<'r>(digest: &Value, rewritten: &'r HashMap<Digest, Descriptor>) -> Option<&'r Descriptor> {
    rewritten.get(&digest.as_str()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Manifest;
    use serde_json::json;

    fn raw(document: &Value) -> Arc<RawManifest> {
        Arc::new(RawManifest::new(document.to_string().into(), None).unwrap())
    }

    fn blob(media_type: &str, content: &[u8]) -> Value {
        json!({ "mediaType": media_type, "digest": Digest::of(content).to_string(), "size": content.len() })
    }

    #[test]
    fn docker_media_types_become_oci_with_consistent_digests() {
        let image = raw(&json!({
            "schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST,
            "config": blob(media_type::DOCKER_CONFIG, b"c"),
            "layers": [blob(media_type::DOCKER_LAYER_GZIP, b"l"), blob(media_type::OCI_LAYER_ZSTD, b"z")],
        }));
        let attestation = raw(&json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": blob(media_type::OCI_CONFIG, b"a"), "layers": [],
        }));
        let entry = |raw: &RawManifest| json!({ "mediaType": raw.media_type, "digest": raw.digest.to_string(), "size": raw.bytes.len() });
        let mut attested = entry(&attestation);
        attested["annotations"] = json!({ ATTESTED_DIGEST: image.digest.to_string() });
        let absent = blob(media_type::DOCKER_MANIFEST, b"not transferred");
        let index = raw(&json!({
            "schemaVersion": 2, "mediaType": media_type::DOCKER_LIST,
            "manifests": [entry(&image), attested, absent],
        }));
        let result = rewrite(vec![image.clone(), attestation.clone(), index]).unwrap();
        assert_ne!(result[0].digest, image.digest);
        assert_eq!(result[1].digest, attestation.digest, "OCI media types are unchanged");
        let Manifest::Image(read) = result[0].parse().unwrap() else { panic!("not an image") };
        assert_eq!(result[0].media_type, media_type::OCI_MANIFEST);
        assert_eq!(read.config.media_type, media_type::OCI_CONFIG);
        let layers: Vec<&str> = read.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        assert_eq!(layers, [media_type::OCI_LAYER_GZIP, media_type::OCI_LAYER_ZSTD]);
        assert_eq!(result[2].media_type, media_type::OCI_INDEX);
        let Manifest::Index(read) = result[2].parse().unwrap() else { panic!("not an index") };
        let digests: Vec<Digest> = read.manifests.iter().map(|entry| entry.digest).collect();
        assert_eq!(digests, [result[0].digest, attestation.digest, Digest::of(b"not transferred")]);
        assert_eq!(read.manifests[0].size, result[0].bytes.len() as u64);
        assert_eq!(read.manifests[0].media_type, media_type::OCI_MANIFEST);
        assert_eq!(read.manifests[1].annotations[ATTESTED_DIGEST], result[0].digest.to_string());
        assert_eq!(read.manifests[2].media_type, media_type::DOCKER_MANIFEST);
        // A second pass finds nothing to change.
        let again = rewrite(result.clone()).unwrap();
        assert!(again.iter().zip(&result).all(|(one, other)| one.digest == other.digest));
    }
}
