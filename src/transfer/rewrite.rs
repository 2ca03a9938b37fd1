//! Rewrites indexes: the only place where a manifest is serialised.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, RawManifest};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// Returns `raw`, an index, with only the entries `kept`. Each pair is an entry as it is in `raw`, and the descriptor that it
/// is to have, which differs where the manifest was itself rewritten. All other fields are kept.
///
/// # Errors
/// `Corrupt` if `raw` is not an index.
pub(crate) fn index(raw: &RawManifest, kept: &[(Descriptor, Descriptor)]) -> Result<RawManifest> {
    let broken =
        || Error::new(ErrorKind::Corrupt, format!("index {}", raw.digest), "cannot rewrite the index");
    let mut document: Value = serde_json::from_slice(&raw.bytes).map_err(|_| broken())?;
    let entries = document.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(broken)?;
    let mut remaining: Vec<Option<&(Descriptor, Descriptor)>> = kept.iter().map(Some).collect();
    entries.retain_mut(|entry| {
        // Compares whole entries: two platforms may share a digest, and only one of them be selected.
        let read = Descriptor::deserialize(&*entry).ok();
        let place = remaining.iter_mut().find(|kept| kept.is_some_and(|(was, _)| Some(was) == read.as_ref()));
        match place.and_then(Option::take) {
            Some((_, now)) => {
                entry["digest"] = Value::from(now.digest.to_string());
                entry["size"] = Value::from(now.size);
                true
            }
            None => false,
        }
    });
    let bytes = serde_json::to_vec(&document).map_err(|_| broken())?;
    RawManifest::new(Bytes::from(bytes), Some(&raw.media_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, Manifest, Platform, media_type};

    #[test]
    fn rewritten_index_keeps_selected_entries_and_other_fields() {
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","x":1,"manifests":[
            {{"digest":"{a}","size":1,"platform":{{"os":"linux","architecture":"amd64"}}}},{{"digest":"{b}","size":1}}]}}"#,
            media_type::OCI_INDEX
        );
        let raw = RawManifest::new(Bytes::from(json), None).unwrap();
        let mut was = Descriptor::new("", a, 1);
        was.platform = Some(Platform::new("linux", "amd64"));
        let pruned = index(&raw, &[(was, Descriptor::new("", c, 7))]).unwrap();
        assert_ne!(pruned.digest, raw.digest);
        assert!(std::str::from_utf8(&pruned.bytes).unwrap().contains(r#""x":1"#));
        let Manifest::Index(index) = pruned.parse().unwrap() else { panic!("not an index") };
        assert_eq!(index.manifests.len(), 1);
        assert_eq!((index.manifests[0].digest, index.manifests[0].size), (c, 7));
        assert_eq!(index.manifests[0].platform.as_ref().unwrap().architecture, "amd64");
    }
}
