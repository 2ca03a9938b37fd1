//! Selects the entries of an index by platform.

use super::descriptor::{Descriptor, UnsupportedEntry};
use super::manifest::Index;
use super::platform::PlatformSet;

impl PlatformSet {
    /// Selects entries of an index.
    ///
    /// Entries that name no platform are nested indexes or artifacts and are always selected. If several variants match one
    /// requested platform, the closest is; entries that match equally well all are. Attestations are never selected here.
    #[must_use]
    pub fn choose<'a>(&self, entries: &'a [Descriptor]) -> Vec<&'a Descriptor> {
        let named = |entry: &'a Descriptor| {
            entry.platform.as_ref().filter(|platform| !platform.is_unknown() && !entry.is_attestation())
        };
        let mut keep: Vec<bool> =
            entries.iter().map(|entry| named(entry).is_none() && !entry.is_attestation()).collect();
        match self {
            Self::All => keep = entries.iter().map(|entry| !entry.is_attestation()).collect(),
            Self::Only(asked) => {
                for platform in asked {
                    let fits: Vec<Option<u32>> =
                        entries.iter().map(|entry| platform.fit(named(entry)?)).collect();
                    let best = fits.iter().flatten().max();
                    for (fit, keep) in fits.iter().zip(&mut keep) {
                        *keep |= fit.is_some() && fit.as_ref() == best;
                    }
                }
            }
        }
        entries.iter().zip(keep).filter(|(_, keep)| *keep).map(|(entry, _)| entry).collect()
    }

    /// The entry of `index` that this set would select if saver supported its digest, where there is one.
    #[must_use]
    pub fn unsupported<'a>(&self, index: &'a Index) -> Option<&'a UnsupportedEntry> {
        let offered = || {
            let entries = index.manifests.iter().filter(|entry| !entry.is_attestation());
            entries.filter_map(|entry| entry.platform.as_ref())
        };
        let is_wanted = |entry: &&UnsupportedEntry| match (self, &entry.platform) {
            _ if entry.is_attestation => false,
            (Self::Only(asked), Some(platform)) if !platform.is_unknown() => asked.iter().any(|asked| {
                let best = offered().filter_map(|platform| asked.fit(platform)).max();
                asked.fit(platform).is_some_and(|fit| best.is_none_or(|best| fit > best))
            }),
            _ => true,
        };
        index.unsupported.iter().find(is_wanted)
    }
}
