//! Referrers: the API, lists of tags, and signatures to serve.

use super::wire::Reply;
use super::{FaultServer, State};
use bytes::Bytes;
use saver::oci::referrer::{ListedReferrer, ReferrerTag, ReferrerTagKind};
use saver::oci::{Digest, Tag, media_type};
use serde_json::json;

/// What the server lists.
#[derive(Default)]
pub(super) struct Lists {
    api: bool,
    tags: bool,
}

impl FaultServer {
    /// From here on it has the referrers API, and lists tags.
    pub(crate) fn serve_referrers(&self) {
        self.state().lists = Lists { api: true, tags: true };
    }

    /// From here on it lists tags; it has no referrers API.
    pub(crate) fn serve_tags(&self) {
        self.state().lists = Lists { api: false, tags: true };
    }

    /// Adds an artifact of this type with this content that refers to `subject`.
    pub(crate) fn add_referrer(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: &str,
        content: &str,
    ) -> Digest {
        let size = self.manifest(repository, &subject.to_string()).unwrap().1.len();
        self.add_artifact(
            repository,
            None,
            artifact_type,
            content,
            json!({ "subject": {
                "mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": size,
            }}),
        )
    }

    /// Adds an artifact that only a tag of cosign connects with `subject`.
    pub(crate) fn add_tagged_referrer(
        &self,
        repository: &str,
        subject: &Digest,
        kind: ReferrerTagKind,
        content: &str,
    ) -> Digest {
        let tag = ReferrerTag { subject: *subject, kind }.tag();
        self.add_artifact(repository, Some(tag.as_str()), "", content, json!({}))
    }

    /// Writes the fallback index of `subject` over `referrers`, as clients do.
    pub(crate) fn add_fallback(&self, repository: &str, subject: &Digest, referrers: &[Digest]) {
        let entry = |digest: &Digest| {
            let (_, bytes) = self.manifest(repository, &digest.to_string()).unwrap();
            ListedReferrer::read(&bytes, *digest).unwrap().descriptor
        };
        let entries: Vec<_> = referrers.iter().map(entry).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
        let tag = Tag::referrers(subject);
        self.add_manifest(repository, Some(tag.as_str()), media_type::OCI_INDEX, index.to_string());
    }

    /// Removes a manifest and what names it.
    pub(crate) fn remove_manifest(&self, digest: &Digest) {
        self.state().manifests.retain(|_, (_, bytes)| Digest::of(bytes) != *digest);
    }

    fn add_artifact(
        &self,
        repository: &str,
        tag: Option<&str>,
        artifact_type: &str,
        content: &str,
        more: serde_json::Value,
    ) -> Digest {
        let config = self.add_blob(media_type::OCI_EMPTY, "{}");
        let layer = self.add_blob("text/plain", Bytes::copy_from_slice(content.as_bytes()));
        let mut document = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        if !artifact_type.is_empty() {
            document["artifactType"] = artifact_type.into();
        }
        for (key, value) in more.as_object().unwrap() {
            document[key] = value.clone();
        }
        self.add_manifest(repository, tag, media_type::OCI_MANIFEST, document.to_string())
    }
}

/// The answer to a request for a list, if it is one and the server has such lists.
pub(super) fn answer(state: &State, rest: &str) -> Option<Reply> {
    if let Some(repository) = rest.strip_suffix("/tags/list").filter(|_| state.lists.tags) {
        let own = state.manifests.keys().filter(|(name, tag)| name == repository && !tag.contains(':'));
        let mut tags: Vec<&str> = own.map(|(_, tag)| tag.as_str()).collect();
        tags.sort_unstable();
        return Some(Reply::json(200, json!({ "name": repository, "tags": tags }).to_string()));
    }
    let (repository, subject) = rest.split_once("/referrers/").filter(|_| state.lists.api)?;
    let subject: Digest = subject.parse().ok()?;
    let listed = |((name, reference), (_, bytes)): (&(String, String), &(String, Bytes))| {
        let digest = reference.parse::<Digest>().ok().filter(|_| name == repository)?;
        let listed = ListedReferrer::read(bytes, digest)?;
        (listed.subject == Some(subject)).then_some(listed.descriptor)
    };
    let mut entries: Vec<_> = state.manifests.iter().filter_map(listed).collect();
    entries.sort_by_key(|entry| entry.digest);
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
    let mut reply = Reply::json(200, index.to_string());
    reply.set("Content-Type", media_type::OCI_INDEX);
    Some(reply)
}
