//! Range and Content-Range (RFC 9110, 14). Parsed strictly: a wrong range would put bytes in the wrong place.

/// A Content-Range header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes first-last/total`, or `*` for the total.
    Part {
        /// The offset of the first byte.
        first: u64,
        /// The offset of the last byte.
        last: u64,
        /// The length of the whole content, if given.
        total: Option<u64>,
    },
    /// `bytes */total`: the range is not satisfiable.
    Unsatisfied {
        /// The length of the whole content.
        total: u64,
    },
}

impl ContentRange {
    /// Parses a header value; `None` for anything that is invalid or contradicts itself.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.trim_start().split_once('/')?;
        if range == "*" {
            return Some(Self::Unsatisfied { total: number(total)? });
        }
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let total = if total == "*" { None } else { Some(number(total)?) };
        (first <= last && total.is_none_or(|total| last < total)).then_some(Self::Part { first, last, total })
    }

    /// Whether this is exactly the range from byte `from` up to but excluding `to` of a blob of `size` bytes.
    #[must_use]
    pub fn answers(self, from: u64, to: Option<u64>, size: u64) -> bool {
        let end = to.unwrap_or(size).min(size);
        matches!(self, Self::Part { first, last, total }
            if first == from && last.checked_add(1) == Some(end) && total.is_none_or(|total| total == size))
    }
}

/// Digits only: `u64::from_str` would accept a sign.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The Range header for the bytes from `from` up to but excluding `to`; `None` for the whole.
pub(super) fn range_header(from: u64, to: Option<u64>) -> Option<String> {
    match to {
        None if from == 0 => None,
        None => Some(format!("bytes={from}-")),
        Some(to) => Some(format!("bytes={from}-{}", to.saturating_sub(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_parsed_strictly() {
        let part = |first, last, total| Some(ContentRange::Part { first, last, total });
        for (value, expect) in [
            ("bytes 0-9/10", part(0, 9, Some(10))),
            ("Bytes 5-9/*", part(5, 9, None)),
            ("bytes */10", Some(ContentRange::Unsatisfied { total: 10 })),
            ("bytes 9-5/10", None),
            ("bytes 0-10/10", None),
            ("bytes +0-9/10", None),
            ("bytes 0-9", None),
            ("bytes=0-9/10", None),
            ("items 0-9/10", None),
            ("bytes -/", None),
            ("bytes */*", None),
            ("bytes 0-99999999999999999999/*", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(value), expect, "{value}");
        }
    }

    #[test]
    fn content_range_must_match_the_request() {
        for (value, from, to, answers) in [
            ("bytes 5-9/10", 5, None, true),
            ("bytes 5-9/*", 5, None, true),
            ("bytes 5-7/10", 5, Some(8), true),
            ("bytes 5-9/10", 5, Some(99), true),
            ("bytes 4-9/10", 5, None, false),
            ("bytes 5-8/10", 5, None, false),
            ("bytes 5-9/11", 5, None, false),
            ("bytes 0-18446744073709551615/*", 0, None, false),
            ("bytes */10", 5, None, false),
        ] {
            assert_eq!(ContentRange::parse(value).unwrap().answers(from, to, 10), answers, "{value}");
        }
    }

    #[test]
    fn range_header_names_the_missing_bytes() {
        assert_eq!(range_header(0, None), None);
        assert_eq!(range_header(7, None).unwrap(), "bytes=7-");
        assert_eq!(range_header(0, Some(8)).unwrap(), "bytes=0-7");
    }

    proptest::proptest! {
        #[test]
        fn matching_range_lies_within_the_blob(
            value in r"bytes ([0-9]{0,20}|\*)-?[0-9]{0,20}/([0-9]{0,20}|\*)",
            from in 0..50_u64,
            to in proptest::option::of(1..60_u64),
        ) {
            if let Some(range) = ContentRange::parse(&value)
                && range.answers(from, to, 40)
            {
                let ContentRange::Part { first, last, .. } = range else { panic!("{range:?}") };
                proptest::prop_assert!(first == from && last < 40 && to.is_none_or(|to| last < to));
            }
        }
    }
}
