//! Images whose content a lock file pins.

use super::node::ImageContent;
use crate::error::{Detail, Error, ErrorKind, Result, Side};
use crate::oci::{Digest, Reference};
use std::collections::HashSet;

/// How many referrers an error names.
const MAX_NAMED: usize = 3;

/// The content that a lock file pins. An image whose content differs fails with [`ErrorKind::Drift`].
#[derive(Clone, Debug, Default)]
pub struct PinnedContent {
    /// The manifest of each platform; the platform of an artifact is `None`.
    pub manifests: Vec<(Option<String>, Digest)>,
    /// The referrers, of which all and no others are transferred; `None` if they are not pinned.
    pub referrers: Option<HashSet<Digest>>,
}

impl PinnedContent {
    /// Compares the manifests of an image with the pinned ones.
    pub(super) fn check(&self, reference: &Reference, content: &ImageContent) -> Result<()> {
        for (platform, digest) in &self.manifests {
            if content.images.iter().any(|image| image.digest == *digest) {
                continue;
            }
            let now = content.images.iter().find(|image| image.platform == *platform);
            let what = match platform {
                Some(platform) => format!("the manifest for {platform} differs from the lock file"),
                None => "the manifest differs from the lock file".to_owned(),
            };
            return Err(drift(reference, what, *digest, now.map(|image| image.digest)));
        }
        Ok(())
    }

    /// Whether a referrer of this digest is transferred.
    pub(super) fn selects(&self, referrer: &Digest) -> bool {
        self.referrers.as_ref().is_none_or(|referrers| referrers.contains(referrer))
    }

    /// Checks that all referrers are among those found. `others` are listed at the source, and not pinned.
    pub(super) fn check_referrers(
        &self,
        reference: &Reference,
        found: &HashSet<Digest>,
        others: &[Digest],
    ) -> Result<()> {
        let Some(missing) = self.referrers.iter().flatten().filter(|one| !found.contains(one)).min() else {
            return Ok(());
        };
        let others: Vec<String> = others.iter().take(MAX_NAMED).map(ToString::to_string).collect();
        let actual = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        let what = "a referrer of the lock file is missing at the registry".to_owned();
        Err(differs(reference, what, missing.to_string(), actual))
    }
}

/// The error for content that has another digest than the lock file says, or does not exist.
pub(super) fn drift(reference: &Reference, what: String, pinned: Digest, now: Option<Digest>) -> Error {
    let actual = now.map_or_else(|| "none".to_owned(), |digest| digest.to_string());
    differs(reference, what, pinned.to_string(), actual)
}

fn differs(reference: &Reference, what: String, expected: String, actual: String) -> Error {
    Error::new(ErrorKind::Drift, reference, what)
        .with_detail(Detail::Mismatch { expected, actual })
        .on(Side::Source)
        .with_hint(
            "saver resolve --diff LOCK shows what has changed; without --locked the pinned digests are saved",
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::ManifestReport;

    #[test]
    fn content_that_differs_is_drift() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let image = |platform: Option<&str>, text: &str| ManifestReport {
            platform: platform.map(str::to_owned),
            digest: digest(text),
            bytes: 1,
        };
        let content = ImageContent {
            images: vec![image(Some("linux/amd64"), "a"), image(None, "b")],
            ..ImageContent::default()
        };
        let reference = Reference::parse("a.io/b:1").unwrap();
        for (platform, text, actual) in [
            (Some("linux/amd64"), "a", None),
            (None, "b", None),
            (Some("linux/amd64"), "x", Some(digest("a").to_string())),
            (Some("linux/arm64"), "x", Some("none".to_owned())),
            (None, "x", Some(digest("b").to_string())),
        ] {
            let manifests = vec![(platform.map(str::to_owned), digest(text))];
            let checked = PinnedContent { manifests, referrers: None }.check(&reference, &content);
            let found = checked.err().map(|error| match error.detail() {
                Some(Detail::Mismatch { expected, actual }) => {
                    assert_eq!((error.kind(), expected), (ErrorKind::Drift, &digest(text).to_string()));
                    actual.clone()
                }
                other => panic!("{other:?}"),
            });
            assert_eq!(found, actual, "{platform:?} {text}");
        }
    }

    #[test]
    fn pinned_referrers_must_all_be_found() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let reference = Reference::parse("a.io/b:1").unwrap();
        let pinned = PinnedContent { manifests: Vec::new(), referrers: Some([one].into()) };
        assert!(pinned.selects(&one) && !pinned.selects(&two));
        assert!(pinned.check_referrers(&reference, &[one].into(), &[two]).is_ok());
        let error = pinned.check_referrers(&reference, &HashSet::new(), &[two]).unwrap_err();
        assert!(error.to_string().contains(&two.to_string()), "{error}");
        assert!(PinnedContent::default().selects(&two));
    }
}
