//! Link files: exactly `sha256:<64 hex>`, 71 bytes, no newline.
//!
//! Registries disagree on what to do with any other content, up to an aborted garbage collection, so
//! a damaged link is treated as an absent one: it is never followed, and is written anew.

use crate::oci::Digest;

/// The length of a link file in bytes.
pub(crate) const LENGTH: u64 = 71;

/// The digest that a link file's content names; none when it is damaged.
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
    fn only_a_perfect_link_names_a_digest() {
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
