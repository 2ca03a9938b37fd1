//! The Range header (RFC 9110, section 14).

/// The part of a blob that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteRange {
    /// All of it: there is no Range header, or one that a server may ignore (another unit, several ranges, bad syntax).
    Whole,
    /// The bytes from the first to the last, inclusive.
    Bytes(u64, u64),
    /// A range outside of the blob.
    Unsatisfiable,
}

impl ByteRange {
    /// Parses a Range header for a blob of `size` bytes.
    pub(super) fn parse(header: &str, size: u64) -> Self {
        let Some((unit, ranges)) = header.split_once('=') else { return Self::Whole };
        let ranges = ranges.trim();
        // 14.2: a server may ignore Range; several ranges would need a multipart response.
        if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
            return Self::Whole;
        }
        match ranges.split_once('-') {
            Some(("", suffix)) => match number(suffix) {
                Some(0) => Self::Unsatisfiable,
                Some(_) if size == 0 => Self::Unsatisfiable,
                Some(length) => Self::Bytes(size.saturating_sub(length), size - 1),
                None => Self::Whole,
            },
            Some((first, last)) => {
                let last = if last.is_empty() { Some(u64::MAX) } else { number(last) };
                match (number(first), last) {
                    (Some(first), Some(last)) if first > last => Self::Whole,
                    (Some(first), Some(_)) if first >= size => Self::Unsatisfiable,
                    (Some(first), Some(last)) => Self::Bytes(first, last.min(size - 1)),
                    _ => Self::Whole,
                }
            }
            None => Self::Whole,
        }
    }
}

/// Digits only. A number beyond `u64` is beyond the end of every blob.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::ByteRange::{self, Bytes, Unsatisfiable, Whole};

    #[test]
    fn ranges() {
        let cases = [
            ("bytes=0-0", 10, Bytes(0, 0)),
            ("bytes=0-9", 10, Bytes(0, 9)),
            ("bytes=0-", 10, Bytes(0, 9)),
            ("bytes=3-5", 10, Bytes(3, 5)),
            ("bytes=9-", 10, Bytes(9, 9)),
            ("bytes=5-100", 10, Bytes(5, 9)),
            ("bytes=5-99999999999999999999999", 10, Bytes(5, 9)),
            ("Bytes = 1-2", 10, Bytes(1, 2)),
            ("bytes=-1", 10, Bytes(9, 9)),
            ("bytes=-10", 10, Bytes(0, 9)),
            ("bytes=-11", 10, Bytes(0, 9)),
            ("bytes=-99999999999999999999999", 10, Bytes(0, 9)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=10-11", 10, Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Unsatisfiable),
            ("bytes=5-3", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes", 10, Whole),
            ("", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=1--2", 10, Whole),
            ("bytes=0-1,3-4", 10, Whole),
            ("items=0-1", 10, Whole),
        ];
        for (header, size, expected) in cases {
            assert_eq!(ByteRange::parse(header, size), expected, "{header:?} of {size}");
        }
    }
}
