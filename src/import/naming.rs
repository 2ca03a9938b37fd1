//! The names of imported images.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::layout::ListedImage;
use crate::oci::{Reference, Tag};
use std::str::FromStr;

/// The most names that a message lists.
const MAX_LISTED: usize = 20;

/// A name that replaces the ones in the source. Without a tag, each image keeps its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewName {
    reference: Reference,
    has_tag: bool,
}

impl FromStr for NewName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let reference = Reference::parse(text)?;
        if reference.digest.is_some() {
            let message = "an imported image cannot be named by digest: its content determines the digest";
            return Err(Error::new(ErrorKind::InvalidInput, text, message));
        }
        Ok(Self { reference, has_tag: Reference::has_written_tag(text) })
    }
}

impl NewName {
    fn of(&self, image: &ListedImage) -> Reference {
        let mut name = self.reference.clone();
        if !self.has_tag {
            let own = image.reference.as_ref().and_then(|name| name.tag.clone());
            name.tag = own.or_else(|| image.tag.clone()).or_else(|| Some(Tag::latest()));
        }
        name
    }
}

/// The reference of each of `images`, which are those of the source `name`.
///
/// # Errors
/// `InvalidInput` if there are no images, one has no full name, or one name is given for several.
pub(super) fn references(
    name: &str,
    images: &[ListedImage],
    rename: Option<&NewName>,
) -> Result<Vec<Reference>> {
    if images.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, name, "it contains no images"));
    }
    let Some(rename) = rename else {
        let own = |image: &ListedImage| {
            image.reference.clone().ok_or_else(|| {
                let message = format!("it has images without a full name; it contains {}", describe(images));
                Error::new(ErrorKind::InvalidInput, name, message).with_hint(
                    "name the images with --as: --as team/app keeps their tags, --as team/app:1.0 names a single image",
                )
            })
        };
        return images.iter().map(own).collect();
    };
    if rename.has_tag && images.len() > 1 {
        let count = images.len();
        let message = format!("one name for {count} images; the source contains {}", describe(images));
        return Err(Error::new(ErrorKind::InvalidInput, format!("--as {}", rename.reference), message)
            .with_hint("omit the tag, so that each image keeps its own"));
    }
    Ok(images.iter().map(|image| rename.of(image)).collect())
}

/// The names and digests of `images`, for a message.
fn describe(images: &[ListedImage]) -> String {
    let describe_one = |image: &ListedImage| {
        let digest = image.root.as_ref().map(|root| root.digest.short());
        let digest = digest.unwrap_or_else(|_| "damaged".into());
        match image.label.as_str() {
            "" => format!("an image without a name ({digest})"),
            label => format!("{label} ({digest})"),
        }
    };
    let mut parts: Vec<String> = images.iter().take(MAX_LISTED).map(describe_one).collect();
    if images.len() > MAX_LISTED {
        parts.push(format!("and {} more", images.len() - MAX_LISTED));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Digest};

    fn listed(label: &str) -> ListedImage {
        let root = Ok(Descriptor::new("", Digest::of(label.as_bytes()), 1));
        if label.contains('/') {
            ListedImage::full(label, root)
        } else {
            ListedImage { label: label.into(), reference: None, tag: label.parse().ok(), root }
        }
    }

    fn named(labels: &[&str], rename: Option<&str>) -> Result<Vec<String>> {
        let images: Vec<ListedImage> = labels.iter().map(|label| listed(label)).collect();
        let rename = rename.map(|name| name.parse().unwrap());
        Ok(references("x.tar", &images, rename.as_ref())?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn images_keep_their_names_or_take_the_given_one() {
        for (labels, rename, expected) in [
            (&["q.io/a:1", "q.io/b:2"][..], None, &["q.io/a:1", "q.io/b:2"][..]),
            (&["q.io/a:1", "v2", ""], Some("x.io/n"), &["x.io/n:1", "x.io/n:v2", "x.io/n:latest"]),
            (&["v2"], Some("x.io:5000/n:9"), &["x.io:5000/n:9"]),
        ] {
            assert_eq!(named(labels, rename).unwrap(), expected);
        }
    }

    #[test]
    fn images_that_cannot_be_named_are_refused() {
        for (labels, rename, word) in [
            (&["q.io/a:1", "v2"][..], None, "v2 ("),
            (&[""], None, "without a name"),
            (&["q.io/a:1", "v2"], Some("x.io/n:1"), "2 images"),
            (&[], None, "no images"),
        ] {
            let error = named(labels, rename).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!("a@sha256:00".parse::<NewName>().is_err());
    }
}
