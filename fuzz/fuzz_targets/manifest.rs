//! Any bytes are a manifest or refused; what was read once reads the same again.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use saver::oci::{Digest, Manifest, PlatformSet, RawManifest};

const CONTENT_TYPES: [Option<&str>; 4] =
    [None, Some("application/vnd.oci.image.index.v1+json"), Some("application/json; charset=utf-8"), Some("text/html")];

fuzz_target!(|bytes: &[u8]| {
    for content_type in CONTENT_TYPES {
        let Ok(raw) = RawManifest::new(Bytes::copy_from_slice(bytes), content_type) else { continue };
        assert_eq!(raw.digest, Digest::of(bytes));
        let manifest = raw.parse().expect("it parsed before");
        let again = RawManifest::new(raw.bytes.clone(), Some(&raw.media_type)).expect("its own type fits");
        assert_eq!(again, raw);
        if let Manifest::Index(index) = manifest {
            let set = PlatformSet::parse("amd64,arm/v7", "linux").expect("a good list");
            let (chosen, missing) = set.choose(&index.manifests);
            assert!(chosen.len() <= index.manifests.len() && missing.len() <= 2);
        }
    }
});
