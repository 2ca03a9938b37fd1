//! Link files: exactly `sha256:<64 hex>`, 71 bytes, no newline.
//!
//! Registries disagree on any other content; some abort garbage collection. So a damaged link counts as absent: it is never
//! followed, and the next save replaces it.

use crate::oci::Digest;

/// The length of a link file in bytes.
pub(crate) const LENGTH: u64 = 71;

/// The digest that a link file with this content points to, or `None` if it is damaged.
#[must_use]
pub fn parse(content: &[u8]) -> Option<Digest> {
    if content.len() as u64 != LENGTH {
        return None;
    }
    let hex = std::str::from_utf8(content).ok()?.strip_prefix("sha256:")?;
    Digest::from_hex(hex).ok()
}

/// The content of a link to `digest`.
#[must_use]
pub fn format(digest: &Digest) -> String {
    digest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_links_are_rejected() {
        let digest = Digest::of(b"x");
        let good = format(&digest);
        assert_eq!(good.len() as u64, LENGTH);
        assert_eq!(parse(good.as_bytes()), Some(digest));
        let newline = format!("{good}\n");
        let upper = good.to_uppercase();
        let other = good.replace("sha256", "sha512");
        let cut = &good[..70];
        for bad in ["", &newline, &upper, &other, cut, "sha256:", &"\0".repeat(71)] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse(&[0xff; 71]), None);
    }
}
