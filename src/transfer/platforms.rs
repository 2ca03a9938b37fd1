//! Compares the requested platforms of an image with those it has.

use crate::error::{Detail, Error, ErrorKind, Side};
use crate::oci::{Descriptor, Digest, Index, Platform, PlatformSet, Reference};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;

const MISSING_HINT: &str = "request a platform that it has (--arch, or platform= in the list), or skip such images with --missing-platform skip";

/// The platforms of one image.
pub(super) struct Platforms<'a> {
    reference: &'a Reference,
    pub(super) wanted: &'a PlatformSet,
    /// Whether an image manifest that is the root is copied whatever its platform.
    pub(super) accepts_any_root: bool,
    /// The platforms that the image was found to have, for display.
    offered: Mutex<BTreeSet<String>>,
}

impl<'a> Platforms<'a> {
    /// Those `wanted` of `reference`, before anything is known of the image.
    pub(super) fn new(reference: &'a Reference, wanted: &'a PlatformSet) -> Self {
        Self { reference, wanted, accepts_any_root: false, offered: Mutex::default() }
    }

    /// Sets whether an image manifest that is the root is copied whatever its platform.
    pub(super) fn accepting_any_root(mut self, accepts: bool) -> Self {
        self.accepts_any_root = accepts;
        self
    }

    /// Records a platform that the image has.
    pub(super) fn offer(&self, platform: &Platform) {
        if !platform.is_unknown() {
            self.offered().insert(platform.to_string());
        }
    }

    /// Records the platforms of entries of its index.
    pub(super) fn offer_all(&self, entries: &[Descriptor]) {
        entries.iter().filter_map(|entry| entry.platform.as_ref()).for_each(|platform| self.offer(platform));
    }

    fn offered(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.offered.lock()
    }

    /// The platforms that were requested by name.
    pub(super) fn named(&self) -> Vec<Platform> {
        match self.wanted {
            PlatformSet::Only(named) => named.clone(),
            _ => Vec::new(),
        }
    }

    /// The requested platforms that none of `there` satisfies. An image of `artifacts` only lacks none.
    pub(super) fn missing(&self, selected: &[Platform], artifacts: bool) -> Vec<Platform> {
        if artifacts && selected.is_empty() {
            return Vec::new();
        }
        let serves = |platform: &Platform| {
            let one = PlatformSet::Only(vec![platform.clone()]);
            selected.iter().any(|selected| one.accepts(selected))
        };
        self.named().into_iter().filter(|platform| !serves(platform)).collect()
    }

    /// The error for `missing` platforms, with those that are available.
    pub(super) fn not_found(&self, missing: Vec<Platform>) -> Error {
        let offered = self.offered();
        let offered: Vec<&str> = offered.iter().map(String::as_str).filter(|name| *name != "/").collect();
        let detail = Detail::Platform {
            wanted: missing.iter().map(Platform::to_string).collect(),
            available: offered.into_iter().map(str::to_owned).collect(),
        };
        Error::from_detail(ErrorKind::PlatformNotFound, self.reference, detail).with_hint(MISSING_HINT)
    }

    /// The error for a sparse index of which no manifest is present.
    pub(super) fn nothing_held(&self, index: &Index) -> Option<Error> {
        if index.manifests.is_empty() || !self.offered().is_empty() {
            return None;
        }
        let count = index.manifests.len();
        let message = format!("none of the {count} manifests that its index names is present");
        Some(Error::new(ErrorKind::NotFound, self.reference, message).on(Side::Source))
    }

    /// The error for several manifests where one is needed.
    pub(super) fn several(&self, count: usize, selected: &[Platform]) -> Error {
        let selected: BTreeSet<String> = selected.iter().map(Platform::to_string).collect();
        let selected: Vec<String> = selected.into_iter().collect();
        let message =
            format!("one platform's manifest is needed, and {count} match: {}", selected.join(", "));
        Error::new(ErrorKind::InvalidInput, self.reference, message)
            .with_hint("request one platform with --arch")
    }
}

/// The warning for several manifests of one platform, of which the one at `taken` is used.
pub(super) fn one_of_several(platforms: &[Platform], taken: usize, digest: Digest) -> String {
    let others: BTreeSet<String> = platforms
        .iter()
        .map(ToString::to_string)
        .filter(|name| *name != platforms[taken].to_string())
        .collect();
    let choose = match others.into_iter().collect::<Vec<_>>().join(", ") {
        others if others.is_empty() => "; pin another by its digest".to_owned(),
        others => format!("; --arch selects another: {others}"),
    };
    let count = platforms.len();
    let platform = &platforms[taken];
    format!(
        "{count} manifests for one platform: using the first, {platform} ({}), as container runtimes do{choose}",
        digest.short()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text, "linux").unwrap()
    }

    #[test]
    fn requested_platform_without_match_is_missing() {
        let reference = Reference::parse("r.io/a:v1").unwrap();
        let parse = |text: &str| text.split_whitespace().map(platform).collect();
        for (wanted, selected, artifacts, expect) in [
            ("linux/amd64", "linux/amd64", false, ""),
            ("linux/amd64 linux/arm64", "linux/amd64", false, "linux/arm64"),
            ("linux/arm", "linux/arm/v7", false, ""),
            ("linux/amd64", "", false, "linux/amd64"),
            ("linux/amd64", "", true, ""),
            ("linux/arm64", "linux/amd64", true, "linux/arm64"),
        ] {
            let wanted = PlatformSet::Only(parse(wanted));
            let (selected, expect): (Vec<Platform>, Vec<Platform>) = (parse(selected), parse(expect));
            let missing = Platforms::new(&reference, &wanted).missing(&selected, artifacts);
            assert_eq!(missing, expect, "{wanted}, selected: {selected:?}");
        }
        assert!(Platforms::new(&reference, &PlatformSet::All).missing(&[], false).is_empty());
    }

    #[test]
    fn missing_platform_error_lists_available_ones() {
        let reference = Reference::parse("r.io/a:v1").unwrap();
        let platforms = Platforms::new(&reference, &PlatformSet::All);
        let missing = || vec![platform("linux/arm64")];
        assert!(platforms.not_found(missing()).message().ends_with("(available: none)"));
        platforms.offer(&Platform::new("unknown", "unknown"));
        for offered in ["linux/amd64", "linux/386", "linux/amd64"] {
            platforms.offer(&platform(offered));
        }
        let error = platforms.not_found(missing());
        assert!(error.message().contains("no manifest for linux/arm64"), "{error}");
        assert!(error.message().ends_with("(available: linux/386, linux/amd64)"), "{error}");
    }
}
